"""How much of a row's answer hangs on having trained on that row, and what rows do to the answers of others."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from cljax.core.types import UsageError


class Effect(NamedTuple):
  """A difference of means over models, of which each was trained on a random subset of the rows."""

  value: np.ndarray
  error: np.ndarray  # its standard error
  inside: np.ndarray  # the mean over models that had the row
  outside: np.ndarray  # and over those that had not


def memorisation(included: ArrayLike, correct: ArrayLike) -> Effect:
  """``mean_{r: i in S_r} correct_ri - mean_{r: i not in S_r} correct_ri``, ``[N]`` in [-1, 1]; a row each.

  ``included [R, N]`` bool: which rows model r was trained on, of random subsets of one size m; ``correct [R, N]``: 0 or
  1, or the probability of the label (fewer models do then), of all rows, without augmentation. It is the memorisation
  of training sets of m rows, not of N. The error is ``sqrt(v1 / n1 + v0 / n0)``, v the variances over the models with
  and without the row (over n - 1): of rights and wrongs ``p (1 - p) n / (n - 1)``. Copies of a row in other places hide
  it: group them first. Raises UsageError for other shapes, numbers outside [0, 1], and a row that fewer than two
  models have, or lack. Feldman and Zhang, 2020.
  """
  there, right = _bank(included, correct)
  if right.shape != there.shape:
    raise UsageError(f"correct: has shape {right.shape}; included has {there.shape}")
  return _effect(there, right, "rn,rn->n")


def influence(included: ArrayLike, correct: ArrayLike) -> Effect:
  """``mean_{r: i in S_r} correct_rj - mean_{r: i not in S_r} correct_rj``, ``[M, N]``: of row i on test row j.

  ``included [R, N]`` as in :func:`memorisation`, ``correct [R, M]`` of test rows. The influence of a row on a test row
  that is its copy is its memorisation. With many pairs some are large by chance: look at the errors. Raises UsageError
  as there. Feldman and Zhang, 2020.
  """
  return _effect(*_bank(included, correct), "rn,rm->mn")


def singleton_mass(counts: ArrayLike) -> float:
  """``2 N_2 / n``, N_2 the kinds seen twice, n all rows: the share of what comes next that is of kinds seen once.

  Good and Turing's estimate, of ``counts [K]`` of the kinds seen: what it costs at most not to fit rows that stand
  alone. Raises UsageError for counts that are no whole numbers from 0 on, and where nothing was seen. Feldman, 2020.
  """
  counts = np.asarray(counts)
  numbers = counts.ndim == 1 and counts.dtype.kind in "iuf" and bool(np.isfinite(counts).all())
  if not numbers or (counts < 0).any() or (counts != np.floor(counts)).any() or counts.sum() == 0:
    raise UsageError(f"counts: got shape {counts.shape}; expected [K] whole numbers of at least 0, not all 0")
  return float(2 * np.sum(counts == 2) / counts.sum())


def _bank(included: ArrayLike, correct: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
  there, right = np.asarray(included).astype(np.float64), np.asarray(correct).astype(np.float64)
  if there.ndim != 2 or right.ndim != 2 or len(there) != len(right):
    raise UsageError(f"correct: has shape {right.shape}; expected [R, ...] as included, {there.shape}")
  if not np.isin(there, (0, 1)).all():
    raise UsageError("included: has other numbers than 0 and 1")
  if not ((right >= 0) & (right <= 1)).all():
    raise UsageError(f"correct: lies in [{right.min():g}, {right.max():g}]; expected [0, 1]")
  few = np.flatnonzero(np.minimum(there.sum(0), (1 - there).sum(0)) < 2)
  if len(few):
    told = f"row {few[0]} is in {int(there[:, few[0]].sum())} of {len(there)} models"
    raise UsageError(f"included: {told}; expected two with it and two without")
  return there, right


def _effect(there: np.ndarray, right: np.ndarray, over: str) -> Effect:
  sides = []
  for weight in (there, 1 - there):
    count = weight.sum(0)
    mean, square = (np.einsum(over, weight, v) / count for v in (right, np.square(right)))
    # The variance over count - 1, and that of the mean.
    sides.append((mean, np.maximum(square - np.square(mean), 0) / (count - 1)))
  (inside, one), (outside, two) = sides
  return Effect(inside - outside, np.sqrt(one + two), inside, outside)
