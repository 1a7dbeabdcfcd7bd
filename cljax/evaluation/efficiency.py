"""What accuracy costs: runs side by side, each relative to a reference such as joint training (Harun et al. 2023)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from cljax import metrics
from cljax.core.types import UsageError
from cljax.evaluation.cost import Cost, more_than_forgetting

COMPUTE = ("updates", "operations", "seconds")
MEGA = 1e6


class Spent(NamedTuple):
  """A run by its seeds: ``accuracy [S]`` at the end in [0, 1] (NaN of what diverged), ``matrix [S, T, T]`` after each
  event or None, bytes that a member keeps between tasks beside its parameters, ``updates`` of one seed, ``seconds`` of
  one seed, and what it costs."""

  accuracy: np.ndarray
  matrix: np.ndarray | None
  kept_bytes: float
  updates: int
  seconds: float
  cost: Cost

  @property
  def learning_rows(self) -> np.ndarray:
    """``[S, T, T]``; NaN where there is no such matrix."""
    return np.full((len(self.accuracy), 1, 1), np.nan) if self.matrix is None else self.matrix


class Row(NamedTuple):
  """What one run has; ``[S]`` where it differs by seed."""

  accuracy: np.ndarray
  relative: np.ndarray  # accuracy over the mean of the reference's
  model_bytes: float
  kept_bytes: float
  updates: int
  operations: float  # floating-point operations of training
  seconds: float
  netscore: np.ndarray


def row(own: Spent, reference: Spent, compute: str = "updates") -> Row:
  """``relative_s = acc_s / mean(acc of the reference)`` and :func:`cljax.metrics.netscore` of it, ``[S]``.

  NetScore takes 100 times ``relative``, the model and all that is kept between tasks in millions of float32 numbers,
  and of ``compute`` thousands of 'updates', giga multiply-adds of 'operations' (half of the floating-point operations)
  or 'seconds': it compares runs that were given the same. NaN where a seed has no accuracy above 0.
  Raises UsageError for another ``compute``, and where the reference has no accuracy above 0.
  """
  if compute not in COMPUTE:
    raise UsageError(f"compute: got {compute!r}; allowed: {', '.join(COMPUTE)}")
  sound = reference.accuracy[np.isfinite(reference.accuracy)]
  if not len(sound) or sound.mean() <= 0:
    raise UsageError("reference: has no accuracy above 0, so nothing is relative to it")
  relative = own.accuracy / sound.mean()
  operations = float(own.cost.training_flops.sum())
  size = float(own.cost.model_bytes[-1])
  spent = {"updates": own.updates / 1e3, "operations": operations / 2e9, "seconds": own.seconds}[compute]
  score = np.full(relative.shape, np.nan)
  there = relative > 0
  if there.any() and spent > 0:
    score[there] = metrics.netscore(100 * relative[there], (size + own.kept_bytes) / 4 / MEGA, spent)
  return Row(own.accuracy, relative, size, own.kept_bytes, own.updates, operations, own.seconds, score)


def more(own: Spent) -> dict[str, Any]:
  """The criteria of :func:`cljax.evaluation.cost.more_than_forgetting` by name, ``[S]`` each, and over them
  ``cl_score`` and ``cl_stability``; none where the run has no whole matrix, or one task alone."""
  if own.matrix is None or own.matrix.shape[-1] < 2 or not np.isfinite(own.matrix).all():
    return {}
  found = more_than_forgetting(own, own.cost)
  return found | {"cl_score": metrics.cl_score(found), "cl_stability": metrics.cl_stability(found)}


def in_order(matrix, events: Sequence[Mapping[str, Any]]) -> np.ndarray | None:
  """``[S, T, T]``: the rows after each Learn event with a column for each, of ``matrix [S, E + 1, T]``; None where
  tasks come back or are never learned."""
  matrix = np.asarray(matrix, np.float64)
  learn = [i + 1 for i, e in enumerate(events) if e["kind"] == "learn"]
  order = [e.get("task", -1) for e in events if e["kind"] == "learn"]
  return matrix[:, learn][..., order] if sorted(order) == list(range(matrix.shape[-1])) else None
