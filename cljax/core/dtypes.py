"""Which dtype to compute in, whatever JAX's settings of promotion."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax


def wide(dtype):
  """The dtype to compute in: ``dtype``, at least float32. As ``promote_types``, which strict promotion refuses."""
  dtype = jnp.dtype(dtype)
  return dtype if jnp.issubdtype(dtype, jnp.inexact) and dtype.itemsize >= 4 else jnp.dtype(jnp.float32)


def lenient(optimizer) -> optax.GradientTransformationExtraArgs:
  """An optimizer that is not ours, traced under the usual promotion: optax's Adam raises a float to an int."""
  optimizer = optax.with_extra_args_support(optimizer)

  def usual(call):
    def traced(*args, **extra):
      with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        return call(*args, **extra)

    return traced

  return optax.GradientTransformationExtraArgs(usual(optimizer.init), usual(optimizer.update))
