"""Pruned and frozen neurons: no forgetting after a task, at a small price in learning it."""

from experiments.claims import Claim, Measured
from experiments.claims._runs import digits, forgetting, learned, percent, train

MARGIN = 5.0
CLAIM = Claim(
  methods=("clnp",),
  paper="Golkar et al. 2019",
  sentence="Freezing the neurons that a task uses and learning the next with the rest forgets nothing, and gives up "
  "no more accuracy than the margin allowed when pruning.",
  protocol="Task-incremental digits, 5 tasks of 2 classes, MLP 64-100-100-10, SGD 0.5 (at lower rates plain training "
  "does not forget here), batch 32, 5 epochs, margin 5 points (the default); average forgetting of "
  "finetune minus that of clnp, and accuracy right after learning of clnp minus that of finetune plus 5, in "
  "points.",
)


def measure(seeds):
  stream = digits("task")
  plain, mine = (train(stream, name, seeds, learning_rate=0.5) for name in ("finetune", "clnp"))
  return Measured(
    {
      "forgetting of finetune - clnp": forgetting(plain) - forgetting(mine),
      "learned by clnp - finetune + 5": learned(mine) - learned(plain) + MARGIN,
    },
    {
      "finetune accuracy": percent(plain),
      "clnp accuracy": percent(mine),
      "clnp forgetting": forgetting(mine),
    },
  )
