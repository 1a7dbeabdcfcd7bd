"""What every metric here does first: check its arrays, and work in float64 and in log-space."""

from __future__ import annotations

import numpy as np

from cljax.core.types import UsageError


def as_logits(logits, name: str = "logits", population: bool = False) -> np.ndarray:
  """``logits`` as float64 ``[N, K]``, with leading axes where ``population``; -inf rules a class out.

  Raises UsageError for another shape, no rows, one class, NaN, +inf (a diverged model has no metrics) and a row
  without any class.
  """
  z = np.asarray(logits, np.float64)
  wanted = "[..., N, K]" if population else "[N, K]"
  if z.ndim < 2 or (z.ndim > 2 and not population) or not z.size or z.shape[-1] < 2:
    raise UsageError(f"{name}: has shape {z.shape}; expected {wanted} with N >= 1 and K >= 2")
  if np.isnan(z).any() or np.isposinf(z).any():
    raise UsageError(f"{name}: holds NaN or +inf; the model diverged")
  if np.isneginf(z).all(-1).any():
    raise UsageError(f"{name}: has a row in which every class is ruled out")
  return z


def as_labels(y, z: np.ndarray, name: str = "y") -> np.ndarray:
  """``y [N]``, one class index for each row of logits ``z [..., N, K]``."""
  y = np.asarray(y)
  if y.shape != z.shape[-2:-1] or y.dtype.kind not in "iu":
    raise UsageError(f"{name}: has shape {y.shape}, dtype {y.dtype}; expected integers of shape {z.shape[-2:-1]}")
  if y.min() < 0 or y.max() >= z.shape[-1]:
    raise UsageError(f"{name}: span {y.min()}..{y.max()}; expected 0..{z.shape[-1] - 1}")
  return y


def as_pair(logits, reference, name: str = "reference") -> tuple[np.ndarray, np.ndarray]:
  """Two models' logits ``[N, K]`` of the same rows."""
  z, r = as_logits(logits), as_logits(reference, name)
  if z.shape != r.shape:
    raise UsageError(f"{name}: has shape {r.shape}; logits has {z.shape}")
  return z, r


def as_features(features, name: str = "features", rows: int | None = None) -> np.ndarray:
  """``features`` as finite float64 ``[N, D]``; ``rows`` is the N that is wanted."""
  h = np.asarray(features, np.float64)
  if h.ndim != 2 or not h.size or (rows is not None and len(h) != rows):
    raise UsageError(f"{name}: has shape {h.shape}; expected [{'N' if rows is None else rows}, D]")
  if not np.isfinite(h).all():
    raise UsageError(f"{name}: holds NaN or inf; the model diverged")
  return h


def log_softmax(z: np.ndarray) -> np.ndarray:
  z = z - z.max(-1, keepdims=True)
  return z - np.log(np.exp(z).sum(-1, keepdims=True))


def softmax(z: np.ndarray) -> np.ndarray:
  return np.exp(log_softmax(z))


def of_label(values: np.ndarray, y: np.ndarray) -> np.ndarray:
  """``values[..., n, y[n]]``: ``[..., N]`` of ``[..., N, K]``, row by row."""
  return values[..., np.arange(len(y)), y]
