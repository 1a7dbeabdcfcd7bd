"""Bregman divergences of parameter trees: what EWC and variational learning have in common."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from cljax.core.dtypes import wide
from cljax.core.tree import match
from cljax.core.types import Array, Scalar, Tree


def bregman_penalty(psi: Callable[[Tree], Scalar], params: Tree, anchor: Tree, strength: Scalar = 1.0) -> Array:
  """``strength * D_psi(params, anchor)``, ``D_psi(p, q) = psi(p) - psi(q) - <grad psi(q), p - q>``; a scalar.

  psi: a convex function of a tree. Not symmetric: EWC has the running parameters first (its divergence is symmetric),
  the KL of variational learning the *old* natural parameters. Differences of large numbers: in float32 the value has
  an error of about 1e-7 of ``psi``, while its gradient, ``grad psi(p) - grad psi(q)``, is as good as psi's. Raises
  UsageError where the trees differ. Wang et al. 2024 (unified framework).
  """
  match(anchor, params, "anchor")
  value, slope = jax.jvp(psi, (anchor,), (jax.tree.map(jnp.subtract, params, anchor),))
  return strength * (psi(params) - value - slope)


def fisher_potential(importance: Tree) -> Callable[[Tree], Array]:
  """``psi(theta) = 1/2 sum F theta^2``; its divergence is EWC's ``1/2 sum F (p - q)^2``. F: a tree like the
  parameters."""

  def psi(params):
    match(importance, params, "importance")
    square = lambda p, f: jnp.sum(f.astype(wide(f.dtype)) * jnp.square(p.astype(wide(p.dtype))))
    return 0.5 * sum(jax.tree.leaves(jax.tree.map(square, params, importance)))

  return psi


def gaussian_log_partition(natural: tuple[Tree, Tree]) -> Scalar:
  """``A(e1, e2) = sum -e1^2 / (4 e2) - 1/2 log(-2 e2)`` of natural parameters (two trees, ``e2 < 0``).

  ``D_A(eta_p, eta_q) = KL(q || p)``: the order turns round. Wainwright and Jordan 2008; the row of VCL in Wang et al.
  2024 is UNVERIFIED.
  """
  one = lambda a, b: jnp.sum(-jnp.square(a) / (4 * b) - 0.5 * jnp.log(-2 * b))
  return sum(jax.tree.leaves(jax.tree.map(one, *natural)))
