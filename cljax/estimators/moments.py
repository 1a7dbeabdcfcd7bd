"""Sufficient statistics of labelled features: rows are added as they come, and taken out again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cljax.core.checks import check_choice
from cljax.core.dtypes import wide
from cljax.core.types import Array

SCATTERS = ("none", "shared", "class")


class Statistics(NamedTuple):
  """``start(num_classes, width, dtype) -> state``; ``add(state, f [B, D], y [B], weight [B]) -> state`` with weights 0
  or 1; ``subtract`` as ``add``, its inverse, or None where there is none; ``clear(state, gone [C]) -> state`` takes
  classes out of what is kept by class, while what classes share keeps its part of them. A state has ``counts [C]``."""

  start: Callable
  add: Callable
  subtract: Callable | None
  clear: Callable


class Moments(NamedTuple):
  """Statistics of rows of features by class: how many, their means, and the scatter about these."""

  counts: Any  # [C] sums of weights
  means: Any  # [C, D]; 0 where a class has no rows
  scatter: Any  # about the class means, not divided by counts: [D, D] over all classes, [C, D, D] of each, or ()


def class_moments(scatter: str = "shared") -> Statistics:
  """Counts ``n_c``, means ``mu_c`` and scatter ``S = sum (f - mu_y)(f - mu_y)^T`` of features by class.

  Two sets are joined by ``S = S_a + S_b + n_a n_b / (n_a + n_b) d d^T``, ``d = mu_b - mu_a``, per class, so that what a
  state holds is that of its rows together, in whatever batches and order they came, to rounding; taking rows out is the
  inverse. Nothing large is subtracted while rows are added, as it is in ``sum f f^T - n mu mu^T``. ``scatter`` 'none':
  counts and means alone; 'shared': one for all classes, ``[D, D]``; 'class': one for each, ``[C, D, D]``. In the dtype
  of the features, at least float32. Rows of labels outside the classes, or of weight 0, are as if absent. Chan, Golub
  and LeVeque, 1983.
  """
  check_choice("class_moments", "scatter", scatter, SCATTERS)

  def start(num_classes: int, width: int, dtype=jnp.float32) -> Moments:
    shape = {"none": None, "shared": (width, width), "class": (num_classes, width, width)}[scatter]
    dtype = wide(dtype)
    zeros = lambda *shape: jnp.zeros(shape, dtype)
    return Moments(zeros(num_classes), zeros(num_classes, width), () if shape is None else zeros(*shape))

  def crossed(weight, d):
    """``sum_c w_c d_c d_c^T``, or each of them."""
    if scatter == "none":
      return ()
    if scatter == "shared":
      return jnp.matmul((weight[:, None] * d).T, d, precision="highest")
    return weight[:, None, None] * d[:, :, None] * d[:, None, :]

  def alone(f, y, weight, like: Moments) -> Moments:
    """The moments of one batch."""
    dtype, classes = like.means.dtype, like.counts.shape[0]
    f = jnp.where((weight > 0)[:, None], f.astype(dtype), jnp.zeros((), dtype))  # what is not there may be anything
    of = jax.nn.one_hot(y, classes, dtype=dtype) * weight.astype(dtype)[:, None]
    counts = of.sum(0)
    means = jnp.matmul(of.T, f, precision="highest") / jnp.where(counts > 0, counts, 1)[:, None]
    if scatter == "none":
      return Moments(counts, means, ())
    d = (f - means[jnp.clip(y, 0, classes - 1)]) * (of.sum(1) > 0)[:, None].astype(dtype)
    if scatter == "shared":
      return Moments(counts, means, jnp.matmul(d.T, d, precision="highest"))
    return Moments(counts, means, jnp.einsum("bc,bd,be->cde", of, d, d, precision="highest"))

  def add(state: Moments, f, y, weight) -> Moments:
    new = alone(f, y, weight, state)
    counts = state.counts + new.counts
    share = new.counts / jnp.where(counts > 0, counts, 1)
    d = new.means - state.means
    joined = jax.tree.map(lambda *parts: sum(parts), state.scatter, new.scatter, crossed(state.counts * share, d))
    return Moments(counts, state.means + share[:, None] * d, joined)

  def subtract(state: Moments, f, y, weight) -> Moments:
    gone = alone(f, y, weight, state)
    counts = jnp.maximum(state.counts - gone.counts, 0)
    some = counts > 0
    share = gone.counts / jnp.where(some, counts, 1)
    means = jnp.where(some[:, None], state.means + share[:, None] * (state.means - gone.means), 0)
    between = jnp.where(some, counts * gone.counts / jnp.where(some, state.counts, 1), 0)
    left = jax.tree.map(lambda s, g, c: s - g - c, state.scatter, gone.scatter, crossed(between, means - gone.means))
    if scatter == "class":
      left = jnp.where(some[:, None, None], left, 0)  # nothing is left of a class without rows, no rounding either
    return Moments(counts, means, left)

  def clear(state: Moments, gone) -> Moments:
    erased = lambda a: jnp.where(gone.reshape(-1, *(1,) * (a.ndim - 1)), jnp.zeros((), a.dtype), a)
    left = erased(state.scatter) if scatter == "class" else state.scatter
    return Moments(erased(state.counts), erased(state.means), left)

  return Statistics(start, add, subtract, clear)


def second_moment(moments: Moments) -> Array:
  """``[D, D]``: ``sum f f^T`` of all rows, from a shared scatter: ``S + sum_c n_c mu_c mu_c^T``."""
  return moments.scatter + jnp.matmul((moments.counts[:, None] * moments.means).T, moments.means, precision="highest")
