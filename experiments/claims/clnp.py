"""Pruned and frozen neurons: no forgetting after a task, at a small price in learning it."""

import numpy as np

from experiments.claims import Claim, Measured
from experiments.claims._runs import digits, forgetting, learned, percent, train

MARGIN = 5.0
CLAIM = Claim(
  methods=("clnp",),
  paper="Golkar et al. 2019",
  sentence="Freezing the neurons that a task uses and learning the next with the rest forgets nothing, and gives up "
  "no more accuracy than the margin allowed when pruning.",
  protocol="Task-incremental digits, 5 tasks of 2 classes, MLP 64-100-100-10, SGD 0.5 (at lower rates plain training "
  "does not forget here), batch 32, 5 epochs, margin 5 points on a tenth of the rows, held out (the defaults); average "
  "forgetting of finetune minus that of clnp, and accuracy right after learning of clnp minus that of finetune plus 5, "
  "in points. Beside it, by layer, the units that are free and those that a task used again.",
)


def measure(seeds):
  stream = digits("task")
  plain = train(stream, "finetune", seeds, learning_rate=0.5)
  mine = train(stream, "clnp", seeds, learning_rate=0.5, evaluators="clnp_units")
  units = {n: np.asarray(v)[:, :, 0] for n, v in mine.evaluations["clnp_units"].items()}
  counted = {
    f"layer {i}, {what} after task {t}": units[f"{what}_{i}"][:, t]
    for i in (1, 2)
    for what, t in (("free", 1), ("free", 2), ("free", 5), ("reused", 5))
  }
  return Measured(
    {
      "forgetting of finetune - clnp": forgetting(plain) - forgetting(mine),
      "learned by clnp - finetune + 5": learned(mine) - learned(plain) + MARGIN,
    },
    {
      "finetune accuracy": percent(plain),
      "clnp accuracy": percent(mine),
      "clnp forgetting": forgetting(mine),
      **counted,
    },
  )
