"""Forgetting at the logits leaves the class in the features; forgetting at every depth leaves less of it."""

from experiments.claims import Claim, Measured
from experiments.claims._recovery import PROTOCOL, beyond

CLAIM = Claim(
  methods=("erase_at_the_core", "random_labels"),
  paper="arXiv 2602.05375",
  sentence="After forgetting by the logits alone the class is recovered from the features without training; after "
  "forgetting at every depth less so.",
  protocol=PROTOCOL.format("Erase at the Core"),
)


def measure(seeds):
  return Measured(*beyond(seeds, "retrain", "erase_at_the_core"))
