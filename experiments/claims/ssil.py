"""A softmax for each side of old and new classes improves on one over all."""

from experiments.claims import Claim, Measured
from experiments.claims._runs import digits, forgetting, learned, percent, train

CLAIM = Claim(
  methods=("ssil",),
  paper="Ahn et al. 2021",
  sentence="Class-incremental learning with stored rows ends at a better accuracy where new rows compete among new "
  "classes alone, and stored rows among old ones, than with one softmax over all.",
  protocol="Class-incremental digits, 5 tasks of 2 classes, MLP 64-100-100-10, SGD 0.05, 5 epochs in batches of 32 "
  "with 8 stored rows (the paper's ratio), 50 exemplars; both with the task-wise distillation. Final average "
  "accuracy of ssil minus that with the joint softmax, in points.",
  seeds=5,
)


def measure(seeds):
  stream = digits("class")
  given = {"capacity": 50, "replay_batch": 8}
  runs = {
    "ssil": train(stream, "ssil", seeds, **given),
    "joint softmax": train(stream, "ssil", seeds, **given, softmax="joint"),
  }
  figures = {f"{name} accuracy": percent(run) for name, run in runs.items()}
  figures |= {f"{name} forgetting": forgetting(run) for name, run in runs.items()}
  figures |= {f"{name} learned": learned(run) for name, run in runs.items()}
  return Measured({"accuracy of ssil - joint softmax": percent(runs["ssil"]) - percent(runs["joint softmax"])}, figures)
