"""Replay and selection by adversarial Shapley values improve replay in one pass."""

from experiments.claims import Claim, Measured
from experiments.claims._runs import digits, forgetting, learned, percent, train

CLAIM = Claim(
  methods=("aser", "er"),
  paper="Shim et al. 2021",
  sentence="In one pass over a class-incremental stream with a small memory, replaying and keeping rows by their "
  "adversarial Shapley values ends at a better accuracy than uniform replay from a reservoir.",
  protocol="Class-incremental digits, 5 tasks of 2 classes, MLP 64-100-100-10, SGD 0.1 (the paper's rate), one epoch "
  "in batches of 10 with 10 replayed rows, 50 rows kept, so that the memory is full within the first task; 5 "
  "neighbours, 4 rows of each class. Final average accuracy of aser minus that of er, in points.",
  seeds=5,
)


def measure(seeds):
  stream = digits("class")
  given = {"epochs": 1, "batch_size": 10, "learning_rate": 0.1, "capacity": 50}
  runs = {"aser": train(stream, "aser", seeds, **given, per_class=4), "er": train(stream, "er", seeds, **given)}
  # As aser adds the two means: for the reader.
  runs["uniform, means added"] = train(stream, "er_ace", seeds, **given, mask="none")
  figures = {f"{name} accuracy": percent(run) for name, run in runs.items()}
  figures |= {f"{name} forgetting": forgetting(run) for name, run in runs.items()}
  figures |= {f"{name} learned": learned(run) for name, run in runs.items()}
  return Measured({"accuracy of aser - er": percent(runs["aser"]) - percent(runs["er"])}, figures)
