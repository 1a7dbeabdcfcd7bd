"""Pruned and frozen neurons: no forgetting after a task, at a small price in learning it."""

from typing import Any

import numpy as np

from experiments.claims import Claim, Measured
from experiments.claims._runs import forgetting, learned, mnist, percent, train

MARGIN = 5.0
CLAIM = Claim(
  methods=("clnp",),
  paper="Golkar et al. 2019",
  sentence="Freezing the neurons that a task uses and learning the next with the rest forgets nothing, and gives up "
  "no more accuracy than the margin allowed when pruning.",
  protocol="Task-incremental split MNIST, 5 tasks of 2 classes, all rows, MLP 784-100-100-10, SGD 0.1, batch 32, one "
  "epoch, margin 5 points on a tenth of the rows, held out (the defaults); average forgetting of finetune "
  "minus that of clnp, and accuracy right after learning of clnp minus that of finetune plus 5, in points. "
  "Beside it, by layer, the units that are free and those that a task used again. On digits, SGD 0.5 and 5 "
  "epochs, it was inconclusive (15.6 [3.6, 27.6], -2.5 [-11.4, 6.4]).",
)


def measure(seeds):
  stream = mnist("task")
  given: dict[str, Any] = {"epochs": 1, "learning_rate": 0.1}
  plain = train(stream, "finetune", seeds, **given)
  mine = train(stream, "clnp", seeds, **given, evaluators="clnp_units")
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
