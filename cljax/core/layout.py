"""On which axes of a kernel its inputs and outputs lie: told by the caller, never guessed.

'in_out' is ``[..., c_in, c_out]``, as Flax has it; 'out_in' is ``[c_out, c_in, ...]``, as Equinox and PyTorch have it.
"""

from __future__ import annotations

import sys

import jax
import jax.numpy as jnp
import numpy as np

from cljax.core.types import UsageError

LAYOUTS = ("in_out", "out_in")


def check(owner: str, layout: str | None) -> None:
  """Raises UsageError for another layout. None stands for 'in_out' wherever :func:`told` does not refuse it."""
  if layout not in (None, *LAYOUTS):
    raise UsageError(f"{owner}: layout is {layout!r}; allowed: 'in_out', 'out_in', or None outside of Equinox")


def is_equinox(params) -> bool:
  """Whether an Equinox module is somewhere in the tree."""
  module = getattr(sys.modules.get("equinox"), "Module", None)
  is_module = lambda x: module is not None and isinstance(x, module)
  return any(map(is_module, jax.tree.leaves(params, is_leaf=is_module)))


def told(owner: str, params, layout: str | None) -> None:
  """Raises UsageError for parameters in an Equinox module of which no layout is said."""
  if layout is None and is_equinox(params):
    raise UsageError(f"{owner}: the kernels of Equinox's layers are [out, in]; say layout='out_in' (or 'in_out')")


def fan_in(shape, layout: str | None = None) -> int:
  """``d_in``: how many inputs one output of the kernel has."""
  return int(np.prod(shape[1:] if layout == "out_in" else shape[:-1]))


def fan_out(shape, layout: str | None = None) -> int:
  """``c_out``: how many outputs the kernel has."""
  return shape[0] if layout == "out_in" else shape[-1]


def in_out(x, layout: str | None = None):
  """A kernel as ``[..., c_in, c_out]``."""
  return jnp.moveaxis(x, (1, 0), (-2, -1)) if layout == "out_in" else x


def back(x, layout: str | None = None):
  """The inverse of :func:`in_out`."""
  return jnp.moveaxis(x, (-2, -1), (1, 0)) if layout == "out_in" else x


def matrix(x, layout: str | None = None):
  """A kernel as ``[d_in, c_out]``, inputs in the kernel's own order."""
  x = jnp.moveaxis(x, 0, -1) if layout == "out_in" else x
  return x if x.ndim == 2 else x.reshape(-1, x.shape[-1])


def unmatrix(m, like, layout: str | None = None):
  """``m [d_in, c_out]`` in the shape and dtype of the kernel ``like``."""
  if layout == "out_in":
    m = jnp.moveaxis(m.reshape(*like.shape[1:], like.shape[0]), -1, 0)
  return m.reshape(like.shape).astype(like.dtype)


def mark(layout: str | None) -> dict:
  """A layout as a pytree without leaves, so that a state remembers it and every serializer takes it."""
  return {layout or "in_out": ()}


def marked(label: dict) -> str:
  return next(iter(label))


def in_out_only(owner: str, params) -> None:
  """Raises UsageError for an Equinox module, whose kernels lie the other way: on a square one no shape would tell."""
  if is_equinox(params):
    raise UsageError(f"{owner}: kernels are read as [..., in, out]; Equinox's are [out, in]: give them transposed")
