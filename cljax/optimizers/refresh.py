"""Refresh learning: unlearn the batch a little, then relearn; a step to put before any method's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from cljax.core.checks import check_scalar
from cljax.core.types import Array, Params, Scalar, Tree
from cljax.optimizers._common import random_like


def refresh(
  key: Array, loss_fn: Callable[[Params], tuple[Array, Any]], params: Params, fisher: Tree, *, step_size: Scalar,
  steps: int = 1, damping: Scalar = 1e-3, noise: Scalar = 1.0, released: bool = False, inner_rate: Scalar = 0.01,
) -> Params:  # fmt: skip
  """``theta <- theta + step_size F^-1 grad L + N(0, 2 step_size F^-1)``, ``steps`` times: ascent before the normal
  step.

  ``F^-1`` is ``1 / (fisher + damping)``; ``noise`` scales the standard deviation. loss_fn(params) -> (loss, aux) is the
  whole continual-learning loss. The noise's covariance is UNVERIFIED. ``released`` is the published code's step, give
  it the loss of the current batch only: ``v = inner_rate grad L``, rescaled per tensor to ``|theta|``, then
  ``theta += step_size / (1 + damping fisher) (v + noise e)``, with ``step_size=1e-5, damping=1e-3, noise=1e-3``.
  ``step_size=0`` returns ``params`` to the bit. fisher: a tree like params (an accumulated diagonal). Raises UsageError
  for a negative step_size, noise or damping. Wang et al. 2024.
  """
  for argument, value in (("step_size", step_size), ("damping", damping), ("noise", noise)):
    check_scalar("refresh", argument, value)
  check_scalar("refresh", "steps", steps)

  def one(j, theta):
    grads = jax.grad(lambda p: loss_fn(p)[0])(theta)
    drawn = random_like(jax.random.fold_in(key, j), theta)

    def move(p, g, f, e):
      if released:
        v = inner_rate * g
        size = lambda x: jnp.sqrt(jnp.sum(jnp.square(x)))
        delta = step_size / (1 + damping * f) * (size(p) / (size(v) + 1e-20) * v + noise * e)
      else:
        inverse = 1 / (f + damping)
        delta = step_size * inverse * g + noise * jnp.sqrt(2 * step_size * inverse) * e
      return jnp.where(delta != 0, p + delta, p).astype(p.dtype)

    return jax.tree.map(move, theta, grads, fisher, drawn)

  return jax.lax.fori_loop(0, steps, one, params)
