"""What the compiled programs are called with, made on the host: where the stream stands, and which rows."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from cljax.core.types import Learn, Visit
from cljax.engine import programs as prog
from cljax.engine.device_rows import device_data
from cljax.engine.setup import CompiledRun
from cljax.engine.step import StreamPosition
from cljax.streams.requests import forgotten_classes, pair_table
from cljax.streams.rows import at_most


def learned_before(setup: CompiledRun, upto: int) -> list[int]:
  return [e.task for e in setup.stream.events[:upto] if isinstance(e, Learn)]


def where_in_stream(
  setup: CompiledRun, at: int, start: int, steps: int, total: int | None = None, never=()
) -> StreamPosition:
  """Where event ``at``, of ``steps`` steps from step ``start`` on, stands; a Forget event stands at the task before.

  ``total`` steps instead of the run's, and tasks that were ``never`` learned: of a stream that lacks their rows.
  """
  event, learned = setup.stream.events[at], [t for t in learned_before(setup, at) if t not in never]
  task = event.task if isinstance(event, Learn) else learned[-1]
  every = [e.task for e in setup.stream.events if isinstance(e, Learn) and e.task not in never]
  of = lambda tasks: jnp.asarray(np.isin(np.arange(setup.spec.num_tasks), tasks))
  visit = Visit(jnp.int32(task), of(learned), of(every if setup.trains_on == "all" else [*learned, task]))
  place = StreamPosition(visit, *(jnp.int32(v) for v in (start, steps, setup.total_steps if total is None else total)))
  return prog.replicate(place, setup.members)


def boundary_arguments(setup: CompiledRun, deleted, task: int, where):
  """Shared arguments of start_task and end_task: the task's rows that are still there."""
  rows = np.asarray(setup.stream.train[task])
  rows = rows[~deleted[task]]
  if setup.options.feed == "grain":
    where = where._replace(rows=prog.replicate(jnp.int32(len(rows)), setup.members))
    rows = at_most(rows, setup.stream.dataset.train.y, setup.options.boundary_limit, seed=task)
    data = prog.replicate(device_data(setup.stream, setup.options, rows), setup.members)
    rows = np.arange(len(rows))
  else:
    data = setup.train
  capacity = (
    min(setup.spec.task_rows, setup.options.boundary_limit) if setup.options.feed == "grain" else setup.spec.task_rows
  )
  return (data, where, *prog.replicate(padded(rows, np.full(len(rows), task), capacity), setup.members))


def padded(index, task, capacity):
  """``(index [capacity], task [capacity], count)``."""
  pad = (0, capacity - len(index))
  return jnp.asarray(np.pad(index, pad), jnp.int32), jnp.asarray(np.pad(task, pad), jnp.int32), jnp.int32(len(index))


def request_arguments(setup: CompiledRun, event: int, total: int, forget, retain, named, whole) -> tuple:
  """What the ``forget`` program takes beside learners: the data, where the run stands, the rows of either side
  (padded), and the request as pairs, as labels that go whole, with all groups and with the labels that went before;
  ``scrub`` takes these first two."""
  before = forgotten_classes(setup.stream, event)
  asked = (pair_table(setup.stream, named), whole, np.asarray(setup.stream.dataset.train.group, np.int32), before)
  asked = prog.replicate(tuple(map(jnp.asarray, asked)), setup.members)
  learns = [i for i, e in enumerate(setup.stream.events[:event]) if isinstance(e, Learn)]
  where = where_in_stream(setup, event, total, event - max(learns, default=-1))  # its place among those of this step
  return (setup.train, where, *prog.replicate((forget, retain), setup.members), *asked)


def init_arguments(setup: CompiledRun):
  """What the ``init`` program is called with: each member's hyper-parameters and seed."""
  seeds = prog.shard_members(np.asarray([m.seed for m in setup.population], np.uint32), setup.members)
  return setup.hyper, (), seeds, ()
