"""Which bias belongs to which kernel: a layer's inputs with a 1 behind them multiply both as one matrix."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cljax.core import layout as kernel_layout
from cljax.core import tree
from cljax.core.types import UsageError


class Layer(NamedTuple):
  """A kernel, its bias or None, and the sides of both as one matrix."""

  kernel: str
  bias: str | None
  inputs: int
  outputs: int


def found(owner: str, params, skip: Callable[[str], bool] | None, biases: bool, layout: str | None) -> list[Layer]:
  """The layers of ``params``: leaves of two axes or more that ``skip(name)`` does not exclude, with their biases.

  Raises UsageError: complex or cut parameters, an Equinox module of no told layout, and where there is no kernel.
  """
  tree.refuse_complex(owner, params)
  tree.refuse_explicit(owner, params)
  kernel_layout.told(owner, params, layout)
  leaves, out = tree.by_path(params), []
  for name, x in leaves.items():
    if jnp.ndim(x) < 2 or (skip and skip(name)):
      continue
    bias = bias_of(name, leaves, layout) if biases else None
    out.append(Layer(name, bias, kernel_layout.fan_in(x.shape, layout) + (bias is not None),
                     kernel_layout.fan_out(x.shape, layout)))  # fmt: skip
  if not out:
    names = ", ".join(leaves) or "none"
    raise UsageError(f"{owner}: no kernel: no leaf has two axes, or skip excludes them (leaves: {names})")
  return out


def bias_of(kernel: str, leaves: Mapping[str, Any], layout: str | None = None) -> str | None:
  """The name of the kernel's bias: the leaf called ``bias`` beside it, of one number for each of its outputs; or None.

  ``leaves`` are ``{name: array}`` of all parameters, as :func:`cljax.core.tree.by_path` gives them.
  """
  name = "/".join((*kernel.split("/")[:-1], "bias"))
  there = leaves.get(name)
  outputs = kernel_layout.fan_out(jnp.shape(leaves[kernel]), layout)
  return name if there is not None and jnp.shape(there) == (outputs,) else None


def joined(kernel: str, leaves: Mapping[str, Any], bias: str | None, layout: str | None = None):
  """Kernel and bias as one matrix ``[d_in, c_out]``, or ``[d_in + 1, c_out]`` with the bias as the last row."""
  matrix = kernel_layout.matrix(leaves[kernel], layout)
  return matrix if bias is None else jnp.concatenate([matrix, leaves[bias][None].astype(matrix.dtype)])


def parted(
  matrix, kernel: str, leaves: Mapping[str, Any], bias: str | None, layout: str | None = None
) -> dict[str, Any]:
  """``{name: leaf}`` from :func:`joined`'s matrix, in the shapes and dtypes of ``leaves``."""
  if bias is None:
    return {kernel: kernel_layout.unmatrix(matrix, leaves[kernel], layout)}
  own = kernel_layout.unmatrix(matrix[:-1], leaves[kernel], layout)
  return {kernel: own, bias: matrix[-1].astype(leaves[bias].dtype)}


def with_one(rows, bias: bool):
  """``rows [n, d]`` with a 1 behind each where the layer has a bias."""
  return jnp.concatenate([rows, jnp.ones((*rows.shape[:-1], 1), rows.dtype)], -1) if bias else rows


def product(*factors):
  """The matrix product of all, at full precision: accelerators round float32 products to 10 bits otherwise."""
  out = factors[0]
  for other in factors[1:]:
    out = jnp.matmul(out, other, precision=jax.lax.Precision.HIGHEST)
  return out
