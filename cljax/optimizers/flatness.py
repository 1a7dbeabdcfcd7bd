"""Gradients that look for flat minima: ``(loss_fn, params) -> ((loss, aux), grads)``, ``loss_fn(params) -> (loss,
aux)``.

Each returns a tree like the parameters, to be given to any optax chain; loss and aux are those at the parameters, so
that what a network keeps of its passes (statistics of BatchNorm) comes from the first one alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from cljax.core import tree
from cljax.core.checks import check_scalar
from cljax.core.types import Array, Params, Scalar

TINY = 1e-12


def _climbed(params, direction, radius):
  """``params + radius direction / |direction|``, the norm over all parameters."""
  return tree.axpy(radius / (tree.norm(direction) + TINY), direction, params)


def sam(
  loss_fn: Callable[[Params], tuple[Array, Any]], params: Params, *, radius: Scalar = 0.05
) -> tuple[tuple[Array, Any], Params]:
  """Sharpness-aware minimisation: ``grad L(t + radius g / |g|)``, ``g = grad L(t)``. Two gradients.

  Raises UsageError for a negative radius. Foret et al., 2021.
  """
  check_scalar("sam", "radius", radius, 0)
  seen, g = jax.value_and_grad(loss_fn, has_aux=True)(params)
  return seen, jax.grad(loss_fn, has_aux=True)(_climbed(params, g, radius))[0]


def c_flat(
  loss_fn: Callable[[Params], tuple[Array, Any]], params: Params, *, radius: Scalar = 0.2, strength: Scalar = 0.2
) -> tuple[tuple[Array, Any], Params]:
  """C-Flat: ``g1 + strength (g3 - g2)``. Four gradients, of which :func:`sam`'s are the first two.

  ``g0 = grad L(t)``, ``g1 = grad L(t + radius g0 / |g0|)``, ``g2 = grad L(t')`` at ``t' = t + radius d / |d|``,
  ``d = g1 - g0``, and ``g3 = grad L(t' + radius g2 / |g2|)``: g1 flattens the loss, g3 - g2 the size of its gradient.
  Norms are over all parameters. Raises UsageError for negative numbers. Bian et al., 2024.
  """
  check_scalar("c_flat", "radius", radius, 0)
  check_scalar("c_flat", "strength", strength, 0)
  grad = lambda at: jax.grad(loss_fn, has_aux=True)(at)[0]
  seen, g0 = jax.value_and_grad(loss_fn, has_aux=True)(params)
  g1 = grad(_climbed(params, g0, radius))
  there = _climbed(params, tree.axpy(-1.0, g0, g1), radius)
  g2 = grad(there)
  g3 = grad(_climbed(there, g2, radius))
  return seen, tree.axpy(strength, tree.axpy(-1.0, g2, g3), g1)
