"""Features held to the class centres of the first task forget less than plain training."""

from experiments.claims import Claim
from experiments.claims._paired import forgets_less
from experiments.claims._runs import digits

CLAIM = Claim(
  methods=("center_loss",),
  paper="Olpadkar and Gavas 2021",
  sentence="With the classifier and class centres of the first task held, pulling features to their centres keeps old "
  "domains.",
  protocol="Rotated digits, 5 angles evenly over 180 degrees, MLP 64-100-100-10, SGD 0.05, batch 32, 5 epochs; average "
  "forgetting of finetune minus that of center_loss (strength 0.1, rate 0.5, the defaults), in points.",
)


def measure(seeds):
  return forgets_less(digits("rotated"), "center_loss", seeds)
