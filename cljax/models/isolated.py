"""Networks of which each task has a part: places of tasks in the order in which they were met, copies of leaves and
BatchNorm statistics for each, and the transform that holds what may not move."""

from __future__ import annotations

from collections.abc import Callable, Set
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from cljax.core import tree
from cljax.core.types import Model, UsageError
from cljax.models.tasks import by_row


class PerTask(NamedTuple):
  """The model state of a network with a part for each task."""

  slots: Any  # [T] int32: the place of each task among those met, from 0; -1 for those that were not
  inner: Any  # the network's own state, [T, ...]: that of each place
  kept: Any  # what the method keeps: owners, masks


class Phase(NamedTuple):
  """Where a task of two phases stands: the method state of :func:`two_phases`."""

  step: Any  # int32: steps of this visit
  at: Any  # int32: the step behind which the second phase begins
  second: Any  # bool: it did


class Movable(NamedTuple):
  """The state of :func:`hold`."""

  share: Any  # like the parameters: bool, what may move, or float32, the share of an update that is made


def place_of(slots, task):
  """int32: the place of a task; of one that was not met the next free one."""
  return jnp.where(slots[task] < 0, (slots >= 0).sum(dtype=jnp.int32), slots[task])


def opened(model_state: PerTask, task):
  """``(slot, model_state)`` in which the task has a place."""
  slot = place_of(model_state.slots, task)
  return slot, model_state._replace(slots=model_state.slots.at[task].set(slot))


def kernels_of(weights, own: Set[str]) -> list[str]:
  """The names of the leaves of two axes or more, but those in ``own``."""
  return [n for n, a in tree.by_path(weights).items() if a.ndim > 1 and n not in own]


def copied(weights, own: Set[str], count: int):
  """The tree, of which leaves named in ``own`` have ``count`` copies, ``[count, ...]``."""
  return tree.map_named(lambda n, a: jnp.repeat(a[None], count, axis=0) if n in own else a, weights)


def copy_of(slot, leaf):
  """Bool, like a leaf of copies ``[count, ...]``: that of the place ``slot``."""
  at = (jnp.arange(leaf.shape[0]) == slot).reshape(-1, *(1,) * (leaf.ndim - 1))
  return jnp.broadcast_to(at, leaf.shape)


def per_task(model: Model, num_tasks: int, begin: Callable, weights: Callable) -> Model:
  """The network with ``weights(params, kept, slot, train)`` for rows of the task in the place ``slot``.

  ``begin(key, the model's initial parameters) -> (params, kept)``. ``model_state`` is a :class:`PerTask`; the network's
  own state, such as statistics of BatchNorm, is one for each place, and each begins as the model's. ``apply`` needs
  ``task``, a scalar or ``[B]`` (:func:`cljax.models.by_row`); UsageError without.
  """

  def init(key):
    made, inner = model.init(key)
    params, kept = begin(tree.fold(key, "per_task"), made)
    inner = jax.tree.map(lambda a: jnp.repeat(a[None], num_tasks, axis=0), inner)
    return tree.copy(params), PerTask(jnp.full(num_tasks, -1, jnp.int32), inner, tree.copy(kept))

  def apply(params, model_state, x, *, train, key, task=None, mask=None):
    if task is None:
      raise UsageError("task: a network with a part for each task needs the task of the rows; got None")
    slot = place_of(model_state.slots, task)
    inner = jax.tree.map(lambda a: a[slot], model_state.inner)
    made = weights(params, model_state.kept, slot, train)
    out, new = model.apply(made, inner, x, train=train, key=key, task=task, mask=mask)
    if train:
      placed = jax.tree.map(lambda a, b: a.at[slot].set(b), model_state.inner, new)
      model_state = model_state._replace(inner=placed)
    return out, model_state

  return by_row(Model(init, apply), num_tasks)


def hold(dtype=bool) -> optax.GradientTransformationExtraArgs:
  """``u <- share * u``, the share in its own state (:func:`held`): behind all else, so that neither momentum nor weight
  decay moves what is held. A share of 0 gives exactly 0, whatever the update. At first all moves."""

  def update(updates, state, params=None, **extra):
    del params, extra

    def one(u, share):
      return jnp.where(share, u, jnp.zeros_like(u)) if share.dtype == bool else u * share.astype(u.dtype)

    return jax.tree.map(one, updates, state.share), state

  init = lambda params: Movable(jax.tree.map(lambda p: jnp.ones_like(p, dtype=dtype), params))
  return optax.GradientTransformationExtraArgs(init, update)


def held(opt_state, share):
  """The optimizer state in which :func:`hold` lets that ``share`` of each leaf move."""
  return tree.edit_nodes(opt_state, Movable, lambda _: Movable(share))[0]


def first_phase(share, task) -> Phase:
  """The beginning of a visit whose first phase has ``share`` of its steps; of a task that comes back it has none."""
  steps = jnp.round(share * task.steps.astype(jnp.float32)).astype(jnp.int32)
  return Phase(jnp.int32(0), steps, ~task.visit.first)


def two_phases(turn: Callable) -> dict[str, Any]:
  """The hooks of a method whose tasks have two phases, between which the learner is ``turn(learner, slot)``.

  It turns behind the last step of the first phase (:func:`first_phase`), and at the latest when the task ends.
  """

  def if_due(due, learner, task):
    def turned(one):
      one = turn(one, place_of(one.model_state.slots, task))
      return one._replace(method_state=one.method_state._replace(second=jnp.bool_(True)))

    return jax.lax.cond(due & ~learner.method_state.second, turned, lambda one: one, learner)

  def after_step(key, learner, info):
    del key
    state = learner.method_state._replace(step=learner.method_state.step + 1)
    return if_due(state.step >= state.at, learner._replace(method_state=state), info.batch.visit.task)

  return {
    "init": lambda key, learner: Phase(jnp.int32(0), jnp.int32(0), jnp.bool_(False)),
    "after_step": after_step,
    "end_task": lambda key, learner, task: if_due(jnp.bool_(True), learner, task.id),
  }
