"""What a network that has learned much has left: units that never act, ranks of layers' outputs, sizes of weights.

Of hidden values ``h [B, ..., D]``, activations of B rows whose last axis are the units; other axes (places) count as
rows. Dohare et al., 2024; spec S8 of additions.
"""

from __future__ import annotations

import jax
import numpy as np
from numpy.typing import ArrayLike

from cljax.core.types import Params, UsageError


def dead_units(h: ArrayLike) -> float:
  """The share of units that are 0 at every row. Raises UsageError for values that are not ``[B, ..., D]``."""
  return float(np.mean(~(_rows(h) != 0).any(0)))


def dormant_units(h: ArrayLike, below: float = 0.01) -> float:
  """The share of units that are other than 0 at less than a share ``below`` of the rows; dead ones are among them."""
  if not 0 < below <= 1:
    raise UsageError(f"below: got {below!r}; expected 0 < below <= 1")
  return float(np.mean((_rows(h) != 0).mean(0) < below))


def effective_rank(h: ArrayLike) -> float:
  """``exp(-sum_k p_k ln p_k)``, ``p = s / sum s``, s the singular values of h, not centred; 0 where h is 0.

  Roy and Vetterli, 2007. Of s = (10, 1, 1, 1) it is 2.21; see :func:`approximate_rank` for what others call a rank.
  """
  s = np.linalg.svd(_rows(h), compute_uv=False)
  if s.sum() == 0:
    return 0.0
  p = s[s > 0] / s.sum()
  return float(np.exp(-np.sum(p * np.log(p))))


def approximate_rank(h: ArrayLike, share: float = 0.99, squared: bool = True) -> int:
  """The least q with ``sum_{k <= q} s_k^2 >= share sum_k s_k^2``; of s in place of s^2 where not ``squared``.

  The latter is what released code calls the stable rank. 0 where h is 0.
  """
  if not 0 < share <= 1:
    raise UsageError(f"share: got {share!r}; expected 0 < share <= 1")
  s = np.linalg.svd(_rows(h), compute_uv=False)
  mass = np.cumsum(np.square(s) if squared else s)
  if mass[-1] == 0:
    return 0
  return int(np.searchsorted(mass, share * mass[-1] * (1 - 1e-12))) + 1


def weight_magnitude(params: Params) -> float:
  """The mean ``|w|`` over all numbers of a tree. Raises UsageError for a tree without any."""
  leaves = [np.abs(np.asarray(p)).astype(np.float64) for p in jax.tree.leaves(params)]
  count = sum(p.size for p in leaves)
  if not count:
    raise UsageError("params: got no numbers")
  return float(sum(p.sum() for p in leaves) / count)


def _rows(h) -> np.ndarray:
  h = np.asarray(h).astype(np.float64)
  if h.ndim < 2 or not h.size:
    raise UsageError(f"h: has shape {h.shape}; expected [B, ..., D] with rows")
  return h.reshape(-1, h.shape[-1])
