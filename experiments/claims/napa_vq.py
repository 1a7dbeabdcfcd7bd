"""Old means mixed with their neighbours' keep a network without exemplars from forgetting."""

from experiments.claims import Claim, Measured
from experiments.claims._runs import digits, forgetting, percent, train

CLAIM = Claim(
  methods=("napa_vq", "pass"),
  paper="Malepathirana et al. 2023",
  sentence="Without exemplars, coding vectors with a graph of neighbours and old means mixed with their neighbours' "
  "end at a better accuracy than turned classes with noisy means (PASS), and than the same training without means.",
  protocol="Class-incremental digits, 5 tasks of 2 classes, MLP 64-100-100-10, Adam 1e-3, batch 32, 10 epochs, "
  "temperature 0.1. Final average accuracy of napa_vq minus that of pass, and minus that of napa_vq with prototypes=0, "
  "in points.",
  seeds=5,
)


def measure(seeds):
  stream = digits("class")
  given = {"optimizer": "adam", "learning_rate": 1e-3, "epochs": 10}
  runs = {
    "napa_vq": train(stream, "napa_vq", seeds, **given),
    "napa_vq without means": train(stream, "napa_vq", seeds, prototypes=0.0, **given),
    "napa_vq, released form": train(stream, "napa_vq", seeds, form="released", **given),
    "pass": train(stream, "pass", seeds, **given),
  }
  mine = percent(runs["napa_vq"])
  return Measured(
    {f"accuracy of napa_vq - {other}": mine - percent(runs[other]) for other in ("pass", "napa_vq without means")},
    {
      **{f"{name} accuracy": percent(run) for name, run in runs.items()},
      "napa_vq forgetting": forgetting(runs["napa_vq"]),
    },
  )
