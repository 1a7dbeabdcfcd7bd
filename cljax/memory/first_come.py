"""GDumb's greedy sampler: rows enter while there is room, and after that only into classes that are not the largest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cljax.core.types import Memory
from cljax.memory import slots


class FirstComeState(NamedTuple):
  """The stored rows fill slots ``0..count``."""

  rows: Any  # pytree [capacity, ...]
  group: Any  # [capacity] int32, class of the row in each slot; num_classes where the slot is free
  count: Any  # int32, rows stored


def first_come_balanced(capacity: int, num_classes: int, group: Callable | None = None) -> Memory:
  """GDumb's sampler: a row enters while fewer than M are held; then only where its class is smaller than the largest,
  in place of a random row of the largest class (of equal ones the first).

  So sizes differ by at most one among classes of which enough rows came, and no number of classes is known ahead. A row
  of the largest class never enters a full memory: where M is a multiple of the classes, early rows stay. ``add`` of a
  batch equals adding row by row. ``group(rows) -> [B] int32`` names the class of each row, by default ``rows['y']``;
  rows outside ``0..num_classes-1`` are not stored. ``remove`` erases rows and packs the rest; then rows enter freely
  again.
  O(B capacity). Raises UsageError for sizes below 1. Prabhu et al. 2020; the released code takes the first
  ``M // num_classes`` rows of each class instead.
  """
  capacity, num_classes = slots.positive("capacity", capacity), slots.positive("num_classes", num_classes)
  group = group or (lambda rows: slots.field(rows, "y"))
  classes, places = jnp.arange(num_classes, dtype=jnp.int32), jnp.arange(capacity, dtype=jnp.int32)

  def init(row):
    return FirstComeState(slots.empty(row, capacity), jnp.full(capacity, num_classes, jnp.int32), jnp.int32(0))

  def add(key, state, rows, weight):
    which = group(rows).astype(jnp.int32)
    size = which.shape[0]
    wanted = slots.mask(weight, rows) & (which >= 0) & (which < num_classes)
    bits = jax.random.bits(key, (size,), jnp.uint32)
    counts = jnp.sum(state.group[None] == classes[:, None], axis=1, dtype=jnp.int32)

    def offer(i, carry):
      """The owner of a slot is the row of this call that is written there, ``size`` for none."""
      groups, counts, count, owner = carry
      c, full = which[i], count >= capacity
      largest = jnp.argmax(counts).astype(jnp.int32)
      enters = wanted[i] & (~full | (counts[jnp.where(wanted[i], c, 0)] < counts[largest]))
      # The modulo's bias is below capacity / 2**32.
      nth = (bits[i] % jnp.maximum(counts[largest], 1).astype(jnp.uint32)).astype(jnp.int32)
      evicted = jnp.argmax(jnp.cumsum(groups == largest, dtype=jnp.int32) > nth).astype(jnp.int32)
      at = jnp.where(enters, jnp.where(full, evicted, count), capacity)
      counts = counts.at[largest].add(-(enters & full).astype(jnp.int32))
      counts = counts.at[jnp.where(enters, c, num_classes)].add(1, mode="drop")
      groups, owner = groups.at[at].set(c, mode="drop"), owner.at[at].set(i.astype(jnp.int32), mode="drop")
      return groups, counts, count + (enters & ~full).astype(jnp.int32), owner

    start = (state.group, counts, state.count, jnp.full(capacity, size, jnp.int32))
    groups, _, count, owner = jax.lax.fori_loop(0, size, offer, start)
    # Each row's slot, if it has one at the end; slots past the end, which are dropped, differ too.
    slot = (capacity + jnp.arange(size, dtype=jnp.int32)).at[owner].set(places, mode="drop")
    return FirstComeState(slots.write(state.rows, rows, slot), groups, count)

  def sample(key, state, n):
    at, inside = slots.draw(key, state.count, slots.positive("n", n))
    return slots.read(state.rows, at), inside.astype(jnp.float32)

  def remove(state, gone):
    stored = places < state.count
    keep = stored & ~slots.gone_mask(gone, state.rows, stored)
    count = keep.sum(dtype=jnp.int32)
    return FirstComeState(
      slots.pack(state.rows, keep), jnp.where(places < count, slots.pack(state.group, keep), num_classes), count
    )

  def contents(state):
    return state.rows, slots.prefix(capacity, state.count)

  return Memory(init, add, sample, remove, contents)
