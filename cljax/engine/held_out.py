"""Evaluation without the held-out rows that requests have named."""

from __future__ import annotations

import numpy as np

from cljax.core.types import Forget
from cljax.engine import programs as prog
from cljax.engine.setup import CompiledRun
from cljax.streams.fates import deleted_held


def remaining(setup: CompiledRun, upto: int, known: tuple) -> tuple:
  """``(last, blocks)``: the blocks of a whole evaluation, where held-out rows that the Forget events before ``upto``
  name weigh nothing, and the last of these events; ``known`` if that is it. A validation slot has its blocks in the
  order of its rows."""
  events = setup.stream.events[:upto]
  last = max((i for i, event in enumerate(events) if isinstance(event, Forget)), default=-1)
  if known and known[0] == last:
    return known
  gone, tasks = deleted_held(setup.stream, upto), setup.stream.num_tasks
  if last < 0 or len(setup.blocks.totals) == tasks or not any(part.any() for part in gone):
    return last, setup.blocks
  weight = np.array(setup.blocks.weight)
  left = [iter(~part) for part in gone]
  for block, slot in enumerate(setup.blocks.slot):
    if slot >= tasks:
      for place in np.flatnonzero(weight[block]):
        weight[block, place] = next(left[slot - tasks])
  return last, setup.blocks._replace(weight=prog.replicate(weight, setup.members))
