"""Parameter-only penalties as pure functions, ``params -> scalar``; the transforms add their gradients."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from cljax.core.dtypes import wide
from cljax.core.tree import match
from cljax.core.types import Array, Params, Scalar, Tree
from cljax.regularizers._state import abs2, difference, times


def _weighted_square(params, anchor, importance=None):
  match(anchor, params, "anchor")
  square = jax.tree.map(lambda p, a: abs2(difference(p, a)), params, anchor)
  if importance is not None:
    match(importance, params, "importance")
    square = jax.tree.map(lambda s, f: times(f, s), square, importance)
  return sum(jnp.sum(s) for s in jax.tree.leaves(square))


def ewc_penalty(params: Params, anchor: Params, importance: Tree, strength: Scalar = 1.0) -> Array:
  """``strength/2 * sum F (theta - anchor)^2``: Kirkpatrick et al. 2017, with the paper's 1/2 (mammoth has none)."""
  return 0.5 * strength * _weighted_square(params, anchor, importance)


def importance_penalty(params: Params, anchor: Params, importance: Tree, strength: Scalar = 1.0) -> Array:
  """``strength * sum Omega (theta - anchor)^2``: the penalty of SI (Zenke 2017) and MAS (Aljundi 2018), without 1/2."""
  return strength * _weighted_square(params, anchor, importance)


def l2_penalty(params: Params, anchor: Params | None = None, strength: Scalar = 1.0) -> Scalar:
  """``strength * ||theta - anchor||^2`` over all leaves, biases too; ``anchor=None`` is zero (plain L2)."""
  if anchor is None:
    return strength * sum(jnp.sum(abs2(p.astype(wide(p.dtype)))) for p in jax.tree.leaves(params))
  return strength * _weighted_square(params, anchor)


def hierarchical_penalty(
  params: Params, anchor: Params, importance: Tree, layer_weight: Tree, strength: Scalar = 1.0
) -> Array:
  """``strength * sum_l s_l sum_{i in l} Omega_i (theta_i - anchor_i)^2`` with one scalar ``s_l`` per leaf."""
  weighted = jax.tree.map(times, layer_weight, importance)
  return strength * _weighted_square(params, anchor, weighted)
