"""Schedules of replay: how past tasks share a small memory where each task begins, and a search among these."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from cljax.core.types import UsageError

MOST_TASKS = 6  # up to which a schedule's number is exact in float32


@functools.cache
def shares(tasks: int) -> tuple[tuple[int, ...], ...]:
  """All ways to give ``tasks`` equal parts of a memory to as many past tasks, the oldest first: counts that sum to
  their number. There are ``C(2 t - 1, t)``: 1, 3, 10, 35, ..."""
  chosen = itertools.combinations_with_replacement(range(tasks), tasks)
  return tuple(tuple(c.count(t) for t in range(tasks)) for c in chosen)


def number_of(schedule: Sequence[Sequence[int]]) -> int:
  """The number of a schedule: one of :func:`shares` for 1, 2, ... past tasks."""
  number, radix = 0, 1
  for t, share in enumerate(schedule, start=1):
    number += radix * shares(t).index(tuple(share))
    radix *= len(shares(t))
  return number


def schedule_of(number: int, tasks: int) -> tuple[tuple[int, ...], ...]:
  """The schedule of this number for a stream of ``tasks`` tasks: shares for 1, ..., ``tasks - 1`` past ones."""
  out = []
  for t in range(1, tasks):
    number, at = divmod(int(number), len(shares(t)))
    out.append(shares(t)[at])
  return tuple(out)


def equal(tasks: int) -> np.ndarray:
  """``[T + 1, T]``: after t tasks, 1 for each of these."""
  return np.tril(np.ones((tasks + 1, tasks), np.float32), -1)


def written(text: str, tasks: int) -> np.ndarray:
  """:func:`equal` with the rows that ``text`` gives: '1/2-0/1-1-1', after one, two, three tasks, the oldest first."""
  table, parts = equal(tasks), text.split("/")
  for t, part in enumerate(parts, start=1):
    counts = part.split("-")
    if t >= tasks or len(counts) != t or not all(c.isdigit() for c in counts) or not any(int(c) for c in counts):
      raise UsageError(
        f"method.schedule: got {text!r}; expected 'equal', 'numbered' or counts such as '1/2-0/1-1-1': after t tasks t "
        f"of them, not all 0, for t up to {tasks - 1}"
      )
    table[t, :t] = [int(c) for c in counts]
  return table


def numbered(number, tasks: int):
  """:func:`equal` with the rows of the schedule of this number, which may be traced."""
  table, number = jnp.asarray(equal(tasks)), jnp.asarray(number, jnp.int32)
  for t in range(1, tasks):
    of = jnp.asarray(shares(t), jnp.float32)
    table = table.at[t, :t].set(of[number % len(of)])
    number = number // len(of)
  return table


def filled(share, total, there, capacity: int):
  """``[T]`` int32: rows of each past task that the memory has; ``share [T]`` of any scale, ``there [T]`` rows stored.

  ``floor(p total)`` each, at most what is stored; what is left of ``total`` is given one by one in rounds, in the order
  of the fractional parts, the largest first, to those of positive share that have more.
  """
  part = share / jnp.maximum(share.sum(), 1e-9) * jnp.asarray(total, share.dtype)
  first = jnp.minimum(jnp.floor(part + 1e-4).astype(jnp.int32), there)
  order = jnp.argsort(jnp.argsort(-(part - jnp.floor(part + 1e-4)), stable=True)).astype(jnp.int32)

  def one(_, state):
    count, rounds, left = state
    room = (share > 0) & (count < there)
    turn = jnp.argmin(jnp.where(room, rounds * share.shape[0] + order, jnp.iinfo(jnp.int32).max))
    gives = (room.any() & (left > 0)).astype(jnp.int32)
    return count.at[turn].add(gives), rounds.at[turn].add(gives), left - gives

  left = jnp.asarray(total, jnp.int32) - first.sum(dtype=jnp.int32)
  return jax.lax.fori_loop(0, capacity, one, (first, jnp.zeros_like(first), left))[0]


def upper_bound(rewards: Sequence[float], parent: int, visits: int, exploration: float) -> float:
  """``max rewards + c sqrt(2 ln N_parent / N)``; the largest, not the mean."""
  return max(rewards) + exploration * math.sqrt(2 * math.log(max(parent, 1)) / visits)


def tree_search(
  reward: Callable[[list[int]], Sequence[float]], tasks: int, iterations: int, seed: int = 0, exploration: float = 0.1,
  together: int = 1,
) -> tuple[int, float, list[float]]:  # fmt: skip
  """``(number, reward, best so far [iterations])`` of the best schedule that a Monte Carlo tree search finds.

  An iteration goes down the tree by :func:`upper_bound`, tries a share that was not tried, the last of the list, draws
  the rest of the schedule and notes the reward along the way. ``reward(numbers) -> rewards`` is asked for ``together``
  schedules at once (of one program, where it can), each once in a search; within such a round a place that has no
  reward yet counts as its parent. For up to 6 tasks. Klasson et al., 2023 (max, c = 0.1, 100 iterations).
  """
  if not 2 <= tasks <= MOST_TASKS:
    raise UsageError(f"tasks: got {tasks}; expected 2 to {MOST_TASKS}, as a schedule is a number")
  rng = np.random.default_rng(seed)
  rewards: dict[tuple, list[float]] = {(): []}
  visits: dict[tuple, int] = {(): 0}
  untried: dict[tuple, list[int]] = {}
  known: dict[int, float] = {}
  best: list[float] = []

  def walk() -> tuple[tuple, int]:
    at: tuple[int, ...] = ()
    while len(at) < tasks - 1:
      left = untried.setdefault(at, list(range(len(shares(len(at) + 1)))))
      if left:
        at = (*at, left.pop())
        rewards[at], visits[at] = [], 0
        break
      children = [(*at, a) for a in range(len(shares(len(at) + 1)))]
      mine = rewards[at] or [0.0]
      at = max(children, key=lambda c: upper_bound(rewards[c] or mine, visits[at], max(visits[c], 1), exploration))
    rest = [int(rng.integers(len(shares(t)))) for t in range(len(at) + 1, tasks)]
    for depth in range(len(at) + 1):
      visits[at[:depth]] += 1
    return at, number_of([shares(t)[a] for t, a in enumerate([*at, *rest], start=1)])

  while len(best) < iterations:
    walks = [walk() for _ in range(min(together, iterations - len(best)))]
    new = list(dict.fromkeys(n for _, n in walks if n not in known))
    known |= dict(zip(new, map(float, reward(new)), strict=True)) if new else {}
    for at, number in walks:
      for depth in range(len(at) + 1):
        rewards[at[:depth]].append(known[number])
      best.append(max(known[number], best[-1] if best else known[number]))
  number = max(known, key=lambda n: known[n])
  return number, known[number], best
