"""How a Learn event is trained: its schedule, or that of its replay without what was deleted."""

from __future__ import annotations

from typing import NamedTuple

from cljax.engine import schedule
from cljax.engine.program_arguments import learned_before
from cljax.engine.setup import CompiledRun


class Course(NamedTuple):
  """How a Learn event is trained: its schedule; whether that is of the rows that are left alone (``thin``), and then
  the steps of the whole stream and the tasks that lack all rows."""

  plan: schedule.Schedule
  thin: bool = False
  total: int | None = None
  never: tuple = ()


def of_event(setup: CompiledRun, at: int, deleted=None) -> Course:
  """The course of the Learn event ``at``; of its replay without the pairs ``deleted``, as the method asks for."""
  stream, thin = setup.stream, deleted is not None and setup.parts.method.replay == "epochs"
  if thin:
    stream = schedule.thinned(stream, deleted)
  never = tuple(t for t, rows in enumerate(stream.train) if thin and not len(rows))
  learned = [t for t in learned_before(setup, at) if t not in never]
  plan = schedule.schedule(stream, learned, at, stream.events[at].task, setup.trains_on, setup.recipe)
  return Course(plan, thin, schedule.total_steps(stream, setup.trains_on, setup.recipe) if thin else None, never)


def next_count(options, state, steps: int, done: int, capacity: int, replays: bool) -> int:
  """Steps of the next chunk: to the next evaluation or checkpoint, and at most about ``max_interval_s`` long."""
  count = min(capacity, steps - done)
  for every in (0 if replays else options.eval_every, options.checkpoint_every):
    count = min(count, every - done % every) if every else count
  if state.seconds_per_step:
    count = min(count, max(1, int(options.max_interval_s / state.seconds_per_step)))
  return count
