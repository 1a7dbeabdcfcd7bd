"""Hard attention to the task: learned gates keep old tasks while new ones are learned."""

import numpy as np

from experiments.claims import Claim, Measured
from experiments.claims._runs import digits, forgetting, learned, percent, train

CLAIM = Claim(
  methods=("hat",),
  paper="Serra et al. 2018",
  sentence="Task-wise attention on units, learned beside the task, preserves what earlier tasks learned without "
  "harming the current one, and ends at a better accuracy than plain training.",
  protocol="Task-incremental digits, 5 tasks of 2 classes, MLP 64-100-100-10, SGD 0.5 (at lower rates plain training "
  "does not forget here), batch 32, 10 epochs, smax 400, strength 0.75 (the paper's numbers); gates of 0 "
  "and 1 at test. Forgetting of finetune minus that of hat, which is 0 exactly, and final average accuracy "
  "of hat minus that of finetune, in points.",
)


def measure(seeds):
  stream = digits("task")
  plain = train(stream, "finetune", seeds, epochs=10, learning_rate=0.5)
  mine = train(stream, "hat", seeds, epochs=10, learning_rate=0.5)
  lost = forgetting(mine)
  assert np.all(lost == 0), "a task's accuracy changed after it was learned"
  return Measured(
    {
      "forgetting of finetune - hat": forgetting(plain) - lost,
      "accuracy of hat - finetune": percent(mine) - percent(plain),
    },
    {
      "finetune accuracy": percent(plain),
      "hat accuracy": percent(mine),
      "finetune right after learning": learned(plain),
      "hat right after learning": learned(mine),
    },
  )
