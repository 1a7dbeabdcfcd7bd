"""Small dense quadratic programs, solved inside jit with a bounded number of iterations."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Solution(NamedTuple):
  """``x [K]``; ``kkt``: how far the optimality conditions are from holding, relative to the problem; ``iterations``."""

  x: jax.Array
  kkt: jax.Array
  iterations: jax.Array


def _scaled(gram, linear, active, ridge):
  """The problem in the units of normalised constraints: ``(P, q, d)`` with unit diagonal and ``x = d * u``."""
  diagonal = jnp.diagonal(gram) + ridge
  d = jnp.where(active, 1 / jnp.sqrt(jnp.where(active, diagonal, 1)), 0)
  # The floor keeps repeated constraints solvable; it moves a constraint by 16 eps of its own size.
  p = gram * d[:, None] * d[None, :] + jnp.diag(ridge * d * d + jnp.where(active, 16 * jnp.finfo(gram.dtype).eps, 1))
  return p, linear * d, d


def bounded(gram, linear, active, lower=0.0, ridge=0.0) -> Solution:
  """``argmin_x x^T (gram + ridge I) x / 2 + linear^T x`` over ``x >= lower``, with ``x = 0`` off ``active [K]``.

  Block principal pivoting: guess the free set, solve for it, exchange all that disagrees; fall back to one exchange at
  a time (which cannot cycle) when three exchanges in a row did not help. At most ``5 K + 10`` solves of size K.
  Portugal, Judice & Vicente 1994.
  """
  k = linear.shape[0]
  p, q, d = _scaled(gram, linear, active, ridge)
  low = jnp.where(active, lower / jnp.where(active, d, 1), 0)  # in the scaled units
  q0 = q + jnp.where(active, p @ low, 0)
  eps = jnp.finfo(p.dtype).eps

  def wrong(free, u):
    y = p @ u + q0
    wrong_u = free & (u < -8 * eps * jnp.max(jnp.abs(u)))
    wrong_y = active & ~free & (y < -8 * eps * (jnp.abs(p) @ jnp.abs(u) + jnp.abs(q0)))
    return wrong_u | wrong_y

  def more(carry):
    _, _, bad, _, _, i = carry
    return jnp.any(bad) & (i < 5 * k + 10)

  def step(carry):
    free, _, bad, best, tries, i = carry
    count = jnp.sum(bad)
    tries = jnp.where(count < best, 3, tries - 1)
    last = jnp.arange(k) == k - 1 - jnp.argmax(bad[::-1])
    free = free ^ (bad & ((tries >= 0) | last))
    both = free[:, None] & free[None, :]
    u = jnp.linalg.solve(jnp.where(both, p, jnp.eye(k, dtype=p.dtype)), jnp.where(free, -q0, 0))
    u = jnp.where(free, u, 0)
    return free, u, wrong(free, u), jnp.minimum(best, count), tries, i + 1

  none, zero = jnp.zeros(k, bool), jnp.zeros_like(q0)
  start = (none, zero, wrong(none, zero), jnp.asarray(k + 1), jnp.asarray(3), jnp.asarray(0))
  _, u, _, _, _, iterations = jax.lax.while_loop(more, step, start)
  u = jnp.maximum(u, 0)
  gap = jnp.where(active, jnp.abs(jnp.minimum(u, p @ u + q0)), 0)
  size = jnp.max(jnp.abs(q0))
  return Solution(d * (u + low), jnp.max(gap) / jnp.where(size > 0, size, 1), iterations)


def equality(gram, linear, active) -> Solution:
  """A solution of ``gram x = -linear`` on ``active``: the multipliers that make every constraint hold with equality."""
  _, q, d = _scaled(gram, linear, active, 0.0)
  p = gram * d[:, None] * d[None, :]
  values, vectors = jnp.linalg.eigh(p)
  keep = values > 8 * len(d) * jnp.finfo(p.dtype).eps
  u = -vectors @ (jnp.where(keep, 1 / jnp.where(keep, values, 1), 0) * (vectors.T @ q))
  size = jnp.max(jnp.abs(q))
  return Solution(d * u, jnp.max(jnp.abs(p @ u + q)) / jnp.where(size > 0, size, 1), jnp.asarray(1))
