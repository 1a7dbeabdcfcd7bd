"""L2 towards the initialisation keeps a network able to learn new tasks, more than L2 towards zero."""

from experiments.claims import Claim, Measured
from experiments.claims._plasticity import PROTOCOL, late

CLAIM = Claim(
  methods=("l2_init", "l2"),
  paper="Kumar et al. 2023",
  sentence="Regularizing towards the initial parameters maintains plasticity, better than towards zero.",
  protocol=PROTOCOL + "; l2_init minus finetune and l2_init minus l2 (strength 0.001, the defaults), in points.",
)


def measure(seeds):
  plain, zero, mine = (late(name, seeds) for name in ("finetune", "l2", "l2_init"))
  return Measured(
    {"late tasks, l2_init - finetune": mine - plain, "late tasks, l2_init - l2": mine - zero},
    {"finetune, late tasks": plain, "l2, late tasks": zero, "l2_init, late tasks": mine},
  )
