"""Which bias belongs to which kernel: a layer's inputs with a 1 behind them multiply both as one matrix."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from cljax.core import layout as kernel_layout


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


def parted(matrix, kernel: str, leaves: Mapping[str, Any], bias: str | None, layout: str | None = None) -> dict[str, Any]:
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
