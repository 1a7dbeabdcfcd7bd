"""GEM forgets less than plain training."""

import numpy as np

from cljax import metrics
from experiments.claims import Claim, Measured
from experiments.claims._runs import digits, forgetting, percent, train

CLAIM = Claim(
  methods=("gem",),
  paper="Lopez-Paz and Ranzato 2017",
  sentence="One constraint for each stored task forgets less than plain training and ends above it.",
  protocol="Rotated digits, 5 tasks of all 10 classes over 180 degrees, MLP 64-100-100-10, SGD 0.05, batch 32, 5 "
  "epochs, 200 stored rows, margin 0.5; forgetting of finetune minus that of gem, and final accuracies, in points.",
)


def measure(seeds):
  stream = digits("rotated")
  plain, mine = (train(stream, name, seeds) for name in ("finetune", "gem"))
  transfer = 100 * np.asarray(metrics.backward_transfer(mine.learning_rows))
  return Measured(
    {
      "forgetting of finetune - gem": forgetting(plain) - forgetting(mine),
      "accuracy of gem - finetune": percent(mine) - percent(plain),
    },
    {"finetune accuracy": percent(plain), "gem accuracy": percent(mine), "gem backward transfer": transfer},
  )
