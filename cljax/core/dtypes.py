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
  """An optimizer that is not ours, traced under the usual promotion: optax's Adam raises a float to an int.

  It sees float16 as float32, and its updates are rounded: in float16 Adam's epsilon of 1e-8 is 0, and so is the square
  of a gradient below 2e-4, so that a parameter without a gradient would become 0 / 0.
  """
  optimizer = optax.with_extra_args_support(optimizer)
  widened = lambda tree: jax.tree.map(
    lambda a: a.astype(jnp.float32) if getattr(a, "dtype", None) == jnp.float16 else a, tree
  )

  def usual(call):
    def traced(*args, **extra):
      with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        return call(*args, **extra)

    return traced

  def update(updates, state, params=None, **extra):
    new, state = optimizer.update(widened(updates), state, widened(params), **extra)
    return jax.tree.map(
      lambda n, u: n.astype(u.dtype) if getattr(u, "dtype", None) == jnp.float16 else n, new, updates
    ), state

  return optax.GradientTransformationExtraArgs(usual(lambda params: optimizer.init(widened(params))), usual(update))
