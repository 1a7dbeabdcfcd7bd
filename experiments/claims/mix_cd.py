"""Rows of the kind that is being damaged are worth more than rows drawn alike, under a budget of few replayed rows."""

from experiments.claims import Claim, Measured
from experiments.claims._runs import digits, forgetting, learned, percent, train

CLAIM = Claim(
  methods=("mix_cd",),
  paper="Bai et al. 2025",
  sentence="With few replayed rows a step and many stored ones, drawing them by the damage found in their bins ends at "
  "a better accuracy than drawing them alike among those that were right.",
  protocol="Class-incremental digits, 5 tasks of 2 classes, MLP 64-100-100-10, SGD 0.05, 5 epochs in batches of 32 "
  "with 4 replayed rows, 1000 rows kept, both means with weight 1; bins by the product of class and 3 quantiles of the "
  "loss, rates moved by 0.1. Final average accuracy minus that with one bin, in points.",
  seeds=5,
)


def measure(seeds):
  stream, given = digits("class"), {"capacity": 1000, "replay_batch": 4}
  runs = {
    "by damage": train(stream, "mix_cd", seeds, **given, by="both", bins=3),
    "by damage, loss alone": train(stream, "mix_cd", seeds, **given, bins=10),
    "alike": train(stream, "mix_cd", seeds, **given, bins=1),
  }
  figures = {f"{name}: accuracy": percent(run) for name, run in runs.items()}
  figures |= {f"{name}: forgetting": forgetting(run) for name, run in runs.items()}
  figures |= {f"{name}: learned": learned(run) for name, run in runs.items()}
  return Measured({"accuracy by damage - alike": percent(runs["by damage"]) - percent(runs["alike"])}, figures)
