"""Exemplar sets: a list of rows for each group, kept when a task ends, of which the first few stay; and herding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cljax.core.types import Array, UsageError
from cljax.memory import slots

MOST_PICKS = 1000  # of herding with repeats, where the released code stops


class ExemplarState(NamedTuple):
  """The stored rows fill slots ``0..count``, list after list as they were made, each in its order."""

  rows: Any  # pytree [slots, ...]
  group: Any  # [slots] int32; -1 where the slot is free
  rank: Any  # [slots] int32, the place in the list of its group when that was made
  count: Any  # int32, rows stored


class Exemplars(NamedTuple):
  """A :class:`cljax.core.types.Memory` whose ``add`` needs ranks; and ``quota``.

  ``add(state, rows, group [N], rank [N], there [N]) -> state``: each group that has a row there gets the list of these
  rows in the order of ``rank``; then every list is cut to the quota.
  ``quota(state, group, there) -> int32``: that quota, known before the ranks are.
  """

  init: Callable
  add: Callable
  sample: Callable
  remove: Callable
  contents: Callable
  quota: Callable


def herding(features: Array, group: Array, num_groups: int, depth: int | Array, repeats: bool = False) -> Array:
  """``[N]`` int32: the place of each row in the list of its group by herding; N for rows that are not picked.

  On ``f = features / |features|``, mu the group's mean: ``w = mu``; repeat: pick the row ``argmax f.w`` that is not
  picked yet, ``w += mu - f``. As all norms are 1 that is greedy ``min |mu - mean of the picked|``. ``depth`` (may be
  traced) rows of each group, or all it has; rows of a group outside ``0..num_groups-1`` take no part. features
  ``[N, D]``, group ``[N]`` int32. ``repeats``: as the released code, a row that is picked again counts again in w and
  once in the list, until the list is full or 1,000 rows were picked: its mean is then further from mu. Rebuffi et al.,
  2017. O(depth N (D + num_groups)).
  """
  n = features.shape[0]
  f = features.astype(jnp.float32)
  f = f / jnp.maximum(jnp.linalg.norm(f, axis=-1, keepdims=True), 1e-12)
  member = group[None] == jnp.arange(num_groups, dtype=jnp.int32)[:, None]
  size = member.sum(1, dtype=jnp.int32)
  f = jnp.where(member.any(0)[:, None], f, 0.0)  # what is not there may be anything
  mean = (member.astype(jnp.float32) @ f) / jnp.maximum(size, 1).astype(jnp.float32)[:, None]
  own = jnp.clip(group, 0, num_groups - 1)
  wanted = jnp.minimum(size, jnp.asarray(depth, jnp.int32))

  def short(carry):
    picks, _, _, filled = carry
    return (filled < wanted).any() & ((picks < MOST_PICKS) if repeats else True)

  def pick(carry):
    picks, w, rank, filled = carry
    score = jnp.sum(f * w[own], axis=-1)
    open_ = member & (filled < wanted)[:, None]
    open_ = open_ if repeats else open_ & (rank == n)[None]
    at = jnp.argmax(jnp.where(open_, score[None], -jnp.inf), axis=1)
    some = open_.any(1)
    new = some & (rank[at] == n)
    rank = rank.at[jnp.where(new, at, n)].set(filled, mode="drop")
    return picks + 1, jnp.where(some[:, None], w + mean - f[at], w), rank, filled + new.astype(jnp.int32)

  start = (jnp.int32(0), mean, jnp.full(n, n, jnp.int32), jnp.zeros(num_groups, jnp.int32))
  return jax.lax.while_loop(short, pick, start)[2]


def exemplars(capacity: int, num_groups: int, rounding: str = "floor", most: int | None = None) -> Exemplars:
  """Lists of equal length: the first ``M // K`` rows of each of the K groups that have any, for a capacity of M.

  A list is only cut later, so it is a prefix of what it was; one whose group comes again is made anew. K is counted
  from the rows: a group that a request empties counts no longer. ``most``: how many groups can have rows at once, by
  default all. ``rounding`` 'ceil' keeps ``ceil(M / K)``, as iCaRL's released code, and up to ``most - 1`` rows more.
  ``remove`` erases rows and packs the rest; the rows behind them in the list keep their ranks, so a list is not
  refilled. Raises UsageError for sizes below 1, a capacity below ``most``, or another ``rounding``.
  """
  capacity, num_groups = slots.positive("capacity", capacity), slots.positive("num_groups", num_groups)
  if rounding not in ("floor", "ceil"):
    raise UsageError(f"rounding: got {rounding!r}; expected 'floor' or 'ceil'")
  most = num_groups if most is None else slots.positive("most", most)
  if capacity < most:
    raise UsageError(
      f"capacity: got {capacity}, below the {most} classes of all tasks; expected a row for each at least"
    )
  size = capacity + (most - 1 if rounding == "ceil" else 0)

  def init(row):
    free = jnp.full(size, -1, jnp.int32)
    return ExemplarState(slots.empty(row, size), free, jnp.zeros(size, jnp.int32), jnp.int32(0))

  def numbered(group, there):
    return jnp.where(there & (group >= 0) & (group < num_groups), group, num_groups)

  def has_rows(group):
    return jnp.zeros(num_groups, bool).at[group].set(True, mode="drop")

  def quota(state, group, there):
    some = has_rows(numbered(state.group, state.group >= 0)) | has_rows(numbered(group, there))
    count = jnp.maximum(some.sum(dtype=jnp.int32), 1)
    return (capacity + (count - 1 if rounding == "ceil" else 0)) // count

  def add(state, rows, group, rank, there):
    group, held = numbered(group, there), numbered(state.group, state.group >= 0)
    length = quota(state, group, group < num_groups)
    again = jnp.append(has_rows(group), False)[held]  # lists that are made anew
    groups = jnp.concatenate([jnp.where(again, num_groups, held), group])
    ranks = jnp.concatenate([state.rank, rank.astype(jnp.int32)])
    # Old lists as they lie, new ones behind them, by number. A list with gaps, which a request left, is as long as its
    # rows: places are counted, not read off the ranks.
    i = jnp.arange(groups.shape[0], dtype=jnp.int32)
    order = jnp.lexsort((ranks, jnp.where(i < size, i, size + groups), groups == num_groups))
    ordered = groups[order]
    begins = jnp.append(True, ordered[1:] != ordered[:-1])
    place = i - jax.lax.cummax(jnp.where(begins, i, 0))
    stays = (ordered < num_groups) & (place < length)
    stays &= jnp.where(order < size, True, ranks[order] < rank.shape[0])  # a new row that was not picked
    at = order[jnp.argsort(~stays, stable=True)[:size]]
    count = stays.sum(dtype=jnp.int32)
    inside = i[:size] < count
    old, new = slots.read(state.rows, at), slots.read(rows, jnp.maximum(at - size, 0))

    def one(a, b):
      along = lambda m: m.reshape(-1, *(1,) * (a.ndim - 1))
      return jnp.where(along(inside), jnp.where(along(at < size), a, b.astype(a.dtype)), jnp.zeros_like(a))

    kept = jax.tree.map(one, old, new)
    return ExemplarState(kept, jnp.where(inside, groups[at], -1), jnp.where(inside, ranks[at], 0), count)

  def sample(key, state, n):
    at, inside = slots.draw(key, state.count, slots.positive("n", n))
    return slots.read(state.rows, jnp.where(inside, at, size)), inside.astype(jnp.float32)

  def remove(state, gone):
    stored = jnp.arange(size, dtype=jnp.int32) < state.count
    keep = stored & ~slots.gone_mask(gone, state.rows, stored)
    count = keep.sum(dtype=jnp.int32)
    group = jnp.where(jnp.arange(size, dtype=jnp.int32) < count, slots.pack(state.group, keep), -1)
    return ExemplarState(slots.pack(state.rows, keep), group, slots.pack(state.rank, keep), count)

  def contents(state):
    return state.rows, slots.prefix(size, state.count)

  return Exemplars(init, add, sample, remove, contents, quota)
