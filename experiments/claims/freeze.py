"""Freezing the bottom layer recovers part of what later tasks would undo."""

from experiments.claims import Claim, Measured
from experiments.claims._runs import digits, forgetting, learned, percent, train

CLAIM = Claim(
  methods=("freeze",),
  paper="Zheng et al. 2025",
  sentence="Freezing the bottom layers from the second task on keeps old tasks' accuracy that plain tuning loses.",
  protocol="Domain-incremental digits, 5 tasks of 2 classes with one head of 2 outputs, MLP 64-100-100-10, SGD 0.05, "
  "batch 32, 5 epochs; the first hidden layer is frozen after task 1 (the default); average forgetting of "
  "finetune minus that of freeze, in points.",
)


def measure(seeds):
  stream = digits("domain")
  plain, mine = train(stream, "finetune", seeds), train(stream, "freeze", seeds)
  return Measured(
    {"forgetting of finetune - freeze": forgetting(plain) - forgetting(mine)},
    {
      "finetune accuracy": percent(plain),
      "freeze accuracy": percent(mine),
      "finetune learned": learned(plain),
      "freeze learned": learned(mine),
    },
  )
