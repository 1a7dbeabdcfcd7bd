"""A reservoir per class inside one buffer that is always used in full."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cljax.memory import slots
from cljax.types import Memory


class ClassBalancedState(NamedTuple):
  """The stored rows fill slots ``0..count``; of each class they are the rows with the largest keys of all seen."""

  rows: Any  # pytree [capacity, ...]
  key: Any  # [capacity] uint32, uniform, drawn once for each row
  group: Any  # [capacity] int32, class of the row in each slot; num_classes where the slot is free
  count: Any  # int32, rows stored
  floor: Any  # [num_classes] uint32, the largest key evicted from each class; below it a row may not enter


def class_balanced(capacity: int, num_classes: int, group: Callable | None = None) -> Memory:
  """A uniform sample of each class, ``min(rows seen of the class, quota)`` large, by uniform keys.

  Each row draws a key ``u ~ U(0, 1)``; while more than M rows are held, the row with the smallest key of the largest
  class goes (of equal classes the last). So quotas are ``M // K`` for K classes, plus one for the first ``M mod K``;
  rows that a small class does not need serve the others; each class holds those with the largest keys of all its rows,
  which is a reservoir. ``add`` of a batch equals adding row by row. ``group(rows) -> [B] int32`` names the class of
  each row, by default ``rows['y']``; rows outside ``0..num_classes-1`` are not stored.

  ``remove`` erases rows and packs the rest. A class that is left keeps its floor, so its new rows enter at the rate at
  which its old ones were kept, to O(1 / rows seen); a class with no row left starts anew.

  Cost of ``add``: O(capacity) for each row evicted. Raises UsageError for sizes below 1. Source: the quotas of
  Avalanche's ``ClassBalancedBuffer`` and its keys; unlike it, a class shrinks only when its slots are needed, and ties
  go by class number and not by the order of a Python set. The sampling law is that of Chrysakis & Moens 2020
  (UNVERIFIED: recalled, not read).
  """
  return _balanced(capacity, num_classes, group, redraw=False)


def greedy_balanced(capacity: int, num_classes: int, group: Callable | None = None) -> Memory:
  """Rows of positive weight always enter; while more than M are held, a random row of the largest class goes.

  REMIND's eviction (Hayes et al. 2020). Sizes are those of :func:`class_balanced`, but a class holds no uniform sample
  of its rows: recent ones are favoured. REMIND adds single rows; of a batch all enter before any is evicted, and a
  new row may be evicted as well. Arguments and errors as in :func:`class_balanced`.
  """
  return _balanced(capacity, num_classes, group, redraw=True)


def _balanced(capacity: int, num_classes: int, group: Callable | None, redraw: bool) -> Memory:
  """``redraw`` gives every row a new key at each call, which makes the eviction uniform over what is held."""
  capacity, num_classes = slots.positive("capacity", capacity), slots.positive("num_classes", num_classes)
  group = group or (lambda rows: slots.field(rows, "y"))

  def counts_of(which):
    return jnp.zeros(num_classes, jnp.int32).at[which].add(1, mode="drop")

  def init(row):
    return ClassBalancedState(
      slots.empty(row, capacity),
      jnp.zeros(capacity, jnp.uint32),
      jnp.full(capacity, num_classes, jnp.int32),
      jnp.int32(0),
      jnp.zeros(num_classes, jnp.uint32),
    )

  def add(key, state, rows, weight):
    which = group(rows).astype(jnp.int32)
    size = which.shape[0]
    known = (which >= 0) & (which < num_classes)
    bits = jax.random.bits(key, (capacity + size if redraw else size,), jnp.uint32)
    fresh = bits[-size:]
    enters = slots.mask(weight, rows) & known & (fresh >= state.floor[jnp.where(known, which, 0)])
    keys = bits if redraw else jnp.concatenate([state.key, fresh])
    groups = jnp.concatenate([state.group, jnp.where(enters, which, num_classes)])
    total = state.count + enters.sum()
    places = jnp.arange(capacity + size, dtype=jnp.int32)

    def crowded(carry):
      return carry[0] < total - capacity

    def evict(carry):
      step, groups, counts, floor, victims = carry
      largest = num_classes - 1 - jnp.argmax(counts[::-1])
      member = groups == largest
      least = jnp.min(jnp.where(member, keys, jnp.uint32(0xFFFFFFFF)))
      at = jnp.min(jnp.where(member & (keys == least), places, places[-1]))  # argmax is a scalar loop on CPU
      return (
        step + 1,
        groups.at[at].set(num_classes),
        counts.at[largest].add(-1),
        floor if redraw else floor.at[largest].max(least),
        victims.at[step].set(at),
      )

    start = (jnp.int32(0), groups, counts_of(groups), state.floor, jnp.full(size, capacity, jnp.int32))
    _, groups, _, floor, victims = jax.lax.while_loop(crowded, evict, start)
    stays = groups[capacity:] < num_classes
    # Those that stay take the free slots in order, then the slots of the evicted rows.
    order = jnp.cumsum(stays) - stays
    free = jnp.maximum(capacity - state.count, 0)
    was_stored = victims < capacity
    freed = (
      jnp.full(size, capacity, jnp.int32)
      .at[jnp.where(was_stored, jnp.cumsum(was_stored) - 1, size)]
      .set(victims, mode="drop")
    )
    slot = jnp.where(order < free, state.count + order, freed[jnp.clip(order - free, 0, size - 1)])
    slot = jnp.where(stays, slot, capacity + jnp.arange(size))
    return ClassBalancedState(
      slots.write(state.rows, rows, slot),
      slots.write(state.key, fresh, slot),
      slots.write(groups[:capacity], which, slot),
      jnp.minimum(total, capacity).astype(jnp.int32),
      floor,
    )

  def sample(key, state, n):
    at, inside = slots.draw(key, state.count, slots.positive("n", n))
    return slots.read(state.rows, at), inside.astype(jnp.float32)

  def remove(state, gone):
    stored = jnp.arange(capacity) < state.count
    keep = stored & ~slots.gone_mask(gone, state.rows, stored)
    count = keep.sum().astype(jnp.int32)
    which = jnp.where(jnp.arange(capacity) < count, slots.pack(state.group, keep), num_classes)
    floor = jnp.where(counts_of(which) > 0, state.floor, 0)
    return ClassBalancedState(slots.pack(state.rows, keep), slots.pack(state.key, keep), which, count, floor)

  def contents(state):
    return state.rows, slots.prefix(capacity, state.count)

  return Memory(init, add, sample, remove, contents)
