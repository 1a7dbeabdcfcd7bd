"""Averaging old and new weights trades the tasks; learned block-wise ratios trade better than equal ones."""

from experiments.claims import Claim, Measured
from experiments.claims._runs import digits, final, train

CLAIM = Claim(
  methods=("heterogeneous_averaging",),
  paper="Lin et al. 2024",
  sentence="Averaging the weights from before and after tuning gives back old ability, and ratios learned for each "
  "block keep more of the new one than equal ratios of the same mean.",
  protocol="Digits upright, then turned by 90 degrees, one head for both; MLP 64-100-100-10, SGD 0.05, batch 32, 5 "
  "epochs each; mean ratio 0.5 over the three layers (the defaults). Accuracy on the old task against "
  "finetune, and on the new task against equal ratios, in points.",
)


def measure(seeds):
  stream = digits("rotated", 2)
  plain, mine = train(stream, "finetune", seeds), train(stream, "heterogeneous_averaging", seeds)
  equal = train(stream, "heterogeneous_averaging", seeds, steps=0)
  return Measured(
    {
      "old task, averaged - finetune": final(mine, 0) - final(plain, 0),
      "new task, learned ratios - equal ratios": final(mine, 1) - final(equal, 1),
    },
    {
      "finetune old": final(plain, 0),
      "learned ratios old": final(mine, 0),
      "equal ratios old": final(equal, 0),
      "finetune new": final(plain, 1),
      "learned ratios new": final(mine, 1),
      "equal ratios new": final(equal, 1),
    },
  )
