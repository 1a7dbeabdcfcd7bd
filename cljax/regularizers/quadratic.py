"""Quadratic anchors as optax transforms: EWC, online EWC, MAS and the L2 family."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import DTypeLike

from cljax.core.checks import check_scalar
from cljax.core.dtypes import wide
from cljax.core.types import Scalar
from cljax.regularizers._state import (
  abs2,
  add,
  check_covers,
  check_params,
  check_updates,
  difference,
  each,
  keep,
  keep_zeros,
  label,
  quadratic_pull,
  scalar,
  times,
)
from cljax.regularizers.decoupled import even, placed, weighted


class EwcState(NamedTuple):
  """All finished tasks in one anchor: ``sum_k F_k (t - a_k)^2 = importance (t - anchor)^2 + constant``, exactly."""

  name: Any
  anchor: Any  # importance-weighted mean of the tasks' parameters
  importance: Any  # sum of the tasks' importances
  constant: Any  # what the sum over tasks has beyond the single quadratic


class OnlineEwcState(NamedTuple):
  """The newest anchor and the decayed sum of importances of :func:`online_ewc`; trees like the parameters."""

  name: Any
  anchor: Any  # parameters after the last task
  importance: Any  # decayed sum of importances
  decay: Any


class MasState(NamedTuple):
  """The anchor and the merged importance of :func:`mas`, with the weights that old and new have at a merge."""

  name: Any
  anchor: Any
  importance: Any
  kept: Any  # weight of the old importance at a merge
  gained: Any  # weight of the new one


class L2PreviousState(NamedTuple):
  """The anchor of :func:`l2_previous`, and whether it pulls yet."""

  name: Any
  anchor: Any
  active: Any  # 0 until the first consolidation, unless anchored at init


class L2InitState(NamedTuple):
  """The parameters that :func:`l2_init` pulls back to: those given to ``init``."""

  name: Any
  anchor: Any


def ewc(
  strength: Scalar, name: str = "ewc", state_dtype: DTypeLike | None = None, decoupled: bool = False,
  learning_rate: optax.ScalarOrSchedule | str | None = None,
) -> optax.GradientTransformationExtraArgs:  # fmt: skip
  """Elastic weight consolidation: adds the gradient of ``strength/2 * sum_k sum_i F_ki (theta_i - theta*_ki)^2``.

  One anchor per finished task in the memory of one: the sum of quadratics is kept as the importance-weighted mean
  anchor and the summed importance, which is exact and does not cancel. ``consolidate(opt_state, params, importance=F)``
  adds a task; before the first, updates pass bit for bit. Stands before the optimizer in a chain.

  SGD diverges where ``learning_rate * strength * F > 2``. With ``decoupled`` the pull is taken after the optimizer, as
  AdamW takes weight decay, and implicitly: with ``theta' = params + updates`` and ``a = learning_rate * strength * F``
  the parameters move to ``(theta' + a theta*) / (1 + a)``, which lies between ``theta'`` and ``theta*`` for any
  strength. Under SGD that is the plain step to first order in the rate. Momentum does not carry the pull, and adaptive
  optimizers do not rescale it, where Adam divides the plain one by ``sqrt(v)``, of which it is a part, so that ``F``
  hardly weighs. It stands behind the optimizer and before projectors of updates: ``chain(sgd(0.1), ewc(1e3,
  decoupled=True, learning_rate=0.1), gpm())``.

  strength: lambda, at least 0, may be traced. name: key for ``importance={name: tree}``. state_dtype: dtype of anchor
  and importance, as a string under ``inject_hyperparams``; default: the parameters', at least float32. learning_rate:
  of ``decoupled`` alone: the optimizer's, a number, a schedule (which counts this transform's steps), or 'given', with
  which each update is told: ``tx.update(updates, state, params, rate=0.1)``. Raises UsageError: no parameters, no
  ``params`` in update, strength below 0, ``decoupled`` without ``learning_rate`` or the other way round. Kirkpatrick et
  al. 2017.
  """
  check_scalar(name, "strength", strength)

  def init(params):
    check_covers(name, params)
    return EwcState(label(name), keep(params, state_dtype), keep_zeros(params, state_dtype), scalar(0.0))

  def update(updates, state, params=None, **extra):
    del extra
    params = check_params(name, params, updates)
    check_updates(name, updates, state.anchor)
    return quadratic_pull(updates, params, state.anchor, state.importance, strength), state

  tx = optax.GradientTransformationExtraArgs(init, update)
  return placed(name, tx, weighted(lambda: strength), decoupled, learning_rate)


def consolidate_ewc(state: EwcState, params, importance) -> EwcState:
  def merge(anchor, total, param, new):
    dtype, real = wide(anchor.dtype), wide(total.dtype)
    a, p, f, n = anchor.astype(dtype), param.astype(dtype), total.astype(real), new.astype(real)
    both = f + n
    share = n / jnp.where(both > 0, both, 1)
    mean = jnp.where(f > 0, a + times(share, p - a), p)
    return mean.astype(anchor.dtype), both.astype(total.dtype), jnp.sum(f * share * abs2(p - a).astype(real))

  merged = [
    merge(*leaves)
    for leaves in zip(*map(jax.tree.leaves, (state.anchor, state.importance, params, importance)), strict=True)
  ]
  back = lambda leaves: jax.tree.unflatten(jax.tree.structure(state.anchor), leaves)
  before = jax.tree.leaves(state.constant)[0]
  constant = sum((m[2].astype(before.dtype) for m in merged), before)
  return state._replace(
    anchor=back([m[0] for m in merged]),
    importance=back([m[1] for m in merged]),
    constant=refill(state.constant, constant),
  )


def refill(like, value):
  """``value`` in the wrapper (NNX) and dtype of the scalar ``like``."""
  leaf = jax.tree.leaves(like)[0]
  return jax.tree.unflatten(jax.tree.structure(like), [jnp.asarray(value, leaf.dtype)])


def online_ewc(
  strength: Scalar, decay: Scalar = 1.0, name: str = "online_ewc", state_dtype: DTypeLike | None = None,
  decay_in_penalty: bool = True, decoupled: bool = False, learning_rate: optax.ScalarOrSchedule | str | None = None,
) -> optax.GradientTransformationExtraArgs:  # fmt: skip
  """Online EWC: ``strength/2 * sum decay * F (theta - theta*)^2`` with ``F <- decay * F + F_task`` at each boundary.

  decay: gamma in [0, 1], may be traced. With ``decay_in_penalty`` gamma also scales the penalty, as in Progress &
  Compress; mammoth and Avalanche apply it in the accumulation only (``False``). Memory does not grow with tasks.
  ``decoupled`` and ``learning_rate`` as of ``ewc``, ``a = learning_rate * strength * decay * F``. Raises as ``ewc``.
  Schwarz et al. 2018.
  """
  check_scalar(name, "strength", strength)
  check_scalar(name, "decay", decay, 0.0, 1.0)

  def init(params):
    check_covers(name, params)
    return OnlineEwcState(label(name), keep(params, state_dtype), keep_zeros(params, state_dtype), scalar(decay))

  def update(updates, state, params=None, **extra):
    del extra
    params = check_params(name, params, updates)
    check_updates(name, updates, state.anchor)
    state = state._replace(decay=scalar(decay))
    factor = strength * decay if decay_in_penalty else strength
    return quadratic_pull(updates, params, state.anchor, state.importance, factor), state

  tx = optax.GradientTransformationExtraArgs(init, update)
  quadratic = weighted(lambda: strength * decay if decay_in_penalty else strength)
  return placed(name, tx, quadratic, decoupled, learning_rate)


def _blend(old, new, kept, gained):
  """``kept * old + gained * new`` in the dtypes of ``old``."""

  def one(o, n):
    dtype = wide(o.dtype)
    return (times(kept, o.astype(dtype)) + times(gained, n.astype(dtype))).astype(o.dtype)

  return jax.tree.map(one, old, new)


def recast(tree, like):
  """A copy of ``tree`` in the dtypes of ``like``."""
  return jax.tree.map(lambda x, l: jnp.array(x, dtype=l.dtype, copy=True), tree, like)


def consolidate_online_ewc(state: OnlineEwcState, params, importance) -> OnlineEwcState:
  decay = jax.tree.leaves(state.decay)[0]
  return state._replace(
    anchor=recast(params, state.anchor), importance=_blend(state.importance, importance, decay, 1.0)
  )


def mas(
  strength: Scalar, average: Scalar | None = None, name: str = "mas", state_dtype: DTypeLike | None = None,
  decoupled: bool = False, learning_rate: optax.ScalarOrSchedule | str | None = None,
) -> optax.GradientTransformationExtraArgs:  # fmt: skip
  """Memory aware synapses: adds the gradient of ``strength * sum Omega (theta - theta*)^2``, which is ``2 * ...``.

  Boundary: ``Omega <- Omega + Omega_task`` (the paper's sum [M]); with ``average=a`` in [0, 1],
  ``Omega <- a * Omega + (1 - a) * Omega_task``, as FACIL does with 0.5. ``Omega_task`` is the mean absolute gradient of
  the squared output norm, given as ``importance``. ``decoupled`` and ``learning_rate`` as of ``ewc``, ``a = 2 *
  learning_rate * strength * Omega``. Raises as ``ewc``. Aljundi et al. 2018.
  """
  check_scalar(name, "strength", strength)
  if average is not None:
    check_scalar(name, "average", average, 0.0, 1.0)

  def merge_weights():
    return (scalar(1.0), scalar(1.0)) if average is None else (scalar(average), scalar(1.0 - average))

  def init(params):
    check_covers(name, params)
    return MasState(label(name), keep(params, state_dtype), keep_zeros(params, state_dtype), *merge_weights())

  def update(updates, state, params=None, **extra):
    del extra
    params = check_params(name, params, updates)
    check_updates(name, updates, state.anchor)
    kept, gained = merge_weights()
    state = state._replace(kept=kept, gained=gained)
    return quadratic_pull(updates, params, state.anchor, state.importance, 2.0 * strength), state

  tx = optax.GradientTransformationExtraArgs(init, update)
  return placed(name, tx, weighted(lambda: 2.0 * strength), decoupled, learning_rate)


def consolidate_mas(state: MasState, params, importance) -> MasState:
  kept, gained = (jax.tree.leaves(v)[0] for v in (state.kept, state.gained))
  return state._replace(
    anchor=recast(params, state.anchor), importance=_blend(state.importance, importance, kept, gained)
  )


def anchored(updates, params, anchor, factor):
  """``updates + factor * (params - anchor)``, leaf by leaf."""
  return each(lambda u, p, a: add(u, times(factor, difference(p, a))), updates, params, anchor)


def l2(
  strength: Scalar, name: str = "l2", decoupled: bool = False, learning_rate: optax.ScalarOrSchedule | str | None = None
) -> optax.GradientTransformationExtraArgs:
  """Plain L2 in the loss: adds the gradient ``2 * strength * theta``; AdamW's decoupled decay is another thing.

  ``decoupled`` and ``learning_rate`` as of ``ewc``: ``theta' / (1 + 2 * learning_rate * strength)``, where AdamW with a
  decay of ``2 * strength`` takes off that share of the parameters before the step. Raises UsageError: no ``params`` in
  update, strength below 0, ``decoupled`` without ``learning_rate`` or the other way round.
  """
  check_scalar(name, "strength", strength)

  def init(params):
    check_covers(name, params)
    return optax.EmptyState()

  def update(updates, state, params=None, **extra):
    del extra
    params = check_params(name, params, updates)
    pull = lambda u, p: add(u, times(2.0 * strength, p.astype(wide(p.dtype))))
    return each(pull, updates, params), state

  tx = optax.GradientTransformationExtraArgs(init, update)
  quadratic = lambda state, params: (jax.tree.map(jnp.zeros_like, params), even(2.0 * strength, params))
  return placed(name, tx, quadratic, decoupled, learning_rate)


def l2_previous(
  strength: Scalar, name: str = "l2_previous", state_dtype: DTypeLike | None = None, anchor_at_init: bool = False,
  decoupled: bool = False, learning_rate: optax.ScalarOrSchedule | str | None = None,
) -> optax.GradientTransformationExtraArgs:  # fmt: skip
  """L2 to the parameters after the previous task: gradient ``2 * strength * (theta - theta*)``; EWC with F = 1.

  ``consolidate(opt_state, params)`` moves the anchor. ``anchor_at_init`` makes it active during the first task, for
  pre-trained parameters (the strongest rehearsal-free ViT baseline of Smith et al. 2023). ``decoupled`` and
  ``learning_rate`` as of ``ewc``, ``a = 2 * learning_rate * strength``. Raises as ``ewc``.
  """
  check_scalar(name, "strength", strength)

  def init(params):
    check_covers(name, params)
    return L2PreviousState(label(name), keep(params, state_dtype), scalar(1.0 if anchor_at_init else 0.0))

  def factor(state):
    return 2.0 * jnp.asarray(strength).astype(state.active.dtype) * state.active

  def update(updates, state, params=None, **extra):
    del extra
    params = check_params(name, params, updates)
    check_updates(name, updates, state.anchor)
    return anchored(updates, params, state.anchor, factor(state)), state

  tx = optax.GradientTransformationExtraArgs(init, update)
  quadratic = lambda state, params: (state.anchor, even(factor(state), params))
  return placed(name, tx, quadratic, decoupled, learning_rate)


def consolidate_l2_previous(state: L2PreviousState, params, importance) -> L2PreviousState:
  del importance
  return state._replace(anchor=recast(params, state.anchor), active=refill(state.active, 1.0))


def l2_init(
  strength: Scalar, name: str = "l2_init", state_dtype: DTypeLike | None = None, decoupled: bool = False,
  learning_rate: optax.ScalarOrSchedule | str | None = None,
) -> optax.GradientTransformationExtraArgs:  # fmt: skip
  """Regenerative regularization: L2 to the parameters given to ``init``; gradient ``2 * strength * (theta - theta_0)``.

  Applies to biases too [M]. ``decoupled`` and ``learning_rate`` as of ``ewc``, ``a = 2 * learning_rate * strength``.
  Raises as ``ewc``. Kumar et al. 2023.
  """
  check_scalar(name, "strength", strength)

  def init(params):
    check_covers(name, params)
    return L2InitState(label(name), keep(params, state_dtype))

  def update(updates, state, params=None, **extra):
    del extra
    params = check_params(name, params, updates)
    check_updates(name, updates, state.anchor)
    return anchored(updates, params, state.anchor, 2.0 * strength), state

  tx = optax.GradientTransformationExtraArgs(init, update)
  return placed(name, tx, lambda state, params: (state.anchor, even(2.0 * strength, params)), decoupled, learning_rate)
