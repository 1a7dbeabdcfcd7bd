"""Recycling dormant units keeps a network trainable."""

from experiments.claims import Claim
from experiments.claims._trainability import PROTOCOL, compare

CLAIM = Claim(
  methods=("redo",),
  paper="Sokar et al. 2023",
  sentence="Recycling the units that are hardly active keeps a network able to fit new targets, where plain training "
  "loses it.",
  protocol=PROTOCOL.format(tasks=100, width=50) + " ReDo with its defaults (tau 0.025, every 1000 steps); the paper is "
  "about reinforcement learning, whose targets move too.",
)


def measure(seeds):
  return compare("redo", ("finetune",), 100, seeds, 50)
