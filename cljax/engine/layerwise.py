"""Projections of kernels' gradients taken in the backward pass, on the layers' inputs or on their factors.

The gradient of a dense layer's kernel is ``x^T d``, of rank at most the rows of a batch: what is small in
``x [n, d_in]`` and ``d [n, d_out]`` is large in their product.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype

from cljax.core import tree
from cljax.core.method import Method, _keep


def applies(method: Method, optimizer) -> bool:
  """Whether ``Method.projects`` may act on the gradient: nothing adds to it before the projector, and what stands
  between the two is minus a rate."""
  if method.projects is None or method.gradient is not None or method.penalty is not None:
    return False
  if method.transform is not None:
    return method.finalize is None
  return method.pull is None and bool(getattr(optimizer, "plain", False))


def _plain(x, kernel):
  return jax.lax.dot_general(x, kernel, (((x.ndim - 1,), (0,)), ((), ())))


def averages(method: Method) -> bool:
  """Whether ``Method.averaged`` may be made of factors: it is all that is done to the gradient."""
  other = (method.gradient, method.penalty, method.pull, method.finalize, method.observe)
  return method.averaged is not None and all(o is None for o in other) and method.after_step is _keep


def _product(project: Callable) -> Callable:
  """``product(x [..., d], kernel [d, c], state) = x @ kernel``, whose gradient by the kernel is that of the rows
  ``project(state, x)``: where P is symmetric, ``P (x^T g) = (P x)^T g``."""

  @jax.custom_vjp
  def product(x, kernel, state):
    del state
    return _plain(x, kernel)

  def forward(x, kernel, state):
    return _plain(x, kernel), (x, kernel, state)

  def backward(kept, slope):
    x, kernel, state = kept
    (to_inputs,) = jax.vjp(lambda x: _plain(x, kernel), x)[1](slope)
    rows = project(state, x.reshape(-1, x.shape[-1])).reshape(x.shape).astype(x.dtype)
    (to_kernel,) = jax.vjp(lambda kernel: _plain(rows, kernel), kernel)[1](slope)
    return to_inputs, to_kernel, None

  product.defvjp(forward, backward)
  return product


def _dense(context, args, kwargs) -> bool:
  module = context.module
  plain = (module.dot_general, module.dot_general_cls, module.precision) if type(module) is nn.Dense else (0,)
  return context.method_name == "__call__" and len(args) == 1 and not kwargs and plain == (None, None, None)


def _called(module, x, product: Callable):
  """A dense layer whose product of inputs and kernel is ``product(x, kernel)``."""
  held = module.variables["params"]
  x, kernel, bias = promote_dtype(x, held["kernel"], held.get("bias"), dtype=module.dtype)
  y = product(x, kernel)
  return y if bias is None else y + jnp.reshape(bias, (1,) * (y.ndim - 1) + (-1,))


@jax.custom_vjp
def _sunk(x, kernel, to_rows, to_slopes):
  """``x @ kernel``; the gradients by the last two, zeros ``[n, d_in]`` and ``[n, d_out]``, are ``x`` and the gradient
  by the result, and that by the kernel is left out."""
  del to_rows, to_slopes
  return _plain(x, kernel)


def _sunk_backward(kept, slope):
  x, kernel = kept
  (to_inputs,) = jax.vjp(lambda x: _plain(x, kernel), x)[1](slope)
  flat = lambda a: a.reshape(-1, a.shape[-1])
  return to_inputs, jnp.zeros_like(kernel), flat(x), flat(slope)


_sunk.defvjp(lambda x, kernel, *_: (_plain(x, kernel), (x, kernel)), _sunk_backward)


def _reads(jaxpr, var) -> list[int]:
  """What reads a kernel ``[d, c]`` in a program: of each product its rows, -1 for anything else.

  So for jitted functions, remat and loops: traces of them are kept by JAX, and would not be made anew for a layer that
  multiplies in another way.
  """
  found = [-1 for out in jaxpr.outvars if out is var]
  for eqn in jaxpr.eqns:
    for i in (i for i, read in enumerate(eqn.invars) if read is var):
      product = eqn.primitive.name == "dot_general" and len(var.aval.shape) == 2
      found.append(eqn.invars[1 - i].aval.size // var.aval.shape[0] if product else -1)
  return found


def _layers(loss_fn: Callable, params, wanted, fits: Callable) -> dict[str, tuple[int, ...]]:
  """``{kernel: (rows, d_in, d_out)}`` of those ``wanted`` that nothing reads but dense layers of Linen, where
  ``fits(rows, layer)`` holds for each of their calls; rows are those of all calls. Under ``vmap`` a layer sees fewer
  rows than its product has: it is left out."""
  leaves = tree.by_path(params)
  calls: dict[str, list[int]] = {}

  def look(next_fun, args, kwargs, context):
    module, name = context.module, "/".join((*context.module.path, "kernel"))
    if name in wanted and name in leaves:
      whole = _dense(context, args, kwargs) and module.variables["params"]["kernel"].shape == leaves[name].shape
      rows = args[0].size // args[0].shape[-1] if whole else 0
      same = whole and args[0].dtype == leaves[name].dtype and module.dtype in (None, args[0].dtype)
      calls.setdefault(name, []).append(rows if same and fits(rows, module) else -1)
    return next_fun(*args, **kwargs)

  with nn.intercept_methods(look):
    jaxpr = jax.make_jaxpr(lambda params: loss_fn(params)[0])(params).jaxpr  # a function of its own: none kept by JAX
  reads = {name: _reads(jaxpr, var) for name, var in zip(leaves, jaxpr.invars, strict=True) if name in calls}
  whole = lambda name, rows: min(rows) >= 0 and sorted(reads[name]) == sorted(rows)
  return {name: (sum(rows), *leaves[name].shape) for name, rows in calls.items() if whole(name, rows)}


def _through(sizes: dict, product: Callable):
  """Has the dense layers of these kernels multiply by ``product(name, x, kernel)``."""

  def interceptor(next_fun, args, kwargs, context):
    name = "/".join((*context.module.path, "kernel"))
    if name not in sizes:
      return next_fun(*args, **kwargs)
    return _called(context.module, args[0], lambda x, kernel: product(name, x, kernel))

  return nn.intercept_methods(interceptor)


def _factors(loss_fn: Callable, params):
  """``((loss, aux), grads, {kernel: (rows [n, d_in], slopes [n, d_out])})``: kernels of dense layers that are called
  once, on fewer rows than half of their outputs, have factors and no gradient."""
  leaves, seen = tree.by_path(params), set()

  def once(rows, module):
    first = module.path not in seen
    seen.add(module.path)
    return first and 2 * rows < module.features

  sizes = _layers(loss_fn, params, leaves, once)
  zeros = lambda name, n, width: jnp.zeros((n, width), leaves[name].dtype)
  sinks = {name: (zeros(name, n, d), zeros(name, n, c)) for name, (n, d, c) in sizes.items()}

  def run(both):
    with _through(sizes, lambda name, x, kernel: _sunk(x, kernel, *both[1][name])):
      return loss_fn(both[0])

  out, (grads, factors) = jax.value_and_grad(run, has_aux=True)((params, sinks))
  return out, grads, factors


def against_reference(loss_fn: Callable, reference: Callable, params, epsilon):
  """``((loss, aux), g', fired)``: A-GEM's ``g - <g, r> / (<r, r> + epsilon) r`` where ``<g, r> < 0``, else g.

  ``r`` is the gradient of ``reference(params)``. Of a kernel with factors on both sides, ``g = x^T d`` and
  ``r = y^T e``, ``<g, r> = sum((x y^T) * (d e^T))`` and ``g' = [x; y]^T [d; -c e]``: r is never made, and g' is one
  product.
  """
  out, g, mine = _factors(loss_fn, params)
  (_, ()), r, theirs = _factors(lambda p: (reference(p), ()), params)
  shared = [name for name in mine if name in theirs]

  def others(grads, found):
    """The gradients of what has no factors on both sides."""
    made = {name: rows.T @ slopes for name, (rows, slopes) in found.items() if name not in shared}
    return {name: made.get(name, a) for name, a in tree.by_path(grads).items() if name not in shared}

  cross = lambda a, b: jnp.matmul(a, b.T, precision=jax.lax.Precision.HIGHEST)
  dot = lambda a, b: jnp.sum(cross(a[0], b[0]) * cross(a[1], b[1]))
  rest, reference_rest = others(g, mine), others(r, theirs)
  inner = tree.total([tree.dot(rest, reference_rest), *(dot(mine[n], theirs[n]) for n in shared)])
  square = tree.total([tree.dot(reference_rest, reference_rest), *(dot(theirs[n], theirs[n]) for n in shared)])
  fired = (inner < 0) & (square > 0)
  factor = inner / jnp.where(fired, square + epsilon, 1)

  def moved(name, a):
    if name in shared:
      (x, d), (y, e) = mine[name], theirs[name]
      return jnp.concatenate([x, y]).T @ jnp.concatenate([d, jnp.where(fired, -factor.astype(e.dtype) * e, 0)])
    return jnp.where(fired, rest[name] - factor.astype(a.dtype) * reference_rest[name], rest[name])

  return out, tree.map_named(moved, g), fired


def value_and_grad(loss_fn: Callable, params, states: dict[str, Any], project: Callable):
  """``((loss, aux), grads, names)``: of the kernels ``names`` the gradients are projected, ``project(state, rows)``.

  A dense layer of Linen takes part where it has fewer rows than outputs: else the projection costs less on the
  gradient. A kernel that is read elsewhere too, or under a lifted transform, is left out.
  """
  product = _product(project)
  sizes = _layers(loss_fn, params, states, lambda rows, module: rows < module.features)
  with _through(sizes, lambda name, x, kernel: product(x, kernel, states[name])):
    out, grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
  return out, grads, frozenset(sizes)
