"""Registry entries of the edits that descend on losses of likelihoods, or steer activations."""

from __future__ import annotations

import optax

from cljax import unlearning
from cljax.methods.registry import Option
from cljax.methods.unlearning.edits import steps_of
from cljax.methods.unlearning.entries import approximate
from cljax.unlearning.misdirection import DIRECTIONS

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
approximate(
  "simnpo",
  unlearning.simnpo,
  weighed(0.125, 1.0, beta=Option(4.5, 0, above=True), delta=Option(0.0, 0)),
  "Fan et al. 2024",
  optax.adam,
  needs=LABELS,
)
approximate(
  "rmu",
  unlearning.rmu,
  steps_of(
    1e-3,
    layer=Option(0),
    coefficient=Option(6.5, 0),
    direction=Option("uniform", choices=DIRECTIONS),
    forget_weight=Option(1.0, 0),
    retain_weight=Option(1.0, 0),
  ),
  "Li et al. 2024",
  optax.adam,
  needs=("plain_inputs",),
)
for name, call, options, reference in (
  ("wga", unlearning.wga, weighed(1.0, 1.0, beta=Option(1.0, 0)), "Wang et al. 2025"),
  (
    "satimp",
    unlearning.satimp,
    weighed(1.0, 0.1, saturation=Option(5.0, 0), importance=Option(1.0, 0)),
    "Yang et al. 2025",
  ),
  ("undial", unlearning.undial, weighed(1.0, 0.0, strength=Option(10.0, 0)), "Dong et al. 2024"),
):
  approximate(name, call, options, reference, optax.adam, needs=LABELS)
