"""Refresh learning improves a quadratic penalty."""

from experiments.claims import Claim, Measured
from experiments.claims._runs import digits, forgetting, percent, train

CLAIM = Claim(
  methods=("refresh", "ewc"),
  paper="Wang et al. 2024",
  sentence="Unlearning each batch a little before learning it improves EWC.",
  protocol="Permuted digits, 5 tasks of all 10 classes, MLP 64-100-100-10, SGD 0.05, batch 32, 5 epochs; final average "
  "accuracy of refresh over ewc minus that of ewc, both at their defaults.",
  seeds=10,
)


def measure(seeds):
  stream = digits("permuted")
  plain = train(stream, "ewc", seeds)
  mine = train(stream, "refresh", seeds, base="ewc")
  return Measured(
    {"accuracy of refresh(ewc) - ewc": percent(mine) - percent(plain)},
    {
      "ewc accuracy": percent(plain),
      "refresh(ewc) accuracy": percent(mine),
      "ewc forgetting": forgetting(plain),
      "refresh(ewc) forgetting": forgetting(mine),
    },
  )
