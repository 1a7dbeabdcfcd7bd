"""Adam in the null space of old inputs forgets less than Adam, and ends better."""

from experiments.claims import Claim, Measured
from experiments.claims._runs import digits, forgetting, learned, percent, train

CLAIM = Claim(
  methods=("adam_nscl",),
  paper="Wang et al. 2021",
  sentence="Projecting Adam's steps on the null space of old layer inputs forgets less than Adam does, and ends at a "
  "better accuracy, task-incrementally.",
  protocol="Split digits, task-incremental, 5 tasks of 2 classes, MLP 64-100-100-10, Adam 0.001, batch 32, 20 epochs; "
  "adam_nscl at its defaults; forgetting of finetune minus that of adam_nscl, and final average accuracy the other way "
  "round, in points.",
  seeds=5,
)


def measure(seeds):
  recipe = {"epochs": 20, "learning_rate": 1e-3, "optimizer": "adam"}
  plain, mine = (train(digits("task"), name, seeds, **recipe) for name in ("finetune", "adam_nscl"))
  return Measured(
    {
      "forgetting of finetune - adam_nscl": forgetting(plain) - forgetting(mine),
      "accuracy of adam_nscl - finetune": percent(mine) - percent(plain),
    },
    {
      "finetune accuracy": percent(plain),
      "adam_nscl accuracy": percent(mine),
      "finetune right after learning": learned(plain),
      "adam_nscl right after learning": learned(mine),
    },
  )
