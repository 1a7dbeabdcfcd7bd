"""A reservoir per class inside one buffer that is always used in full."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cljax.core.types import Memory
from cljax.memory import slots

_NEVER = np.uint32(0xFFFFFFFF)  # above every key that is compared
_CHUNKS, _LARGE = 32, 2048


class ClassBalancedState(NamedTuple):
  """The stored rows fill slots ``0..count``; of each class they are the rows with the largest keys of all seen."""

  rows: Any  # pytree [capacity, ...]
  key: Any  # [capacity] uint32, uniform, drawn once for each row
  group: Any  # [capacity] int32, class of the row in each slot; num_classes where the slot is free
  count: Any  # int32, rows stored
  floor: Any  # [num_classes] uint32, the largest key evicted from each class; below it a row may not enter


def _least(keys, size: int):
  """The least key at places ``i``, ``i + size``, ...: ``[size]``.

  A loop along memory; XLA's own reduction on CPU is a scalar one. The barrier keeps it from being made anew for each
  that reads it.
  """
  chunks = [keys[i * size : (i + 1) * size] for i in range(_CHUNKS)]
  return jax.lax.optimization_barrier(functools.reduce(jnp.minimum, chunks))


def _first(hit):
  """The first place where ``hit [n]`` holds; argmax is a scalar loop on CPU."""
  return jnp.min(jnp.where(hit, jnp.arange(hit.shape[0], dtype=jnp.int32), hit.shape[0] - 1))


def class_balanced(capacity: int, num_classes: int, group: Callable | None = None) -> Memory:
  """A uniform sample of each class, ``min(rows seen of the class, quota)`` large, by uniform keys.

  Each row draws a key ``u ~ U(0, 1)``; while more than M rows are held, the row with the smallest key of the largest
  class goes (of equal classes the last). So quotas are ``M // K`` for K classes, plus one for the first ``M mod K``;
  rows that a small class does not need serve the others; each class holds those with the largest keys of all its rows,
  which is a reservoir. ``add`` of a batch equals adding row by row. ``group(rows) -> [B] int32`` names the class of
  each row, by default ``rows['y']``; rows outside ``0..num_classes-1`` are not stored. Offer each row once, with weight
  0 in later passes, for a sample without copies.

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

  fine = capacity // _CHUNKS if capacity >= _LARGE else 0  # of a small buffer all is the rest

  classes = jnp.arange(num_classes, dtype=jnp.int32)

  def counts_of(which):
    return jnp.sum(which[None] == classes[:, None], axis=1, dtype=jnp.int32)  # a scatter is a scalar loop

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
    keys, fresh_keys = (jnp.minimum(k, _NEVER - 1) for k in (bits[:capacity] if redraw else state.key, fresh))
    total = state.count + enters.sum(dtype=jnp.int32)
    rest_keys = jnp.concatenate([keys[_CHUNKS * fine :], fresh_keys])

    def crowded(carry):
      return carry[0] < total - capacity

    def evict(carry):
      step, groups, fresh_groups, counts, floor, victims = carry
      largest = num_classes - 1 - jnp.argmax(counts[::-1]).astype(jnp.int32)
      rest_groups = jnp.concatenate([groups[_CHUNKS * fine :], fresh_groups])
      rest = jnp.where(rest_groups == largest, rest_keys, _NEVER)
      least = jnp.min(rest)
      at = _CHUNKS * fine + _first(rest == least)
      if fine:
        columns = _least(jnp.where(groups == largest, keys, _NEVER), fine)
        lower = jnp.min(columns)
        places = _first(columns == lower) + fine * jnp.arange(_CHUNKS, dtype=jnp.int32)
        chunk = _first((groups[places] == largest) & (keys[places] == lower))
        at = jnp.where(lower <= least, places[chunk], at)
        least = jnp.minimum(lower, least)
      return (
        step + 1,
        groups.at[at].set(num_classes, mode="drop"),
        fresh_groups.at[jnp.where(at < capacity, size, at - capacity)].set(num_classes, mode="drop"),
        counts.at[largest].add(-1),
        floor if redraw else floor.at[largest].max(least),
        victims.at[step].set(at),
      )

    fresh_groups = jnp.where(enters, which, num_classes)
    counts = counts_of(state.group) + counts_of(fresh_groups)
    start = (jnp.int32(0), state.group, fresh_groups, counts, state.floor, jnp.full(size, capacity, jnp.int32))
    _, groups, fresh_groups, _, floor, victims = jax.lax.while_loop(crowded, evict, start)
    stays = fresh_groups < num_classes
    # Those that stay take the free slots in order, then the slots of the evicted rows.
    order = jnp.cumsum(stays, dtype=jnp.int32) - stays.astype(jnp.int32)
    free = jnp.maximum(capacity - state.count, 0)
    was_stored = victims < capacity
    freed = (
      jnp.full(size, capacity, jnp.int32)
      .at[jnp.where(was_stored, jnp.cumsum(was_stored, dtype=jnp.int32) - 1, size)]
      .set(victims, mode="drop")
    )
    slot = jnp.where(order < free, state.count + order, freed[jnp.clip(order - free, 0, size - 1)])
    slot = jnp.where(stays, slot, capacity + jnp.arange(size, dtype=jnp.int32))
    return ClassBalancedState(
      slots.write(state.rows, rows, slot),
      slots.write(state.key, fresh, slot),
      slots.write(groups, which, slot),
      jnp.minimum(total, capacity),
      floor,
    )

  def sample(key, state, n):
    at, inside = slots.draw(key, state.count, slots.positive("n", n))
    return slots.read(state.rows, at), inside.astype(jnp.float32)

  def remove(state, gone):
    stored = jnp.arange(capacity, dtype=jnp.int32) < state.count
    keep = stored & ~slots.gone_mask(gone, state.rows, stored)
    count = keep.sum(dtype=jnp.int32)
    which = jnp.where(jnp.arange(capacity, dtype=jnp.int32) < count, slots.pack(state.group, keep), num_classes)
    floor = jnp.where(counts_of(which) > 0, state.floor, jnp.zeros_like(state.floor))
    return ClassBalancedState(slots.pack(state.rows, keep), slots.pack(state.key, keep), which, count, floor)

  def contents(state):
    return state.rows, slots.prefix(capacity, state.count)

  return Memory(init, add, sample, remove, contents)
