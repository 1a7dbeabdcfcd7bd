"""Probabilities that are held on rows of each task keep it from being forgotten."""

from experiments.claims import Claim
from experiments.claims._paired import forgets_less
from experiments.claims._runs import digits

CLAIM = Claim(
  methods=("fdr",),
  paper="Benjamin et al. 2019",
  sentence="Holding the network's probabilities on stored rows of each task to what they were at its end forgets less "
  "than plain training.",
  protocol="Class-incremental digits, 5 tasks of 2 classes, MLP 64-100-100-10, SGD 0.05, batch 32, 5 epochs, 100 rows "
  "kept, alpha 1; average forgetting of finetune minus that of fdr, in points.",
  seeds=5,
)


def measure(seeds):
  return forgets_less(digits("class"), "fdr", seeds, capacity=100)
