"""Continual evaluation (De Lange, van de Ven & Tuytelaars, ICLR 2023): what happens between the ends of tasks.

``curve [N, T]`` is the accuracy on every task at each evaluation, in the order of training; ``current [N]`` is the task
being learned at each, counted from 0 and not falling. Evaluate after every step, the first one after a switch included:
sparse evaluations hide the gap. Entries of tasks not yet reached are not read and may be NaN.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from cljax.core.types import UsageError


def minimum_accuracy(curve: ArrayLike, current: ArrayLike) -> float:
  """``min-ACC = 1/(k-1) sum_{i<k} min_{n > end(i)} a_i(n)``: each old task's worst since its end; NaN in task 1."""
  curve, current = _check(curve, current)
  k = current[-1]
  return float(np.mean([curve[current > i, i].min() for i in range(k)])) if k else float("nan")


def worst_case_accuracy(curve: ArrayLike, current: ArrayLike) -> float:
  """``WC-ACC = a_k(n) / k + (1 - 1/k) min-ACC``: the current task now, the old ones at their worst."""
  curve, current = _check(curve, current)
  k = current[-1]
  now = float(curve[-1, k])
  return now if k == 0 else now / (k + 1) + (1 - 1 / (k + 1)) * minimum_accuracy(curve, current)


def windowed_forgetting(curve: ArrayLike, current: ArrayLike, window: int) -> float:
  """``WF_w``: the largest fall ``a_p - a_q, p < q``, within ``window`` consecutive evaluations.

  Mean over the tasks reached. Of each task the evaluations count from the first made while it was learned. 0 if no
  accuracy ever falls.
  """
  curve, current = _check(curve, current)
  return float(np.mean([_largest_rise(-curve[current >= i, i], window) for i in range(current[-1] + 1)]))


def windowed_plasticity(curve: ArrayLike, current: ArrayLike, window: int) -> float:
  """``WP_w``: the largest rise ``a_q - a_p, p < q``, within ``window`` consecutive evaluations.

  Mean over the tasks reached. By the definition, over all pairs. The released code reuses the scan for WF, which
  skips starting points below the running maximum, and reports less: 0.4 for the window [.5, .2, .9], where the rise
  is 0.7.
  """
  curve, current = _check(curve, current)
  return float(np.mean([_largest_rise(curve[current >= i, i], window) for i in range(current[-1] + 1)]))


def learning_curve_area(curve: ArrayLike, current: ArrayLike, beta: int) -> float:
  """``LCA_beta``: mean of the first ``beta`` accuracies of the current task, mean over tasks reached.

  A-GEM's LCA also counts the accuracy before the first update (``beta + 1`` points): put it first in ``curve`` then.
  Raises UsageError where a task has fewer than ``beta`` evaluations.
  """
  curve, current = _check(curve, current)
  if beta < 1:
    raise UsageError(f"beta: got {beta}; expected at least 1")
  areas = []
  for i in range(current[-1] + 1):
    own = curve[current == i, i]
    if len(own) < beta:
      raise UsageError(f"beta: got {beta}; task {i} has {len(own)} evaluations")
    areas.append(own[:beta].mean())
  return float(np.mean(areas))


def feature_drift(before: ArrayLike, after: ArrayLike) -> float:
  """``mean_b ||f_before(x_b) - f_after(x_b)||^2`` of features ``[B, D]`` of the same rows."""
  before, after = np.asarray(before, np.float64), np.asarray(after, np.float64)
  if before.shape != after.shape or before.ndim != 2:
    raise UsageError(f"after: has shape {after.shape}; before has {before.shape}; expected both [B, D]")
  return float(((before - after) ** 2).sum(-1).mean())


def _largest_rise(a, window: int) -> float:
  if window < 2:
    raise UsageError(f"window: got {window}; expected at least 2 evaluations")
  rise = 0.0
  for lag in range(1, min(window, len(a))):  # every pair of the window, one lag at a time
    rise = max(rise, float((a[lag:] - a[:-lag]).max()))
  return rise


def _check(curve, current) -> tuple[np.ndarray, np.ndarray]:
  curve, current = np.asarray(curve, np.float64), np.asarray(current)
  if curve.ndim != 2 or curve.shape[0] == 0:
    raise UsageError(f"curve: has shape {curve.shape}; expected [N, T], one row for each evaluation")
  if current.shape != curve.shape[:1] or not np.issubdtype(current.dtype, np.integer):
    raise UsageError(f"current: is {current.dtype}{list(current.shape)}; expected int [{curve.shape[0]}]")
  if current[0] != 0 or not np.isin(np.diff(current), (0, 1)).all() or current[-1] >= curve.shape[1]:
    raise UsageError(
      f"current: got {current.tolist()}; expected tasks from 0, not falling, none skipped, < {curve.shape[1]}"
    )
  for i in range(current[-1] + 1):
    if np.isnan(curve[current >= i, i]).any():
      raise UsageError(f"curve: holds NaN for task {i} after it was reached")
  return curve, current
