"""Kernels as the projectors read them: which leaves they are, and on which side their inputs stand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp

from cljax.core import layout, tree
from cljax.core.types import UsageError


def kernels(params, skip: Callable[[str], bool] | None) -> dict[str, Any]:
  """``{name: kernel}`` of the leaves with two or more axes that ``skip(name)`` does not exclude."""
  return {p: x for p, x in tree.by_path(params).items() if jnp.ndim(x) >= 2 and not (skip and skip(p))}


def chosen(owner: str, params, skip, order: str | None) -> dict[str, Any]:
  """:func:`kernels` of the parameters given to ``init``; UsageError where there are none, or where none can be read."""
  tree.refuse_complex(owner, params)
  tree.refuse_explicit(owner, params)
  layout.told(owner, params, order)
  found = kernels(params, skip)
  if not found:
    names = ", ".join(tree.paths(params)) or "none"
    raise UsageError(f"{owner}: no kernel to project: no leaf has two axes, or skip excludes them (leaves: {names})")
  return found


def check_names(owner: str, updates, sizes: dict, skip, order: str | None) -> None:
  """The kernels of ``updates`` are those of the state: a leaf missed by its name would pass unprojected.

  ``sizes`` has ``(inputs, outputs)`` of each, None where the state does not know.
  """
  tree.refuse_explicit(owner, updates)
  got = kernels(updates, skip)
  for name in sorted(set(got) ^ set(sizes)):
    lacks = "the updates lack" if name in sizes else "its state lacks"
    raise UsageError(f"{owner}: {lacks} the kernel {name!r}; init must see parameters of the same paths")
  for name, x in got.items():
    found = layout.fan_in(x.shape, order), layout.fan_out(x.shape, order)
    for side, have, want in zip(("inputs", "outputs"), found, sizes[name], strict=True):
      if want is not None and have != want:
        raise UsageError(f"{owner}: {name!r} has shape {x.shape}, {have} {side}; the state is of {want}")


def hold(name: str, g, freeze_vectors: bool, skip, held):
  """A leaf that is no kernel: zero where ``held``, if it has fewer than two axes and vectors are frozen."""
  if freeze_vectors and g.ndim < 2 and not (skip and skip(name)):
    return jnp.where(held, jnp.zeros_like(g), g)
  return g


def read(leaves: dict, name: str, like, order: str | None, argument: str):
  """The kernel called ``name`` of ``leaves`` as a matrix of the shape and dtype of ``like``."""
  if name not in leaves:
    raise UsageError(f"{argument}: {name!r} is nothing; expected the {like.size} numbers of the kernel")
  got = leaves[name]
  if got.size != like.size or jnp.ndim(got) < 2 or layout.matrix(got, order).shape != like.shape:
    raise UsageError(f"{argument}: {name!r} is {jnp.shape(got)}; expected the {like.size} numbers of the kernel")
  return layout.matrix(got, order).astype(like.dtype)


def rows(layer_inputs: dict[str, Any], name: str, width: int):
  """``layer_inputs[name] [n, d_in]``; UsageError where it is missing or of another width."""
  x = layer_inputs.get(name) if isinstance(layer_inputs, Mapping) else None
  if x is None:
    raise UsageError(f"layer_inputs: {name!r} is missing; give it, or exclude the kernel by skip=")
  x = jnp.asarray(x)
  if x.ndim != 2 or x.shape[1] != width:
    raise UsageError(f"layer_inputs: {name!r} has shape {x.shape}; expected [n, {width}]")
  return x


def zeros(x, shape, dtype):
  """Zeros that lie as ``x`` does: ``x`` broadcasts to ``shape``, and axes of size 1 are not cut."""
  return tree.empty_like(jnp.broadcast_to(x, shape), dtype)
