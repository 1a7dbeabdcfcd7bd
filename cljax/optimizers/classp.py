"""CLASSP: steps shrink on much-used weights, and small gradients make none."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from cljax.core import tree
from cljax.core.checks import check_scalar
from cljax.core.dtypes import wide
from cljax.core.types import Scalar


class ClasspState(NamedTuple):
  """The sum ``s`` of :func:`scale_by_classp`, a tree like the parameters, in at least float32."""

  accumulated: Any  # s, carried over tasks


def scale_by_classp(
  threshold: Scalar = 0.5, power: Scalar = 1.0, eps: Scalar = 1e-5, apply_scaling: bool = True, released: bool = False
) -> optax.GradientTransformationExtraArgs:
  """Per weight, where ``g^2 > threshold``: ``s += |g|^power``, update ``g / (s + eps)^(1/power)``; elsewhere neither.

  ``apply_scaling=False`` accumulates but passes the gated gradient. threshold is on g^2. The rule is the paper's as far
  as known (UNVERIFIED); ``released`` is the published code's behaviour: the gate is one boolean a tensor (any gradient
  is not zero, against the threshold) and ``s += |g|`` for every power. ``s`` is kept in at least float32. Raises
  UsageError for threshold or eps below 0, power not above 0, or complex parameters. Ludwig 2024.
  """
  check_scalar("classp", "threshold", threshold)
  check_scalar("classp", "power", power, above=True)
  check_scalar("classp", "eps", eps)

  def init(params):
    tree.refuse_complex("classp", params)
    return ClasspState(jax.tree.map(lambda x: tree.empty_like(x, wide(x.dtype)), params))

  def gate(g):
    if released:
      return jnp.broadcast_to(jnp.any(g != 0).astype(g.dtype) > threshold, g.shape)
    return jnp.square(g) > threshold

  def accumulate(g, s):
    g = g.astype(s.dtype)
    return s + jnp.where(gate(g), jnp.abs(g) if released else jnp.abs(g) ** power, 0)

  def scaled(g, s):
    x = g.astype(s.dtype)
    return jnp.where(gate(x), x / (s + eps) ** (1.0 / power) if apply_scaling else x, 0).astype(g.dtype)

  def update(updates, state, params=None, **extra):
    del params, extra
    updates = tree.fit(updates, state.accumulated, "classp: updates")
    total = jax.tree.map(accumulate, updates, state.accumulated)
    return jax.tree.map(scaled, updates, total), ClasspState(total)

  return optax.GradientTransformationExtraArgs(init, update)


def classp(
  learning_rate: optax.ScalarOrSchedule = 0.2, threshold: Scalar = 0.5, power: Scalar = 1.0, eps: Scalar = 1e-5,
  apply_scaling: bool = True, released: bool = False,
) -> optax.GradientTransformationExtraArgs:  # fmt: skip
  """``scale_by_classp`` and the step ``-learning_rate``; defaults are the published script's."""
  rule = scale_by_classp(threshold, power, eps, apply_scaling, released)
  return optax.with_extra_args_support(optax.chain(rule, optax.scale_by_learning_rate(learning_rate)))
