"""CLASSP: steps shrink on much-used weights, and small gradients make none."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from cljax.optimizers._common import check_scalar


class ClasspState(NamedTuple):
  accumulated: Any  # s, carried over tasks


def scale_by_classp(
  threshold=0.5, power=1.0, eps=1e-5, apply_scaling: bool = True, released: bool = False
) -> optax.GradientTransformation:
  """Per weight, where ``g^2 > threshold``: ``s += |g|^power``, update ``g / (s + eps)^(1/power)``; elsewhere neither.

  ``apply_scaling=False`` accumulates but passes the gated gradient. threshold is on g^2. The rule is the paper's as far
  as known (UNVERIFIED); ``released`` is the published code's behaviour: the gate is one boolean a tensor (any gradient
  is not zero, against the threshold) and ``s += |g|`` for every power. Raises UsageError for threshold or eps below 0
  or power not above 0. Ludwig 2024.
  """
  check_scalar("classp", "threshold", threshold)
  check_scalar("classp", "power", power, above=True)
  check_scalar("classp", "eps", eps)

  def init(params):
    return ClasspState(jax.tree.map(jnp.zeros_like, params))

  def update(updates, state, params=None):
    del params

    def gate(g):
      if released:
        return jnp.broadcast_to(jnp.any(g != 0).astype(g.dtype) > threshold, g.shape)
      return jnp.square(g) > threshold

    used = lambda g: jnp.abs(g) if released else jnp.abs(g) ** power
    total = jax.tree.map(lambda g, s: s + jnp.where(gate(g), used(g), 0).astype(s.dtype), updates, state.accumulated)
    scaled = lambda g, s: g / (s + eps) ** (1.0 / power) if apply_scaling else g
    new = jax.tree.map(lambda g, s: jnp.where(gate(g), scaled(g, s), 0).astype(g.dtype), updates, total)
    return new, ClasspState(total)

  return optax.GradientTransformation(init, update)


def classp(
  learning_rate=0.2, threshold=0.5, power=1.0, eps=1e-5, apply_scaling: bool = True, released: bool = False
) -> optax.GradientTransformation:
  """``scale_by_classp`` and the step ``-learning_rate``; defaults are the published script's."""
  return optax.chain(
    scale_by_classp(threshold, power, eps, apply_scaling, released), optax.scale_by_learning_rate(learning_rate)
  )
