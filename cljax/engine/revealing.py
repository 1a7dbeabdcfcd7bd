"""Deletion requests to methods whose state gives a row back."""

from __future__ import annotations

import jax

from cljax import projectors
from cljax.core.types import UsageError
from cljax.optimizers.tag import TagState

# State -> what it holds; found by planting a row and searching every array (experiments/revealed.py).
REVEALS = {
  projectors.OGDState: "gradients of single rows, which hold the rows' inputs",
  projectors.GPMState: "bases of the spaces that the rows span",
  projectors.CUBERState: "bases of the spaces that the rows span",
  TagState: "each task's averaged gradient, in which a bright row stands out",
}


def revealing(state) -> str:
  """What a state holds that gives rows back, wherever it is nested; '' for nothing of the kind."""
  kinds = tuple(REVEALS)
  leaves = jax.tree.leaves(state, is_leaf=lambda node: isinstance(node, kinds))
  return next((REVEALS[type(leaf)] for leaf in leaves if isinstance(leaf, kinds)), "")


def check_reveals(name: str, parts, replays: bool) -> None:
  """Refuses requests to a learner whose state gives rows back, where it is not made anew: an edit of the parameters
  leaves it as it is."""
  held = "" if replays else revealing(jax.eval_shape(parts.init, jax.random.key(0)))
  if held:
    raise UsageError(
      f"forget: {name!r} keeps {held}, so that an edit would leave the deleted rows in its state; use "
      "forget.name='retrain', which replays without them"
    )
