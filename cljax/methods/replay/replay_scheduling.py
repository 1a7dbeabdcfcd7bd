"""Replay by a schedule: which past tasks fill a tiny memory is chosen for each task, out of a history that is kept."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cljax.core.method import Method
from cljax.core.tree import fold
from cljax.core.types import Access, Spec, UsageError
from cljax.memory import slots as places
from cljax.methods.registry import Entry, Option, register
from cljax.methods.replay import replay_schedules as schedules
from cljax.methods.replay.buffers import append, drawn, example_row
from cljax.methods.replay.exemplars import drawn_ranks, stored_rows
from cljax.methods.slots import no_slots, slot_of


class History(NamedTuple):
  """``T`` blocks of ``H`` rows, one for each task in the order in which they were met, their rows first; and how many
  rows of each block the memory has now."""

  rows: Any  # [T H, ...]; id -1 where there is none
  slots: Any  # [T] int32, the block of each task, -1: none yet
  stored: Any  # [T] int32, rows of each block
  in_use: Any  # [T] int32


def replay_scheduling(
  model, spec: Spec, *, number, capacity: int, history: int = 50, replay_batch: int = 0, schedule: str = "equal",
  reserve: bool = False,
) -> Method:  # fmt: skip
  """Replay scheduling: ``mean CE`` over the current rows and as many from memory, which has ``p_i M`` rows of task i.

  When a task ends, ``history`` of its rows are kept, drawn alike class by class. Where the t-th next one begins, the
  memory of ``capacity`` M rows is filled anew out of these by the schedule's shares p for t past tasks, the oldest
  first: ``floor(p_i M)`` and what is left by :func:`cljax.methods.replay.replay_schedules.filled`, balanced over the
  classes of a task; ``reserve`` gives each past task a row for each of its classes before (where M has room).
  ``schedule`` 'equal' (ETS), counts such as '1/2-0/1-1-1', or 'numbered': that of ``number``, which a population may
  vary in one program (:func:`cljax.methods.replay.replay_schedules.number_of`; up to 6 tasks); the search for one is
  :func:`cljax.methods.replay.replay_schedules.tree_search`. What a schedule does not name is equal.

  Deviations: what is left goes to tasks of positive share alone; the learned policies (DQN, A2C) and the heuristics by
  accuracy are left out. A task that comes back is a past task too, and is kept anew. Raises UsageError for other texts
  and for 'numbered' with more than 6 tasks. Spec A12; Klasson et al., 2023.
  """
  del model
  tasks, keep = spec.num_tasks, min(history, spec.task_rows)
  size, total = min(replay_batch or spec.batch_size, capacity), tasks * min(history, spec.task_rows)
  if schedule == "numbered" and tasks > schedules.MOST_TASKS:
    raise UsageError(f"method.schedule: got 'numbered' for {tasks} tasks; expected at most {schedules.MOST_TASKS}")
  plain = schedules.equal(tasks) if schedule in ("equal", "numbered") else schedules.written(schedule, tasks)
  block = jnp.repeat(jnp.arange(tasks, dtype=jnp.int32), keep)
  place = jnp.tile(jnp.arange(keep, dtype=jnp.int32), tasks)

  def start_task(key, learner, task):
    del key, task
    state = learner.method_state
    table = schedules.numbered(number, tasks) if schedule == "numbered" else jnp.asarray(plain)
    share = jnp.where(state.stored > 0, table[(state.slots >= 0).sum(dtype=jnp.int32)], 0.0)
    first = jnp.zeros(tasks, jnp.int32)
    if reserve:
      there = place < state.stored[block]
      classes = jnp.zeros((tasks, spec.num_classes), bool).at[block, state.rows["y"]].max(there)
      first = jnp.where(classes.sum(dtype=jnp.int32) <= capacity, classes.sum(1, dtype=jnp.int32), 0)
    more = schedules.filled(share, capacity - first.sum(dtype=jnp.int32), state.stored - first, capacity)
    return learner._replace(method_state=state._replace(in_use=first + more))

  def prepare(key, learner, batch):
    state = learner.method_state
    open_ = place < state.in_use[block]
    noise = jnp.where(open_, jax.random.uniform(fold(key, "sample"), (total,)), -1.0)
    noise, at = jax.lax.top_k(noise, min(size, total))
    rows, weight = places.read(state.rows, at), (noise >= 0).astype(jnp.float32)
    return learner, append(batch, drawn(spec, rows, weight, batch.visit))

  def end_task(key, learner, task):
    state = learner.method_state
    rows = task.rows.as_read().batch(0, spec.task_rows)
    there = rows.weight > 0
    rank = drawn_ranks(key, jnp.where(there, rows.y, spec.num_classes))
    order = jnp.lexsort((rows.y, rank, ~there))[:keep]  # a row of each class in turn
    slot, slots = slot_of(state.slots, task.visit)
    count = jnp.minimum(there.sum(dtype=jnp.int32), keep)
    own = jax.tree.map(lambda a: a[order], stored_rows(rows))
    written = jax.tree.map(
      lambda old, new: jax.lax.dynamic_update_slice_in_dim(old, new.astype(old.dtype), slot * keep, 0), state.rows, own
    )
    return learner._replace(method_state=History(written, slots, state.stored.at[slot].set(count), state.in_use))

  def scrub(learner, request):
    state = learner.method_state
    gone = request.names(state.rows["id"], state.rows["task"])
    there = (place < state.stored[block]) & ~gone
    order = jnp.lexsort((place, ~there, block))  # each block stays where it is
    clear = lambda a: jnp.where(there.reshape(-1, *(1,) * (a.ndim - 1)), a, jnp.zeros_like(a))
    rows = {**jax.tree.map(clear, state.rows), "id": jnp.where(there, state.rows["id"], -1)}
    of = lambda which: jnp.zeros(tasks, jnp.int32).at[block].add(which.astype(jnp.int32))
    in_use = of(there & (place < state.in_use[block]))
    return learner._replace(
      method_state=state._replace(rows=jax.tree.map(lambda a: a[order], rows), stored=of(there), in_use=in_use)
    )

  def init(key, learner):
    del key, learner
    rows, none = places.empty(example_row(spec), total), jnp.zeros(tasks, jnp.int32)
    return History({**rows, "id": rows["id"] - 1}, no_slots(spec), none, none)

  return Method(init=init, start_task=start_task, prepare=prepare, end_task=end_task, scrub=scrub)


register(
  "replay_scheduling",
  Entry(
    replay_scheduling,
    {
      "capacity": Option(10, 1),
      "history": Option(50, 1),
      "replay_batch": Option(0, 0),
      "schedule": Option("equal"),
      "number": Option(0.0, 0, needs={"schedule": ("numbered",)}),
      "reserve": Option(False),
    },
    Access(stores_data=True, task_boundaries=True, boundary_data=True, needs=("classes",)),
    "Klasson et al. 2023",
  ),
)
