"""Elephant activation: a bump with sparse outputs and sparse gradients."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from cljax.core.checks import check_scalar


def elephant(x, width=0.2, height=1.0, power=4.0):
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
