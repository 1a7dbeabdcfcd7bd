"""Aligned weights: new classes are no longer preferred."""

from experiments.claims import Claim, Measured
from experiments.claims._runs import digits, forgetting, percent, train

CLAIM = Claim(
  methods=("wa",),
  paper="Zhao et al. 2020",
  sentence="Scaling the weights of new classes to the mean norm of the old ones' after each task raises the final "
  "accuracy of distillation with exemplars.",
  protocol="Class-incremental digits, 5 tasks of 2 classes, those met in the softmax (the paper's network grows), "
  "MLP 64-100-100-10, SGD 0.05, batch 32, 10 epochs, 100 exemplars; final average accuracy of wa minus that of wa with "
  "align=False, in points. For the reader also both where all classes are in the softmax from the start.",
  seeds=10,
)


def measure(seeds):
  made = {
    (active, align): train(digits("class", active=active), "wa", seeds, epochs=10, capacity=100, align=align)
    for active in ("seen", "all")
    for align in (True, False)
  }
  mine, plain = made["seen", True], made["seen", False]
  return Measured(
    {"accuracy of wa - without aligning": percent(mine) - percent(plain)},
    {
      "wa accuracy": percent(mine),
      "without aligning, accuracy": percent(plain),
      "wa forgetting": forgetting(mine),
      "without aligning, forgetting": forgetting(plain),
      "wa accuracy, all classes from the start": percent(made["all", True]),
      "without aligning, accuracy, all classes from the start": percent(made["all", False]),
    },
  )
