"""Memory Aware Synapses forget less than plain training."""

from experiments.claims import Claim
from experiments.claims._paired import forgets_less
from experiments.claims._runs import digits

CLAIM = Claim(
  methods=("mas",),
  paper="Aljundi et al. 2018",
  sentence="Importance from the sensitivity of the outputs, without labels, protects old tasks.",
  protocol="Permuted digits, 5 tasks of all 10 classes, MLP 64-100-100-10, SGD 0.05, batch 32, 5 epochs; average "
  "forgetting of finetune minus that of mas (strength 0.03, the default), in points.",
)


def measure(seeds):
  return forgets_less(digits("permuted"), "mas", seeds)
