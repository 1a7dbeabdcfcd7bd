"""Edits of states and moments, wherever they are nested in an optimizer state."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from cljax.core.tree import boxed, edit_nodes, path_name, paths, unboxed
from cljax.core.types import UsageError


def edit_states(opt_state, kind: type, edit: Callable, what: str):
  """``opt_state`` with ``edit`` applied to every state of type ``kind``, wherever it is nested; none is an error."""
  out, found = edit_nodes(opt_state, kind, edit)
  if not found:
    raise UsageError(f"{what}: opt_state holds no {kind.__name__}; put its transform in the chain whose state this is")
  return out


MOMENTS = ("mu", "nu", "nu_max", "trace", "sum_of_squares", "velocity")


def without_moments(state):
  """``state`` with the moments of optax's own states zeroed, wherever they are nested: they are sums of gradients, in
  which those of single rows may stand."""
  held = lambda node: type(node).__module__.startswith("optax") and _own_moments(node)
  zeroed = lambda node: node._replace(**{
    name: jax.tree.map(jnp.zeros_like, getattr(node, name)) for name in _own_moments(node)
  }) if held(node) else node  # fmt: skip
  return jax.tree.map(zeroed, state, is_leaf=lambda node: bool(held(node)))


def _own_moments(node) -> list[str]:
  return [name for name in getattr(node, "_fields", ()) if name in (*MOMENTS, "ema")]


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
