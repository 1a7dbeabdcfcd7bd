"""A network that learns slowly under an aligned classifier ends better than one that learns at that one's rate."""

from experiments.claims import Claim
from experiments.claims._tuned import PROTOCOL, compared, run

CLAIM = Claim(
  methods=("slca", "finetune"),
  paper="Zhang et al. 2023",
  sentence="On a pre-trained vision transformer, class-incremental tasks learned in full by a slow learner, whose "
  "classifier is aligned by class Gaussians, end at a better accuracy than tasks learned at one rate.",
  protocol=f"{PROTOCOL}SGD 0.05; slca with the network at a hundredth of it, 5 passes of 256 draws a class at rate "
  "0.01 and temperature 0.1. Final average accuracy of slca minus that of finetune, in points.",
  seeds=5,
)


def measure(seeds):
  runs = {n: run(n, seeds, "sgd", 0.05) for n in ("slca", "finetune")}
  return compared("slca", "finetune", runs)
