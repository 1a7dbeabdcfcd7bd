"""What the regularizers share: checks at the edge, matching trees by path, and the arithmetic of a quadratic pull."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from cljax.dtypes import wide
from cljax.tree import by_path as named
from cljax.types import UsageError


def is_concrete(x) -> bool:
  return not any(isinstance(v, jax.core.Tracer) for v in jax.tree.leaves(x))


def check_scalar(owner: str, argument: str, value, low: float = 0.0, high: float = math.inf, above: bool = False):
  """Refuses a concrete scalar outside ``[low, high]`` (``(low, high]`` if ``above``); traced values pass."""
  if callable(value):
    raise UsageError(f"{owner}: {argument} is a function; wrap the factory in optax.inject_hyperparams to schedule it")
  if not is_concrete(value):
    return value
  if jnp.ndim(value) != 0:
    raise UsageError(f"{owner}: {argument} has shape {jnp.shape(value)}; a scalar is expected")
  if not low <= float(value) <= high or (above and float(value) == low):  # NaN fails the first
    allowed = f"{'above' if above else 'at least'} {low:g}" if high == math.inf else f"between {low:g} and {high:g}"
    raise UsageError(f"{owner}: {argument} must be {allowed}; got {float(value):g}")
  return value


def each(fn, updates, *trees):
  """``fn(update, *leaves)`` leaf by leaf, None where there is no update: Equinox has it so beside functions."""
  one = lambda u, *rest: None if u is None else fn(u, *rest)
  return jax.tree.map(one, updates, *trees, is_leaf=lambda x: x is None)


def check_params(owner: str, params, like):
  """``params`` at the leaves of ``like``: an Equinox module also holds functions, where updates and states are None."""
  if params is None:
    raise UsageError(f"{owner}: update needs params; call tx.update(updates, state, params)")
  return each(lambda _, p: p, like, params)


def is_placeholder(params) -> bool:
  """Whether this is what ``optax.tree.map_params`` gives to ``init``: one node without leaves, no container."""
  structure: Any = jax.tree.structure(params)
  return (
    structure.num_nodes == 1 and structure.num_leaves == 0 and not isinstance(params, (dict, list, tuple, type(None)))
  )


def check_covers(owner: str, params, complex_ok: bool = True):
  if not jax.tree.leaves(params) and not is_placeholder(params):
    raise UsageError(f"{owner}: there is no parameter to regularize; the mask or the parameter tree is empty")
  for path, leaf in () if complex_ok else by_path(params).items():
    if jnp.iscomplexobj(leaf):
      raise UsageError(f"{owner}: leaf {path!r} is complex; leave it out with optax.masked, or split it into two reals")
  return params


def by_path(tree) -> dict:
  """Leaves by the names that :func:`cljax.tree.paths` gives them: an NNX State matches its pure form."""
  return named(tree)


def align(tree, like, owner: str, argument: str):
  """``tree``'s leaves in the structure of ``like``, found by path.

  ``like`` may be a subset (``optax.masked`` and ``partition`` leave ``MaskedNode`` holes) or wrap its leaves (NNX).
  Raises UsageError with the leaf's path where a leaf is missing or has another shape.
  """
  got, want = by_path(tree), by_path(like)
  leaves = []
  for path, leaf in want.items():
    if path not in got:
      if path == "" and len(got) > 0:
        raise UsageError(f"{owner}: the state holds one flat vector; optax.flatten is not supported, remove it")
      raise UsageError(
        f"{owner}: {argument} lacks the leaf {path!r} that the state covers; expected shape {leaf.shape}"
      )
    if jnp.shape(got[path]) != leaf.shape:
      raise UsageError(f"{owner}: {argument} leaf {path!r} has shape {jnp.shape(got[path])}; expected {leaf.shape}")
    leaves.append(got[path])
  return jax.tree.unflatten(jax.tree.structure(like), leaves)


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
    return jnp.zeros_like(x, dtype=jnp.finfo(kind).dtype if real else kind)

  return jax.tree.map(zeros, tree)


def _explicit(x):
  """The sharding of ``x`` over explicit mesh axes, or None."""
  sharding = getattr(jax.typeof(x), "sharding", None)
  return sharding if sharding is not None and any(axis is not None for axis in sharding.spec) else None


def gathered(x):
  """``x`` whole on each device where explicit mesh axes shard it; sorts and products of one leaf need it so."""
  sharding = _explicit(x)
  return x if sharding is None else jax.reshard(x, NamedSharding(sharding.mesh, PartitionSpec()))


def laid_as(x, like):
  """``x`` over explicit mesh axes as ``like`` is."""
  sharding = _explicit(like)
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
  return jnp.square(x) if not jnp.iscomplexobj(x) else jnp.square(x.real) + jnp.square(x.imag)


def difference(param, anchor):
  dtype = wide(param.dtype)
  return param.astype(dtype) - anchor.astype(dtype)


def quadratic_pull(updates, params, anchor, importance, factor):
  """``updates + factor * importance * (params - anchor)``, leaf by leaf."""

  def one(u, p, a, f):
    d = difference(p, a)
    return add(u, times(times(factor, f.astype(wide(f.dtype))), d))

  return each(one, updates, params, anchor, importance)
