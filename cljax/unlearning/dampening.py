"""Selective synaptic dampening, as a pure edit of parameters."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from cljax import tree


def dampen(params, forget_importance, full_importance, *, alpha, dampening):
  """``theta_i <- min(dampening * I_D / I_f, 1) theta_i`` where ``I_f > alpha I_D``; all else is untouched, to the bit.

  params, forget_importance (I_f, over the rows to forget) and full_importance (I_D, over all rows) share one structure.
  ``alpha`` selects (paper: 10), ``dampening`` is the paper's lambda (1). Foster et al., AAAI 2024 (SSD); spec B1.
  """
  tree.match(forget_importance, params, "forget_importance")
  tree.match(full_importance, params, "full_importance")

  def edit(p, f, d):
    chosen = f > alpha * d
    factor = jnp.minimum(dampening * d / jnp.where(f > 0, f, 1.0), 1.0)
    return jnp.where(chosen, (p * factor).astype(p.dtype), p)

  return jax.tree.map(edit, params, forget_importance, full_importance)
