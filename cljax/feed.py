"""Which rows each step trains on, and the two ways by which they reach it: indices on the device, or batches by
Grain."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from cljax.types import Batch


class Pairs(NamedTuple):
  """Rows as the tasks show them: ``index [N]`` into the training split and ``task [N]``."""

  index: Any
  task: np.ndarray


class Schedule(NamedTuple):
  """The steps of one Learn event: ``pairs``, how many steps, and what makes their order."""

  pairs: Pairs
  steps: int
  event: int
  batch_size: int


def pairs_of(stream, tasks) -> Pairs:
  """All training rows of the given tasks, in order."""
  tasks = list(tasks)
  index = [np.asarray(stream.train[t]) for t in tasks]
  task = [np.full(len(rows), t) for t, rows in zip(tasks, index, strict=True)]
  if not tasks:
    return Pairs(np.zeros(0, np.int32), np.zeros(0, np.int32))
  return Pairs(np.concatenate(index).astype(np.int32), np.concatenate(task).astype(np.int32))


def schedule(stream, learned, event: int, task: int, trains_on: str, recipe) -> Schedule:
  """The schedule of a Learn event. ``learned``: tasks learned before, in order.

  ``current`` and ``seen`` make ``epochs`` passes over their rows. ``all`` (the joint reference) draws as many steps as
  ``current`` would, from all tasks mixed, so that the whole run costs what the others cost.
  """
  epochs = recipe.epochs if learned or not recipe.first_task_epochs else recipe.first_task_epochs
  own = -(-len(stream.train[task]) // recipe.batch_size) * epochs
  if trains_on == "current":
    return Schedule(pairs_of(stream, [task]), own, event, recipe.batch_size)
  if trains_on == "seen":
    pairs = pairs_of(stream, [*learned, task])
    return Schedule(pairs, -(-len(pairs.index) // recipe.batch_size) * epochs, event, recipe.batch_size)
  return Schedule(pairs_of(stream, range(stream.num_tasks)), own, event, recipe.batch_size)


@lru_cache(maxsize=512)
def _order(seed: int, event: int, epoch: int, size: int) -> np.ndarray:
  return np.random.default_rng(np.random.SeedSequence([seed, event, epoch, 0xB47C])).permutation(size).astype(np.int32)


def rows(plan: Schedule, seed: int, start: int, count: int, capacity: int, deleted: np.ndarray):
  """``(index, task, weight)``, each ``[capacity, B]``: steps ``start .. start+count`` of one seed; the rest is padding.

  Each pass is a fresh permutation by (seed, event, pass), so any step can be made without those before it. Deleted rows
  keep their place at weight 0: a replayed prefix sees the same batches less those rows.
  """
  size, batch = len(plan.pairs.index), plan.batch_size
  each = -(-size // batch)
  out = np.zeros((3, capacity * batch), np.int32)
  step = start
  while step < start + count:  # a pass at a time
    epoch, at = divmod(step, each)
    steps = min(each - at, start + count - step)
    order = _order(seed, plan.event, epoch, size)[at * batch : (at + steps) * batch]
    place = slice((step - start) * batch, (step - start) * batch + len(order))
    index = plan.pairs.index[order]
    out[0, place], out[1, place], out[2, place] = index, plan.pairs.task[order], ~deleted[index]
    step += steps
  return tuple(out.reshape(3, capacity, batch))


def read(split, labels, index, task, weight) -> Batch:
  """Host batches for ``feed``: reads rows ``index [K, B]`` through Grain, in order, with its worker threads.

  Inputs come back as stored, ``[K, B, ...]``; the view of each task is applied on the device.
  """
  import grain.python as grain

  flat = index.reshape(-1)

  class Source:
    """Random access for Grain: position -> stored row, read from memory or a memory-mapped file."""

    def __len__(self):
      return len(flat)

    def __getitem__(self, at):
      return split.x[flat[at]]

  steps, size = index.shape
  loader = grain.MapDataset.source(Source()).batch(size).to_iter_dataset(grain.ReadOptions(num_threads=2))
  x = np.stack(list(loader))
  y = labels[task, split.y[index]]
  assert x.shape[:2] == (steps, size)
  return Batch(x, y.astype(np.int32), weight.astype(np.float32), index, task)
