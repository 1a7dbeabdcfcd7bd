"""Continual backprop keeps a network trainable."""

from experiments.claims import Claim
from experiments.claims._trainability import PROTOCOL, compare

CLAIM = Claim(
  methods=("continual_backprop",),
  paper="Dohare et al. 2024",
  sentence="Renewing a tiny fraction of the least useful mature units keeps a network trainable over many tasks, where "
  "plain backprop loses trainability.",
  protocol=PROTOCOL.format(tasks=100, width=50) + " Continual backprop with its defaults (rate 1e-4, maturity 100).",
)


def measure(seeds):
  return compare("continual_backprop", ("finetune",), 100, seeds, 50)
