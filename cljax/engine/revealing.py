"""Deletion requests to methods whose state gives a row back."""

from __future__ import annotations

from collections.abc import Mapping

import jax

from cljax import projectors, regularizers
from cljax.core.types import UsageError
from cljax.optimizers.classp import ClasspState
from cljax.optimizers.tag import TagState
from cljax.regularizers import path, quadratic

# State -> what it holds; found by planting a row and searching every array (experiments/revealed.py).
REVEALS = {
  projectors.OGDState: "gradients of single rows, which hold the rows' inputs",
  projectors.GPMState: "bases of the spaces that the rows span",
  projectors.SGPState: "bases of the spaces that the rows span",
  projectors.CUBERState: "bases of the spaces that the rows span",
  regularizers.KfacState: "the correlations of layer inputs, whose span is that of the rows where these are few",
  projectors.NCLState: "the correlations of layer inputs, whose span is that of the rows where these are few",
  projectors.NSCLState: "the correlations of layer inputs, whose span is that of the rows where these are few",
  projectors.OWMState: "the correlations of batches' mean inputs, which of small batches are rows",
  TagState: "each task's averaged gradient, in which a bright row stands out",
}


# Means of squared or absolute gradients: of a task of one row the root is the row, of thirty nothing is found.
IMPORTANCES = (
  quadratic.EwcState, quadratic.OnlineEwcState, quadratic.MasState, path.SiState, path.HierarchicalState, ClasspState,
)  # fmt: skip
FEW = 30


def _held(state, kinds) -> type | None:
  """The first of ``kinds`` that a state holds, wherever it is nested."""
  kinds = tuple(kinds)
  leaves = jax.tree.leaves(state, is_leaf=lambda node: isinstance(node, kinds))
  return next((type(leaf) for leaf in leaves if isinstance(leaf, kinds)), None)


def revealing(state) -> str:
  """What a state holds that gives rows back, wherever it is nested; '' for nothing of the kind.

  A method's own state says so itself, by a property ``reveals``, a text.
  """
  held = _held(state, REVEALS)
  if held:
    return REVEALS[held]
  says = lambda node: isinstance(getattr(node, "reveals", None), str)
  return next((node.reveals for node in jax.tree.leaves(state, is_leaf=says) if says(node)), "")


def check_reveals(name: str, parts, replays: bool, tasks: Mapping[int, int]) -> None:
  """Refuses requests to a learner whose state gives rows of ``tasks {task: its number of rows}`` back, where it is not
  made anew: an edit of the parameters leaves it as it is."""
  if replays:
    return
  state = jax.eval_shape(parts.init, jax.random.key(0))
  held = revealing(state)
  if held:
    raise UsageError(
      f"forget: {name!r} keeps {held}, so that an edit would leave the deleted rows in its state; use "
      "forget.name='retrain', which replays without them"
    )
  few = {t: n for t, n in tasks.items() if n < FEW}
  if few and _held(state, IMPORTANCES):
    task, count = next(iter(few.items()))
    raise UsageError(
      f"forget: {name!r} keeps importances, and those of task {task}, of {count} rows (fewer than {FEW}), hold them; "
      "use forget.name='retrain', which replays without them"
    )
