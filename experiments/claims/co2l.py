"""Contrast with current anchors and held relations make better features for replay than the cross-entropy."""

from experiments.claims import Claim, Measured
from experiments.claims._runs import digits, forgetting, learned, percent, train

CLAIM = Claim(
  methods=("co2l", "er"),
  paper="Cha et al. 2021",
  sentence="Features learned by asymmetric contrast with held relations, with a linear classifier made on them when a "
  "task ends, are more accurate than experience replay, and than without held relations.",
  protocol="Class-incremental digits, 5 tasks of 2 classes, MLP 64-100-100-10, SGD 0.05, batch 32, 5 epochs, 100 rows "
  "kept, as many replayed as new; views are cut to 0.6 of the area at least and not mirrored, as digits are not. Final "
  "average accuracy of co2l minus that of er, and minus that of co2l with distillation=0, in points.",
  seeds=5,
)


def measure(seeds):
  stream = digits("class")
  given, mine = {"capacity": 100}, {"capacity": 100, "least_area": 0.6, "flip": False}
  runs = {
    "co2l": train(stream, "co2l", seeds, **mine),
    "co2l without relations": train(stream, "co2l", seeds, **mine, distillation=0.0),
    "co2l, average=rows": train(stream, "co2l", seeds, **mine, average="rows"),
    "er": train(stream, "er", seeds, **given),
  }
  figures = {f"{name} accuracy": percent(run) for name, run in runs.items()}
  figures |= {f"{name} forgetting": forgetting(run) for name, run in runs.items()}
  figures |= {f"{name} learned": learned(run) for name, run in runs.items()}
  others = ("er", "co2l without relations")
  return Measured({f"accuracy of co2l - {n}": percent(runs["co2l"]) - percent(runs[n]) for n in others}, figures)
