"""The nearest mean of exemplars answers better than the network that made their features."""

from typing import Any

from experiments.claims import Claim, Measured
from experiments.claims._runs import digits, forgetting, percent, train

CLAIM = Claim(
  methods=("icarl", "lwf"),
  paper="Rebuffi et al. 2017",
  sentence="Learning classes incrementally, the nearest mean of herded exemplars is more accurate than the outputs of "
  "the same network (hybrid 1), and than distillation without exemplars.",
  protocol="Class-incremental digits, 5 tasks of 2 classes, MLP 64-100-100-10, batch 32, 10 epochs, 100 exemplars; SGD "
  "0.5 for icarl, whose loss is a mean over 10 outputs, and 0.05 for lwf. Final average accuracy of icarl minus that "
  "of icarl with classify=outputs, and minus that of lwf, in points. For the reader also its other hybrid and form.",
  seeds=5,
)
ARMS: dict[str, dict[str, Any]] = {
  "icarl": {},
  "icarl, outputs": {"classify": "outputs"},
  "icarl, no distillation": {"distillation": False},
  "icarl, released form": {"form": "released"},
}


def measure(seeds):
  stream = digits("class")
  runs = {
    name: train(stream, "icarl", seeds, epochs=10, learning_rate=0.5, capacity=100, **arm) for name, arm in ARMS.items()
  }
  runs["lwf"] = train(stream, "lwf", seeds, epochs=10)
  mine = percent(runs["icarl"])
  return Measured(
    {f"accuracy of icarl - {other}": mine - percent(runs[other]) for other in ("icarl, outputs", "lwf")},
    {
      **{f"{name} accuracy": percent(run) for name, run in runs.items()},
      "icarl forgetting": forgetting(runs["icarl"]),
    },
  )
