"""A ring buffer per group: the last rows of each task."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp

from cljax.core.types import Memory, UsageError
from cljax.memory import slots


class RingState(NamedTuple):
  """Group ``g`` owns the slots ``g * m .. g * m + m``; its next row goes to ``g * m + seen[g] mod m``."""

  rows: Any  # pytree [groups * m, ...]
  seen: Any  # [groups] int32, rows written since the group was last packed
  met: Any  # [groups] int32, how many groups had rows before it; the number of groups where it has none yet


def ring(capacity: int, num_groups: int, group: Callable | None = None) -> Memory:
  """First in, first out within each group: ``slot = g * m + seen[g] mod m`` with ``m = capacity // num_groups``.

  The last ``m`` rows of every group are stored; ``capacity mod num_groups`` slots are not allocated. ``group(rows) ->
  [B] int32`` names the group of each row, by default ``rows['task']``; rows outside ``0..num_groups-1`` are not stored.
  ``sample`` draws uniformly from all stored rows, however unevenly the groups are filled; a draw counts through the
  groups in the order in which they first had rows, so that a group's number is a name.

  ``remove`` erases rows and moves the rest of the group to its first slots, oldest first.

  Raises UsageError where ``capacity < num_groups``. Source: Chaudhry et al. 2019; portions as in Mammoth, except that
  Mammoth counts all rows in one counter (the same while tasks arrive one after another), and that its sampling is right
  only while the filled slots are contiguous.
  """
  capacity, num_groups = slots.positive("capacity", capacity), slots.positive("num_groups", num_groups)
  if capacity < num_groups:
    raise UsageError(f"capacity: got {capacity}; expected at least one row for each of {num_groups} groups")
  portion = capacity // num_groups
  capacity = portion * num_groups
  group = group or (lambda rows: slots.field(rows, "task"))
  groups, places = jnp.arange(num_groups, dtype=jnp.int32), jnp.arange(portion, dtype=jnp.int32)

  def init(row):
    zeros = jnp.zeros(num_groups, jnp.int32)
    return RingState(slots.empty(row, capacity), zeros, zeros + num_groups)

  def add(key, state, rows, weight):
    del key  # nothing here is random
    which = group(rows).astype(jnp.int32)
    member = (which[:, None] == groups[None]) & slots.mask(weight, rows)[:, None]  # [B, groups]
    seen = state.seen + member.sum(0, dtype=jnp.int32)
    place = jnp.max(jnp.where(member, state.seen[None] + jnp.cumsum(member, 0, dtype=jnp.int32) - 1, -1), axis=1)
    last = jnp.max(jnp.where(member, seen[None], 0), axis=1)
    wins = (place >= 0) & (place >= last - portion)  # later rows of this call take the slots of the others
    at = jnp.where(wins, which * portion + place % portion, capacity + jnp.arange(wins.shape[0], dtype=jnp.int32))
    # Of groups that begin in this call, the one whose row stands first comes first.
    begins = member.any(0) & (state.met == num_groups)
    first = jnp.where(begins, member.argmax(0), member.shape[0])
    before = jnp.sum(begins[None] & (first[None] < first[:, None]), axis=1, dtype=jnp.int32)
    met = jnp.where(begins, jnp.sum(state.met < num_groups, dtype=jnp.int32) + before, state.met)
    return RingState(slots.write(state.rows, rows, at), seen, met)

  def sample(key, state, n):
    order = jnp.argsort(state.met).astype(jnp.int32)
    ends = jnp.cumsum(jnp.minimum(state.seen, portion)[order], dtype=jnp.int32)
    at, inside = slots.draw(key, ends[-1], slots.positive("n", n))
    which = jnp.sum(at[:, None] >= ends[None, :-1], axis=1, dtype=jnp.int32)
    at = order[which] * portion + at - jnp.where(which > 0, ends[which - 1], 0)
    return slots.read(state.rows, jnp.where(inside, at, capacity)), inside.astype(jnp.float32)

  def stored(state):
    return (places[None] < state.seen[:, None]).reshape(capacity)

  def remove(state, gone):
    keep = (stored(state) & ~slots.gone_mask(gone, state.rows, stored(state))).reshape(num_groups, portion)
    age = (places[None] - state.seen[:, None]) % portion  # 0 is the oldest of a full ring
    order = jnp.argsort(jnp.where(keep, age, portion), axis=1)
    count = keep.sum(1, dtype=jnp.int32)
    at = jnp.where(places[None] < count[:, None], groups[:, None] * portion + order.astype(jnp.int32), capacity)
    return RingState(slots.read(state.rows, at.reshape(capacity)), count, state.met)

  def contents(state):
    return state.rows, stored(state).astype(jnp.float32)

  return Memory(init, add, sample, remove, contents)
