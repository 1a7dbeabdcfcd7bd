"""Shared by the projectors: reading references, inner products over stacked trees, and finding states in opt states."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cljax import tree
from cljax.types import UsageError

PRECISION = (
  jax.lax.Precision.HIGHEST
)  # accelerators round float32 products to 10 bits otherwise; bases need all of them


def check(name: str, value, allowed: str, ok: Callable[[Any], bool]) -> None:
  """Raises UsageError unless ``ok(value)``; a traced value is left alone, because a sweep may trace it."""
  if isinstance(value, jax.core.Tracer):
    return
  if not np.all(ok(value)):
    raise UsageError(f"{name}: got {value}; allowed: {allowed}")


def wide(x):
  """The dtype in which sums over ``x`` are taken: at least float32."""
  return jnp.promote_types(x.dtype, jnp.float32)


def upcast(a):
  return jax.tree.map(lambda x: x.astype(wide(x)), a)


def dot(a, b):
  """:func:`cljax.tree.dot` with sums in at least float32."""
  return tree.dot(upcast(a), upcast(b))


def select(flag, a, b):
  """Leaf by leaf ``a`` where the scalar ``flag`` holds, else ``b`` to the bit, in ``b``'s dtypes."""
  return jax.tree.map(lambda x, y: jnp.where(flag, x.astype(y.dtype), y), a, b)


def is_masked(x) -> bool:
  return isinstance(x, optax.MaskedNode)


def prune(a, like):
  """``a`` with the parts removed that ``optax.masked`` or ``optax.partition`` removed from ``like``."""
  if not any(is_masked(x) for x in jax.tree.leaves(like, is_leaf=is_masked)):
    return a
  if any(is_masked(x) for x in jax.tree.leaves(a, is_leaf=is_masked)):
    return a
  try:
    return jax.tree.map(lambda l, x: l if is_masked(l) else x, like, a, is_leaf=is_masked)
  except (ValueError, KeyError, TypeError):
    return a  # the structures differ: tree.match says where


def stacked_like(a, k: int):
  """Shapes of ``k`` copies of ``a`` along a new leading axis."""
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct((k, *x.shape), x.dtype), a)


def lookup(references, name: str):
  if references is None or name not in references:
    given = "none" if not references else ", ".join(sorted(map(repr, references)))
    raise UsageError(
      f"references: {name!r} is missing (given: {given}); pass update(..., references={{{name!r}: grads}})"
    )
  return references[name]


def reference(references, name: str, grads):
  """The reference gradient ``references[name]``, of the structure and shapes of ``grads``."""
  return tree.match(prune(lookup(references, name), grads), grads, f"references[{name!r}]")


def match_stack(stack, like, name: str):
  """``stack`` pruned to ``like`` and checked: every leaf is ``[K, *leaf.shape]`` with one K."""
  stack = prune(stack, like)
  shape = next((jnp.shape(x) for x in jax.tree.leaves(stack)), None)
  if shape is not None and len(shape) == 0:
    raise UsageError(f"{name}: leaves need a leading axis K; got a scalar leaf")
  return tree.match(stack, stacked_like(like, shape[0] if shape else 0), name)


def reference_stack(references, name: str, grads):
  """The reference gradients as a stack ``[K, ...]``; a tree without the leading axis is one constraint."""
  ref = prune(lookup(references, name), grads)
  first = next(iter(jax.tree.leaves(ref)), None)
  like = next(iter(jax.tree.leaves(grads)), None)
  if first is not None and like is not None and jnp.ndim(first) == jnp.ndim(like):
    return jax.tree.map(lambda x: x[None], tree.match(ref, grads, f"references[{name!r}]"))
  return match_stack(ref, grads, f"references[{name!r}]")


def stack_dot(stack, a):
  """``[K]`` inner products of the rows of ``stack`` (leaves ``[K, ...]``) with the tree ``a``."""
  return sum(
    jnp.tensordot(s.astype(wide(s)), x.astype(wide(x)), axes=x.ndim, precision=PRECISION)
    for s, x in zip(jax.tree.leaves(stack), jax.tree.leaves(a), strict=True)
  )


def stack_gram(a, b):
  """``[K, L]`` inner products of the rows of two stacks."""

  def one(x, y):
    axes = tuple(range(1, x.ndim))
    return jnp.tensordot(x.astype(wide(x)), y.astype(wide(y)), axes=(axes, axes), precision=PRECISION)

  return sum(one(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def stack_combine(weights, stack):
  """``sum_k weights[k] * stack[k]``, a tree; with ``weights [J, K]`` a stack of J trees."""
  return jax.tree.map(
    lambda s: jnp.tensordot(weights.astype(wide(s)), s.astype(wide(s)), axes=1, precision=PRECISION), stack
  )


def empty_like(x, dtype=None):
  """Zeros that lie as ``x`` does, under ``jit`` too, where a constant would come out on every device."""
  if not isinstance(x, jax.core.Tracer):
    return jnp.zeros_like(x, dtype=dtype)
  zero = jnp.zeros((), dtype or x.dtype)
  return jnp.where(jnp.isnan(x), zero, zero)


def zero_stack(a, k: int, dtype=None):
  """``k`` zero copies of ``a`` along a new leading axis, sharded as ``a`` is."""
  return jax.tree.map(lambda x: empty_like(jnp.broadcast_to(x, (k, *x.shape)), dtype or x.dtype), a)


def refuse_complex(owner: str, params) -> None:
  """Where the theory is of real numbers: a complex leaf is an error."""
  for name, x in tree.by_path(params).items():
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
      raise UsageError(f"{owner}: {name!r} is complex; give real parameters (optax.contrib.split_real_and_imaginary)")


def edit_states(opt_state, kind: type, edit: Callable, what: str):
  """``opt_state`` with ``edit`` applied to every state of type ``kind``, wherever it is nested; none is an error."""
  out, found = tree.edit_nodes(opt_state, kind, edit)
  if not found:
    raise UsageError(f"{what}: opt_state holds no {kind.__name__}; put the projector in the chain whose state this is")
  return out
