"""What the regularizers share: checks at the edge, matching trees by path, and the arithmetic of a quadratic pull."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from cljax.core.checks import is_concrete
from cljax.core.dtypes import wide
from cljax.core.tree import (
  alike,
  by_path,
  cut,
  empty_like,
  fit,
  is_placeholder,
  paths,
  product,
  refuse_complex,
)
from cljax.core.types import UsageError


def each(fn, updates, *trees):
  """``fn(update, *leaves)`` leaf by leaf, None where there is no update: Equinox has it so beside functions."""
  one = lambda u, *rest: None if u is None else fn(u, *rest)
  return jax.tree.map(one, updates, *trees, is_leaf=lambda x: x is None)


def check_params(owner: str, params, like):
  """``params`` at the leaves of ``like``: an Equinox module also holds functions, where updates and states are None."""
  if params is None:
    raise UsageError(f"{owner}: update needs params; call tx.update(updates, state, params)")
  return fit(params, like, f"{owner}: params", extra=True)


def check_updates(owner: str, updates, like, shapes: bool = True):
  """``updates`` have the leaves of ``like``, a tree of the state, or None in the place of some; else a UsageError."""
  if alike(updates, like):
    return
  none = lambda x: x is None
  named = by_path(jax.tree.map(lambda u: False if u is None else u, updates, is_leaf=none))
  left_out = {p for p, x in named.items() if x is False}
  got, want = ({p: x for p, x in t.items() if p not in left_out} for t in (named, by_path(like)))
  fit(got, want if shapes else {p: got.get(p, x) for p, x in want.items()}, f"{owner}: updates")
  structure: Any = jax.tree.structure(updates, is_leaf=none)
  if structure != jax.tree.structure(like, is_leaf=none):
    raise UsageError(f"{owner}: updates are a {type(updates).__name__} of another structure than init's parameters")


def check_covers(owner: str, params, complex_ok: bool = True):
  if not jax.tree.leaves(params) and not is_placeholder(params):
    raise UsageError(f"{owner}: there is no parameter to regularize; the mask or the parameter tree is empty")
  for path, leaf in by_path(params).items():
    if not hasattr(leaf, "dtype"):
      raise UsageError(f"{owner}: {path!r} is a {type(leaf).__name__}; give arrays, as eqx.filter(model, eqx.is_array)")
  if not complex_ok:
    refuse_complex(owner, params)
  return params


def align(tree, like, owner: str, argument: str):
  """``tree``'s leaves in the structure of ``like``, found by path.

  ``like`` may be a subset (``optax.masked`` and ``partition`` leave ``MaskedNode`` holes) or wrap its leaves (NNX).
  Raises UsageError with the leaf's path where a leaf is missing or has another shape.
  """
  names = paths(tree)
  if "" in paths(like) and names and "" not in names:
    raise UsageError(f"{owner}: the state holds one flat vector; optax.flatten is not supported, remove it")
  return fit(tree, like, f"{owner}: {argument}", extra=True)


def check_importance(owner: str, tree, negative_ok: bool = False):
  """Refuses NaN, infinite and negative importance where the values are concrete."""
  for path, leaf in by_path(tree).items():
    if jnp.iscomplexobj(leaf):
      raise UsageError(f"{owner}: importance leaf {path!r} is complex; importance is real, as |.|^2 is")
    if not is_concrete(leaf):
      continue
    with jax.ensure_compile_time_eval():  # a constant inside a trace can be checked too
      finite, negative = bool(jnp.all(jnp.isfinite(leaf))), bool(jnp.any(leaf < 0))
    if not finite:
      raise UsageError(f"{owner}: importance leaf {path!r} holds NaN or infinite values; all must be finite")
    if negative and not negative_ok:
      raise UsageError(f"{owner}: importance leaf {path!r} holds negative values; all must be at least 0")
  return tree


def keep(tree, dtype=None):
  """A copy that shares no buffer, in ``dtype`` or at least float32: bfloat16 cannot hold a sum of small importances."""

  def one(x):
    kind = jnp.dtype(dtype or wide(x.dtype))
    if jnp.iscomplexobj(x) and not jnp.issubdtype(kind, jnp.complexfloating):
      kind = jnp.dtype(jnp.complex64)
    return jnp.array(x, dtype=kind, copy=True)

  return jax.tree.map(one, tree)


def keep_zeros(tree, dtype=None, real: bool = True):
  """Zeros for each leaf, in ``dtype`` or at least float32; real unless told, as squares and products are."""

  def zeros(x):
    kind = jnp.dtype(dtype or wide(x.dtype))
    return empty_like(x, jnp.finfo(kind).dtype if real else kind)

  return jax.tree.map(zeros, tree)


def gathered(x):
  """``x`` whole on each device where explicit mesh axes shard it; sorts and products of one leaf need it so."""
  sharding = cut(x)
  return x if sharding is None else jax.reshard(x, NamedSharding(sharding.mesh, PartitionSpec()))


def laid_as(x, like):
  """``x`` over explicit mesh axes as ``like`` is."""
  sharding = cut(like)
  return x if sharding is None else jax.reshard(x, sharding)


def scalar(value):
  """A strongly typed float scalar, so that states keep their dtypes from step to step."""
  return jnp.asarray(value, jnp.result_type(float))


def label(name: str) -> dict:
  """A state's name as a pytree without leaves, made of builtins only: every serializer takes it."""
  return {name: ()}


def name_of(state) -> str:
  return next(iter(state.name))


def add(update, pull):
  """``update + pull`` in the dtype of ``update``; where the pull is zero the update passes bit for bit."""
  return _sum(update, pull.astype(update.dtype))


@jax.custom_jvp
def _sum(update, pull):
  return jnp.where(pull != 0, update + pull, update)  # -0.0 + 0.0 would flip a sign


@_sum.defjvp
def _sum_jvp(primals, tangents):
  """The derivative of a sum, at a pull of zero too, where that of the ``where`` would leave the pull out."""
  return _sum(*primals), tangents[0] + tangents[1]


def times(factor, x):
  """``factor * x`` in the dtype of ``x``."""
  return jnp.asarray(factor).astype(x.dtype) * x


def abs2(x):
  """``|x|^2``, real."""
  return product(x, x)


def difference(param, anchor):
  dtype = wide(param.dtype)
  return param.astype(dtype) - anchor.astype(dtype)


def quadratic_pull(updates, params, anchor, importance, factor):
  """``updates + factor * importance * (params - anchor)``, leaf by leaf."""

  def one(u, p, a, f):
    d = difference(p, a)
    return add(u, times(times(factor, f.astype(wide(f.dtype))), d))

  return each(one, updates, params, anchor, importance)
