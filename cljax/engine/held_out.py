"""Evaluation without the rows that requests have named: held-out rows, and test rows that are training rows."""

from __future__ import annotations

import numpy as np

from cljax.core.types import Forget, Learn
from cljax.engine import own_streams
from cljax.engine import programs as prog
from cljax.engine.device_rows import few_first
from cljax.engine.setup import CompiledRun
from cljax.streams.fates import deleted_held, deleted_tests


def remaining(setup: CompiledRun, upto: int, known: tuple) -> tuple:
  """``(last, whole, partial)``: the blocks of a whole and of a partial evaluation, where rows that the Forget events
  before ``upto`` name weigh nothing, and the last of these events; ``known`` if that is it. A slot has its blocks in
  the order of its rows."""
  stream, events = setup.stream, setup.stream.events[:upto]
  last = max((i for i, event in enumerate(events) if isinstance(event, Forget)), default=-1)
  if known and known[0] == last:
    return known
  if last < 0:
    return last, setup.blocks, setup.partial
  gone, limit = [], setup.options.eval_limit
  for rows, mine in zip(stream.test, deleted_tests(stream, upto), strict=True):
    gone.append(mine[few_first(np.arange(len(rows)), stream.dataset.test.y[rows], limit)] if limit else mine)
  if len(setup.blocks.totals) > stream.num_tasks:
    gone += deleted_held(stream, upto)
  return last, *(_without(blocks, gone, setup) for blocks in (setup.blocks, setup.partial))


def is_ahead(setup: CompiledRun, upto: int) -> np.ndarray:
  """``[T]``: tasks that the first ``upto`` events did not learn, and a later one does."""
  learns = [e.task if isinstance(e, Learn) else -1 for e in setup.stream.events]
  tasks = np.arange(setup.stream.num_tasks)
  return np.isin(tasks, learns) & ~np.isin(tasks, learns[:upto])


def met(setup: CompiledRun, upto: int, blocks):
  """The blocks without those of tasks that are ahead, half of a run's, for which forward transfer alone asks."""
  tasks = np.flatnonzero(~is_ahead(setup, upto))
  return own_streams.of_slots(blocks, [*tasks, *(tasks + setup.stream.num_tasks)], setup.members)


def evaluated_rows(setup: CompiledRun) -> np.ndarray | None:
  """``[S, E+1, T]``: the test rows that each entry of the main score is a mean over, less those deleted by then; None
  where rows do not weigh alike in it (tokens, say)."""
  stream, learned = setup.stream, setup.parts.objective
  if not learned.scores[learned.main].bits:
    return None
  ahead = np.stack([is_ahead(setup, upto) for upto in range(len(stream.events) + 1)])
  there = 1 if setup.options.eval_ahead else 1 - ahead.astype(int)
  if setup.streams:  # whose runs have no requests
    own = np.asarray([[len(t) for t in s.test] for s in setup.streams])
    return np.repeat(own[:, None], len(stream.events) + 1, 1) * there
  rows = [np.asarray([len(t) for t in stream.test])]
  for upto, event in enumerate(stream.events, 1):
    gone = [int(mine.sum()) for mine in deleted_tests(stream, upto)] if isinstance(event, Forget) else None
    rows.append(rows[-1] if gone is None else rows[0] - gone)
  return np.tile(np.stack(rows) * there, (len(setup.population), 1, 1))


def _without(blocks, gone, setup: CompiledRun):
  """The blocks with weight 0 for the rows ``gone`` of each slot."""
  if not any(part.any() for part in gone):
    return blocks
  weight = np.array(blocks.weight)
  left = [iter(~part) for part in gone]
  for block, slot in enumerate(blocks.slot):
    for place in np.flatnonzero(weight[block]):
      weight[block, place] = next(left[slot])
  return blocks._replace(weight=prog.replicate(weight, setup.members))
