"""Losses of models that generate."""

from __future__ import annotations

import jax.numpy as jnp

from cljax.core.dtypes import wide
from cljax.core.types import Array, UsageError


def gaussian_kl(mean: Array, log_variance: Array) -> Array:
  """``KL(N(m, v) || N(0, 1)) = 1/2 sum_d (m^2 + v - 1 - log v)`` per example, ``[B]``; both ``[B, D]``.

  Kingma and Welling 2014. Raises UsageError where the shapes differ.
  """
  if jnp.shape(mean) != jnp.shape(log_variance):
    raise UsageError(f"log_variance: has shape {jnp.shape(log_variance)}; mean {jnp.shape(mean)}")
  m, v = mean.astype(wide(mean.dtype)), log_variance.astype(wide(log_variance.dtype))
  return 0.5 * jnp.sum((jnp.square(m) + jnp.expm1(v) - v).reshape(m.shape[0], -1), -1)
