"""Contrast of stored and new rows with the nearest mean as the answer improves replay in one pass."""

from experiments.claims import Claim, Measured
from experiments.claims._runs import digits, forgetting, learned, percent, train

CLAIM = Claim(
  methods=("scr", "er"),
  paper="Mai et al. 2021",
  sentence="In one pass over a class-incremental stream, supervised contrast of new and stored rows, answered by the "
  "nearest mean of stored rows, ends at a better accuracy than experience replay.",
  protocol="Class-incremental digits, 5 tasks of 2 classes, MLP 64-100-100-10, SGD 0.1, one epoch in batches of 10, "
  "100 rows kept, 100 replayed a step by both (the paper's number); views are cut to 0.6 of the area at least and not "
  "mirrored, as digits are not. Final average accuracy of scr minus that of er, in points.",
  seeds=10,
)


def measure(seeds):
  stream = digits("class")
  given = {"epochs": 1, "batch_size": 10, "learning_rate": 0.1, "capacity": 100, "replay_batch": 100}
  runs = {
    "scr": train(stream, "scr", seeds, **given, least_area=0.6, flip=False),
    "er": train(stream, "er", seeds, **given),
  }
  figures = {f"{name} accuracy": percent(run) for name, run in runs.items()}
  figures |= {f"{name} forgetting": forgetting(run) for name, run in runs.items()}
  figures |= {f"{name} learned": learned(run) for name, run in runs.items()}
  return Measured({"accuracy of scr - er": percent(runs["scr"]) - percent(runs["er"])}, figures)
