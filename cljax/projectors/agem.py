"""A-GEM: one averaged constraint."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from cljax.core.checks import check
from cljax.projectors import _common as common


class AGEMState(NamedTuple):
  """``projected``: int32, the steps on which the projection fired."""

  projected: Any


def agem(reference: str = "memory", epsilon=0.0) -> optax.GradientTransformationExtraArgs:
  """A-GEM: ``g - <g, r> / (<r, r> + epsilon) r`` where ``<g, r> < 0``, else ``g`` to the bit.

  ``r = references[reference]`` is the gradient of the mean loss on a memory batch, shaped as the parameters. A zero
  ``r`` (the memory is empty) leaves the gradient alone; so does one whose squared norm underflows. Products of complex
  leaves are ``Re(conj(a) b)``. The result has ``<g', r> >= 0`` to rounding and ``|g'| <= |g|``. That holds for the
  gradient; behind momentum, Adam or weight decay the step has it only where this is wrapped in :func:`on_update` and
  chained last. ``epsilon`` is 0 in the released code of A-GEM, 1e-7 in that of ER + A-GEM.

  Raises UsageError when the reference is missing or shaped otherwise. Chaudhry et al., ICLR 2019.
  """
  check("epsilon", epsilon, ">= 0", lambda v: v >= 0)

  def init(params):
    del params
    return AGEMState(jnp.zeros((), jnp.int32))

  def update(grads, state, params=None, *, references=None, fired=None, **extra):
    del params, extra
    if fired is not None:  # it was projected as it was made
      return grads, AGEMState(state.projected + fired.astype(jnp.int32))
    r = common.reference(references, reference, grads)
    inner, square = common.dot(grads, r), common.dot(r, r)
    fires = (inner < 0) & (square > 0)
    coefficient = inner / jnp.where(fires, square + epsilon, 1)
    moved = jax.tree.map(lambda g, x: g - common.times(coefficient, x).astype(g.dtype), grads, r)
    return common.select(fires, moved, grads), AGEMState(state.projected + fires.astype(jnp.int32))

  return optax.GradientTransformationExtraArgs(init, update)


def er_agem(reference: str = "replay") -> optax.GradientTransformationExtraArgs:
  """ER + A-GEM: :func:`agem` on the gradient of ``w L_current + (1 - w) L_replay``, with 1e-7 in the denominator.

  ``references[reference]`` is the gradient of the replay loss on the same replay batch (in the released code with
  BatchNorm in eval mode), and ``w`` is :func:`current_weight`. It fires only where
  ``w <g_cur, r> < -(1 - w) |r|^2``, so ever more rarely as ``w`` falls. Hess et al., 2023.
  """
  return agem(reference, epsilon=1e-7)


def current_weight(task):
  """The weight ``1 / (task + 1)`` of the current loss beside replay: equal for every seen task, counted from 0."""
  return 1.0 / (jnp.asarray(task) + 1)
