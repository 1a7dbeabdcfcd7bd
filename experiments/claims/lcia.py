"""LCIA's automatically balanced average keeps more than plain sequential tuning."""

from experiments.claims import Claim, Measured
from experiments.claims._runs import digits, forgetting, learned, percent, train

CLAIM = Claim(
  methods=("lcia",),
  paper="Qiao et al. 2025",
  sentence="An average of the weights with an automatic balance ends above plain sequential tuning, by forgetting "
  "less.",
  protocol="Permuted digits, 5 tasks of all 10 classes, MLP 64-100-100-10, SGD 0.05, batch 32, 5 epochs; final "
  "average accuracy of lcia (the paper's balance, the default) minus that of finetune, in points; the "
  "released code's balance is shown beside it.",
)


def measure(seeds):
  stream = digits("permuted")
  plain, mine = train(stream, "finetune", seeds), train(stream, "lcia", seeds)
  released = train(stream, "lcia", seeds, balance="released")
  return Measured(
    {"accuracy of lcia - finetune": percent(mine) - percent(plain)},
    {
      "finetune accuracy": percent(plain),
      "lcia accuracy": percent(mine),
      "lcia released accuracy": percent(released),
      "finetune forgetting": forgetting(plain),
      "lcia forgetting": forgetting(mine),
      "lcia learned": learned(mine),
      "lcia released learned": learned(released),
    },
  )
