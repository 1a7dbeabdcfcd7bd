"""Inputs near a row at which its loss is large: what adversarial training trains on, and robust accuracy asks for."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from cljax.core.types import Array, Scalar, UsageError


def fgsm(
  loss_fn: Callable[[Array], Array], x: Array, radius: Scalar, low: ArrayLike | None = None,
  high: ArrayLike | None = None,
) -> Array:  # fmt: skip
  """``clip(x + radius sign(dL/dx), low, high)``: one step of the fast gradient sign method, of the shape of ``x``.

  ``loss_fn(x [B, ...]) -> [B]``, losses of rows that do not meet one another. ``low`` and ``high`` are the ends of what
  an input may be (None: none); a number of a row that lies beyond them is not moved further out, and not brought back.
  The result is float32 for integers, and carries no gradient. Goodfellow, Shlens & Szegedy, 2015. Raises UsageError for
  ``x`` that is no array of numbers, or no ``[B]`` losses.
  """
  return pgd(loss_fn, x, radius, steps=1, rate=radius, low=low, high=high)


def pgd(
  loss_fn: Callable[[Array], Array], x: Array, radius: Scalar, steps: int = 10, rate: Scalar | None = None,
  low: ArrayLike | None = None, high: ArrayLike | None = None, key: Array | None = None,
) -> Array:  # fmt: skip
  """``steps`` times ``z <- clip(z + rate sign(dL/dz))`` into ``|z - x| <= radius`` and ``[low, high]``; z of ``x``.

  Projected gradient ascent in the largest norm. ``rate`` is by default ``2.5 radius / steps``, by which any point of
  the ball is reached. It starts from ``x``, or with a ``key`` from a uniform point of the ball (the paper's). The rest
  is as for :func:`fgsm`; 0 steps give ``x``, or that point. Madry et al., 2018.
  """
  if not hasattr(x, "dtype") or not (jnp.issubdtype(x.dtype, jnp.number) and x.ndim):
    raise UsageError(f"x: got {getattr(x, 'dtype', type(x).__name__)}; expected an array of numbers [B, ...]")
  start = x if jnp.issubdtype(x.dtype, jnp.inexact) else x.astype(jnp.float32)
  number = lambda v: jnp.asarray(v, start.dtype)
  radius = number(radius)
  rate = 2.5 * radius / max(steps, 1) if rate is None else number(rate)
  least, most = start - radius, start + radius
  # A row that lies outside already stays where it is: the attack must not leave its ball to mend the row.
  if low is not None:
    least = jnp.maximum(least, jnp.minimum(number(low), start))
  if high is not None:
    most = jnp.minimum(most, jnp.maximum(number(high), start))

  def total(z):
    each = loss_fn(z)
    if jnp.shape(each) != x.shape[:1]:
      raise UsageError(f"loss_fn: gave shape {jnp.shape(each)}; expected [{x.shape[0]}], a loss for each row")
    return each.sum()

  def climb(_, z):
    return jnp.clip(z + rate * jnp.sign(jax.grad(total)(z)), least, most)

  first = start
  if key is not None:
    first = jnp.clip(start + radius * jax.random.uniform(key, x.shape, start.dtype, -1, 1), least, most)
  return jax.lax.stop_gradient(jax.lax.fori_loop(0, steps, climb, first))
