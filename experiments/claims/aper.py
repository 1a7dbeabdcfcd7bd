"""Features of a network tuned on the first task beside those of the pre-trained one make better class means."""

from typing import Any

from experiments.claims import Claim, Measured
from experiments.claims._pretrained import downstream, pretrained
from experiments.claims._runs import percent, train

CLAIM = Claim(
  methods=("simplecil",),
  paper="Zhou et al. 2024",
  sentence="APER, class means of the concatenated features of the pre-trained network and of one tuned on the first "
  "task, is more accurate than SimpleCIL on the pre-trained features alone.",
  protocol="MLP 64-100-100-10 pre-trained on digits 6 to 9; class-incremental digits 0 to 5, 3 tasks of 2 classes, "
  "batch 32, 5 epochs, SGD 0.05, all parameters tuned in the first task. Final average accuracy of simplecil with "
  "first_task=train, features=both minus that of simplecil, in points; for the reader also tuned features alone.",
  seeds=5,
)
ARMS: dict[str, dict[str, Any]] = {
  "pre-trained": {},
  "tuned": {"first_task": "train"},
  "both": {"first_task": "train", "features": "both"},
}


def measure(seeds):
  final = {
    name: percent(train(downstream(), "simplecil", seeds, model=pretrained(), **arm)) for name, arm in ARMS.items()
  }
  return Measured(
    {"accuracy of both - pre-trained": final["both"] - final["pre-trained"]},
    {f"{name} accuracy": values for name, values in final.items()},
  )
