"""A uniform anchor protects old tasks too, but serves worse than one weighted by the Fisher information."""

import numpy as np

from experiments.claims import Claim, Measured
from experiments.claims._paired import best, grid
from experiments.claims._runs import digits, forgetting, percent, train

CLAIM = Claim(
  methods=("l2_previous", "ewc"),
  paper="Kirkpatrick et al. 2017",
  sentence="An equal pull of all weights to the last task keeps old tasks, but hinders new ones more than EWC does.",
  protocol="Permuted digits, 5 tasks, MLP 64-100-100-10, SGD 0.05, batch 32, 5 epochs; strengths 0.01, 0.03, 0.1, 0.3, "
  "1 for l2_previous and 1, 3, 10, 30, 100 for ewc, each method at the strength of its best mean accuracy. Average "
  "forgetting of finetune minus that of l2_previous; accuracy of ewc minus that of l2_previous, in points.",
)


def measure(seeds):
  stream = digits("permuted")
  plain = train(stream, "finetune", seeds)
  flat, fisher = (0.01, 0.03, 0.1, 0.3, 1.0), (1.0, 3.0, 10.0, 30.0, 100.0)
  i, mine, lost = best(*grid(stream, "l2_previous", seeds, [{"strength": s} for s in flat]))
  j, weighted, _ = best(*grid(stream, "ewc", seeds, [{"strength": s} for s in fisher]))
  return Measured(
    {
      "forgetting of finetune - l2_previous": forgetting(plain) - lost,
      "accuracy of ewc - l2_previous": weighted - mine,
    },
    {
      "finetune accuracy": percent(plain),
      "l2_previous accuracy": mine,
      "ewc accuracy": weighted,
      "l2_previous strength": np.full(seeds, flat[i]),
      "ewc strength": np.full(seeds, fisher[j]),
    },
  )
