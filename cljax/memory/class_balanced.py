"""A reservoir per class inside one buffer that is always used in full."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cljax.core.types import Memory
from cljax.memory import slots

_LOOKS = 256  # most places that are drawn at once in the search for rows to evict


class ClassBalancedState(NamedTuple):
  """The stored rows fill slots ``0..count``; of each class they are a uniform sample of those seen."""

  rows: Any  # pytree [capacity, ...]
  group: Any  # [capacity] int32, class of the row in each slot; num_classes where the slot is free
  count: Any  # int32, rows stored
  sizes: Any  # [num_classes] int32, rows stored of each class
  rate: Any  # [num_classes] float32, the chance of a row of the class to enter: 1 until one was evicted


def class_balanced(capacity: int, num_classes: int, group: Callable | None = None) -> Memory:
  """A uniform sample of each class, ``min(rows seen of the class, quota)`` large, by uniform keys.

  The law: each row draws a key ``u ~ U(0, 1)``; while more than M rows are held, the row with the smallest key of the
  largest class goes (of equal classes the last), and no row of that class enters with a smaller one. So quotas are
  ``M // K`` for K classes, plus one for the first ``M mod K``; rows that a small class does not need serve the others;
  each class holds those with the largest keys of all its rows, which is a reservoir. ``add`` of a batch has the law of
  adding row by row. ``group(rows) -> [B] int32`` names the class of each row, by default ``rows['y']``; rows outside
  ``0..num_classes-1`` are not stored. Offer each row once, with weight 0 in later passes, for a sample without copies.

  Keys are not kept. All that is known of those of a class is that they lie above its largest evicted one ``f``, where
  they are independent and uniform: so the row with the smallest of k keys is any of the k, and that key, the new f, is
  ``1 - (1 - f) v^(1/k)`` with ``v ~ U(0, 1)``. The state holds ``rate = 1 - f`` of each class; rows to evict are found
  by drawing places until they are of the class.

  ``remove`` erases rows and packs the rest. A class that is left keeps its rate, so its new rows enter at the rate at
  which its old ones were kept, to O(1 / rows seen); a class with no row left starts anew.

  Cost: ``add`` draws about ``K`` places for each row that it evicts, whatever the capacity; ``remove`` O(capacity).
  Raises UsageError for sizes below 1. Source: the quotas of Avalanche's ``ClassBalancedBuffer`` and its keys; unlike
  it, a class shrinks only when its slots are needed, and ties go by class number and not by the order of a Python set.
  The sampling law is that of Chrysakis & Moens 2020 (UNVERIFIED: recalled, not read).
  """
  return _balanced(capacity, num_classes, group, greedy=False)


def greedy_balanced(capacity: int, num_classes: int, group: Callable | None = None) -> Memory:
  """Rows of positive weight always enter; while more than M are held, a random row of the largest class goes.

  REMIND's eviction (Hayes et al. 2020). Sizes are those of :func:`class_balanced`, but a class holds no uniform sample
  of its rows: recent ones are favoured. REMIND adds single rows; of a batch all enter before any is evicted, and a
  new row may be evicted as well. Arguments and errors as in :func:`class_balanced`.
  """
  return _balanced(capacity, num_classes, group, greedy=True)


def leveled(sizes, total):
  """``sizes [C]`` after one was taken from the largest, of equal ones the last, until their sum is ``total``.

  The largest are cut to a level L, and the first of them hold one more: ``sum_c min(s_c, L) <= total`` holds where
  ``rest_j + j L <= total`` for any j, with rest_j the sum of all but the j largest. O(C log C).
  """
  few = jnp.cumsum(jnp.sort(sizes))  # of the i + 1 smallest
  j = jnp.arange(sizes.shape[0], 0, -1, dtype=jnp.int32)
  level = jnp.max((total - (few - jnp.sort(sizes))) // j)
  even, above = jnp.minimum(sizes, level), sizes > level
  return even + (above & (jnp.cumsum(above) <= total - even.sum())).astype(jnp.int32)


def _unit(bits):
  """Uniform in [0, 1], with relative precision near 0."""
  return bits.astype(jnp.float32) * jnp.float32(2.0**-32)


def _numbered(chosen):
  """The number of each chosen row among them, and the length of ``chosen`` for the others."""
  return jnp.where(chosen, jnp.cumsum(chosen, dtype=jnp.int32) - 1, chosen.shape[0])


def _balanced(capacity: int, num_classes: int, group: Callable | None, greedy: bool) -> Memory:
  """``greedy``: every row enters, as the rates stay 1."""
  capacity, num_classes = slots.positive("capacity", capacity), slots.positive("num_classes", num_classes)
  group = group or (lambda rows: slots.field(rows, "y"))
  classes = jnp.arange(num_classes, dtype=jnp.int32)

  def counts_of(which):
    return jnp.sum(which[None] == classes[:, None], axis=1, dtype=jnp.int32)  # a scatter is a scalar loop

  def init(row):
    return ClassBalancedState(
      slots.empty(row, capacity),
      jnp.full(capacity, num_classes, jnp.int32),
      jnp.int32(0),
      jnp.zeros(num_classes, jnp.int32),
      jnp.ones(num_classes, jnp.float32),
    )

  def add(key, state, rows, weight):
    which = group(rows).astype(jnp.int32)
    size = which.shape[0]
    looks = min(_LOOKS, max(4 * size, 2 * num_classes))
    known = (which >= 0) & (which < num_classes)
    bits = jax.random.bits(key, (2 * size + looks,), jnp.uint32)  # in one call: on CPU each costs as much as all else
    drawn, least, first = _unit(bits[:size]), _unit(bits[size : 2 * size] | 1), bits[2 * size :]
    enters = slots.mask(weight, rows) & known & (drawn <= state.rate[jnp.where(known, which, 0)])
    fresh = jnp.where(enters, which, num_classes)
    total = state.count + enters.sum(dtype=jnp.int32)
    before = state.sizes + counts_of(fresh)
    sizes = leveled(before, jnp.minimum(total, capacity))
    number = jnp.arange(size, dtype=jnp.int32)
    entrant = jnp.zeros(size, jnp.int32).at[_numbered(enters)].set(number, mode="drop")
    earlier = jnp.tri(looks, k=-1, dtype=bool)

    def evict(carry):
      """Draws places: ``count + i`` is that of the i-th row that enters. What is still too many of a class goes."""
      turn, over, groups, fresh, victims, gone = carry
      more = lambda: jax.random.bits(jax.random.fold_in(key, turn), (looks,), jnp.uint32)
      place = (jax.lax.cond(turn == 0, lambda: first, more) % total.astype(jnp.uint32)).astype(jnp.int32)
      stored, row = place < state.count, entrant[jnp.clip(place - state.count, 0, size - 1)]
      found = jnp.where(stored, groups.at[place].get(mode="clip"), fresh[row])
      new = (found < num_classes) & ~jnp.any(earlier & (place[None] == place[:, None]), axis=1)
      rank = jnp.sum(earlier & new[None] & (found[None] == found[:, None]), axis=1, dtype=jnp.int32)
      taken = new & (rank < over.at[found].get(mode="clip"))
      slot = jnp.where(taken & stored, place, capacity)
      return (
        turn + 1,
        over - counts_of(jnp.where(taken, found, num_classes)),
        groups.at[slot].set(num_classes, mode="drop"),
        fresh.at[jnp.where(taken & ~stored, row, size)].set(num_classes, mode="drop"),
        victims.at[jnp.where(slot < capacity, gone + _numbered(slot < capacity), size)].set(slot, mode="drop"),
        gone + (slot < capacity).sum(dtype=jnp.int32),
      )

    start = (jnp.int32(0), before - sizes, state.group, fresh, jnp.full(size, capacity, jnp.int32), jnp.int32(0))
    _, _, groups, fresh, victims, _ = jax.lax.while_loop(lambda carry: carry[1].any(), evict, start)
    stays = fresh < num_classes
    # Those that stay take the free slots in order, then the slots of the evicted rows.
    order = jnp.cumsum(stays, dtype=jnp.int32) - stays.astype(jnp.int32)
    free = jnp.maximum(capacity - state.count, 0)
    slot = jnp.where(order < free, state.count + order, victims[jnp.clip(order - free, 0, size - 1)])
    slot = jnp.where(stays, slot, capacity + number)
    return ClassBalancedState(
      slots.write(state.rows, rows, slot),
      slots.write(groups, which, slot),
      jnp.minimum(total, capacity),
      sizes,
      state.rate if greedy else lowered(state.rate, before, before - sizes, least),
    )

  def lowered(rate, sizes, over, least):
    """The rates after ``over [C]`` of ``sizes [C]`` rows went, one by one: times ``v^(1/k)`` for each, of k rows."""
    number = jnp.arange(least.shape[0], dtype=jnp.int32)
    ends = jnp.cumsum(over, dtype=jnp.int32)[:, None]
    turn = number[None] - (ends - over[:, None])  # of those of its class
    of = (turn >= 0) & (number[None] < ends)
    left = jnp.maximum(sizes[:, None] - turn, 1).astype(jnp.float32)
    return rate * jnp.exp(jnp.sum(jnp.where(of, jnp.log(least)[None] / left, 0.0), axis=1))

  def sample(key, state, n):
    at, inside = slots.draw(key, state.count, slots.positive("n", n))
    return slots.read(state.rows, at), inside.astype(jnp.float32)

  def remove(state, gone):
    stored = jnp.arange(capacity, dtype=jnp.int32) < state.count
    keep = stored & ~slots.gone_mask(gone, state.rows, stored)
    count = keep.sum(dtype=jnp.int32)
    which = jnp.where(jnp.arange(capacity, dtype=jnp.int32) < count, slots.pack(state.group, keep), num_classes)
    sizes = counts_of(which)
    rate = jnp.where(sizes > 0, state.rate, jnp.ones_like(state.rate))
    return ClassBalancedState(slots.pack(state.rows, keep), which, count, sizes, rate)

  def contents(state):
    return state.rows, slots.prefix(capacity, state.count)

  return Memory(init, add, sample, remove, contents)
