"""Pruning and freezing by task: many tasks in one network without forgetting, at a small price in learning each."""

import numpy as np

from experiments.claims import Claim, Measured
from experiments.claims._runs import digits, forgetting, learned, percent, train

MARGIN = 5.0
CLAIM = Claim(
  methods=("packnet",),
  paper="Mallya and Lazebnik 2018",
  sentence="Pruning each task's weights and freezing what is kept adds tasks to one network without any forgetting, "
  "at a small loss of accuracy against a network that learns the task freely.",
  protocol="Task-incremental digits, 5 tasks of 2 classes, MLP 64-100-100-10, SGD 0.5 (at lower rates plain training "
  "does not forget here), batch 32, 6 epochs, a third of them behind the pruning, half of each task's "
  "weights pruned (the paper's number). Average forgetting of finetune minus that of packnet, which is 0 "
  "exactly, and accuracy right after learning of packnet minus that of finetune plus 5, in points.",
)


def measure(seeds):
  stream = digits("task")
  plain = train(stream, "finetune", seeds, epochs=6, learning_rate=0.5)
  mine = train(stream, "packnet", seeds, epochs=6, learning_rate=0.5)
  lost = forgetting(mine)
  assert np.all(lost == 0), "a task's accuracy changed after it was learned"
  return Measured(
    {
      "forgetting of finetune - packnet": forgetting(plain) - lost,
      "learned by packnet - finetune + 5": learned(mine) - learned(plain) + MARGIN,
    },
    {"finetune accuracy": percent(plain), "packnet accuracy": percent(mine), "packnet forgetting": lost},
  )
