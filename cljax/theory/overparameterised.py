"""Forgetting and generalisation of overparameterised linear models (Lin, Ju, Liang & Shroff, ICML 2023)."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cljax.core import tree
from cljax.core.types import Array, Scalar
from cljax.theory import regression


class Errors(NamedTuple):
  """``forgetting = 1/(T-1) sum_{i<T} [L_i(w_T) - L_i(w_i)]``, ``generalisation = 1/T sum_i L_i(w_T)`` with
  ``L_i(w) = |w - w_i*|^2``."""

  forgetting: Any
  generalisation: Any


@jax.jit
def expected_errors(teachers: Array, rows: int | Array, noise: Scalar) -> Errors:
  """Theorem 4.1: the expected errors after learning T tasks of Gaussian inputs in turn, exactly, from weights 0.

  ``teachers [T, p]`` (T >= 2) are the true weights, ``rows`` = n of each task with ``p >= n + 2``, ``noise`` the
  standard deviation sigma of the labels; the last two may be traced. With ``r = 1 - n/p``, ``d_ij = |w_i* - w_j*|^2``,
  ``s = p sigma^2 / (p - n - 1)`` and ``c_ij = (1 - r)(r^(T-i) - r^(j-i) + r^(T-j))``:
  ``F = 1/(T-1) sum_{i<T} {(r^T - r^i) |w_i*|^2 + sum_{j>i} c_ij d_ij + s (r^i - r^T)}`` and
  ``G = r^T/T sum_i |w_i*|^2 + (1-r)/T sum_i r^(T-i) sum_k d_ik + s (1 - r^T)``. From memory of the paper, re-derived.
  """
  teachers = jnp.asarray(teachers)
  T, p = teachers.shape
  r, s = 1 - rows / p, p * noise**2 / (p - rows - 1)
  i = jnp.arange(1, T + 1)
  power = r ** (T - i)  # r^(T-i)
  size = jnp.sum(teachers**2, 1)
  apart = jnp.sum((teachers[:, None] - teachers) ** 2, -1)
  later = i[None, :] > i[:, None]
  c = (1 - r) * (power[:, None] - r ** jnp.where(later, i[None, :] - i[:, None], 1) + power[None, :])
  start = (r**T - r**i) * size + s * (r**i - r**T)  # 0 at i = T
  forgetting = (jnp.sum(start) + jnp.sum(jnp.where(later, c * apart, 0.0))) / (T - 1)
  generalisation = (r**T * jnp.sum(size) + (1 - r) * jnp.sum(power * apart.sum(1))) / T + s * (1 - r**T)
  return Errors(forgetting, generalisation)


def draw_errors(key: Array, teachers: Array, rows: int | Array, noise: Scalar, capacity: int) -> Errors:
  """The errors of one drawn sequence of tasks, learned in turn by :func:`regression.learn` from weights 0.

  Arguments as in :func:`expected_errors`; ``capacity`` (static) bounds ``rows``. Rows of X and labels are
  ``y = X w* + z`` with X standard normal and z normal of deviation ``noise``.
  """
  teachers = jnp.asarray(teachers)
  T, p = teachers.shape
  x = jax.random.normal(tree.fold(key, "inputs"), (T, capacity, p))
  z = noise * jax.random.normal(tree.fold(key, "noise"), (T, capacity))
  present = jnp.arange(capacity) < rows

  def task(weights, now):
    x, z, teacher = now
    weights = regression.learn(weights, x, regression.matmul(x, teacher) + z, present)
    return weights, weights

  last, after = jax.lax.scan(task, jnp.zeros(p), (x, z, teachers))
  then, now = jnp.sum((after - teachers) ** 2, 1), jnp.sum((last - teachers) ** 2, 1)
  return Errors(jnp.sum(now - then) / (T - 1), jnp.mean(now))
