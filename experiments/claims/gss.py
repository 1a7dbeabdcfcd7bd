"""Rows of diverse gradients are worth more than uniform ones."""

from experiments.claims import Claim, Measured
from experiments.claims._runs import digits, forgetting, learned, percent, train

CLAIM = Claim(
  methods=("gss", "er"),
  paper="Aljundi et al. 2019, selection",
  sentence="In one pass over a class-incremental stream, replay of rows that were kept for the diversity of their "
  "gradients ends at a better accuracy than replay of a reservoir.",
  protocol="Class-incremental digits, 5 tasks of 2 classes, MLP 64-100-100-10, SGD 0.1, one epoch in batches of 10 "
  "with 10 replayed rows, 50 rows kept; final average accuracy of gss minus that of er, in points.",
  seeds=10,
)


def measure(seeds):
  stream = digits("class")
  given = {"epochs": 1, "batch_size": 10, "learning_rate": 0.1, "capacity": 50}
  runs = {name: train(stream, name, seeds, **given) for name in CLAIM.methods}
  figures = {f"{name} accuracy": percent(run) for name, run in runs.items()}
  figures |= {f"{name} forgetting": forgetting(run) for name, run in runs.items()}
  figures |= {f"{name} learned": learned(run) for name, run in runs.items()}
  return Measured({"accuracy of gss - er": percent(runs["gss"]) - percent(runs["er"])}, figures)
