"""Shrinking and perturbing the weights between tasks keeps a network trainable."""

from experiments.claims import Claim
from experiments.claims._trainability import PROTOCOL, compare

CLAIM = Claim(
  methods=("shrink_perturb",),
  paper="Ash and Adams 2020",
  sentence="A network whose weights are shrunk and perturbed before it learns on fits new data as well as it did at "
  "first, where one that merely goes on does not.",
  protocol=PROTOCOL.format(tasks=100, width=50) + " Shrink and perturb with its defaults (0.8, 0.01) where a task "
  "begins; the paper measures generalisation after warm starts, this is how well labels are fitted.",
)


def measure(seeds):
  return compare("shrink_perturb", ("finetune",), 100, seeds, 50)
