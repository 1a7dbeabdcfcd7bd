"""CUBER improves old tasks where new ones agree with them; GPM cannot."""

import numpy as np

from cljax import metrics
from experiments.claims import Claim, Measured
from experiments.claims._runs import digits, percent, train

CLAIM = Claim(
  methods=("cuber", "gpm"),
  paper="Lin et al. 2022",
  sentence="Letting weights move inside an old task's span where the gradients agree gives positive backward transfer "
  "on correlated tasks, which orthogonal projection does not.",
  protocol="Rotated digits, 5 tasks of all 10 classes, 8 degrees apart, 400 training rows, MLP 64-100-100-10, SGD "
  "0.05, batch 32, 5 epochs; every kernel is projected (skip ''), threshold 0.97 for both, cuber else at its defaults; "
  "backward transfer of cuber above 0, and above that of gpm, in points.",
)


def transfer(result):
  return 100 * np.asarray(metrics.backward_transfer(result.learning_rows), np.float64)


def measure(seeds):
  stream = digits("rotated", angles=(0, 8, 16, 24, 32), rows=400)
  mine = train(stream, "cuber", seeds, skip="", threshold=0.97)
  gpm = train(stream, "gpm", seeds, skip="", threshold=0.97, threshold_step=0.0)
  return Measured(
    {
      "backward transfer of cuber": transfer(mine),
      "backward transfer of cuber - gpm": transfer(mine) - transfer(gpm),
    },
    {"cuber accuracy": percent(mine), "gpm accuracy": percent(gpm), "gpm backward transfer": transfer(gpm)},
  )
