"""Elephant activation: a bump with sparse outputs and sparse gradients."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from cljax.core.checks import check_scalar
from cljax.core.tree import paths
from cljax.core.types import Array, Params, Scalar


def elephant(x: Array, width: Scalar = 0.2, height: Scalar = 1.0, power: Scalar = 4.0) -> Array:
  """``height / (1 + |x / width|^power)``, elementwise; ``height/2`` at ``|x| = width``.

  width > 0 and height may be learned, per unit; power > 1 gives a gradient of 0 at x = 0, and the largest slope is
  about ``height power / (4 width)``. Inputs far beyond the width get no gradient: put a LayerNorm before it. The
  published settings are width 0.2, power 4 (DQN) and 0.08, 8 (streaming regression). Raises UsageError for a power of
  at most 1. Lan and Mahmood 2023.
  """
  check_scalar("elephant", "power", power, 1, above=True)
  size = jnp.abs(x / width)
  # A power's gradient is NaN at 0 and overflows far out; 1 / (1 + s^d) = sigmoid(-d log s) does neither.
  inside = jnp.clip(size, 1e-6, 1e30)
  return jnp.where(size > 1e-6, height * jax.nn.sigmoid(-power * jnp.log(inside)), height)


class ElephantUnits(nn.Module):
  """:func:`elephant` whose width and height each unit of the last axis learns, as factors ``exp(log_width)`` and
  ``exp(log_height)`` of the ones given; both start at 1."""

  width: float | jax.Array = 0.2
  height: float | jax.Array = 1.0
  power: float | jax.Array = 4.0

  @nn.compact
  def __call__(self, x):
    units = lambda a: a.reshape((1,) * (x.ndim - 1) + a.shape)
    size = lambda name: units(jnp.exp(self.param(name, nn.initializers.zeros, x.shape[-1:])))
    return elephant(x, self.width * size("log_width"), self.height * size("log_height"), self.power)


def elephant_shape_penalty(params: Params) -> Array:
  """``sum_u log_width_u^2 + log_height_u^2`` over all :class:`ElephantUnits`: 0 at the widths and heights given."""
  named = zip(paths(params), jax.tree.leaves(params), strict=True)
  return sum(
    (jnp.sum(jnp.square(p)) for n, p in named if n.rpartition("/")[2] in ("log_width", "log_height")), jnp.zeros(())
  )
