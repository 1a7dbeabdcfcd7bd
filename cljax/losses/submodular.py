"""Submodular functions of rows in sets, as losses: low where the sets of a batch lie apart.

Each takes features ``z [B, D]`` and a set number ``y [B]`` int for each row: labels, which makes the *total
information* of the classes, or two numbers, base and new, which makes the *mutual information* of the two sets. S is
the cosine of two rows, the sets' union all rows of positive weight. Majee, Sharp and Iyer, 2024 (SMILe); Majee et al.,
2024 (SCoRe).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from cljax.core.dtypes import wide
from cljax.core.types import Array, Scalar, UsageError
from cljax.losses.unlearning import _unit


def _likeness(z, y, weight):
  """``(S [B, B], same set [B, B], there [B])``."""
  if jnp.ndim(z) != 2 or jnp.shape(y) != z.shape[:1] or jnp.shape(weight) != z.shape[:1]:
    shapes = ", ".join(f"{n} {jnp.shape(a)}" for n, a in (("y", y), ("weight", weight)))
    raise UsageError(f"z: has shape {jnp.shape(z)}, {shapes}; expected [B, D], [B], [B]")
  there = weight > 0
  z = z.astype(wide(z.dtype))
  z = _unit(jnp.where(there[:, None], z, jnp.zeros((), z.dtype)))
  return z @ z.T, y[:, None] == y[None], there


def facility_location(z: Array, y: Array, weight: Array, temperature: Scalar = 0.7) -> Array:
  """``T log sum_{j: y_j != y_i} exp(S_ij / T)``, ``[B]``: a smooth ``max_j S_ij`` over the rows of other sets.

  Of two sets A and B the sum over rows is, as T goes to 0, their mutual information under facility location,
  ``sum_{i in A} max_{j in B} S_ij + sum_{i in B} max_{j in A} S_ij``. 0 for a row without another set. The released
  code leaves the factor T out. Raises UsageError where shapes differ.
  """
  s, same, there = _likeness(z, y, weight)
  t = jnp.asarray(temperature).astype(s.dtype)
  others = there[None] & ~same
  some = others.any(1)
  # A row without others gets one entry of 0, which keeps the logarithm and its slope finite.
  over = jax.nn.logsumexp(jnp.where(some[:, None], jnp.where(others, s / t, -jnp.inf), 0.0), axis=1)
  return jnp.where(some & there, t * over, 0.0)


def graph_cut(z: Array, y: Array, weight: Array, temperature: Scalar = 0.7, balance: Scalar = 1.0) -> Array:
  """``sum_{j: y_j != y_i} exp(S_ij / T) - balance sum_{j != i: y_j = y_i} exp(S_ij / T)``, ``[B]``.

  Of two sets A and B and balance 0 the sum over rows is ``2 sum_{i in A, j in B}``, their mutual information under the
  graph cut of that kernel with weight 1. Raises UsageError where shapes differ.
  """
  s, same, there = _likeness(z, y, weight)
  kernel = jnp.exp(s / jnp.asarray(temperature).astype(s.dtype))
  pair = there[None] & there[:, None]
  apart = jnp.sum(jnp.where(pair & ~same, kernel, 0.0), 1)
  within = jnp.sum(jnp.where(pair & same & ~jnp.eye(len(s), dtype=bool), kernel, 0.0), 1)
  return apart - jnp.asarray(balance).astype(s.dtype) * within


def log_determinant(z: Array, y: Array, weight: Array, eps: Scalar = 0.5) -> Array:
  """``sum_k log det(S_k + eps I) - log det(S + eps I)``, one number of at least 0; S_k: the rows of set k.

  The total correlation of the sets; of two it is ``-log det(I - S_A^-1 S_AB S_B^-1 S_BA)``, their mutual information.
  ``S + eps I`` of sets that are orthogonal is block-diagonal, and the loss 0. Raises UsageError where shapes differ.
  """
  s, same, there = _likeness(z, y, weight)
  pair, own = there[None] & there[:, None], jnp.eye(len(s), dtype=s.dtype)

  def log_det(mask):
    """Of all blocks at once; an absent row is a block of its own, 1."""
    shifted = jnp.where(mask, s, 0.0) + jnp.where(there, jnp.asarray(eps).astype(s.dtype), 1.0)[:, None] * own
    return 2 * jnp.sum(jnp.log(jnp.diagonal(jnp.linalg.cholesky(shifted))))

  return log_det(pair & same) - log_det(pair)
