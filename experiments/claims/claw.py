"""Neurons that learn how far to adapt make variational continual learning more accurate."""

from experiments.claims import Claim, Measured
from experiments.claims._runs import forgetting, percent
from experiments.claims._variational import RECIPE, arms

CLAIM = Claim(
  methods=("claw", "vcl"),
  paper="Adel et al. 2020",
  sentence="Continual learning with adaptive weights outperforms variational continual learning.",
  protocol=RECIPE + "; final accuracy of claw (limit 0.5, probability 0.5, the defaults) minus that of vcl, in points. "
  "On permuted digits, MLP 64-50-10, batch 32, it was inconclusive (2.0 [-1.6, 5.7]); with layers of 100 and 100 the "
  "same measurement held (+2.4 [1.1, 3.7]).",
)


def measure(seeds):
  plain, mine = arms(("vcl", "claw"), seeds)
  return Measured(
    {"accuracy of claw - vcl": percent(mine) - percent(plain)},
    {
      "vcl accuracy": percent(plain),
      "claw accuracy": percent(mine),
      "vcl forgetting": forgetting(plain),
      "claw forgetting": forgetting(mine),
    },
  )
