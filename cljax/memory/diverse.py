"""GSS's greedy memory: rows stand with a score, how alike their gradients were to others'; those alike are replaced."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cljax.memory import slots


class DiverseState(NamedTuple):
  """The stored rows fill slots ``0..count``."""

  rows: Any  # pytree [capacity, ...]
  score: Any  # [capacity] float32 in [-1, 1], of each row when it came; 0 where the slot is free
  count: Any  # int32, rows stored


class Diverse(NamedTuple):
  """A :class:`cljax.core.types.Memory` whose ``add`` needs scores: ``add(key, state, rows, score, weight, open_)``."""

  init: Callable
  add: Callable
  sample: Callable
  remove: Callable
  contents: Callable


def diverse(capacity: int) -> Diverse:
  """Rows enter while there is room; then each offered row is set against one stored row, and one of the two stays.

  Scores are cosines in [-1, 1]: 1 is a row like others, -1 one unlike all. Full, and where ``open_`` (bool, of the
  call): slots are drawn without replacement, one for each row, with probabilities proportional to the stored scores
  scaled to [0, 1], so that the least one is never drawn (uniformly where all are equal); the row takes the slot with
  probability ``s / (s + t)``, s of the slot and t of the row, each ``(score + 1) / 2``: a row of score 1 is the least
  wanted, one of -1 is always kept. Scores are those at insertion and never refreshed. Rows of a call that begins with
  room and finds none left are not stored, as released. ``remove`` erases rows and packs the rest; then rows enter
  freely again. Raises UsageError for sizes below 1. Aljundi et al. 2019 (GSS-greedy).
  """
  capacity = slots.positive("capacity", capacity)
  places = jnp.arange(capacity, dtype=jnp.int32)

  def init(row):
    return DiverseState(slots.empty(row, capacity), jnp.zeros(capacity, jnp.float32), jnp.int32(0))

  def add(key, state, rows, score, weight, open_):
    real = slots.mask(weight, rows)
    size = real.shape[0]
    order = jnp.cumsum(real, dtype=jnp.int32) - real.astype(jnp.int32)  # the row's place among those of the call
    score = jnp.clip(jnp.where(real, score.astype(jnp.float32), 0.0), -1.0, 1.0)
    free, full = state.count + order, state.count >= capacity
    # Slots in the order of a draw without replacement: the largest of log p + Gumbel noise first.
    low, high = jnp.min(state.score), jnp.max(state.score)
    share = jnp.where(high > low, (state.score - low) / jnp.where(high > low, high - low, 1.0), 1.0)
    noise, coin = jax.random.gumbel(key, (capacity,)), jax.random.uniform(jax.random.fold_in(key, 1), (size,))
    value, drawn = jax.lax.top_k(jnp.where(share > 0, jnp.log(jnp.where(share > 0, share, 1.0)) + noise, -jnp.inf),
                                 min(size, capacity))  # fmt: skip
    mine = jnp.minimum(order, drawn.shape[0] - 1)
    slot, there = drawn[mine].astype(jnp.int32), (value[mine] > -jnp.inf) & (order < drawn.shape[0])
    theirs, own = (state.score[slot] + 1) / 2, (score + 1) / 2
    chance = theirs / jnp.where(theirs + own > 0, theirs + own, 1.0)
    takes = real & jnp.where(full, open_ & there & (coin < chance), free < capacity)
    at = jnp.where(takes, jnp.where(full, slot, free), capacity + jnp.arange(size, dtype=jnp.int32))
    count = jnp.minimum(state.count + jnp.where(full, 0, takes.sum(dtype=jnp.int32)), capacity)
    return DiverseState(slots.write(state.rows, rows, at), slots.write(state.score, score, at), count)

  def sample(key, state, n):
    at, inside = slots.draw(key, state.count, slots.positive("n", n))
    return slots.read(state.rows, jnp.where(inside, at, capacity)), inside.astype(jnp.float32)

  def remove(state, gone):
    stored = places < state.count
    keep = stored & ~slots.gone_mask(gone, state.rows, stored)
    return DiverseState(slots.pack(state.rows, keep), slots.pack(state.score, keep), keep.sum(dtype=jnp.int32))

  def contents(state):
    return state.rows, slots.prefix(capacity, state.count)

  return Diverse(init, add, sample, remove, contents)
