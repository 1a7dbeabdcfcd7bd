"""Intervals of numbers: boxes of activations, and what a layer makes of a box."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp


class Box(NamedTuple):
  """``low <= x <= high``, number by number; ``[D]`` each."""

  low: Any
  high: Any


def affine(kernel, bias, box: Box) -> Box:
  """The smallest box ``[E]`` of ``x W + b`` over x in ``box [D]``; kernel ``[D, E]``, bias ``[E]``.

  ``c W + b -+ r |W|``, c the box's centre and r its radius: as ``W+ low - W- high + b`` and ``W+ high - W- low + b``,
  but with the slope c, not 0, where a weight is 0. Each bound is met at a corner.
  """
  middle = (box.low + box.high) / 2 @ kernel + bias
  radius = (box.high - box.low) / 2 @ (jnp.sign(kernel) * kernel)  # the slope of jnp.abs at 0 is 1
  return Box(middle - radius, middle + radius)


def quantile(a, there, share):
  """``[D]``: of each column of ``a [N, D]`` the quantile ``share``, in [0, 1], of the rows that are ``there [N]`` bool,
  linear between two; 0 where none is."""
  count = jnp.sum(there, dtype=jnp.int32)
  ordered = jnp.sort(jnp.where(there[:, None], a, jnp.inf), axis=0)
  last = jnp.maximum(count - 1, 0)
  at = share * last.astype(jnp.float32)
  below = jnp.clip(jnp.floor(at).astype(jnp.int32), 0, last)
  above = jnp.minimum(below + 1, last)
  part = at - below.astype(jnp.float32)
  found = ordered[below] + part * (ordered[above] - ordered[below])
  return jnp.where(count > 0, found, 0.0)


def joined(old: Box, new: Box, begun) -> Box:
  """The smallest box around both; ``new`` where none has ``begun``."""
  low, high = jnp.minimum(old.low, new.low), jnp.maximum(old.high, new.high)
  return Box(jnp.where(begun, low, new.low), jnp.where(begun, high, new.high))


def around(a, there) -> Box:
  """The smallest box around the rows of ``a [N, D]`` that are ``there``; 0 where none is."""
  some = there.any()
  low = jnp.min(jnp.where(there[:, None], a, jnp.inf), axis=0)
  high = jnp.max(jnp.where(there[:, None], a, -jnp.inf), axis=0)
  return Box(jnp.where(some, low, 0.0), jnp.where(some, high, 0.0))


def of_point(kernel: Box, bias: Box, x) -> Box:
  """The smallest box ``[B, E]`` of ``x W + b`` over W ``[D, E]`` and b ``[E]`` in boxes; x ``[B, D]`` of any sign."""
  above, below = jnp.maximum(x, 0), jnp.maximum(-x, 0)
  return Box(
    above @ kernel.low - below @ kernel.high + bias.low[None],
    above @ kernel.high - below @ kernel.low + bias.high[None],
  )


def of_positive(kernel: Box, bias: Box, box: Box) -> Box:
  """The smallest box ``[B, E]`` of ``x W + b`` over W, b and x in boxes, x ``[B, D]`` not below 0."""
  low = box.low @ jnp.maximum(kernel.low, 0) - box.high @ jnp.maximum(-kernel.low, 0)
  high = box.high @ jnp.maximum(kernel.high, 0) - box.low @ jnp.maximum(-kernel.high, 0)
  return Box(low + bias.low[None], high + bias.high[None])
