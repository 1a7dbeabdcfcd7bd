"""Product quantisation: vectors as small integers, one for each part, that name the centre nearest to it."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from cljax.estimators.clusters import k_means

POINTS = 256  # vectors for each centre, at most, on which centres are fitted
MOST = 256  # centres of a part: a code is a byte


def parts_of(width: int, parts: int) -> tuple[int, int]:
  """``(parts, numbers in each)`` of vectors of ``width`` numbers in at most ``parts`` parts of one size, of which the
  last may be filled up with zeros: 100 in at most 32 are 25 of 4."""
  size = -(-width // parts)
  return -(-width // size), size


def parted(x, parts: int, size: int):
  """``[..., parts, size]`` float32 of ``x [..., D]``, zeros behind its numbers."""
  x = x.astype(jnp.float32)
  x = jnp.pad(x, (*((0, 0),) * (x.ndim - 1), (0, parts * size - x.shape[-1])))
  return x.reshape(*x.shape[:-1], parts, size)


def fitted(key, x, weight, parts: int, number: int, steps: int = 20):
  """``[S, number, d]``: the centres of each part, by :func:`cljax.estimators.clusters.k_means` on rows of positive
  weight, of which at most POINTS for each centre are drawn. x ``[N, D]``, weight ``[N]``. Jegou et al., 2011."""
  count, size = parts_of(x.shape[-1], parts)
  some = min(x.shape[0], POINTS * number)
  noise = jnp.where(weight > 0, jax.random.uniform(jax.random.fold_in(key, count), weight.shape), -1.0)
  at = jax.lax.top_k(noise, some)[1]
  each = jnp.moveaxis(parted(x[at], count, size), 1, 0)
  one = lambda given: k_means(jax.random.fold_in(key, given[0]), given[1], weight[at], number, steps)
  return jax.lax.map(one, (jnp.arange(count, dtype=jnp.int32), each)).astype(jnp.float32)


def encoded(centres, x):
  """``[..., S]`` uint8: the nearest centre, of ``[S, K, d]``, of each part of ``x [..., D]``; of several the first."""
  parts, _, size = centres.shape
  gap = parted(x, parts, size)[..., None, :] - centres.reshape((1,) * (x.ndim - 1) + centres.shape)
  return jnp.argmin(jnp.sum(jnp.square(gap), axis=-1), axis=-1).astype(jnp.uint8)


def decoded(centres, codes, width: int):
  """``[..., width]`` float32: the centres that ``codes [..., S]`` name, side by side."""
  found = centres[jnp.arange(centres.shape[0], dtype=jnp.int32), codes.astype(jnp.int32)]
  return found.reshape(*codes.shape[:-1], -1)[..., :width]
