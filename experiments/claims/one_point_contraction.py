"""Forgetting at the logits leaves the class in the features; one-point contraction leaves less of it."""

from experiments.claims import Claim, Measured
from experiments.claims._recovery import PROTOCOL, beyond

CLAIM = Claim(
  methods=("one_point_contraction", "random_labels"),
  paper="arXiv 2507.07754",
  sentence="After forgetting by the logits alone the class is recovered from the features without training; after "
  "one-point contraction less so.",
  protocol=PROTOCOL.format("one-point contraction"),
)


def measure(seeds):
  return Measured(*beyond(seeds, "retrain", "one_point_contraction"))
