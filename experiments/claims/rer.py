"""Weights of new and stored rows that a small network learns improve replay."""

from experiments.claims import Claim, Measured
from experiments.claims._runs import digits, forgetting, learned, percent, train

CLAIM = Claim(
  methods=("rer", "er"),
  paper="Wang et al. 2024",
  sentence="Over a class-incremental stream, replay whose new and stored rows are weighed pair by pair by a network "
  "that learns from what a weighted step does to stored rows ends at a better accuracy than replay without weights.",
  protocol="Class-incremental digits, 5 tasks of 2 classes, MLP 64-100-100-10, SGD 0.05, batch 32 with 32 replayed "
  "rows, 10 epochs, 100 rows kept; the network's step each iteration and its weights from the seventh pass on, as "
  "released for 10 epochs. Final average accuracy of rer minus that of the same replay with all weights 1 (er's mean "
  "over the union stands among the figures), in points.",
  seeds=5,
)


def measure(seeds):
  stream = digits("class")
  given = {"epochs": 10, "capacity": 100}
  runs = {
    "rer": train(stream, "rer", seeds, **given, warm_passes=6, virtual_rate=0.05),
    "weights 1": train(stream, "er_ace", seeds, **given, mask="none"),
    "er": train(stream, "er", seeds, **given),
  }
  figures = {f"{name} accuracy": percent(run) for name, run in runs.items()}
  figures |= {f"{name} forgetting": forgetting(run) for name, run in runs.items()}
  figures |= {f"{name} learned": learned(run) for name, run in runs.items()}
  return Measured({"accuracy of rer - weights 1": percent(runs["rer"]) - percent(runs["weights 1"])}, figures)
