"""Which rows each step trains on, and the two ways by which they reach it: indices on the device, or batches by
Grain."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import jax
import numpy as np

from cljax.core.extras import needed
from cljax.core.types import Batch, Learn
from cljax.engine.step import ABSENT, AGAIN, FRESH


class Pairs(NamedTuple):
  """Rows as the tasks show them: ``index [N]`` into the training split and ``task [N]``, one of ``tasks`` after the
  other."""

  index: Any
  task: np.ndarray
  tasks: tuple = ()

  def select(self, masks) -> np.ndarray:
    """``[N]`` bool out of one mask for each task of the stream, over its training rows."""
    return np.concatenate([np.zeros(0, bool), *(masks[t] for t in self.tasks)])


class Schedule(NamedTuple):
  """The steps of one Learn event: ``pairs``, how many steps, and what makes their order."""

  pairs: Pairs
  steps: int
  event: int  # what the permutations are drawn by, beside the seed and the pass
  batch_size: int
  begun: int = 0  # steps of these passes that earlier events took
  per_pass: int = 0  # steps that a pass is cut into, as evenly as can be (0: full batches and one with the rest)
  met: Any = ()  # tasks whose rows earlier events offered


def pairs_of(stream, tasks) -> Pairs:
  """All training rows of the given tasks, in the order in which they are first named, each once."""
  tasks = list(dict.fromkeys(tasks))
  index = [np.asarray(stream.train[t]) for t in tasks]
  task = [np.full(len(rows), t) for t, rows in zip(tasks, index, strict=True)]
  if not tasks:
    return Pairs(np.zeros(0, np.int32), np.zeros(0, np.int32))
  return Pairs(np.concatenate(index).astype(np.int32), np.concatenate(task).astype(np.int32), tuple(tasks))


def schedule(stream, learned, event: int, task: int, trains_on: str, recipe) -> Schedule:
  """The schedule of a Learn event. ``learned``: tasks learned before, in order.

  ``current`` and ``seen`` make ``epochs`` passes over their rows. ``all`` (the joint reference) takes as many steps as
  ``current``, and goes on from event to event with passes over all rows of the stream, each cut into as many steps as
  the tasks' own passes take together: so each row comes once an epoch.
  """
  epochs = recipe.epochs if learned or not recipe.first_task_epochs else recipe.first_task_epochs
  size = recipe.batch_size
  if trains_on == "current":
    pairs = pairs_of(stream, [task])
    return Schedule(pairs, -(-len(pairs.index) // size) * epochs, event, size, met=tuple(learned))
  if trains_on == "seen":
    pairs = pairs_of(stream, [*learned, task])
    return Schedule(pairs, -(-len(pairs.index) // size) * epochs, event, size, met=tuple(learned))
  each = lambda t: -(-len(stream.train[t]) // size)
  every = list(dict.fromkeys(e.task for e in stream.events if isinstance(e, Learn)))
  own, before = each(task) * epochs, 0
  for i, t in enumerate(learned):
    before += each(t) * (recipe.epochs if i or not recipe.first_task_epochs else recipe.first_task_epochs)
  return Schedule(pairs_of(stream, every), own, 0, size, begun=before, per_pass=sum(map(each, every)))


def thinned(stream, gone):
  """The stream without the pairs ``gone`` (of ``streams.resolve_pairs``), event by event as it was: its schedule has
  the passes of retraining by epochs."""
  return stream._replace(train=tuple(np.asarray(r)[~mine] for r, mine in zip(stream.train, gone, strict=True)))


def total_steps(stream, trains_on: str, recipe) -> int:
  """Steps of all Learn events whose task has rows."""
  learned: list[int] = []
  total = 0
  for at, event in enumerate(stream.events):
    if isinstance(event, Learn) and len(stream.train[event.task]):
      total += schedule(stream, learned, at, event.task, trains_on, recipe).steps
      learned.append(event.task)
  return total


@lru_cache(maxsize=512)
def _order(seed: int, event: int, epoch: int, size: int) -> np.ndarray:
  return np.random.default_rng(np.random.SeedSequence([seed, event, epoch, 0xB47C])).permutation(size).astype(np.int32)


def rows(plan: Schedule, seed: int, start: int, count: int, capacity: int, gone: np.ndarray):
  """``(index, task, offered)``, each ``[capacity, B]``: steps ``start .. start+count`` of one seed; the rest padding.

  Each pass is a fresh permutation by (seed, event, pass), so any step can be made without those before it. Pairs that
  are ``gone`` (``[len(pairs)]`` bool) keep their place as ABSENT: a replayed prefix sees the same batches less those
  rows. A row is FRESH in the first pass over it in the run, AGAIN in others.
  """
  size, batch = len(plan.pairs.index), plan.batch_size
  each = plan.per_pass or -(-size // batch)
  cut = lambda steps: steps * size // each if plan.per_pass else np.minimum(steps * batch, size)
  out = np.full((3, capacity * batch), ABSENT, np.int32)
  known = np.isin(plan.pairs.task, plan.met)
  step = start
  while step < start + count:  # a pass at a time
    epoch, at = divmod(plan.begun + step, each)
    steps = min(each - at, start + count - step)
    ends = cut(np.arange(at, at + steps + 1))
    order = _order(seed, plan.event, epoch, size)[ends[0] : ends[-1]]
    first = (step - start + np.arange(steps)) * batch - (
      ends[:-1] - ends[0]
    )  # where each step's rows begin, less theirs
    place = np.repeat(first, np.diff(ends)) + np.arange(len(order))
    index = plan.pairs.index[order]
    again = known[order] if epoch == 0 else True
    offered = np.where(gone[order], ABSENT, np.where(again, AGAIN, FRESH))
    out[0, place], out[1, place], out[2, place] = index, plan.pairs.task[order], offered
    step += steps
  return tuple(out.reshape(3, capacity, batch))


def read(split, labels, index, task, offered) -> Batch:
  """Host batches for ``feed``: reads rows ``index [K, B]`` through Grain, in order, with its worker threads.

  Inputs come back as stored, ``[K, B, ...]``; the view of each task is applied on the device. The batches' weight is
  what the step makes weights from (:func:`cljax.engine.step.weighed`). ``labels [T, C]`` of classes; None: targets are
  what is stored.
  """
  with needed("train.feed=grain"):
    import grain.python as grain

  flat = index.reshape(-1)

  class Source:
    """Random access for Grain: position -> stored row, read from memory or a memory-mapped file."""

    def __len__(self):
      return len(flat)

    def __getitem__(self, at):
      return jax.tree.map(lambda a: a[flat[at]], split.x)

  steps, size = index.shape
  loader = grain.MapDataset.source(Source()).batch(size).to_iter_dataset(grain.ReadOptions(num_threads=2))
  x = jax.tree.map(lambda *batches: np.stack(batches), *loader)
  y = jax.tree.map(lambda a: a[index], split.y)
  if labels is not None:
    y = labels[task, y].astype(np.int32)
  assert all(a.shape[:2] == (steps, size) for a in jax.tree.leaves(x))
  return Batch(x, y, offered, index, task)
