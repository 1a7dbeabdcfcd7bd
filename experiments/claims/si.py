"""Synaptic Intelligence forgets less than plain training."""

from experiments.claims import Claim
from experiments.claims._paired import forgets_less
from experiments.claims._runs import digits

CLAIM = Claim(
  methods=("si",),
  paper="Zenke et al. 2017",
  sentence="Importance accumulated along the training path, at no extra pass over data, protects old tasks.",
  protocol="Permuted digits, 5 tasks of all 10 classes, MLP 64-100-100-10, SGD 0.05, batch 32, 5 epochs; average "
  "forgetting of finetune minus that of si (strength 0.1, damping 0.1, the defaults), in points.",
)


def measure(seeds):
  return forgets_less(digits("permuted"), "si", seeds)
