"""Convolution as patches and a matrix product on CPU, as ``lax.conv`` elsewhere.

Inside ``scan``, XLA's CPU backend runs a convolution's gradient in a naive loop (jax-ml/jax#12868); patches avoid it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cljax.core.types import Array


def pads(padding, size, kernel_size, strides):
  """Explicit ``((low, high), (low, high))`` of a 2-d padding; None where it is not SAME, VALID or explicit."""
  if isinstance(padding, str):
    return tuple(jax.lax.padtype_to_pads(size, kernel_size, strides, padding)) if padding in ("SAME", "VALID") else None
  if isinstance(padding, int):
    return ((padding, padding),) * 2
  return tuple((p, p) if isinstance(p, int) else tuple(p) for p in padding)


def patches(x, kernel_size, strides, padding):
  """``[B, H, W, c] -> [B, H', W', kh * kw * c]``, in the element order of ``kernel.reshape(-1, c_out)``."""
  kh, kw = kernel_size
  sh, sw = strides
  (top, bottom), (left, right) = pads(padding, x.shape[1:3], kernel_size, strides)
  x = jnp.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)))
  h, w = (x.shape[1] - kh) // sh + 1, (x.shape[2] - kw) // sw + 1
  cut = lambda i, j: x[:, i : i + sh * (h - 1) + 1 : sh, j : j + sw * (w - 1) + 1 : sw]
  parts = [cut(i, j) for i in range(kh) for j in range(kw)]
  return parts[0] if len(parts) == 1 else jnp.concatenate(parts, -1)


def unfold(x, kernel_size, strides, padding):
  """Patches as ``[B, H' * W', kh * kw * c]``."""
  p = patches(x, kernel_size, strides, padding)
  return p.reshape(p.shape[0], -1, p.shape[-1])


def conv_by_patches(x, kernel, strides, padding):
  """2-d convolution, NHWC and HWIO, as one matrix product."""
  p = patches(x, kernel.shape[:2], strides, padding)
  return p @ kernel.reshape(-1, kernel.shape[-1])


def conv_by_lax(x, kernel, strides, padding):
  """2-d convolution, NHWC and HWIO, by ``lax.conv_general_dilated``."""
  return jax.lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def conv(
  x: Array, kernel: Array, strides: tuple[int, int] = (1, 1), padding: str | Sequence[tuple[int, int]] = "SAME"
) -> Array:
  """2-d convolution ``[B, H, W, c_in] * [kh, kw, c_in, c_out]``; the platform that compiles it chooses the form."""
  return jax.lax.platform_dependent(
    x,
    kernel,
    cpu=lambda x, k: conv_by_patches(x, k, strides, padding),
    default=lambda x, k: conv_by_lax(x, k, strides, padding),
  )


class Convolution(nn.Module):
  """A 2-d convolution with the parameters of ``nn.Conv``: ``kernel [kh, kw, c_in, c_out]``, ``bias [c_out]``."""

  features: int
  kernel_size: tuple[int, int] = (3, 3)
  strides: tuple[int, int] = (1, 1)
  padding: Any = "SAME"
  use_bias: bool = True

  @nn.compact
  def __call__(self, x):
    shape = (*self.kernel_size, x.shape[-1], self.features)
    kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
    y = conv(x, kernel, self.strides, self.padding)
    return y + self.param("bias", nn.initializers.zeros, (self.features,)) if self.use_bias else y
