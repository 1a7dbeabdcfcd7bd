"""Weighing losses by how far rows of each task are from being known keeps more."""

from experiments.claims import Claim, Measured
from experiments.claims._runs import digits, forgetting, percent, train

CLAIM = Claim(
  methods=("hfc",),
  paper="Dong et al. 2023",
  sentence="Compensating heterogeneous forgetting, with weights of labels and of distillation by each row's gradient "
  "over its task's mean, raises the accuracy over the same losses without it.",
  protocol="Class-incremental digits, 5 tasks of 2 classes, those met in the softmax (the paper's network grows), MLP "
  "64-100-100-10, SGD 0.05, batch 32, 10 epochs, 100 exemplars; final average accuracy of hfc minus that of hfc with "
  "compensate=False, in points. For the reader also without the relation of classes.",
  seeds=5,
)


def measure(seeds):
  stream, given = digits("class", active="seen"), {"epochs": 10, "capacity": 100}
  runs = {
    "hfc": train(stream, "hfc", seeds, **given),
    "without compensation": train(stream, "hfc", seeds, compensate=False, **given),
    "without the relation": train(stream, "hfc", seeds, relation=0.0, **given),
  }
  figures = {f"{name}, accuracy": percent(run) for name, run in runs.items()}
  figures |= {f"{name}, forgetting": forgetting(run) for name, run in runs.items()}
  return Measured({"accuracy of hfc - without": percent(runs["hfc"]) - percent(runs["without compensation"])}, figures)
