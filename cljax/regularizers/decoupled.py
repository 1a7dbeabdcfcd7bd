"""Quadratic pulls taken implicitly behind the optimizer, so that no strength makes them diverge."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from cljax.core.checks import check_scalar
from cljax.core.dtypes import wide
from cljax.core.tree import alike
from cljax.core.types import UsageError
from cljax.regularizers._state import add, align, check_params, check_updates, each, label, times

GIVEN = "given"  # as a learning rate: each update is told its own


class ScheduledState(NamedTuple):
  """The state of a penalty whose pull follows a schedule of its own."""

  name: Any
  count: Any  # int32, updates so far
  penalty: Any


def share(step):
  """``step / (1 + step)``, in [0, 1] for steps of at least 0, infinite ones too."""
  step = jnp.minimum(step, jnp.finfo(step.dtype).max)
  return step / (1 + step)


def pulled(updates, params, anchor, curvature, rate):
  """``updates - a / (1 + a) (theta' - anchor)`` with ``theta' = params + updates`` and ``a = rate * curvature``.

  ``params`` then move to ``(theta' + a * anchor) / (1 + a)``, the minimum over theta of ``|theta - theta'|^2 / 2 +
  rate * penalty(theta)``. A curvature below 0, of which there is no minimum, pulls as 0 does.
  """

  def one(u, p, a, h):
    dtype = wide(p.dtype)
    away = p.astype(dtype) + u.astype(dtype) - a.astype(dtype)
    h = jnp.maximum(h.astype(wide(h.dtype)), 0)
    return add(u, times(-share(times(rate, h)), away))

  return each(one, updates, params, anchor, curvature)


def check_rate(name: str, decoupled, learning_rate) -> None:
  """Raises UsageError unless a decoupled penalty, and no other, has a learning rate."""
  if not isinstance(decoupled, bool):
    raise UsageError(f"{name}: decoupled must be True or False; got {decoupled!r}")
  if not decoupled:
    if learning_rate is not None:
      raise UsageError(f"{name}: got learning_rate, which is read with decoupled=True alone; leave it out")
    return
  if learning_rate is None:
    raise UsageError(f"{name}: decoupled=True needs learning_rate: the optimizer's number or schedule")
  if isinstance(learning_rate, str) and learning_rate != GIVEN:
    raise UsageError(f"{name}: learning_rate must be a number, a schedule or {GIVEN!r}; got {learning_rate!r}")
  if not callable(learning_rate) and not isinstance(learning_rate, str):
    check_scalar(name, "learning_rate", learning_rate)


def placed(
  name: str, penalty, quadratic: Callable, decoupled: bool, learning_rate, path: bool = False
) -> optax.GradientTransformationExtraArgs:
  """``penalty`` as it is, or where ``decoupled`` with its pull behind the optimizer (:func:`pulled`).

  ``quadratic(state, params) -> (anchor, curvature)``: trees like the updates, ``curvature`` real, with which the
  penalty's gradient is ``curvature * (params - anchor)``. The state is the penalty's own, and changes as it would;
  under a schedule it lies in a :class:`ScheduledState`. ``path``: it is made of gradients, which the update takes as
  ``grad=``. Raises UsageError: ``decoupled`` without ``learning_rate``, or the other way round; in update, no ``rate=``
  where the learning rate is 'given', and no ``grad=`` where it is needed.
  """
  check_rate(name, decoupled, learning_rate)
  if not decoupled:
    return penalty
  scheduled = callable(learning_rate)

  def init(params):
    state = penalty.init(params)
    return ScheduledState(label(name), jnp.zeros((), jnp.int32), state) if scheduled else state

  def rate_now(state, told):
    if scheduled:
      return learning_rate(state.count)
    if not isinstance(learning_rate, str):
      return learning_rate
    if told is None:
      raise UsageError(f"{name}: learning_rate={GIVEN!r} needs each step's; call tx.update(updates, ..., rate=0.1)")
    return told

  def update(updates, state, params=None, *, rate=None, grad=None, **extra):
    del extra
    inner, gradient = state.penalty if scheduled else state, updates
    if path:
      if grad is None:
        raise UsageError(f"{name}: decoupled=True needs the raw gradient too; call tx.update(..., grad=gradient)")
      check_updates(name, updates, inner.anchor)
      gradient = grad if alike(grad, inner.anchor) else align(grad, inner.anchor, name, "grad")
    _, new = penalty.update(gradient, inner, params)
    params = check_params(name, params, updates)
    anchor, curvature = quadratic(new, params)
    moved = pulled(updates, params, anchor, curvature, rate_now(state, rate))
    return moved, ScheduledState(state.name, optax.safe_increment(state.count), new) if scheduled else new

  return optax.GradientTransformationExtraArgs(init, update)


def weighted(factor: Callable) -> Callable:
  """``quadratic`` of a state with anchor and importance: the curvature is ``factor() * importance``."""

  def quadratic(state, params):
    del params
    return state.anchor, jax.tree.map(lambda f: times(factor(), f.astype(wide(f.dtype))), state.importance)

  return quadratic


def even(factor, params):
  """The curvature ``factor`` for each leaf of ``params``."""
  real = lambda p: jnp.finfo(wide(p.dtype)).dtype
  return jax.tree.map(lambda p: jnp.asarray(factor).astype(real(p)), params)
