"""One more column a layer and task is enough: no forgetting, and later tasks use what earlier ones learned."""

import numpy as np

from experiments.claims import Claim, Measured
from experiments.claims._runs import digits, forgetting, learned, percent, train

MARGIN = 5.0
CLAIM = Claim(
  methods=("incremental_rank",),
  paper="Hyder et al. 2022",
  sentence="Adding one column to the factors of each layer for a new task, and selecting among all, forgets nothing "
  "and learns each task about as well as a network of its own.",
  protocol="Task-incremental digits, 5 tasks of 2 classes, MLP 64-100-100-10, Adam 0.001, batch 32, 10 epochs, rank "
  "11 and 1 more a task (the paper's numbers); forgetting is 0 exactly; accuracy right after learning minus "
  "that of finetune, plus 5, in points.",
)


def measure(seeds):
  stream = digits("task")
  given = {"epochs": 10, "learning_rate": 0.001, "optimizer": "adam"}
  plain, mine = (train(stream, name, seeds, **given) for name in ("finetune", "incremental_rank"))
  assert np.all(forgetting(mine) == 0), "a task's accuracy changed after it was learned"
  figures = {"finetune accuracy": percent(plain), "incremental_rank accuracy": percent(mine)}
  figures |= {"finetune right after learning": learned(plain), "incremental_rank right after learning": learned(mine)}
  return Measured({"learned by incremental_rank - finetune + 5": learned(mine) - learned(plain) + MARGIN}, figures)
