"""Pooled maps and features that are held improve learning of classes in many steps."""

from typing import Any

from experiments.claims import Claim, Measured
from experiments.claims._runs import digits, forgetting, learned, percent, train

CLAIM = Claim(
  methods=("podnet", "lucir"),
  paper="Douillard et al. 2020",
  sentence="Learning classes incrementally in small steps, pooled maps and features that are held to the last task's "
  "end at a better accuracy than the same classifier without them, and than LUCIR.",
  protocol="Class-incremental digits, 5 tasks of 2 classes, those met in the softmax (the paper's network grows), MLP "
  "64-100-100-10, whose layers are maps of one place, SGD 0.05, batch 32, 10 epochs, 100 exemplars, as in the claim of "
  "lucir; podnet with 4 directions a class. Final average "
  "accuracy of podnet minus that of podnet with spatial=0 and flat=0, and minus that of lucir, in points.",
  seeds=5,
)


def measure(seeds):
  stream = digits("class", active="seen")
  given: dict[str, Any] = {"epochs": 10, "capacity": 100}
  runs = {
    "podnet": train(stream, "podnet", seeds, directions=4, **given),
    "podnet, not held": train(stream, "podnet", seeds, directions=4, spatial=0.0, flat=0.0, **given),
    "lucir": train(stream, "lucir", seeds, **given),
  }
  mine = percent(runs["podnet"])
  return Measured(
    {f"accuracy of podnet - {other}": mine - percent(runs[other]) for other in ("podnet, not held", "lucir")},
    {
      **{f"{name} accuracy": percent(run) for name, run in runs.items()},
      **{f"{name} forgetting": forgetting(run) for name, run in runs.items()},
      **{f"{name} learned": learned(run) for name, run in runs.items()},
    },
  )
