"""Projections of kernels' gradients taken in the backward pass, on the layers' inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype

from cljax.core import tree
from cljax.core.method import Method


def applies(method: Method, optimizer) -> bool:
  """Whether ``Method.projects`` may act on the gradient: nothing adds to it before the projector, and what stands
  between the two is minus a rate."""
  if method.projects is None or method.gradient is not None or method.penalty is not None:
    return False
  if method.transform is not None:
    return method.finalize is None
  return method.pull is None and bool(getattr(optimizer, "plain", False))


def _product(project: Callable) -> Callable:
  """``product(x [..., d], kernel [d, c], state) = x @ kernel``, whose gradient by the kernel is that of the rows
  ``project(state, x)``: where P is symmetric, ``P (x^T g) = (P x)^T g``."""
  plain = lambda x, kernel: jax.lax.dot_general(x, kernel, (((x.ndim - 1,), (0,)), ((), ())))

  @jax.custom_vjp
  def product(x, kernel, state):
    del state
    return plain(x, kernel)

  def forward(x, kernel, state):
    return plain(x, kernel), (x, kernel, state)

  def backward(kept, slope):
    x, kernel, state = kept
    (to_inputs,) = jax.vjp(lambda x: plain(x, kernel), x)[1](slope)
    rows = project(state, x.reshape(-1, x.shape[-1])).reshape(x.shape).astype(x.dtype)
    (to_kernel,) = jax.vjp(lambda kernel: plain(rows, kernel), kernel)[1](slope)
    return to_inputs, to_kernel, None

  product.defvjp(forward, backward)
  return product


def value_and_grad(loss_fn: Callable, params, states: dict[str, Any], project: Callable):
  """``((loss, aux), grads, names)``: of the kernels ``names`` the gradients are projected, ``project(state, rows)``.

  A dense layer of Linen takes part where it has fewer rows than outputs: else the projection costs less on the
  gradient. A kernel that is read elsewhere too, or under a lifted transform, is left out.
  """
  leaves = tree.by_path(params)
  product, taken, left = _product(project), set(), set()

  def interceptor(next_fun, args, kwargs, context):
    module, name = context.module, "/".join((*context.module.path, "kernel"))
    if name not in states:
      return next_fun(*args, **kwargs)
    dense = context.method_name == "__call__" and type(module) is nn.Dense and len(args) == 1 and not kwargs
    if (
      not dense or module.dot_general is not None or module.dot_general_cls is not None or module.precision is not None
    ):
      left.add(name)
      return next_fun(*args, **kwargs)
    held, x = module.variables["params"], args[0]
    whole = held["kernel"].shape == leaves[name].shape
    if not whole or x.size // x.shape[-1] >= module.features:
      left.add(name)
      return next_fun(*args, **kwargs)
    taken.add(name)
    x, kernel, bias = promote_dtype(x, held["kernel"], held.get("bias"), dtype=module.dtype)
    y = product(x, kernel, states[name])
    return y if bias is None else y + jnp.reshape(bias, (1,) * (y.ndim - 1) + (-1,))

  with nn.intercept_methods(interceptor):
    out, grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
  return out, grads, frozenset(taken - left)
