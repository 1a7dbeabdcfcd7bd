"""Gradients that are gated by utility forget less than smaller steps do."""

from experiments.claims import Claim, Measured
from experiments.claims._runs import digits, forgetting, learned, percent, train

CLAIM = Claim(
  methods=("upgd",),
  paper="Elsayed and Mahmood 2024",
  sentence="Steps that are small for useful weights forget less than plain ones, and what is learned does not suffer.",
  protocol="Permuted digits, 5 tasks of all 10 classes, MLP 64-100-100-10, SGD 0.05, batch 32, 5 epochs; upgd by its "
  "defaults, whose gate halves most steps: so beside finetune stands finetune at half the rate. Average forgetting of "
  "either minus that of upgd, and final accuracy of upgd minus that of finetune at half the rate, in points.",
)


def measure(seeds):
  stream = digits("permuted")
  runs = {
    "finetune": train(stream, "finetune", seeds),
    "half": train(stream, "finetune", seeds, learning_rate=0.025),
    "upgd": train(stream, "upgd", seeds),
  }
  figures = {f"{name} accuracy": percent(run) for name, run in runs.items()}
  figures |= {f"{name} forgetting": forgetting(run) for name, run in runs.items()}
  figures |= {f"{name} learned": learned(run) for name, run in runs.items()}
  lost = forgetting(runs["upgd"])
  return Measured(
    {
      "forgetting of finetune - upgd": forgetting(runs["finetune"]) - lost,
      "forgetting of finetune at half the rate - upgd": forgetting(runs["half"]) - lost,
      "accuracy of upgd - finetune at half the rate": percent(runs["upgd"]) - percent(runs["half"]),
    },
    figures,
  )
