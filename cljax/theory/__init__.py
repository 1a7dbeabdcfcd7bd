"""Theory of continual learning, as closed forms and as exact experiments to hold them against.

All are pure functions of a key and of sizes: ``jax.vmap`` a draw over keys for a mean and its standard error.
"""

from cljax.theory.factorisation import (
  FactorState,
  factor_forgetting,
  factor_init,
  factor_learn,
  factor_loss,
  factor_member,
)
from cljax.theory.linear import IdealState, ideal_init, ideal_learn, ideal_member, ntk_forgetting, ntk_overlap
from cljax.theory.overparameterised import Errors, draw_errors, expected_errors
from cljax.theory.regression import haar, learn, partial_rotation
from cljax.theory.rehearsal import RehearsalErrors, rehearsal_errors, rehearse
from cljax.theory.rotation import rotation_draw, rotation_forgetting

__all__ = [
  "Errors",
  "FactorState",
  "IdealState",
  "RehearsalErrors",
  "draw_errors",
  "expected_errors",
  "factor_forgetting",
  "factor_init",
  "factor_learn",
  "factor_loss",
  "factor_member",
  "haar",
  "ideal_init",
  "ideal_learn",
  "ideal_member",
  "learn",
  "ntk_forgetting",
  "ntk_overlap",
  "partial_rotation",
  "rehearsal_errors",
  "rehearse",
  "rotation_draw",
  "rotation_forgetting",
]
