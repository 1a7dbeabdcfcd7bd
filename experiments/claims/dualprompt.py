"""Prefixes of each task beside shared ones do better than one pool of prompts."""

from experiments.claims import Claim
from experiments.claims._prompts import POOL, PROTOCOL, compared

CLAIM = Claim(
  methods=("dualprompt", "l2p"),
  paper="Wang et al. 2022",
  sentence="On a pre-trained vision transformer, class-incremental tasks learned by shared and own prefixes end at "
  "a better accuracy than tasks learned by a pool of prompts.",
  protocol=f"{PROTOCOL}prefixes of length 5, shared in blocks 0 and 1, own in 2 and 3, strength 1; {POOL}. "
  "Final average accuracy of dualprompt minus that of l2p, in points.",
  seeds=5,
)


def measure(seeds):
  return compared("dualprompt", "l2p", seeds)
