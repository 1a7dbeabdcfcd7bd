"""Shared by the projectors: reading references, inner products over stacked trees, and finding states in opt states."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import optax

from cljax.core import dtypes, tree
from cljax.core.types import UsageError

PRECISION = (
  jax.lax.Precision.HIGHEST
)  # accelerators round float32 products to 10 bits otherwise; bases need all of them


def wide(x):
  """The dtype in which sums over ``x`` are taken: at least float32."""
  return dtypes.wide(x.dtype)


def real(dtype):
  """The dtype of the real part."""
  return jnp.finfo(dtype).dtype


def sum_dtype(a):
  """The real dtype of inner products over the tree ``a``."""
  with jax.numpy_dtype_promotion("standard"):
    return jnp.result_type(jnp.float32, *(real(wide(x)) for x in jax.tree.leaves(a)))


def times(s, x):
  """``s * x`` for a real scalar ``s``, in at least float32."""
  return x.astype(wide(x)) * s.astype(real(wide(x)))


def upcast(a):
  return jax.tree.map(lambda x: x.astype(wide(x)), a)


def dot(a, b):
  """:func:`cljax.core.tree.dot` with sums in at least float32."""
  return tree.dot(upcast(a), upcast(b))


def select(flag, a, b):
  """Leaf by leaf ``a`` where the scalar ``flag`` holds, else ``b`` to the bit, in ``b``'s dtypes."""
  return jax.tree.map(lambda x, y: jnp.where(flag, x.astype(y.dtype), y), a, b)


def is_masked(x) -> bool:
  return isinstance(x, optax.MaskedNode)


def has_holes(a) -> bool:
  """Whether ``optax.masked`` or ``optax.partition`` took leaves out: then whole trees are cut to what is left."""
  return any(is_masked(x) for x in jax.tree.leaves(a, is_leaf=is_masked))


def stacked_like(a, k: int):
  """Shapes of ``k`` copies of ``a`` along a new leading axis."""
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct((k, *x.shape), x.dtype), a)


def row_of(stack):
  """Shapes of one tree of a stack: the inverse of :func:`stacked_like`."""
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), stack)


def lookup(references, name: str):
  if not isinstance(references, Mapping) or name not in references:
    dictionary = isinstance(references, Mapping) and len(references) > 0
    given = ", ".join(sorted(map(repr, references))) if dictionary else "none"
    raise UsageError(
      f"references: {name!r} is missing (given: {given}); pass update(..., references={{{name!r}: grads}})"
    )
  return references[name]


def reference(references, name: str, grads):
  """The reference gradient ``references[name]``, of the structure and shapes of ``grads``."""
  return tree.fit(lookup(references, name), grads, f"references[{name!r}]", has_holes(grads))


def match_stack(stack, like, name: str):
  """``stack`` in the structure of ``like`` and checked: every leaf is ``[K, *leaf.shape]`` with one K."""
  shape = next((jnp.shape(x) for x in jax.tree.leaves(stack)), None)
  if shape is not None and len(shape) == 0:
    raise UsageError(f"{name}: leaves need a leading axis K; got a scalar leaf")
  return tree.fit(stack, stacked_like(like, shape[0] if shape else 0), name, has_holes(like))


def reference_stack(references, name: str, grads):
  """The reference gradients as a stack ``[K, ...]``; a tree without the leading axis is one constraint."""
  ref, argument = lookup(references, name), f"references[{name!r}]"
  got, want = tree.by_path(ref), tree.by_path(grads)
  shared = next((p for p in want if p in got), None)
  if shared is not None and jnp.ndim(got[shared]) == jnp.ndim(want[shared]):
    return jax.tree.map(lambda x: x[None], tree.fit(ref, grads, argument, has_holes(grads)))
  return match_stack(ref, grads, argument)


def stack_dot(stack, a):
  """``[K]`` real inner products of the rows of ``stack`` (leaves ``[K, ...]``) with the tree ``a``."""

  def one(s, x):
    with jax.numpy_dtype_promotion("standard"):
      dtype = jnp.result_type(wide(s), wide(x))
    return jnp.real(jnp.tensordot(jnp.conj(s.astype(dtype)), x.astype(dtype), axes=x.ndim, precision=PRECISION))

  return tree.total([one(s, x) for s, x in zip(jax.tree.leaves(stack), jax.tree.leaves(a), strict=True)])


def stack_gram(a, b):
  """``[K, L]`` real inner products of the rows of two stacks."""

  def one(x, y):
    with jax.numpy_dtype_promotion("standard"):
      dtype = jnp.result_type(wide(x), wide(y))
    x, y, axes = x.astype(dtype), y.astype(dtype), tuple(range(1, x.ndim))
    return jnp.real(jnp.tensordot(jnp.conj(x), y, axes=(axes, axes), precision=PRECISION))

  return tree.total([one(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)])


def stack_combine(weights, stack):
  """``sum_k weights[k] * stack[k]``, a tree; with ``weights [J, K]`` a stack of J trees."""
  combine = lambda s: jnp.tensordot(weights.astype(wide(s)), s.astype(wide(s)), axes=1, precision=PRECISION)
  return jax.tree.map(combine, stack)
