"""Regularization towards the initial distribution of weights keeps a network trainable.

Layers of 50 units, half as wide as for spectral regularization, because the sorting costs most of the time.
"""

from experiments.claims import Claim
from experiments.claims._trainability import PROTOCOL, compare

CLAIM = Claim(
  methods=("wasserstein",),
  paper="Lewandowski et al. 2024",
  sentence="Keeping each tensor's weights near their initial distribution keeps a network trainable over many tasks, "
  "where plain training and plain L2 lose trainability.",
  protocol=PROTOCOL.format(tasks=50, width=50) + " Strength 0.001 (the default) for wasserstein and l2.",
)


def measure(seeds):
  return compare("wasserstein", ("finetune", "l2"), 50, seeds, 50)
