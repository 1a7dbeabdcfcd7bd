"""GEM: one constraint per stored task."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from cljax.core import tree
from cljax.core.checks import check
from cljax.core.types import Scalar
from cljax.projectors import _common as common
from cljax.projectors import _qp


class GEMState(NamedTuple):
  """``projected``: int32, the steps that fired; ``kkt``: relative KKT residual of the last step, 0 where none fired."""

  projected: Any
  kkt: Any


def gem(reference: str = "memory", margin: Scalar = 0.5, ridge: Scalar = 1e-3) -> optax.GradientTransformationExtraArgs:
  """GEM: ``g + G^T v``, ``v = argmin_{v >= margin} v^T (G G^T + ridge I) v / 2 + (G g)^T v``, if some ``<g, g_k> < 0``.

  ``references[reference]`` is a stack ``[K, ...]`` of the gradients ``g_k`` of the loss on each stored task (or one
  gradient); zero rows are tasks not seen yet. When no product is negative, ``g`` is returned to the bit. Then ``<x,
  g_k> >= -ridge v_k`` to rounding, for any margin. With margin and ridge 0, ``x`` is the nearest point of the cone ``G
  x >= 0``: ``<x - g, x> = 0`` and ``|x| <= |g|``, and one constraint gives :func:`agem`.

  ``margin`` bounds the dual variables from below, as in the released code: when anything fires it adds at least
  ``margin * sum_k g_k``, also for tasks that were not violated, so ``|x|`` may exceed ``|g|``. The ridge is absolute:
  where gradients are smaller than ``sqrt(ridge)`` it outweighs the constraints, and 0 is safe here (repeated and
  dependent constraints are solved too). On updates (:func:`on_update`) use margin 0: there ``g`` carries the learning
  rate and ``g_k`` does not. The promise is on the gradient: behind momentum, Adam or weight decay the step has it only
  in that form. Reverse mode does not go through an update (the solver is a loop). Lopez-Paz & Ranzato, NeurIPS 2017.
  """
  check("margin", margin, ">= 0", lambda v: v >= 0)
  check("ridge", ridge, ">= 0", lambda v: v >= 0)

  def init(params):
    tree.refuse_explicit("gem", params)
    return GEMState(jnp.zeros((), jnp.int32), jnp.zeros((), common.sum_dtype(params)))

  def update(grads, state, params=None, *, references=None, **extra):
    del params, extra
    tree.refuse_explicit("gem", grads)
    stack = common.reference_stack(references, reference, grads)
    inner = common.stack_dot(stack, grads)
    fires = jnp.any(inner < 0)

    def project():
      gram = common.stack_gram(stack, stack)
      active = jnp.diagonal(gram) > 0
      program = _qp.bounded(gram, inner, active, margin, ridge)
      toward = common.stack_combine(program.x, stack)
      moved = jax.tree.map(lambda g, t: g + t.astype(g.dtype), grads, toward)
      violated = jnp.any(active & (inner < 0))  # a row whose squared norm underflows is no constraint
      kkt = jnp.where(violated, program.kkt, 0).astype(state.kkt.dtype)
      return common.select(violated, moved, grads), GEMState(state.projected + violated.astype(jnp.int32), kkt)

    def leave():
      return grads, GEMState(state.projected, jnp.zeros_like(state.kkt))

    return jax.lax.cond(fires, project, leave)

  return optax.GradientTransformationExtraArgs(init, update)


def er_gem(
  reference: str = "replay", margin: Scalar = 0.5, ridge: Scalar = 1e-3
) -> optax.GradientTransformationExtraArgs:
  """ER + GEM: :func:`gem` on the gradient of ``w L_current + (1 - w) L_replay``, with one reference per past task.

  ``w`` is :func:`current_weight`. The released code leaves BatchNorm parameters out (here: ``optax.masked``) and uses
  the unprojected gradient where its solver fails; this solver does not fail on dependent constraints. Hess et al.,
  2023.
  """
  return gem(reference, margin, ridge)
