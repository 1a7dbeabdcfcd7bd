"""What the optimizers share: checks at the edge, and edits of nested optimizer states."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from cljax import layout
from cljax.dtypes import wide
from cljax.tree import boxed, edit_nodes, path_name, paths, unboxed
from cljax.types import UsageError


def check_scalar(
  owner: str, argument: str, value, low: float = 0.0, high: float = math.inf, above: bool = False, whole: bool = False
):
  """Refuses a concrete scalar outside ``[low, high]`` (``(low, high]`` if ``above``); traced values and bounds pass."""
  if any(isinstance(v, jax.core.Tracer) for v in (value, low, high)):
    return value
  if callable(value) or isinstance(value, str) or jnp.ndim(value) != 0:
    shape = "" if isinstance(value, str) else f" of shape {jnp.shape(value)}"
    raise UsageError(f"{owner}: {argument} must be a scalar; got {type(value).__name__}{shape}")
  if whole and isinstance(value, float):
    raise UsageError(f"{owner}: {argument} must be a whole number; got {value}")
  if not low <= float(value) <= high or (above and float(value) == low):  # NaN fails the first
    allowed = f"{'above' if above else 'at least'} {low:g}" if high == math.inf else f"between {low:g} and {high:g}"
    raise UsageError(f"{owner}: {argument} must be {allowed}; got {float(value):g}")
  return value


def check_choice(owner: str, argument: str, value, allowed):
  if value not in allowed:
    raise UsageError(f"{owner}: {argument} must be one of {', '.join(map(str, allowed))}; got {value!r}")
  return value


def edit_states(opt_state, kind: type, fn, owner: str):
  """``opt_state`` with ``fn`` applied to every state of type ``kind``; UsageError where there is none."""
  out, found = edit_nodes(opt_state, kind, fn)
  if not found:
    raise UsageError(f"opt_state: no {owner} state in it; is {owner} in the chain?")
  return out


MOMENTS = ("mu", "nu", "nu_max", "trace", "sum_of_squares", "velocity")


def edit_moments(opt_state, like, fn):
  """Applies ``fn(leaf path in like, leaf)`` to the moments of an optax state that are shaped like the leaves of
  ``like``.

  A moment is found by its field name (Adam's ``mu`` and ``nu``, SGD's ``trace``, ...), so anchors of regularizers,
  which have the same shapes, are left alone.
  """
  shapes = dict(zip(paths(like), map(jnp.shape, jax.tree.leaves(like)), strict=True))

  def one(path, leaf):
    fields = [i for i, k in enumerate(path) if isinstance(k, jax.tree_util.GetAttrKey) and k.name in MOMENTS]
    if not fields:
      return leaf
    name = path_name(path[fields[-1] + 1 :])
    return fn(name, leaf) if shapes.get(name) == jnp.shape(leaf) else leaf

  return boxed(jax.tree_util.tree_map_with_path(one, unboxed(opt_state)), opt_state)


def edit_leaves(tree, edits: dict):
  """``tree`` with the leaves at the paths in ``edits`` replaced; the rest are the same arrays."""
  names = paths(tree)
  for name in edits:
    if name not in names:
      raise UsageError(f"units: no parameter at {name!r}; the paths are {', '.join(names)}")
  return jax.tree.unflatten(
    jax.tree.structure(tree), [edits.get(n, x) for n, x in zip(names, jax.tree.leaves(tree), strict=True)]
  )


def leaf(tree, path: str):
  """The leaf at ``path``, as :func:`cljax.tree.paths` names it; UsageError where there is none."""
  names = paths(tree)
  if path not in names:
    raise UsageError(f"units: no parameter at {path!r}; the paths are {', '.join(names)}")
  return jax.tree.leaves(tree)[names.index(path)]


def in_out_only(owner: str, params) -> None:
  """Raises UsageError for an Equinox module, whose kernels lie the other way: on a square one no shape would tell."""
  if layout.is_equinox(params):
    raise UsageError(f"{owner}: kernels are read as [..., in, out]; Equinox's are [out, in]: give them transposed")


def random_like(key, params, draw=jax.random.normal):
  """One draw a leaf, from a key folded with the leaf's number, in at least float32."""
  leaves, treedef = jax.tree.flatten(params)
  return jax.tree.unflatten(
    treedef, [draw(jax.random.fold_in(key, i), x.shape, wide(x.dtype)) for i, x in enumerate(leaves)]
  )
