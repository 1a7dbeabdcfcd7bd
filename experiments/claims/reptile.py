"""Reptile beside replay gains over replay alone."""

import numpy as np

from experiments.claims import Claim, Measured
from experiments.claims._runs import digits
from experiments.claims._schedules import at_best_rate

CLAIM = Claim(
  methods=("reptile",),
  paper="Abbes et al. 2025",
  sentence="Replay with an infrequent Reptile interpolation ends above replay alone.",
  protocol="Permuted digits, 5 tasks, MLP 64-100-100-10, SGD, batch 8, 1 epoch (180 steps a task), capacity 200; "
  "epsilon 0.1 (the default) every 10 steps instead of every 500, so that a task has about as many "
  "interpolations as in the paper. Since epsilon shortens all movement, each arm takes its learning rate "
  "from 0.1, 0.2, 0.5, 1, 2 by three further seeds. Final average accuracy of reptile minus that of er, in "
  "points.",
)
RATES = (0.1, 0.2, 0.5, 1.0, 2.0)


def measure(seeds):
  stream = digits("permuted")
  plain, slow = at_best_rate(stream, "er", seeds, RATES, 1, 8)
  mine, fast = at_best_rate(stream, "reptile", seeds, RATES, 1, 8, every=10)
  return Measured(
    {"accuracy of reptile - er": mine - plain},
    {
      "er accuracy": plain,
      "reptile accuracy": mine,
      "er learning rate": np.full(seeds, slow),
      "reptile learning rate": np.full(seeds, fast),
    },
  )
