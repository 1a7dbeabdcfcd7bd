"""Forms of a 2-d convolution that were tried on CPU beside those of :mod:`cljax.models.convolution`.

Each is ``form(x [B, H, W, c_in], kernel [kh, kw, c_in, c_out], strides, padding)``.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from cljax.models.convolution import conv_by_lax, conv_by_maps, conv_by_patches, pads

ROWS = 4  # images of a block: their patches stay in a core's cache


def _padded(x, kernel, strides, padding):
  """The padded input, and the height and width of the output."""
  edges = pads(padding, x.shape[1:3], kernel.shape[:2], strides)
  x = jnp.pad(x, ((0, 0), *edges, (0, 0)))
  return x, *((n - q) // s + 1 for n, q, s in zip(x.shape[1:3], kernel.shape[:2], strides, strict=True))


def shifted_products(x, kernel, strides, padding):
  """A product for each tap of the kernel, summed."""
  x, h, w = _padded(x, kernel, strides, padding)
  (kh, kw), (sh, sw) = kernel.shape[:2], strides
  cut = lambda i, j: x[:, i : i + sh * (h - 1) + 1 : sh, j : j + sw * (w - 1) + 1 : sw]
  return sum(cut(i, j) @ kernel[i, j] for i in range(kh) for j in range(kw))


def row_products(x, kernel, strides, padding):
  """Patches along the width, and a product for each row of the kernel, summed: a third of the memory of patches."""
  x, h, w = _padded(x, kernel, strides, padding)
  (kh, kw), (sh, sw) = kernel.shape[:2], strides
  wide = jnp.concatenate([x[:, :, j : j + sw * (w - 1) + 1 : sw] for j in range(kw)], -1)
  flat = kernel.reshape(kh, -1, kernel.shape[-1])
  return sum(wide[:, i : i + sh * (h - 1) + 1 : sh] @ flat[i] for i in range(kh))


def blocked_patches(x, kernel, strides, padding):
  """Patches of :data:`ROWS` images at a time."""
  blocks = x.reshape(-1, ROWS, *x.shape[1:])
  out = jax.lax.map(lambda x: conv_by_patches(x, kernel, strides, padding), blocks)
  return out.reshape(-1, *out.shape[2:])


_G = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]], np.float32)


def _winograd(x, kernel, padding):
  x, h, w = _padded(x, kernel, (1, 1), padding)
  x = jnp.pad(x, ((0, 0), (0, h % 2), (0, w % 2), (0, 0)))
  th, tw = (h + 1) // 2, (w + 1) // 2
  inside = lambda a, b, c, d: (a - c, b + c, c - b, b - d)  # B^T
  outside = lambda a, b, c, d: (a + b + c, b - c - d)  # A^T
  rows = inside(*(x[:, i : i + 2 * th - 1 : 2] for i in range(4)))
  tiles = [inside(*(row[:, :, j : j + 2 * tw - 1 : 2] for j in range(4))) for row in rows]
  u = jnp.einsum("ai,bj,ijcd->abcd", _G, _G, kernel)
  across = [outside(*(tiles[a][b] @ u[a, b] for b in range(4))) for a in range(4)]
  down = [outside(*(across[a][j] for a in range(4))) for j in range(2)]
  y = jnp.stack([jnp.stack([down[0][i], down[1][i]], 3) for i in range(2)], 2)
  return y.reshape(len(x), 2 * th, 2 * tw, -1)[:, :h, :w]


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _winograd_with_vjp(x, kernel, padding):
  return _winograd(x, kernel, padding)


def _forward(x, kernel, padding):
  return _winograd(x, kernel, padding), (x, kernel)


def _backward(padding, kept, g):
  x, kernel = kept
  edges = pads(padding, x.shape[1:3], (3, 3), (1, 1))
  dx = _winograd(g, kernel[::-1, ::-1].swapaxes(2, 3), tuple((2 - lo, 2 - hi) for lo, hi in edges))
  return dx, jax.vjp(lambda k: _winograd(x, k, padding), kernel)[1](g)[0]


_winograd_with_vjp.defvjp(_forward, _backward)


def winograd(x, kernel, strides, padding):
  """Winograd's F(2x2, 3x3) (Lavin & Gray 2016), 16 products for four outputs of nine; patches for other kernels.

  Its gradients are of the same form.
  """
  if kernel.shape[:2] != (3, 3) or tuple(strides) != (1, 1):
    return conv_by_patches(x, kernel, strides, padding)
  return _winograd_with_vjp(x, kernel, pads(padding, x.shape[1:3], (3, 3), (1, 1)))


FORMS = {
  "patches": conv_by_patches,
  "maps": conv_by_maps,
  "lax": conv_by_lax,
  "shifted products": shifted_products,
  "row products": row_products,
  "blocked patches": blocked_patches,
  "winograd": winograd,
}
