"""Holding new rows to what the last network says of them improves dark experience replay."""

from experiments.claims import Claim, Measured
from experiments.claims._runs import digits, forgetting, learned, percent, train

CLAIM = Claim(
  methods=("ser", "derpp"),
  paper="Zhuo et al. 2023",
  sentence="Over a class-incremental stream, replay whose network is held to its answers on stored rows and, on new "
  "ones, to those of the last task's network ends at a better accuracy than dark experience replay.",
  protocol="Class-incremental digits, 5 tasks of 2 classes, MLP 64-100-100-10, SGD 0.05, batch 32, 5 epochs, 100 rows "
  "kept; both with the strengths of their papers for 10 classes of pictures (ser 0.2 and 0.2, derpp 0.1 and 0.5). "
  "Final average accuracy of ser minus that of derpp, in points.",
  seeds=5,
)


def measure(seeds):
  stream = digits("class")
  runs = {
    "ser": train(stream, "ser", seeds, capacity=100, alpha=0.2, beta=0.2),
    "derpp": train(stream, "derpp", seeds, capacity=100, alpha=0.1, beta=0.5),
  }
  figures = {f"{name} accuracy": percent(run) for name, run in runs.items()}
  figures |= {f"{name} forgetting": forgetting(run) for name, run in runs.items()}
  figures |= {f"{name} learned": learned(run) for name, run in runs.items()}
  return Measured({"accuracy of ser - derpp": percent(runs["ser"]) - percent(runs["derpp"])}, figures)
