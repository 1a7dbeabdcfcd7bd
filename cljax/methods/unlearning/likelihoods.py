"""Registry entries of the edits that descend on losses of likelihoods, of classes or of tokens."""

from __future__ import annotations

import optax

from cljax import unlearning
from cljax.methods.registry import Option
from cljax.methods.unlearning.edits import steps_of
from cljax.methods.unlearning.entries import approximate

LABELS = ("each", "labels")  # of the objective
RETAIN_LOSS = Option("ce", choices=("ce", "kl"))


def weighed(forget_weight: float, retain_weight: float, **options):
  """The options of a descent on a forget loss and a retain loss, and its own."""
  weights = {"forget_weight": Option(forget_weight, 0), "retain_weight": Option(retain_weight, 0)}
  return steps_of(1e-3, **weights, retain_loss=RETAIN_LOSS, **options)


approximate(
  "npo",
  unlearning.npo,
  weighed(1.0, 1.0, beta=Option(0.1, 0, above=True)),
  "Zhang et al. 2024",
  optax.adam,
  needs=LABELS,
)
