"""Balanced training at the ends of tasks improves distillation with exemplars."""

from experiments.claims import Claim, Measured
from experiments.claims._runs import digits, forgetting, percent, train

CLAIM = Claim(
  methods=("eeil",),
  paper="Castro et al. 2018",
  sentence="Training on balanced exemplars when a task ends raises the accuracy of distillation with exemplars.",
  protocol="Class-incremental digits, 5 tasks of 2 classes, those met in the softmax (the paper's network grows), MLP "
  "64-100-100-10, SGD 0.05, batch 32, 10 epochs, 100 exemplars, balanced training of 30 passes at 0.005, a tenth of "
  "the rate, as in the paper; final average accuracy of eeil minus that of eeil with passes=0, in points.",
  seeds=10,
)


def measure(seeds):
  stream, given = digits("class", active="seen"), {"epochs": 10, "capacity": 100}
  mine, plain = train(stream, "eeil", seeds, rate=0.005, **given), train(stream, "eeil", seeds, passes=0, **given)
  return Measured(
    {"accuracy of eeil - without": percent(mine) - percent(plain)},
    {
      "eeil accuracy": percent(mine),
      "without accuracy": percent(plain),
      "eeil forgetting": forgetting(mine),
      "without forgetting": forgetting(plain),
    },
  )
