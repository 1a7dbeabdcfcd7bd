"""Rows of diverse gradients are worth more than uniform ones."""

from experiments.claims import Claim, Measured
from experiments.claims._runs import forgetting, learned, mnist, percent, train

CLAIM = Claim(
  methods=("gss", "er"),
  paper="Aljundi et al. 2019, selection",
  sentence="In one pass over a class-incremental stream, replay of rows that were kept for the diversity of their "
  "gradients ends at a better accuracy than replay of a reservoir.",
  protocol="Split MNIST, class-incremental, 5 tasks of 2 classes, 1,000 rows each and 300 rows kept (the paper's), "
  "MLP 784-100-100-10, SGD 0.05, one epoch in batches of 10 with 10 replayed rows; final average accuracy "
  "of gss minus that of er, in points. On digits, SGD 0.1 and 50 rows kept, it did not hold (-25.3 [-34.4, "
  "-16.2]).",
  seeds=10,
)


def measure(seeds):
  stream = mnist("class", rows=5_000)
  given = {"epochs": 1, "batch_size": 10, "learning_rate": 0.05, "capacity": 300}
  runs = {name: train(stream, name, seeds, **given) for name in CLAIM.methods}
  figures = {f"{name} accuracy": percent(run) for name, run in runs.items()}
  figures |= {f"{name} forgetting": forgetting(run) for name, run in runs.items()}
  figures |= {f"{name} learned": learned(run) for name, run in runs.items()}
  return Measured({"accuracy of gss - er": percent(runs["gss"]) - percent(runs["er"])}, figures)
