"""Refresh learning improves replay."""

from experiments.claims import Claim, Measured
from experiments.claims._runs import digits, forgetting, percent, train

CLAIM = Claim(
  methods=("refresh", "derpp"),
  paper="Wang et al. 2024",
  sentence="Unlearning each batch a little before learning it improves dark experience replay.",
  protocol="Class-incremental digits, 5 tasks of 2 classes, MLP 64-100-100-10, SGD 0.05, batch 32, 5 epochs; final "
  "average accuracy of refresh over derpp minus that of derpp, both at their defaults (200 rows kept). "
  "For the reader also the released code's form with its constants.",
  seeds=10,
)


def measure(seeds):
  stream = digits("class")
  plain = train(stream, "derpp", seeds)
  mine = train(stream, "refresh", seeds, base="derpp")
  released = train(stream, "refresh", seeds, base="derpp", form="released", noise=1e-3)
  return Measured(
    {"accuracy of refresh(derpp) - derpp": percent(mine) - percent(plain)},
    {
      "derpp accuracy": percent(plain),
      "refresh(derpp) accuracy": percent(mine),
      "refresh(derpp), released form, accuracy": percent(released),
      "derpp forgetting": forgetting(plain),
      "refresh(derpp) forgetting": forgetting(mine),
    },
  )
