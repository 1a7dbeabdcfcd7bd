"""Exact references on models linear in the parameters: the NTK overlap, and the ideal continual learner."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp

from cljax.core.types import Array, Scalar
from cljax.projectors import _common as common
from cljax.projectors.gpm import append, remove_span


def _matmul(a, b):
  return jnp.matmul(a, b, precision=common.PRECISION)


def ntk_overlap(features_s: Array, features_t: Array) -> Array:
  """The overlap ``V_S^T V_T`` of right singular vectors of ``features [n, p]``; its singular values are cosines.

  ``[min(n_s, p), min(n_t, p)]``; 0 where the tasks are orthogonal, spectral norm at most 1. Doan et al., AISTATS 2021.
  """
  v_s = jnp.linalg.svd(features_s, full_matrices=False)[2]
  v_t = jnp.linalg.svd(features_t, full_matrices=False)[2]
  return _matmul(v_s, v_t.T)


def ntk_forgetting(features_s: Array, features_t: Array, residual: Array, ridge: Scalar = 0.0) -> Array:
  """``|U_S S_S O S_T (S_T^2 + ridge)^-1 U_T^T residual|^2``: the change of task S's outputs from learning task T.

  ``features [n, p]`` are the gradients of the outputs, ``residual [n_t]`` or ``[n_t, c]`` is ``y - f_S(X_T)``; T is
  learned by ridge regression towards the weights after S. For OGD or PCA-OGD give ``features_t`` with the basis
  projected out: that leaves the residual overlap. Singular values below ``p eps`` of the largest count as 0. Doan et
  al., AISTATS 2021; written from memory of the paper, the algebra checked.
  """
  u_s, sigma_s, _ = jnp.linalg.svd(features_s, full_matrices=False)
  u_t, sigma_t, _ = jnp.linalg.svd(features_t, full_matrices=False)
  keep = sigma_t > max(features_t.shape) * jnp.finfo(sigma_t.dtype).eps * jnp.max(sigma_t)
  gain = jnp.where(keep, sigma_t / jnp.where(keep, sigma_t**2 + ridge, 1), 0)
  targets = _matmul(u_t.T, residual.reshape(residual.shape[0], -1))
  moved = _matmul(ntk_overlap(features_s, features_t), gain[:, None] * targets)
  return jnp.sum(_matmul(u_s, sigma_s[:, None] * moved) ** 2)


class IdealState(NamedTuple):
  """The set of minimisers ``{weights + (I - Q Q^T) a}``: ``weights [p, c]``, ``basis`` Q ``[p, p]``, its ``rank``."""

  weights: Any
  basis: Any
  rank: Any


def ideal_init(weights: Array) -> IdealState:
  """All weights are allowed; ``weights [p, c]`` is the point that is reported first."""
  p = weights.shape[0]
  return IdealState(jnp.array(weights, copy=True), jnp.zeros((p, p), weights.dtype), jnp.zeros((), jnp.int32))


def ideal_learn(state: IdealState, x: Array, y: Array, tolerance: float | None = None) -> IdealState:
  """Ideal continual learning of linear regression: ``K_t = argmin_{w in K_{t-1}} |x w - y|^2``, the whole set.

  ``x [n, p]``, ``y [n, c]``. ``N_t`` of the set ``{w_t + N_t a}`` is kept as its complement Q, so shapes are static. It
  never changes ``x_i w`` of an earlier task; it equals gradient descent projected on the range of ``N_{t-1}``. Without
  a shared minimiser it is lexicographic: earlier tasks win. ``tolerance`` is relative to the largest singular value of
  ``x`` (default: ``max(n, p) eps``). Peng, Giampouras & Vidal, ICML 2023; from memory of the paper, algebra checked.
  """
  free = remove_span(state.basis, remove_span(state.basis, x.T)).T
  u, sigma, vt = jnp.linalg.svd(free, full_matrices=False)
  level = max(x.shape) * jnp.finfo(x.dtype).eps if tolerance is None else tolerance
  keep = sigma > level * jnp.linalg.norm(x, 2)
  inverse = jnp.where(keep, 1 / jnp.where(keep, sigma, 1), 0)
  step = _matmul(vt.T, inverse[:, None] * _matmul(u.T, y - _matmul(x, state.weights)))
  count = jnp.sum(keep).astype(jnp.int32)
  basis, rank, _ = append(state.basis, state.rank, vt.T * keep, count)
  return IdealState(state.weights + remove_span(state.basis, step), basis, rank)


def ideal_member(state: IdealState, free: Array) -> Array:
  """The member ``weights + (I - Q Q^T) free`` of the set, for any ``free [p, c]``."""
  return state.weights + remove_span(state.basis, free)
