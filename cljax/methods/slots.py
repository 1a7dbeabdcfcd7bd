"""A place for each task in the order in which tasks are first met: what a task's number must not be used for."""

from __future__ import annotations

import jax.numpy as jnp

from cljax.core import tree
from cljax.core.types import Spec, Visit


def no_slots(spec: Spec):
  """``[T]`` int32: the slot of each task; -1 for those that have none yet."""
  return jnp.full(spec.num_tasks, -1, jnp.int32)


def slot_of(slots, visit: Visit):
  """``(slot, slots)``: that of the current task, which is the next free one where it is met for the first time."""
  slot = jnp.where(slots[visit.task] < 0, (slots >= 0).sum(dtype=jnp.int32), slots[visit.task])
  return slot, slots.at[visit.task].set(slot)


def counted(opt_state, kinds: tuple, value, field: str):
  """The optimizer state with ``field``, the number of tasks stored, of every state of these kinds set to ``value``.

  A transform writes a finished task where its count says: so a task that comes back is written where it was.
  """
  return tree.edit_nodes(opt_state, kinds, lambda s: s._replace(**{field: value}))[0]
