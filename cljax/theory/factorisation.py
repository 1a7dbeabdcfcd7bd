"""The ideal continual learner of matrix factorisation (PCA task after task): a shared factor that may only grow."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax.typing import DTypeLike

from cljax.core.types import Array, UsageError
from cljax.projectors.gpm import append, remove_span


class FactorState(NamedTuple):
  """The set of shared factors ``{U [d, r]: range(U) contains span(basis)}``: ``basis [d, r]`` orthonormal, its first
  ``rank`` columns taken and the others zero."""

  basis: Any
  rank: Any


def factor_init(features: int, size: int, dtype: DTypeLike = jnp.float32) -> FactorState:
  """Every factor of ``size`` = r columns is allowed; UsageError unless ``1 <= r <= features`` = d."""
  if not 1 <= size <= features:
    raise UsageError(f"size: got {size}; expected 1 to {features}, the number of features")
  return FactorState(jnp.zeros((features, size), dtype), jnp.zeros((), jnp.int32))


def factor_learn(state: FactorState, x: Array, tolerance: float | None = None) -> FactorState:
  """``K_t = argmin_{U in K_{t-1}} min_C |x - C U^T|_F^2``, the whole set: span(S_t) = span(S_{t-1}) plus the leading
  right singular vectors of ``x (I - S S^T)``, at most ``r - rank`` of them.

  ``x [n, d]``: rows of a task, each with coefficients of its own; U is shared. Where all tasks together have rank r or
  less they have a shared minimiser: nothing that was learned is lost, in any order. Beyond that it is lexicographic:
  earlier tasks win. ``tolerance`` is relative to the largest singular value of ``x`` (default: ``max(n, d) eps``).
  Peng, Giampouras & Vidal, ICML 2023; from memory of the paper, algebra checked.
  """
  x = jnp.asarray(x)
  free = remove_span(state.basis, remove_span(state.basis, x.T)).T
  _, sigma, vt = jnp.linalg.svd(free, full_matrices=False)
  level = max(x.shape) * jnp.finfo(x.dtype).eps if tolerance is None else tolerance
  keep = sigma > level * jnp.linalg.norm(x, 2)
  basis, rank, _ = append(state.basis, state.rank, vt.T * keep, jnp.sum(keep))
  return FactorState(basis, rank)


def factor_loss(state: FactorState, x: Array) -> Array:
  """``min_C |x - C S^T|_F^2 = |x (I - S S^T)|_F^2``: what of the rows ``x [n, d]`` the taken directions leave over."""
  return jnp.sum(remove_span(state.basis, jnp.asarray(x).T) ** 2)


def factor_member(state: FactorState, free: Array) -> Array:
  """A factor ``U [d, r]`` of the set: the taken directions, and in the columns that are left those of ``free [d, r]``
  less what lies in the taken ones."""
  open_ = jnp.arange(state.basis.shape[1]) >= state.rank
  return jnp.where(open_, remove_span(state.basis, jnp.asarray(free)), state.basis)


def factor_forgetting(taken: int, shared: int) -> float:
  """``1 - taken / shared``: the expected share of a row's square that ``taken`` random directions leave over, where
  rows and directions lie in one random subspace of ``shared`` dimensions, independently.

  So after t tasks of k directions each the ideal learner leaves ``1 - min(t k, r) / shared`` of a task to come and 0 of
  those it met; factorisation of the last task alone leaves ``1 - k / shared`` of any before it.
  """
  if not 0 <= taken <= shared or shared < 1:
    raise UsageError(f"taken: got {taken} of {shared}; expected 0 <= taken <= shared, and shared at least 1")
  return 1.0 - taken / shared


__all__ = ["FactorState", "factor_forgetting", "factor_init", "factor_learn", "factor_loss", "factor_member"]
