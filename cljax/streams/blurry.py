"""Blurry task borders: some classes belong to one task, of the others a share of the rows turns up anywhere."""

from __future__ import annotations

import numpy as np

from cljax.core.types import UsageError


def blurry_rows(
  y: np.ndarray, pool: np.ndarray, keep: np.ndarray, classes: int, tasks: int, disjoint: int, blurry: int,
  stochastic: bool, seed: int,
) -> list[np.ndarray]:  # fmt: skip
  """The rows of each task (Moon et al. 2023, Si-Blurry; with ``stochastic=False`` i-Blurry of Koh et al. 2022).

  ``D = floor(C disjoint / 100)`` classes of a random order are disjoint, the next ``C - D`` blurry, both rounded down
  to a multiple of the tasks; the rest is dropped. i-Blurry: every task owns ``D / T`` and ``(C - D) / T`` of them and
  gives ``blurry`` percent of its blurry rows to a pool, which is shuffled and dealt out in equal shares (a remainder is
  dropped). Si-Blurry: cuts at sorted uniform integers say how many classes each task owns, and how many rows it gives
  to the pool (of ``blurry`` percent of all blurry rows) and gets back; a task may own no class, and one that owns fewer
  blurry rows than it should give makes the pool smaller, so the last tasks get less. As the released sampler, except
  that the rows given are a random choice (the sampler takes the first in stored order, which is that where the data are
  stored in random order), and that a draw which leaves a task without a row of ``keep [N] bool`` is made again, up to
  1000 times. Raises UsageError for percentages outside 0..100 and where no draw fits.
  """
  for name, value in (("disjoint", disjoint), ("blurry", blurry)):
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or not 0 <= value <= 100:
      raise UsageError(f"stream.{name}: got {value!r}; expected an integer of percent, 0..100")
  rng = np.random.default_rng(np.random.SeedSequence([seed, 0xB1022]))
  alone = classes * disjoint // 100 // tasks * tasks
  mixed = (classes - alone) // tasks * tasks
  draws = 0 if tasks > keep[pool].sum() else 1000 if stochastic else 1
  for _ in range(draws):
    order = rng.permutation(classes)
    own = _cut(order[:alone], rng, tasks, stochastic)
    shared = _cut(order[alone : alone + mixed], rng, tasks, stochastic)
    fixed = [pool[np.isin(y[pool], group)] for group in own]
    moving = [rng.permutation(pool[np.isin(y[pool], group)]) for group in shared]
    total = sum(map(len, moving)) * blurry // 100
    given = np.diff(_cuts(total, rng, tasks)) if stochastic else [len(rows) * blurry // 100 for rows in moving]
    spread = rng.permutation(np.concatenate([rows[:n] for rows, n in zip(moving, given, strict=True)]))
    back = np.cumsum(given)[:-1] if stochastic else np.arange(1, tasks) * (len(spread) // tasks)
    dealt = np.split(spread, back)
    dealt[-1] = dealt[-1] if stochastic else dealt[-1][: len(spread) // tasks]
    parts = zip(fixed, moving, given, dealt, strict=True)
    out = [np.sort(np.concatenate([a, rows[n:], d])) for a, rows, n, d in parts]
    if all(keep[rows].any() for rows in out):
      return out
  raise UsageError(
    f"stream.tasks: no division of {classes} classes and {len(pool)} rows gives each of {tasks} tasks a row"
  )


def _cut(classes, rng, tasks: int, stochastic: bool) -> list[np.ndarray]:
  return np.split(classes, _cuts(len(classes), rng, tasks)[1:-1]) if stochastic else np.split(classes, tasks)


def _cuts(total: int, rng, tasks: int) -> np.ndarray:
  """``[T + 1]``: 0, sorted uniform integers below ``total``, ``total``."""
  inner = np.sort(rng.integers(0, total, tasks - 1)) if total else np.zeros(tasks - 1, int)
  return np.concatenate([[0], inner, [total]]).astype(int)


def occurring(y, rows, classes: int) -> np.ndarray:
  """``labels [T, C]``: a class keeps its name where a task holds a row of it, else -1."""
  labels = np.full((len(rows), classes), -1, np.int32)
  for t, mine in enumerate(rows):
    present = np.unique(y[mine])
    labels[t, present] = present
  return labels
