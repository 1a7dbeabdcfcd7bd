"""Certified removal from convex heads: a Newton step, and a bound on what it leaves of the rows' gradient."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cljax.core.checks import check_choice, check_scalar
from cljax.core.types import Array, Scalar

TIGHT = 1 / (6 * math.sqrt(3))  # max |sigma''|, the Lipschitz constant of the logistic loss's curvature: .0962
CONSTANTS = {"tight": TIGHT, "released": 0.25}
LOSSES = ("logistic", "squared")


class Removed(NamedTuple):
  """``head [K, D]`` after a removal, and ``residual [K]``, a bound on the norm of its gradient on the rows left."""

  head: Any
  residual: Any


def unit_features(features: Array) -> Array:
  """``[N, D + 1]``: each row over its own length, and a constant, together of length 1 at most; of zeros the constant
  alone. Certificates need rows of length 1 at most that no other row has touched."""
  flat = features.reshape(features.shape[0], -1).astype(jnp.float32)
  length = jnp.sqrt(jnp.sum(flat**2, 1, keepdims=True))
  flat = flat / jnp.where(length > 0, length, 1)
  return jnp.concatenate([flat, jnp.ones((len(flat), 1), flat.dtype)], 1) / jnp.sqrt(2.0)


def certified_budget(sigma: Scalar, epsilon: Scalar, delta: Scalar, heads: int = 1) -> Array:
  """``sigma e / sqrt(2 ln(1.5 / d))`` with ``e = epsilon / heads``, ``d = delta / heads``: what the residuals of
  each of ``heads`` heads may add up to, so that all together are (epsilon, delta)-indistinguishable from retraining.
  Guo et al. 2020, Theorem 3 (from memory, UNVERIFIED); heads compose by adding. Raises UsageError: no noise, or
  epsilon or delta not above 0."""
  for name, value in (("sigma", sigma), ("epsilon", epsilon), ("delta", delta)):
    check_scalar("certified_budget", name, value, above=True)
  return sigma * epsilon / heads / jnp.sqrt(2 * jnp.log(1.5 * heads / delta))


def _slope(loss, z, target):
  """First and second derivative of a row's loss by its score."""
  if loss == "squared":
    return z - target, jnp.ones_like(z)
  p = jax.nn.sigmoid(z * target)
  return (p - 1) * target, p * (1 - p)


def _curvature(x, weight, second, strength):
  left = weight.sum() * strength
  return jnp.einsum("nd,n,ne->de", x, weight * second, x, precision="highest") + left * jnp.eye(
    x.shape[1], dtype=x.dtype
  )


def _solve(matrix, vector):
  return jax.scipy.linalg.cho_solve(jax.scipy.linalg.cho_factor(matrix), vector)


def head_gradient(
  head: Array, x: Array, targets: Array, weight: Array, noise: Array, strength: Scalar, loss: str = "logistic"
) -> Array:
  """``[K, D]``: gradient of ``sum_i w_i l(h_k . x_i, t_ik) + strength/2 n |h_k|^2 + b_k . h_k``, ``n = sum_i w_i``.

  head, noise ``[K, D]``; x ``[N, D]``; targets ``[K, N]``, 1 or -1; weight ``[N]``, 0 for rows that are not there.
  """
  first = jax.vmap(lambda h, t: _slope(loss, x @ h, t)[0])(head, targets)
  return (weight[None] * first) @ x + strength * weight.sum() * head + noise


def fit_head(
  x: Array, targets: Array, weight: Array, noise: Array, strength: Scalar, loss: str = "logistic", steps: int = 40
) -> Removed:
  """The minimum of :func:`head_gradient`'s objective by Newton steps from 0, each of the length 1, 1/2, 1/4, ... that
  leaves the smallest gradient, and the norm of the gradient at the end, which counts against a budget. One head against
  the rest for each row of ``targets``."""
  check_choice("fit_head", "loss", loss, LOSSES)
  lengths = 0.5 ** jnp.arange(12, dtype=jnp.float32)

  def one(t, b):
    slope = lambda h: (weight * _slope(loss, x @ h, t)[0]) @ x + strength * weight.sum() * h + b

    def step(_, h):
      move = _solve(_curvature(x, weight, _slope(loss, x @ h, t)[1], jnp.maximum(strength, 1e-12)), slope(h))
      tried = h[None] - lengths[:, None] * move[None]
      return tried[jnp.argmin((jax.vmap(slope)(tried) ** 2).sum(1))]

    return jax.lax.fori_loop(0, steps, step, jnp.zeros_like(b))

  head = jax.lax.map(lambda v: one(*v), (targets, noise))
  head = jnp.where(weight.sum() > 0, head, 0.0)
  left = head_gradient(head, x, targets, weight, noise, strength, loss)
  return Removed(head, jnp.where(weight.sum() > 0, jnp.sqrt((left**2).sum(1)), 0.0))


def remove_rows(
  head: Array, x: Array, targets: Array, weight: Array, gone: Array, strength: Scalar, loss: str = "logistic",
  constant: str = "tight",
) -> Removed:  # fmt: skip
  """``h + H^-1 D``, ``D = sum_gone [strength h + grad l]``, H the curvature of the rows left; ``gamma |X| |s| |X s|``
  with ``s = H^-1 D``, a bound on the norm of the gradient that this leaves beyond that of ``h``.

  head ``[K, D]``; rows as of :func:`head_gradient`, their ``weight [N]`` 0 or 1; gone ``[N]`` bool. X are the rows
  left, ``|X|`` their largest singular value by eigenvalues (the released power iteration gives less, so that its
  bound is none). ``constant``: 'tight', ``1 / (6 sqrt 3)``, the largest ``|sigma''|``; 'released', 1/4, which also
  holds. Of the squared loss the step is retraining itself and the bound 0. Bounds of removals in turn add up. Guo et
  al., 2020; spec S12.1. Raises UsageError: an unknown loss or constant.
  """
  check_choice("remove_rows", "loss", loss, LOSSES)
  check_choice("remove_rows", "constant", constant, tuple(CONSTANTS))
  away, left = jnp.where(gone, weight, 0.0), jnp.where(gone, 0.0, weight)
  gamma = 0.0 if loss == "squared" else CONSTANTS[constant]
  rows = left[:, None] * x
  norm = jnp.sqrt(jnp.maximum(jnp.linalg.eigvalsh(jnp.matmul(rows.T, rows, precision="highest"))[-1], 0))

  def one(h, t):
    first, second = _slope(loss, x @ h, t)
    moved = (away * first) @ x + strength * away.sum() * h
    step = _solve(_curvature(x, left, second, jnp.maximum(strength, 1e-12)), moved)
    bound = gamma * norm * jnp.sqrt((step**2).sum()) * jnp.sqrt(((rows @ step) ** 2).sum())
    return h + step, bound

  head_after, residual = jax.lax.map(lambda v: one(*v), (head, targets))
  some = (away.sum() > 0) & (left.sum() > 0)
  return Removed(jnp.where(some, head_after, head), jnp.where(some, residual, 0.0))
