"""The ten metrics of "Don't forget, there is more than forgetting" (Diaz-Rodriguez et al. 2018), and MTIL's.

The formulas are recalled and UNVERIFIED against the paper's text (arXiv 1810.13166). ``R [..., N, N]`` holds accuracies
in ``[0, 1]``, ``R[i, j]`` on task ``j`` after learning ``i``; ``memory`` and operation counts are ``[..., N]``, one for
each task, in any unit. With one task the backward and forward transfers are NaN.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from cljax.core.types import UsageError
from cljax.metrics.matrix import as_matrix, lower, upper


def triangle_accuracy(R: ArrayLike) -> np.ndarray:
  """``A = sum_{i>=j} R_ij / (N (N+1) / 2)``: mean over the lower triangle. GEM's ACC takes the last row alone."""
  return lower(as_matrix(R)).mean(-1)


def mean_backward_transfer(R: ArrayLike) -> np.ndarray:
  """``BWT = sum_{i>=2} sum_{j<i} (R_ij - R_jj) / (N (N-1) / 2)``: over all rows, unlike GEM's (the last row alone)."""
  R = as_matrix(R)
  lower(R)
  i, j = np.tril_indices(R.shape[-1], -1)
  return _mean(R[..., i, j] - R[..., j, j])


def remembering(R: ArrayLike) -> np.ndarray:
  """``REM = 1 - |min(BWT, 0)|`` with :func:`mean_backward_transfer`; 1 is no forgetting."""
  return 1.0 - np.abs(np.minimum(mean_backward_transfer(R), 0.0))


def positive_backward_transfer(R: ArrayLike) -> np.ndarray:
  """``BWT+ = max(BWT, 0)`` with :func:`mean_backward_transfer`."""
  return np.maximum(mean_backward_transfer(R), 0.0)


def zero_shot_transfer(R: ArrayLike) -> np.ndarray:
  """``FWT = sum_{i<j} R_ij / (N (N-1) / 2)``: mean over the upper triangle, without a baseline (GEM's has one)."""
  return _mean(upper(as_matrix(R)))


def model_size_efficiency(memory: ArrayLike) -> np.ndarray:
  """``MS = min(1, 1/N sum_i Mem(theta_1) / Mem(theta_i))``; ``memory`` is the size of the model after each task."""
  m = _sizes(memory, "memory")
  if (m <= 0).any():
    raise UsageError("memory: a model's size must be above 0")
  return np.minimum(1.0, (m[..., :1] / m).mean(-1))


def sample_storage_efficiency(memory: ArrayLike, total: ArrayLike) -> np.ndarray:
  """``SSS = 1 - min(1, 1/N sum_i Mem(M_i) / Mem(D))``; ``memory`` is what is stored of the data after each task."""
  m, total = _sizes(memory, "memory"), np.asarray(total, np.float64)
  if not (total > 0).all():
    raise UsageError(f"total: got {total}; expected the size of the whole training data, above 0")
  return 1.0 - np.minimum(1.0, (m / total[..., None]).mean(-1))


def computational_efficiency(training_ops: ArrayLike, one_pass_ops: ArrayLike, epsilon: float = 10.0) -> np.ndarray:
  """``CE = min(1, 1/N sum_i epsilon * Ops(one pass over task i) / Ops(training on task i))``.

  One pass is one forward and one backward over the task's data; ``epsilon > 1`` is how many of them count as frugal.
  """
  spent, one = _sizes(training_ops, "training_ops"), _sizes(one_pass_ops, "one_pass_ops")
  if (spent <= 0).any():
    raise UsageError("training_ops: must be above 0")
  if spent.shape[-1] != one.shape[-1]:
    raise UsageError(f"one_pass_ops: has {one.shape[-1]} tasks; training_ops has {spent.shape[-1]}")
  return np.minimum(1.0, (one * epsilon / spent).mean(-1))


def cl_score(criteria: dict, weights: dict | None = None) -> float:
  """``CL_score = sum_c w_c mean_r(c)`` of named criteria ``{name: [runs]}`` in ``[0, 1]``; weights sum to 1, by default
  equal."""
  return float(sum(w * c.mean() for w, c in _weighted(criteria, weights)))


def cl_stability(criteria: dict, weights: dict | None = None) -> float:
  """``CL_stability = 1 - sum_c w_c std_r(c)``: 1 where no run differs. The standard deviation is the population's."""
  return float(1.0 - sum(w * c.std() for w, c in _weighted(criteria, weights)))


def transfer_before_learning(R: ArrayLike) -> np.ndarray:
  """MTIL's Transfer, ``mean_{i>=2} mean_{t<i} R[t, i]``: each task weighs alike (Zheng et al. 2023, ZSCL).

  :func:`zero_shot_transfer` weighs each entry alike, so later tasks more.
  """
  R = as_matrix(R)
  upper(R)
  T = R.shape[-1]
  above = np.triu(np.ones((T, T), bool), 1)
  return _mean(np.where(above, R, 0.0).sum(-2)[..., 1:] / np.arange(1, T))


def average_over_all(R: ArrayLike) -> np.ndarray:
  """MTIL's Avg, ``mean_{t, i} R[t, i]`` over the whole matrix. MTIL's Last is ``average_accuracy``."""
  R = as_matrix(R)
  lower(R), upper(R)
  return R.mean((-1, -2))


def _mean(entries) -> np.ndarray:
  return entries.mean(-1) if entries.shape[-1] else np.full(entries.shape[:-1], np.nan)


def _sizes(values, name: str) -> np.ndarray:
  v = np.asarray(values, np.float64)
  if v.ndim < 1 or v.shape[-1] == 0 or not (v >= 0).all():
    raise UsageError(
      f"{name}: got shape {v.shape}, smallest {v.min() if v.size else None}; expected [..., N] sizes >= 0"
    )
  return v


def _weighted(criteria, weights):
  if not criteria:
    raise UsageError("criteria: is empty; expected {name: values over runs}")
  weights = weights or dict.fromkeys(criteria, 1.0 / len(criteria))
  if set(weights) != set(criteria):
    raise UsageError(f"weights: names {sorted(weights)}; expected those of criteria, {sorted(criteria)}")
  if abs(sum(weights.values()) - 1.0) > 1e-6 or min(weights.values()) < 0:
    raise UsageError(f"weights: got {weights}; expected numbers >= 0 that sum to 1")
  pairs = []
  for name, values in criteria.items():
    c = np.atleast_1d(np.asarray(values, np.float64))
    if c.ndim != 1 or c.size == 0 or not ((c >= 0) & (c <= 1)).all():
      raise UsageError(f"criteria: {name!r} is {values!r}; expected numbers in [0, 1] over runs")
    pairs.append((weights[name], c))
  return pairs
