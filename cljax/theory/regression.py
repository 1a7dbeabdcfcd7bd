"""Continual linear regression by exact minimum-norm solvers, and the random matrices that its theory is about."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from cljax.core.types import Array

_PRECISION = jax.lax.Precision.HIGHEST  # accelerators would round float32 products


def matmul(a, b):
  return jnp.matmul(a, b, precision=_PRECISION)


def learn(weights: Array, x: Array, y: Array, present: ArrayLike | None = None) -> Array:
  """``w + X^+ (y - X w)``: the solution of ``X w = y`` nearest to ``weights``, where descent on the square loss ends.

  ``weights [p]`` or ``[p, k]``, ``x [n, p]`` of full row rank (n <= p), ``y [n]`` or ``[n, k]``; a row of ``present
  [n]`` 0 is as if absent, so that the number of rows may be traced. By Cholesky of the Gram matrix, so the condition
  number is squared: NaN where the rank is not full.
  """
  x = jnp.asarray(x)
  on = jnp.ones(x.shape[0], x.dtype) if present is None else jnp.asarray(present).astype(x.dtype)
  x = on[:, None] * x
  gram = matmul(x, x.T) + jnp.diag(1 - on)
  residual = y - matmul(x, weights)
  residual = residual * on.reshape(on.shape + (1,) * (residual.ndim - 1))
  return weights + matmul(x.T, jax.scipy.linalg.cho_solve((jnp.linalg.cholesky(gram), True), residual))


def haar(normal: Array) -> Array:
  """Haar orthogonal matrices ``[..., n, n]`` from standard normal ones.

  QR with the signs of R's diagonal moved into Q, without which it is not Haar. Both signs of the determinant occur: in
  one dimension ``E Q = 0`` needs it. Block-diagonal matrices give block-diagonal ones.
  """
  q, r = jnp.linalg.qr(normal)
  return q * jnp.where(jnp.diagonal(r, axis1=-2, axis2=-1) < 0, -1.0, 1.0)[..., None, :]


def partial_rotation(key: Array, size: int, turned: int | Array) -> Array:
  """``O = Q diag(Q_m, I) Q^T``, ``[size, size]``, with Q Haar in O(size) and Q_m Haar in O(m): a random subspace of
  ``m = turned`` dimensions (may be traced) is turned."""
  inside = jnp.arange(size) < turned
  normal = jax.random.normal(key, (2, size, size))
  turn = jnp.where(inside[:, None] & inside, normal[1], jnp.eye(size))
  # One decomposition of both: under vmap on a CPU of few threads, two batched ones at once wait for each other.
  basis, turn = haar(normal.at[1].set(turn))
  return matmul(matmul(basis, turn), basis.T)
