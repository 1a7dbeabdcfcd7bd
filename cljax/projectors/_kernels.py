"""Kernels as the projectors read them: which leaves they are, and on which side their inputs stand."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cljax import tree
from cljax.projectors import _common as common
from cljax.types import UsageError

LAYOUTS = ("in_out", "out_in")


def check_layout(owner: str, layout: str | None) -> None:
  if layout not in (None, *LAYOUTS):
    raise UsageError(f"{owner}: layout is {layout!r}; allowed: 'in_out', 'out_in', or None outside of Equinox")


def kernels(params, skip: Callable[[str], bool] | None) -> dict[str, Any]:
  """``{name: kernel}`` of the leaves with two or more axes that ``skip(name)`` does not exclude."""
  return {p: x for p, x in tree.by_path(params).items() if jnp.ndim(x) >= 2 and not (skip and skip(p))}


def chosen(owner: str, params, skip, layout: str | None) -> dict[str, Any]:
  """:func:`kernels` of the parameters given to ``init``; UsageError where there are none, or where none can be read."""
  common.refuse_complex(owner, params)
  module = getattr(sys.modules.get("equinox"), "Module", None)
  is_module = lambda x: module is not None and isinstance(x, module)
  if layout is None and any(map(is_module, jax.tree.leaves(params, is_leaf=is_module))):
    raise UsageError(f"{owner}: the kernels of Equinox's layers are [out, in]; say layout='out_in' (or 'in_out')")
  found = kernels(params, skip)
  if not found:
    names = ", ".join(tree.paths(params)) or "none"
    raise UsageError(f"{owner}: no kernel to project: no leaf has two axes, or skip excludes them (leaves: {names})")
  return found


def check_names(owner: str, updates, state_names, skip) -> None:
  """The kernels of ``updates`` are those of the state: a leaf missed by its name would pass unprojected."""
  got, want = set(kernels(updates, skip)), set(state_names)
  for name in sorted(got ^ want):
    lacks = "the updates lack" if name in want else "its state lacks"
    raise UsageError(f"{owner}: {lacks} the kernel {name!r}; init must see parameters of the same paths")


def fan_in(shape, layout: str | None = None) -> int:
  """``d_in`` of a kernel ``[..., c_in, c_out]``, or ``[c_out, c_in, ...]`` for the layout 'out_in'."""
  return int(np.prod(shape[1:] if layout == "out_in" else shape[:-1]))


def matrix(x, layout: str | None = None):
  """A kernel as ``[d_in, c_out]``."""
  x = jnp.moveaxis(x, 0, -1) if layout == "out_in" else x
  return x if x.ndim == 2 else x.reshape(-1, x.shape[-1])


def unmatrix(m, like, layout: str | None = None):
  """``m [d_in, c_out]`` in the shape and dtype of the kernel ``like``."""
  if layout == "out_in":
    m = jnp.moveaxis(m.reshape(*like.shape[1:], like.shape[0]), -1, 0)
  return m.reshape(like.shape).astype(like.dtype)


def hold(name: str, g, freeze_vectors: bool, skip, held):
  """A leaf that is no kernel: zero where ``held``, if it has fewer than two axes and vectors are frozen."""
  if freeze_vectors and g.ndim < 2 and not (skip and skip(name)):
    return jnp.where(held, jnp.zeros_like(g), g)
  return g


def read(leaves: dict, name: str, like, layout: str | None, argument: str):
  """The kernel called ``name`` of ``leaves`` as a matrix of the shape and dtype of ``like``."""
  if name not in leaves:
    raise UsageError(f"{argument}: {name!r} is nothing; expected the {like.size} numbers of the kernel")
  got = leaves[name]
  if got.size != like.size or jnp.ndim(got) < 2 or matrix(got, layout).shape != like.shape:
    raise UsageError(f"{argument}: {name!r} is {jnp.shape(got)}; expected the {like.size} numbers of the kernel")
  return matrix(got, layout).astype(like.dtype)


def rows(layer_inputs: dict[str, Any], name: str, width: int):
  """``layer_inputs[name] [n, d_in]``; UsageError where it is missing or of another width."""
  x = layer_inputs.get(name)
  if x is None:
    raise UsageError(f"layer_inputs: {name!r} is missing; give it, or exclude the kernel by skip=")
  x = jnp.asarray(x)
  if x.ndim != 2 or x.shape[1] != width:
    raise UsageError(f"layer_inputs: {name!r} has shape {x.shape}; expected [n, {width}]")
  return x


def zeros(x, shape, dtype):
  """Zeros that lie as ``x`` does: ``x`` broadcasts to ``shape``, and axes of size 1 are not cut."""
  return common.empty_like(jnp.broadcast_to(x, shape), dtype)


def mark(layout: str | None) -> dict:
  """A layout as a pytree without leaves, so that a state remembers it and every serializer takes it."""
  return {layout or "in_out": ()}


def marked(label: dict) -> str:
  return next(iter(label))
