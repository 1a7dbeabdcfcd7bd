"""Relevance maps keep old tasks whole and reach what plain training reaches on each."""

import numpy as np

from experiments.claims import Claim, Measured
from experiments.claims._runs import digits, forgetting, learned, percent, train

CLAIM = Claim(
  methods=("relevance_mapping",),
  paper="Kaushik et al. 2021",
  sentence="Learning which weights are relevant to each task, and letting these stand, ends without forgetting at a "
  "better accuracy than plain training.",
  protocol="Task-incremental digits, 5 tasks of 2 classes, MLP 64-100-100-10, SGD 0.5 (at lower rates plain training "
  "does not forget here), batch 32, 5 epochs, strength at its default (UNVERIFIED in the paper); forgetting "
  "of finetune minus that of relevance_mapping, which is 0 exactly, and final average accuracy of "
  "relevance_mapping minus that of finetune, in points.",
)


def measure(seeds):
  stream = digits("task")
  plain = train(stream, "finetune", seeds, learning_rate=0.5)
  mine = train(stream, "relevance_mapping", seeds, learning_rate=0.5)
  lost = forgetting(mine)
  assert np.all(lost == 0), "a task's accuracy changed after it was learned"
  figures = {"finetune accuracy": percent(plain), "relevance_mapping accuracy": percent(mine)}
  figures |= {"finetune right after learning": learned(plain), "relevance_mapping right after learning": learned(mine)}
  return Measured(
    {
      "forgetting of finetune - relevance_mapping": forgetting(plain) - lost,
      "accuracy of relevance_mapping - finetune": percent(mine) - percent(plain),
    },
    figures,
  )
