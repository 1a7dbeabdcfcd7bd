"""Pulling outputs to the uniform distribution improves EWC: an instance of the unified objective."""

from cljax.methods.replay.unified import CASES
from experiments.claims import Claim, Measured
from experiments.claims._runs import digits, forgetting, percent, train

CLAIM = Claim(
  methods=("unified", "ewc"),
  paper="Cha et al. 2021; Wang et al. 2024",
  sentence="Classifier-projection regularization, a divergence of outputs from the uniform distribution, improves EWC.",
  protocol="Permuted digits, 5 tasks, MLP 64-100-100-10, SGD 0.05, batch 32, 5 epochs; accuracy of EWC with the term "
  "(alpha 0.5, strength 10) minus that of ewc (strength 10), in points.",
)


def measure(seeds):
  stream = digits("permuted")
  plain, mine = train(stream, "ewc", seeds), train(stream, "unified", seeds, **CASES["cpr"])
  return Measured(
    {"accuracy of cpr - ewc": percent(mine) - percent(plain)},
    {
      "ewc accuracy": percent(plain),
      "cpr accuracy": percent(mine),
      "ewc forgetting": forgetting(plain),
      "cpr forgetting": forgetting(mine),
    },
  )
