"""What the regularizers share: checks at the edge, matching trees by path, and the arithmetic of a quadratic pull."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

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


def check_params(owner: str, params):
  if params is None:
    raise UsageError(f"{owner}: update needs params; call tx.update(updates, state, params)")
  return params


def check_covers(owner: str, params):
  if not jax.tree.leaves(params):
    raise UsageError(f"{owner}: there is no parameter to regularize; the mask or the parameter tree is empty")
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
    if not is_concrete(leaf):
      continue
    with jax.ensure_compile_time_eval():  # a constant inside a trace can be checked too
      finite, negative = bool(jnp.all(jnp.isfinite(leaf))), bool(jnp.any(leaf < 0))
    if not finite:
      raise UsageError(f"{owner}: importance leaf {path!r} holds NaN or infinite values; all must be finite")
    if negative and not negative_ok:
      raise UsageError(f"{owner}: importance leaf {path!r} holds negative values; all must be at least 0")
  return tree


def wide(dtype):
  """The dtype to compute in: at least float32."""
  return jnp.promote_types(dtype, jnp.float32)


def keep(tree, dtype=None):
  """A copy that shares no buffer, in ``dtype`` or at least float32: bfloat16 cannot hold a sum of small importances."""
  return jax.tree.map(lambda x: jnp.array(x, dtype=dtype or wide(x.dtype), copy=True), tree)


def keep_zeros(tree, dtype=None):
  return jax.tree.map(lambda x: jnp.zeros_like(x, dtype=dtype or wide(x.dtype)), tree)


def scalar(value):
  """A strongly typed float scalar, so that states keep their dtypes from step to step."""
  return jnp.asarray(value, jnp.result_type(float))


def label(name: str) -> dict:
  """A state's name as a pytree without leaves, made of builtins only: every serializer takes it."""
  return {name: ()}


def name_of(state) -> str:
  return next(iter(state.name))


def add(update, pull):
  """``update + pull``; where the pull is zero the update passes bit for bit (``-0.0 + 0.0`` would flip a sign)."""
  pull = pull.astype(update.dtype)
  return jnp.where(pull != 0, update + pull, update)


def difference(param, anchor):
  dtype = wide(param.dtype)
  return param.astype(dtype) - anchor.astype(dtype)


def quadratic_pull(updates, params, anchor, importance, factor):
  """``updates + factor * importance * (params - anchor)``, leaf by leaf."""
  return jax.tree.map(
    lambda u, p, a, f: add(u, factor * f.astype(wide(f.dtype)) * difference(p, a)), updates, params, anchor, importance
  )
