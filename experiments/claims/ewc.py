"""EWC forgets less than plain training where tasks are told apart at test time."""

from experiments.claims import Claim, Measured
from experiments.claims._runs import digits, forgetting, percent, train

CLAIM = Claim(
  methods=("ewc",),
  paper="Kirkpatrick et al. 2017",
  sentence="A quadratic penalty weighted by the Fisher information keeps old tasks better than plain gradient descent.",
  protocol="Permuted digits, 5 tasks of all 10 classes, MLP 64-100-100-10, SGD 0.05, batch 32, 5 epochs; "
  "average forgetting of finetune minus that of ewc (strength 10, the default), in points.",
  quick=True,
)


def measure(seeds):
  stream = digits("permuted")
  plain = train(stream, "finetune", seeds)
  mine = train(stream, "ewc", seeds)
  return Measured(
    {"forgetting of finetune - ewc": forgetting(plain) - forgetting(mine)},
    {"finetune accuracy": percent(plain), "ewc accuracy": percent(mine)},
  )
