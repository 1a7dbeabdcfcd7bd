"""Prototypes with augmentation and turned rows keep a network without exemplars from forgetting."""

from experiments.claims import Claim, Measured
from experiments.claims._runs import digits, forgetting, percent, train

CLAIM = Claim(
  methods=("pass", "lwf"),
  paper="Zhu et al. 2021",
  sentence="Without exemplars, noisy class means at the last layer and turned rows as classes of their own are more "
  "accurate than distillation, and than the same training without means.",
  protocol="Class-incremental digits, 5 tasks of 2 classes, MLP 64-100-100-10, Adam 1e-3, batch 32, 10 epochs, "
  "temperature 0.1. Final average accuracy of pass minus that of lwf, and minus that of pass with prototypes=0, in "
  "points.",
  seeds=5,
)


def measure(seeds):
  stream = digits("class")
  given = {"optimizer": "adam", "learning_rate": 1e-3, "epochs": 10}
  runs = {
    "pass": train(stream, "pass", seeds, **given),
    "pass without means": train(stream, "pass", seeds, prototypes=0.0, **given),
    "pass, released form": train(stream, "pass", seeds, form="released", **given),
    "lwf": train(stream, "lwf", seeds, **given),
  }
  mine = percent(runs["pass"])
  return Measured(
    {f"accuracy of pass - {other}": mine - percent(runs[other]) for other in ("lwf", "pass without means")},
    {**{f"{name} accuracy": percent(run) for name, run in runs.items()}, "pass forgetting": forgetting(runs["pass"])},
  )
