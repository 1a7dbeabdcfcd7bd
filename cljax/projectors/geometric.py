"""Geometric-disentanglement unlearning: updates off the span of retain gradients, in the optimizer's metric."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from cljax.core import tree
from cljax.core.checks import check, check_count
from cljax.core.types import Scalar, UsageError
from cljax.projectors import _common as common
from cljax.projectors import _qp


class GeometricState(NamedTuple):
  """``past``: leaves ``[history, ...]`` of retain gradients, newest first; ``projected``; ``kkt`` of the last step."""

  past: Any
  projected: Any
  kkt: Any


def second_moment(optimizer_state, like):
  """The ``nu`` of the one Adam-like state in ``optimizer_state``, or None where there is none."""
  has = lambda s: isinstance(s, tuple) and "nu" in getattr(s, "_fields", ())
  found = [s for s in jax.tree.leaves(optimizer_state, is_leaf=has) if has(s)]
  if len(found) > 1:
    raise UsageError(f"optimizer_state: holds {len(found)} states with a second moment; allowed: at most one")
  return tree.fit(found[0].nu, like, "optimizer_state", common.has_holes(like)) if found else None


def geometric_disentanglement(
  reference: str = "retain", constraint: str = "descent", history: int = 0, epsilon: Scalar = 1e-8
) -> optax.GradientTransformationExtraArgs:
  """The update ``d' = argmin |d' - d|_D^2`` over ``<a_i, d'> <= 0`` ('descent') or ``= 0`` ('orthogonal').

  ``d' = d - D^-1 sum_i l_i a_i``. Acts on the final update (chain it last, or ``finalize``). ``a_i`` are the retain
  gradients ``references[reference]`` (one, or a stack ``[K, ...]``) and the ``history`` latest before them. ``D =
  sqrt(nu) + epsilon`` of the Adam state in ``optimizer_state=``, and 1 where that is absent: the metric in which the
  optimizer's step is steepest. 'orthogonal' leaves the retain loss unchanged to first order; 'descent' changes nothing
  that already lowers it. An update that meets its constraints, and one without (zero gradients), is returned to the
  bit.

  arXiv 2511.17100. 'descent' with history 8 is the second release, 'orthogonal' the theory of the first, whose code
  works per parameter, keeps a basis of 8 half-precision vectors that never change again, and adds back a tangent part;
  here the products run over all leaves and the gradients are the latest. Reverse mode does not go through an update
  under 'descent' (the solver is a loop). Complex leaves count as pairs of reals; parameters cut over an explicit mesh
  axis are refused. Its back-tracking on the retain loss needs
  loss evaluations, which a transform does not have: :func:`cljax.unlearning.geometric_disentanglement` does it.
  """
  if constraint not in ("descent", "orthogonal"):
    raise UsageError(f"constraint: got {constraint!r}; allowed: 'descent', 'orthogonal'")
  check_count("history", history, 0)
  check("epsilon", epsilon, "> 0", lambda v: v > 0)

  def init(params):
    tree.refuse_explicit("geometric_disentanglement", params)
    past = tree.zero_stack(params, history) if history else None
    return GeometricState(past, jnp.zeros((), jnp.int32), jnp.zeros((), common.sum_dtype(params)))

  def update(updates, state, params=None, *, references=None, optimizer_state=None, **extra):
    del params, extra
    tree.refuse_explicit("geometric_disentanglement", updates)
    if history:
      updates = tree.fit(updates, common.row_of(state.past), "geometric_disentanglement: updates")
    rows = common.reference_stack(references, reference, updates)
    if history:
      rows = jax.tree.map(lambda r, p: jnp.concatenate([r.astype(p.dtype), p]), rows, state.past)
      past = jax.tree.map(lambda r: r[:history], rows)
    else:
      past = None
    nu = second_moment(optimizer_state, updates)
    if nu is None:
      steepest = rows
    else:
      # An ideal second moment of complex numbers is real; optax keeps it so.
      metric = lambda r, v: (jnp.sqrt(jnp.real(v).astype(common.real(common.wide(r)))) + epsilon)[None]
      steepest = jax.tree.map(lambda r, v: r.astype(common.wide(r)) / metric(r, v).astype(common.wide(r)), rows, nu)
    gram, inner = common.stack_gram(rows, steepest), common.stack_dot(rows, updates)
    active = jnp.diagonal(gram) > 0
    if constraint == "descent":
      program = _qp.bounded(gram, -inner, active)
      violated = jnp.any(active & (inner > 0))
    else:
      program = _qp.equality(gram, -inner, active)
      violated = jnp.any(active & (inner != 0))
    back = common.stack_combine(program.x, steepest)
    moved = jax.tree.map(lambda d, b: d - b.astype(d.dtype), updates, back)
    kkt = jnp.where(violated, program.kkt, 0).astype(state.kkt.dtype)
    return common.select(violated, moved, updates), GeometricState(
      past, state.projected + violated.astype(jnp.int32), kkt
    )

  return optax.GradientTransformationExtraArgs(init, update)
