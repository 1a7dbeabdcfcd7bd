"""Evaluators: what a run is judged by that no mean over rows can say, by functions that run on the host after events.

``cljax.run(..., evaluators=("linear_probe", my_own))``; one of one's own is an :class:`Evaluator`, and is named where
:func:`register` has it.
"""

from cljax.evaluators.clusters import clusters
from cljax.evaluators.plasticity import plasticity
from cljax.evaluators.probe import linear_probe
from cljax.evaluators.recalled import recall
from cljax.evaluators.registry import (
  EVALUATORS,
  Evaluator,
  Predict,
  Texts,
  checked,
  given,
  lookup,
  names,
  parted,
  register,
)
from cljax.evaluators.spoken import bits_per_byte, samples
from cljax.evaluators.units import clnp_units

__all__ = [
  "EVALUATORS", "Evaluator", "Predict", "Texts", "bits_per_byte", "checked", "clnp_units", "clusters", "given",
  "linear_probe", "lookup", "names", "parted", "plasticity", "recall", "register", "samples",
]  # fmt: skip
