"""Weighed components that grow with the tasks do better than one pool of prompts."""

from experiments.claims import Claim
from experiments.claims._prompts import POOL, PROTOCOL, compared

CLAIM = Claim(
  methods=("coda_prompt", "l2p"),
  paper="Smith et al. 2023",
  sentence="On a pre-trained vision transformer, class-incremental tasks learned by sums of weighed prompts end at "
  "a better accuracy than tasks learned by a pool of prompts.",
  protocol=f"{PROTOCOL}12 components of length 8 in all 4 blocks, which begin orthogonal; {POOL}. "
  "Final average accuracy of coda_prompt minus that of l2p, in points.",
  seeds=5,
)


def measure(seeds):
  return compared("coda_prompt", "l2p", seeds)
