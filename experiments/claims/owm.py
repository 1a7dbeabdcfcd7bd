"""OWM forgets less than plain training and ends above it."""

from experiments.claims import Claim, Measured
from experiments.claims._runs import digits, forgetting, learned, percent, train

CLAIM = Claim(
  methods=("owm",),
  paper="Zeng et al. 2019",
  sentence="Gradients projected by the running inverse of mean input correlations overcome catastrophic forgetting.",
  protocol="Permuted digits, 5 tasks of all 10 classes, MLP 64-100-100-10, SGD 0.05, batch 32, 5 epochs; owm at its "
  "defaults (alpha 1, as in the released shuffled MNIST): final average accuracy above that of finetune, and average "
  "forgetting below it, in points.",
)


def measure(seeds):
  stream = digits("permuted")
  plain, mine = (train(stream, name, seeds) for name in ("finetune", "owm"))
  return Measured(
    {
      "accuracy of owm - finetune": percent(mine) - percent(plain),
      "forgetting of finetune - owm": forgetting(plain) - forgetting(mine),
    },
    {
      "finetune accuracy": percent(plain),
      "owm accuracy": percent(mine),
      "finetune right after learning": learned(plain),
      "owm right after learning": learned(mine),
    },
  )
