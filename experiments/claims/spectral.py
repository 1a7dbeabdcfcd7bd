"""Spectral regularization keeps a network trainable."""

from experiments.claims import Claim
from experiments.claims._trainability import PROTOCOL, compare

CLAIM = Claim(
  methods=("spectral",),
  paper="Lewandowski et al. 2025",
  sentence="Keeping every layer's top singular value near 1 keeps a network trainable over many tasks, where plain "
  "training and plain L2 lose trainability.",
  protocol=PROTOCOL.format(tasks=50) + " Strength 0.001 (the default) for spectral and l2.",
)


def measure(seeds):
  return compare("spectral", ("finetune", "l2"), 50, seeds)
