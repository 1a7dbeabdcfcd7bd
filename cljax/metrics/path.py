"""Loss or score along a path between two networks."""

from __future__ import annotations

import numpy as np

from cljax.core.types import UsageError


def barrier(losses: np.ndarray, alphas: np.ndarray, excess: bool = False) -> np.ndarray:
  """``max_k [l(a_k) - (1 - a_k) l(0) - a_k l(1)]`` of a path, never below 0; ``excess``: ``max_k l(a_k) -
  max(l(0), l(1))``.

  ``losses [K, ...]`` at ``alphas [K]``, which rise from 0 to 1: the first and last are the ends. Of an accuracy give
  the error. A convex loss has none; of a quadratic ``l(a) - chord = -a (1 - a) d^T H d / 2`` exactly. Raises
  UsageError for other alphas. Frankle et al. 2020; spec S9.
  """
  l, a = np.asarray(losses, np.float64), np.asarray(alphas, np.float64)
  if a.ndim != 1 or len(a) < 2 or a[0] != 0 or a[-1] != 1 or (np.diff(a) <= 0).any() or len(l) != len(a):
    raise UsageError(
      f"alphas: got {a.tolist()} of {len(l)} losses; expected numbers that rise from 0 to 1, one for each"
    )
  if excess:
    return l.max(0) - np.maximum(l[0], l[-1])
  share = a.reshape(-1, *(1,) * (l.ndim - 1))
  return (l - (1 - share) * l[0] - share * l[-1]).max(0)
