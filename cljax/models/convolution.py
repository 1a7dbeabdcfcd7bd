"""2-d convolutions in the form that was measured to be fastest where they run.

Measured by ``python -m launch.benchmark --suite=convolutions`` (``experiments/results/benchmarks/convolutions.md``):

- CPU: ``lax.conv`` whose gradients are convolutions in the one layout that XLA's CPU backend has fast kernels for.
  JAX's own gradients have another, which XLA turns around in a program's entry only: in the body of a ``scan`` they run
  in a naive loop (jax-ml/jax#12868), tens of times as long.
- CPU, kernels of 1x1, and where each member of a batch has a kernel of its own (``vmap`` over parameters, or over the
  gradients of rows): patches and a matrix product; a grouped convolution runs in the naive loop, too.
- CUDA: patches; half the time of ``lax.conv`` for one seed, a third for 16 under ``vmap`` (ResNet-18, an H200).
- Elsewhere ``lax.conv``.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from cljax.core.types import Array

LAYOUT = ("NHWC", "HWIO", "NHWC")


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
  return jax.lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=LAYOUT)


# <conv(x, k), g> is linear in the input x, the kernel k and the cotangent g. Leaving one of them open gives the
# output, the kernel's gradient and the input's: three bilinear maps. The transposes of each are the other two, so that
# derivatives of every order and mode stay in these forms.
def _shapes(x, k, strides, padding):
  """For each axis: sizes of input, kernel and dilated output, stride, and padding in front."""
  outs = ((n + lo + hi - q) // s + 1 for n, q, s, (lo, hi) in zip(x, k, strides, padding, strict=True))
  return [(n, q, (o - 1) * s + 1, s, lo) for n, q, o, s, (lo, _) in zip(x, k, outs, strides, padding, strict=True)]


def _output(x, k, *, size, kernel_size, strides, padding):
  del size, kernel_size
  return conv_by_lax(x, k, strides, padding)


def _input_gradient(g, k, *, size, kernel_size, strides, padding):
  """``[B, H', W', c_out], [kh, kw, c_in, c_out] -> [B, H, W, c_in]``."""
  pad = [(q - 1 - lo, n + lo - o) for n, q, o, _, lo in _shapes(size, kernel_size, strides, padding)]
  turned = k[::-1, ::-1].swapaxes(2, 3)
  return jax.lax.conv_general_dilated(g, turned, (1, 1), pad, lhs_dilation=strides, dimension_numbers=LAYOUT)


def _kernel_gradient(x, g, *, size, kernel_size, strides, padding):
  """``[B, H, W, c_in], [B, H', W', c_out] -> [kh, kw, c_in, c_out]``."""
  pad = [(lo, q - 1 + o - n - lo) for n, q, o, _, lo in _shapes(size, kernel_size, strides, padding)]
  x, g = x.transpose(3, 1, 2, 0), g.transpose(1, 2, 0, 3)
  found = jax.lax.conv_general_dilated(x, g, (1, 1), pad, rhs_dilation=strides, dimension_numbers=LAYOUT)
  return found.transpose(1, 2, 0, 3)


def _bilinear(name: str, form):
  """A primitive of two arrays that runs as ``form``."""
  primitive = Primitive(name)
  primitive.def_impl(jax.jit(form, static_argnames=("size", "kernel_size", "strides", "padding")))

  def abstract(a, b, **options):
    out = jax.eval_shape(functools.partial(form, **options), *(jax.ShapeDtypeStruct(v.shape, v.dtype) for v in (a, b)))
    return jax.core.ShapedArray(out.shape, out.dtype)

  primitive.def_abstract_eval(abstract)
  mlir.register_lowering(primitive, mlir.lower_fun(form, multiple_results=False))
  return primitive


output_p = _bilinear("conv_output", _output)
input_gradient_p = _bilinear("conv_input_gradient", _input_gradient)
kernel_gradient_p = _bilinear("conv_kernel_gradient", _kernel_gradient)
ad.defbilinear(
  output_p,
  lambda ct, x, k, **o: input_gradient_p.bind(ct, k, **o),
  lambda ct, x, k, **o: kernel_gradient_p.bind(x, ct, **o),
)
ad.defbilinear(
  input_gradient_p,
  lambda ct, g, k, **o: output_p.bind(ct, k, **o),
  lambda ct, g, k, **o: kernel_gradient_p.bind(ct, g, **o),
)
ad.defbilinear(
  kernel_gradient_p,
  lambda ct, x, g, **o: input_gradient_p.bind(g, ct, **o),
  lambda ct, x, g, **o: output_p.bind(x, ct, **o),
)


def _by_products(primitive, a, b, *, size, kernel_size, strides, padding):
  """What a primitive computes, as products of patches."""
  product = functools.partial(conv_by_patches, strides=strides, padding=padding)
  if primitive is output_p:
    return product(a, b)
  if primitive is kernel_gradient_p:
    p = patches(a, kernel_size, strides, padding)
    return jnp.tensordot(p, b, ((0, 1, 2), (0, 1, 2))).reshape(*kernel_size, a.shape[-1], b.shape[-1])
  x = jax.ShapeDtypeStruct((a.shape[0], *size, b.shape[2]), a.dtype)
  return jax.linear_transpose(lambda x: product(x, b), x)(a)[0]


def _batched(primitive, args, dims, **options):
  """A kernel that all share takes the batch along; all else is a batch of products."""
  (a, b), (of_a, of_b) = args, dims
  if primitive is not kernel_gradient_p and of_b is None:
    a = jnp.moveaxis(a, of_a, 0)
    out = primitive.bind(a.reshape(-1, *a.shape[2:]), b, **options)
    return out.reshape(*a.shape[:2], *out.shape[1:]), 0
  return jax.vmap(lambda a, b: _by_products(primitive, a, b, **options), dims)(a, b), 0


for _primitive in (output_p, input_gradient_p, kernel_gradient_p):
  batching.primitive_batchers[_primitive] = functools.partial(_batched, _primitive)


def conv_by_maps(x, kernel, strides, padding):
  """2-d convolution, NHWC and HWIO, whose gradients keep the layout of ``lax.conv`` that is fast on CPU."""
  size, kernel_size = x.shape[1:3], kernel.shape[:2]
  padding = pads(padding, size, kernel_size, strides)
  return output_p.bind(x, kernel, size=size, kernel_size=kernel_size, strides=tuple(strides), padding=padding)


def conv_on_cpu(x, kernel, strides, padding):
  """The form for CPU: by the maps above, or by patches where those are a view."""
  form = conv_by_patches if kernel.shape[:2] == (1, 1) else conv_by_maps
  return form(x, kernel, strides, padding)


def conv(
  x: Array, kernel: Array, strides: tuple[int, int] = (1, 1), padding: str | Sequence[tuple[int, int]] = "SAME"
) -> Array:
  """2-d convolution ``[B, H, W, c_in] * [kh, kw, c_in, c_out]``; the platform that compiles it chooses the form."""
  by = lambda form: lambda x, k: form(x, k, strides, padding)
  return jax.lax.platform_dependent(x, kernel, cpu=by(conv_on_cpu), cuda=by(conv_by_patches), default=by(conv_by_lax))


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
    bias = self.param("bias", nn.initializers.zeros, (self.features,)) if self.use_bias else None
    x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias)
    y = conv(x, kernel, self.strides, self.padding)
    return y if bias is None else y + bias.reshape(*(1,) * (y.ndim - 1), -1)
