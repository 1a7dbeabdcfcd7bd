"""Losses of pairs: two views of a row that belong together, and an item that is to stand above another."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from cljax.core.dtypes import wide
from cljax.core.types import Array, Scalar, UsageError
from cljax.losses.supervised import masked_log_softmax
from cljax.losses.unlearning import _unit


def nt_xent(first: Array, second: Array, weight: Array, temperature: Scalar = 0.5) -> Array:
  """``-s_ii' / T + log sum_{j != i} exp(s_ij / T)`` over all 2B views, ``[B]``: the mean of a row's two; s: cosine.

  first and second ``[B, D]`` are two views of each row; of all other views each pushes. Rows of weight 0 are no
  negatives. SimCLR, Chen et al. 2020. Raises UsageError where the shapes differ.
  """
  return supcon(first, second, -jnp.ones(first.shape[0], jnp.int32), weight, temperature)


def supcon(first: Array, second: Array, y: Array, weight: Array, temperature: Scalar = 0.1) -> Array:
  """``-1/|P_i| sum_{p in P_i} log(exp(s_ip / T) / sum_{j != i} exp(s_ij / T))``, ``[B]``: the mean of a row's two.

  first and second ``[B, D]``, y ``[B]`` int; P_i: the other views of i's row and class, of its row alone where y < 0
  (then it is :func:`nt_xent`); s: cosine. Rows of weight 0 are neither positives nor negatives. The form with the mean
  outside the logarithm, Khosla et al. 2020. Raises UsageError where the shapes differ.
  """
  _pair(first, second, weight)
  if jnp.shape(y) != (first.shape[0],):
    raise UsageError(f"y: has shape {jnp.shape(y)}; views {first.shape} need {(first.shape[0],)}")
  there, size = jnp.tile(weight > 0, 2), first.shape[0]
  z = _unit(jnp.concatenate([_there(first, weight), _there(second, weight)]))
  row, label = jnp.tile(jnp.arange(size), 2), jnp.tile(y, 2)
  others = there[None] & ~jnp.eye(2 * size, dtype=bool)
  mates = (row[:, None] == row[None]) | ((label[:, None] == label[None]) & (label >= 0)[None])
  mates = mates & others
  log_p = masked_log_softmax(z @ z.T / jnp.asarray(temperature).astype(z.dtype), others)
  each = -jnp.sum(jnp.where(mates, log_p, 0.0), 1) / jnp.maximum(mates.sum(1), 1).astype(z.dtype)
  return 0.5 * (each[:size] + each[size:])


def barlow_twins(first: Array, second: Array, weight: Array, off_diagonal: Scalar = 0.005, eps: Scalar = 1e-5) -> Array:
  """``sum_i (1 - C_ii)^2 + off_diagonal sum_{i != j} C_ij^2``, one number; C: the cross-correlation over rows.

  first and second ``[B, D]``; each feature is standardised over the rows of positive weight, its variance (of the
  whole, not of a sample) plus ``eps``, as BatchNorm has it. Zbontar et al. 2021. Raises UsageError where the shapes
  differ.
  """
  _pair(first, second, weight)
  there = (weight > 0)[:, None]
  count = jnp.maximum(there.sum(), 1)

  def standard(z):
    z = _there(z, weight)
    gap = jnp.where(there, z - z.sum(0, keepdims=True) / count.astype(z.dtype), 0.0)
    return gap * jax.lax.rsqrt(jnp.sum(jnp.square(gap), 0, keepdims=True) / count.astype(z.dtype) + eps)

  a, b = standard(first), standard(second)
  c = a.T @ b / count.astype(a.dtype)
  own = jnp.eye(c.shape[0], dtype=bool)
  return jnp.sum(jnp.where(own, jnp.square(1 - c), jnp.asarray(off_diagonal).astype(c.dtype) * jnp.square(c)))


def bpr(positive: Array, negative: Array) -> Array:
  """``-log sigmoid(s_positive - s_negative)`` of each pair of scores, their shape. Rendle et al. 2009.

  Raises UsageError where the shapes differ.
  """
  if jnp.shape(positive) != jnp.shape(negative):
    raise UsageError(f"negative: has shape {jnp.shape(negative)}; positive {jnp.shape(positive)}")
  gap = positive.astype(wide(positive.dtype)) - negative.astype(wide(negative.dtype))
  return jax.nn.softplus(-gap)


def _there(z, weight):
  z = z.astype(wide(z.dtype))
  return jnp.where(weight[:, None] > 0, z, jnp.zeros((), z.dtype))


def _pair(first, second, weight):
  if first.shape != second.shape or first.ndim != 2:
    raise UsageError(f"second: has shape {second.shape}; first {first.shape}; expected two views [B, D]")
  if jnp.shape(weight) != first.shape[:1]:
    raise UsageError(f"weight: has shape {jnp.shape(weight)}; views {first.shape} need {first.shape[:1]}")
