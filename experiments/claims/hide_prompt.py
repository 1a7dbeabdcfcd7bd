"""Prefixes that a classifier of the plain network finds do better than prefixes that a key finds."""

from experiments.claims import Claim
from experiments.claims._prompts import PROTOCOL, compared

CLAIM = Claim(
  methods=("hide_prompt", "dualprompt"),
  paper="Wang et al. 2023",
  sentence="On a pre-trained vision transformer, class-incremental tasks learned by prefixes that an aligned "
  "classifier finds, under another, end at a better accuracy than tasks learned by shared and own "
  "prefixes that keys find.",
  protocol=f"{PROTOCOL}hide_prompt: prefixes of length 5 in all blocks, strength 0.1, merge 0.01, 30 passes at rate "
  "0.005; dualprompt: length 5, shared in blocks 0 and 1, own in 2 and 3, strength 1. Final average accuracy of "
  "hide_prompt minus that of dualprompt, in points.",
  seeds=5,
)


def measure(seeds):
  return compared("hide_prompt", "dualprompt", seeds)
