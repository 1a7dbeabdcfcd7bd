"""Reservoir sampling: a uniform sample of everything seen, in one pass and constant memory."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cljax.core.types import Memory
from cljax.memory import slots


class ReservoirState(NamedTuple):
  """The stored rows fill slots ``0..count``; a row not removed is among them with probability ``capacity / seen``."""

  rows: Any  # pytree [capacity, ...]
  count: Any  # int32, rows stored
  seen: Any  # int32, rows seen; after a removal, the length of stream that the keeping rate stands for


PAIRS = 1024  # up to so many rows in a call, each is compared with each; beyond it a table of the slots is cheaper


def _last_of_its_slot(slot, order, capacity: int):
  """Whether no later row of the call goes to the same slot; at a cost that does not grow with the capacity."""
  if order.shape[0] <= PAIRS:
    return ~jnp.any((order[None, :] > order[:, None]) & (slot[None, :] == slot[:, None]), axis=1)
  last = jnp.full(capacity, -1, jnp.int32).at[slot].max(order, mode="drop")
  return last.at[slot].get(mode="fill", fill_value=-1) == order


def reservoir(capacity: int) -> Memory:
  """Vitter's algorithm R: row ``n`` (from 0) takes slot ``n`` if ``n < M``, else slot ``r ~ U{0..n}`` if ``r < M``.

  After ``n`` rows each is stored with probability ``min(1, M / n)``. ``add`` equals the algorithm applied row by row,
  in order: where two rows of one call draw the same slot, the later one is written. Rows are any pytree with a leading
  axis; rows of weight 0 are neither stored nor counted. ``capacity`` is M, in rows.

  A row counts as often as it is offered: several epochs over a task give it a share to match, and copies. For a uniform
  sample of distinct rows, offer each once: weight 0 in later passes (``weight * batch.fresh`` in a method).

  ``remove`` erases rows and packs the rest to the front. Rows that are left were kept at the rate ``M / seen``, so
  until the buffer is full again new rows are admitted at that same rate and ``seen`` stands still; then algorithm R
  goes on. How many of the erased rows had been seen but not stored is unknown to a buffer, and this needs no guess of
  it. Old and new rows are kept alike: exactly until the buffer is full again, to O(1/M) after it. If ``seen <= M``
  (nothing was ever dropped) or no row is left, ``seen`` becomes the number stored: nothing else counts.

  Raises UsageError for a ``capacity`` below 1. Source: Vitter 1985; replay use Chaudhry et al. 2019 (tiny episodic
  memories). The modulo that bounds a draw has a bias below ``seen / 2**32``; ``seen`` must stay below ``2**31``.
  """
  capacity = slots.positive("capacity", capacity)

  def init(row):
    return ReservoirState(slots.empty(row, capacity), jnp.int32(0), jnp.int32(0))

  def add(key, state, rows, weight):
    real = slots.mask(weight, rows)
    order = jnp.arange(real.shape[0], dtype=jnp.int32)
    bits = jax.random.bits(key, real.shape, jnp.uint32)
    # Filling: admitted with probability min(1, M / seen), into the next free slot.
    admitted = real & (bits % jnp.maximum(state.seen, 1).astype(jnp.uint32) < capacity)
    before = lambda chosen: jnp.cumsum(chosen, dtype=jnp.int32) - chosen.astype(jnp.int32)
    free = state.count + before(admitted)
    full = real & (free >= capacity)
    # Full: algorithm R. Rows that came before the buffer was full are counted by `base`.
    base = jnp.maximum(state.seen, capacity)
    n = base + before(full)
    slot = jnp.where(full, (bits % (n + 1).astype(jnp.uint32)).astype(jnp.int32), free)
    wanted = jnp.where(full, slot < capacity, admitted)
    # The last writer wins. Losers are dropped: a scatter with duplicates has no defined order.
    wins = wanted & _last_of_its_slot(jnp.where(wanted, slot, capacity), order, capacity)
    slot = jnp.where(wins, slot, capacity + order)
    count = jnp.minimum(state.count + admitted.sum(dtype=jnp.int32), capacity)
    seen = jnp.maximum(state.seen, count) + full.sum(dtype=jnp.int32)
    return ReservoirState(slots.write(state.rows, rows, slot), count, seen)

  def sample(key, state, n):
    at, inside = slots.draw(key, state.count, slots.positive("n", n))
    return slots.read(state.rows, at), inside.astype(jnp.float32)

  def remove(state, gone):
    stored = jnp.arange(capacity, dtype=jnp.int32) < state.count
    keep = stored & ~slots.gone_mask(gone, state.rows, stored)
    count = keep.sum(dtype=jnp.int32)
    exact = (state.seen <= capacity) | (count == 0)
    return ReservoirState(slots.pack(state.rows, keep), count, jnp.where(exact, count, state.seen))

  def contents(state):
    return state.rows, slots.prefix(capacity, state.count)

  return Memory(init, add, sample, remove, contents)
