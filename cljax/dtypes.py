"""Which dtype to compute in."""

from __future__ import annotations

import jax.numpy as jnp


def wide(dtype):
  """The dtype to compute in: ``dtype``, at least float32. As ``promote_types``, which strict promotion refuses."""
  dtype = jnp.dtype(dtype)
  return dtype if jnp.issubdtype(dtype, jnp.inexact) and dtype.itemsize >= 4 else jnp.dtype(jnp.float32)
