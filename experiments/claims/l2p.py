"""Prompts chosen from a pool leave a frozen network less forgetful than training all of it."""

from experiments.claims import Claim
from experiments.claims._prompts import POOL, PROTOCOL, compared

CLAIM = Claim(
  methods=("l2p", "finetune"),
  paper="Wang et al. 2022",
  sentence="On a pre-trained vision transformer, class-incremental tasks learned by a pool of prompts end at "
  "a better accuracy than tasks learned by training the whole network.",
  protocol=f"{PROTOCOL}{POOL}. Final average accuracy of l2p minus that of finetune, in points.",
  seeds=5,
)


def measure(seeds):
  return compared("l2p", "finetune", seeds)
