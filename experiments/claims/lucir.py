"""Features held to the last task's and a margin between old and new classes improve a classifier of cosines."""

from typing import Any

from experiments.claims import Claim, Measured
from experiments.claims._runs import digits, forgetting, percent, train

CLAIM = Claim(
  methods=("lucir", "icarl"),
  paper="Hou et al. 2019",
  sentence="Learning classes incrementally, a cosine classifier whose features are held and whose old classes keep a "
  "margin to new ones is more accurate than the cosine classifier alone, and than iCaRL's outputs.",
  protocol="Class-incremental digits, 5 tasks of 2 classes, those met in the softmax (the paper's network grows), MLP "
  "64-100-100-10, batch 32, 10 epochs, 100 exemplars; SGD 0.05, for iCaRL, whose loss is a mean over 10 outputs, 0.5. "
  "Final average accuracy of lucir minus that of lucir with strength=0 and rank=0, and minus that of icarl with "
  "classify=outputs, in points.",
  seeds=10,
)
ARMS: dict[str, dict[str, Any]] = {
  "lucir": {},
  "lucir, cosines alone": {"strength": 0.0, "rank": 0.0},
  "lucir, no margin": {"rank": 0.0},
}


def measure(seeds):
  stream, given = digits("class", active="seen"), {"epochs": 10, "capacity": 100}
  runs = {name: train(stream, "lucir", seeds, **given, **arm) for name, arm in ARMS.items()}
  runs["icarl, outputs"] = train(stream, "icarl", seeds, learning_rate=0.5, classify="outputs", **given)
  mine = percent(runs["lucir"])
  return Measured(
    {
      f"accuracy of lucir - {other}": mine - percent(runs[other])
      for other in ("lucir, cosines alone", "icarl, outputs")
    },
    {
      **{f"{name} accuracy": percent(run) for name, run in runs.items()},
      **{f"{name} forgetting": forgetting(run) for name, run in runs.items()},
    },
  )
