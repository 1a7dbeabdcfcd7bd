"""The precision of a model's arithmetic. Parameters, optimizer state and what a model keeps are float32 in each."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from cljax.core.types import Model, UsageError

PRECISIONS = ("float32", "bfloat16", "tf32")


def check_backend(precision: str, platform: str) -> None:
  """Raises UsageError where the devices have no such arithmetic."""
  if precision == "tf32" and platform != "gpu":
    raise UsageError(f"train.precision: got 'tf32', which the backend {platform!r} does not have; only 'gpu' has it")


def at(model: Model, precision: str) -> Model:
  """The model whose ``apply`` computes in ``precision``, one of PRECISIONS; 'float32' is the model itself.

  bfloat16: parameters and inputs are rounded before ``apply``, outputs and the model's state made float32 again behind
  it, so losses are float32 and, the rounding being linear, so are the gradients of the parameters. tf32: products of
  float32 arrays, forward and backward, round their factors to 10 bits. ``capture`` stays in float32: what boundary
  passes read off the layers (importances, bases) is as without.
  """
  if precision == "float32":
    return model
  inner, with_activation = model.apply, model.with_activation

  def in_bfloat16(params, model_state, x, **kwargs):
    outputs, state = inner(_cast(params, jnp.bfloat16), model_state, _cast(x, jnp.bfloat16), **kwargs)
    kept = jax.tree.map(lambda new, old: new.astype(old.dtype), state, model_state)
    return _cast(outputs, jnp.float32, jnp.bfloat16), kept

  def in_tf32(params, model_state, x, **kwargs):
    with jax.default_matmul_precision("tensorfloat32"):
      return inner(params, model_state, x, **kwargs)

  again = None
  if with_activation is not None:
    again = lambda activation: at(with_activation(activation), precision)
  return model._replace(apply=in_bfloat16 if precision == "bfloat16" else in_tf32, with_activation=again)


def _cast(tree, dtype, only=jnp.float32):
  """Arrays of dtype ``only`` as ``dtype``; all others as they are (integers, keys, masks)."""
  return jax.tree.map(lambda a: a.astype(dtype) if getattr(a, "dtype", None) == only else a, tree)
