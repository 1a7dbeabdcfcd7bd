"""Spectral regularization keeps a network trainable.

Layers of 100 units memorise the first tasks. With layers of 50, which do not, the same measurement was inconclusive.
"""

from experiments.claims import Claim
from experiments.claims._trainability import PROTOCOL, compare

CLAIM = Claim(
  methods=("spectral",),
  paper="Lewandowski et al. 2025",
  sentence="Keeping every layer's top singular value near 1 keeps a network trainable over many tasks, where plain "
  "training and plain L2 lose trainability.",
  protocol=PROTOCOL.format(tasks=50, width=100) + " Strength 0.001 (the default) for spectral and l2. "
  "With layers of 50 units, which do not memorise the first tasks, the same measurement was inconclusive.",
)


def measure(seeds):
  return compare("spectral", ("finetune", "l2"), 50, seeds, 100)
