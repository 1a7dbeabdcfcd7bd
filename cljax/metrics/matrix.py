"""Numbers of one accuracy matrix: final and incremental accuracy, backward and forward transfer, forgetting.

``R[t, i]`` is the accuracy on task ``i`` after the ``t``-th Learn event; ``R`` is ``[..., T, T]``, float64, with any
leading axes (seeds). Every function returns one number for each leading index. Units are those of ``R`` (fractions or
percent). Of a score where lower is better (an error, a perplexity) give ``-R``: then, too, forgetting > 0 and BWT < 0
mean worse, and means of entries are negative. An entry that was not evaluated may be NaN where the metric does not need
it; where it does, UsageError. With one task there is nothing to transfer or forget: backward and forward transfer and
forgetting are NaN.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from cljax.core.types import UsageError


def as_matrix(R, name: str = "R") -> np.ndarray:
  """``R`` as float64 ``[..., T, T]``; raises UsageError for another shape."""
  R = np.asarray(R, np.float64)
  if R.ndim < 2 or R.shape[-1] != R.shape[-2] or R.shape[-1] == 0:
    more = ""
    if R.ndim > 1 and R.shape[-2] > R.shape[-1] > 0:
      more = "; of a run, result.learning_rows has these: its accuracy has a row before and after every event"
    raise UsageError(f"{name}: has shape {R.shape}; expected [..., T, T], one row after each Learn event{more}")
  return R


def evaluated(values, what: str) -> np.ndarray:
  """``values``, or UsageError where one of them is NaN."""
  if np.isnan(values).any():
    raise UsageError(f"R: {what} holds NaN; this metric needs those entries evaluated")
  return values


def lower(R) -> np.ndarray:
  """The entries ``t >= i`` as ``[..., T (T + 1) / 2]``, row by row."""
  return evaluated(R[..., *np.tril_indices(R.shape[-1])], "the lower triangle")


def upper(R) -> np.ndarray:
  """The entries ``t < i`` as ``[..., T (T - 1) / 2]``, row by row."""
  return evaluated(R[..., *np.triu_indices(R.shape[-1], 1)], "the upper triangle")


def average_accuracy(R) -> np.ndarray:
  """``ACC = 1/T sum_i R[T, i]``: mean accuracy over all tasks at the end (Lopez-Paz & Ranzato 2017)."""
  return evaluated(as_matrix(R)[..., -1, :], "the last row").mean(-1)


def average_incremental_accuracy(R) -> np.ndarray:
  """``AIA = 1/T sum_t 1/t sum_{i<=t} R[t, i]``: mean over events of the mean over tasks seen so far (iCaRL, 2017).

  Tasks weigh alike in a row; iCaRL itself averages over classes, which is the same for tasks of equal size.
  """
  R = as_matrix(R)
  lower(R)
  T = R.shape[-1]
  return (np.where(np.tri(T, dtype=bool), R, 0.0).sum(-1) / np.arange(1, T + 1)).mean(-1)


def backward_transfer(R) -> np.ndarray:
  """``BWT = 1/(T-1) sum_{i<T} (R[T, i] - R[i, i])`` (Lopez-Paz & Ranzato 2017); NaN for one task.

  The final row only; the BWT of Diaz-Rodriguez et al. averages over all rows (``mean_backward_transfer``).
  """
  R = as_matrix(R)
  T = R.shape[-1]
  last, own = evaluated(R[..., -1, :], "the last row"), evaluated(np.diagonal(R, 0, -2, -1), "the diagonal")
  return (last - own)[..., :-1].sum(-1) / (T - 1) if T > 1 else np.full(R.shape[:-2], np.nan)


def forward_transfer(R, baseline) -> np.ndarray:
  """``FWT = 1/(T-1) sum_{i>=2} (R[i-1, i] - b_i)`` (Lopez-Paz & Ranzato 2017); NaN for one task.

  ``baseline [..., T]`` is the accuracy before the first event, of a randomly initialised model. The FWT of
  Diaz-Rodriguez et al. has no baseline and takes the whole upper triangle (``zero_shot_transfer``).
  """
  R, b = as_matrix(R), np.asarray(baseline, np.float64)
  T = R.shape[-1]
  if b.ndim < 1 or b.shape[-1] != T:
    raise UsageError(f"baseline: has shape {b.shape}; expected [..., {T}], one accuracy for each task")
  if T == 1:
    return np.full(R.shape[:-2], np.nan)
  ahead = evaluated(np.diagonal(R, 1, -2, -1), "the superdiagonal")
  if np.isnan(b[..., 1:]).any():
    raise UsageError("baseline: holds NaN for a task after the first; expected accuracies")
  return (ahead - b[..., 1:]).mean(-1)


def forgetting(R) -> np.ndarray:
  """``F = 1/(T-1) sum_{i<T} (max_{t<T} R[t, i] - R[T, i])`` (Chaudhry et al. 2018); NaN for one task.

  The maximum excludes the last row, so F can be negative, and ``F >= -BWT``. Mammoth takes the maximum over all rows,
  which is never negative, and fills entries before a task was learned with 0. Here those take part where evaluated, as
  in the formula, and are passed over where NaN.
  """
  R = as_matrix(R)
  T = R.shape[-1]
  lower(R)
  if T == 1:
    return np.full(R.shape[:-2], np.nan)
  return (np.nanmax(R[..., :-1, :-1], axis=-2) - R[..., -1, :-1]).mean(-1)


def summarize(values) -> dict[str, Any]:
  """``{"mean", "stderr", "values"}`` over seeds, ready for JSON: ``stderr = std(ddof=1) / sqrt(S)``.

  ``values [S]``. The standard error of one seed, and whatever is NaN or infinite, is None. Raises UsageError for no
  seeds or more than one axis.
  """
  v = np.asarray(values, np.float64)
  if v.ndim != 1 or v.size == 0:
    raise UsageError(f"values: has shape {v.shape}; expected [S] with at least one seed")
  clean = lambda x: float(x) if np.isfinite(x) else None
  with np.errstate(invalid="ignore"):
    stderr = v.std(ddof=1) / np.sqrt(v.size) if v.size > 1 else np.nan
  return {"mean": clean(v.mean()), "stderr": clean(stderr), "values": [clean(x) for x in v]}
