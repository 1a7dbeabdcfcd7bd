"""L2 in the loss keeps a network able to learn new tasks."""

from experiments.claims import Claim, Measured
from experiments.claims._plasticity import PROTOCOL, late

CLAIM = Claim(
  methods=("l2",),
  paper="Lyle et al. 2023; Kumar et al. 2023",
  sentence="L2 regularization mitigates the loss of plasticity of plain training.",
  protocol=PROTOCOL + "; l2 (strength 0.001, the default) minus finetune, in points.",
)


def measure(seeds):
  plain, mine = late("finetune", seeds), late("l2", seeds)
  return Measured(
    {"late tasks, l2 - finetune": mine - plain},
    {"finetune, late tasks": plain, "l2, late tasks": mine},
  )
