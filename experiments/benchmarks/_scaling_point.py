"""One point of :mod:`experiments.benchmarks.scaling`: what one run costs, piece by piece, without running it whole."""

from __future__ import annotations

import pathlib
import tempfile
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import cljax
from cljax import engine, models, streams
from cljax.core import tree
from cljax.core.types import Visit
from cljax.data import Dataset, Split
from cljax.engine import loop, program_arguments, saving, schedule
from cljax.engine import programs as prog
from cljax.engine.step import StreamPosition, state_between_tasks
from cljax.io import checkpoint
from cljax.streams.requests import deleted_pairs

BATCH, INPUTS = 8, 16
TRAIN, TEST = 16, 4  # rows of a task


class Size(NamedTuple):
  """Where a point lies on the four axes."""

  tasks: int = 10
  classes: int = 10
  memory: int = 1000
  width: int = 32  # of the two hidden layers

  @property
  def parameters(self) -> int:
    w = self.width
    return INPUTS * w + w + w * w + w + w * self.classes + self.classes


def stream_of_noise(tasks: int, classes: int):
  """``tasks`` tasks of few rows each, all classes in any of them."""
  rng = np.random.default_rng(0)

  def split(rows):
    x = rng.normal(size=(rows, INPUTS)).astype(np.float32)
    return Split(
      x, np.arange(rows, dtype=np.int32) % classes, np.arange(rows, dtype=np.int32), np.zeros(rows, np.int32)
    )

  cut = lambda rows: np.split(np.arange(rows * tasks), tasks)
  data = Dataset(
    "noise", split(TRAIN * tasks), split(TEST * tasks), classes, tuple(map(str, range(classes))), ("all",), 1.0,
    f"noise{tasks}x{classes}",
  )  # fmt: skip
  return streams.from_tasks(data, cut(TRAIN), cut(TEST), num_classes=classes)


def seconds(function: Callable[[], Any], repeats: int) -> float:
  """The median of ``repeats`` calls."""
  found = []
  for _ in range(repeats):
    start = time.perf_counter()
    jax.block_until_ready(function())
    found.append(time.perf_counter() - start)
  return float(np.median(found))


def measured(method: str, size: Size, repeats: int, hyper: Mapping[str, Any] | None = None) -> dict[str, float]:
  """Seconds and bytes of each quantity of a run of ``size``, by its name."""
  stream = stream_of_noise(size.tasks, size.classes)
  model = models.mlp((INPUTS,), size.classes, hidden=(size.width, size.width))
  start = time.perf_counter()
  built = engine.prepare(
    stream, model, method, dict(hyper or {}), optimizer_options={"learning_rate": 1e-3},
    training=cljax.Recipe(batch_size=BATCH), options=cljax.Options(chunk_steps=64, eval_block=TEST),
  ).setup  # fmt: skip
  out = {"setup": time.perf_counter() - start}
  state, hooks = loop.begin(built), loop.Hooks(lambda s: None, lambda m: None, lambda: False)
  last = size.tasks - 1
  evaluate = lambda: loop.scored(built, state, hooks, state.learner, built.evaluation, built.blocks)
  evaluate()
  out["evaluation"] = seconds(evaluate, repeats)
  learner, edge = _all_boundaries(built, state.learner)
  out["boundary"] = edge
  out["step"] = _step(built, learner, last, repeats)
  out["host"] = seconds(lambda: _host(built, last), repeats)
  out["compile"] = built.clock.seconds["compile"]
  one = jax.eval_shape(lambda t: jax.tree.map(lambda a: a[0], t), learner)
  out["state bytes"] = float(tree.nbytes(state_between_tasks(one)))
  state.learner, state.event = learner, size.tasks
  # Accuracies are shares of few test rows, here too: what is repetitive is kept small.
  numbers = (np.random.default_rng(0).integers(0, TEST + 1, (size.tasks + 1, 1, size.tasks)) / TEST).tolist()
  state.accuracy = [{"test": row, "task": row} for row in numbers]
  out["save"], out["checkpoint bytes"] = _save(built, state, repeats)
  return {k: v for k, v in out.items() if v}


def _where(built, task: int):
  steps = (jnp.int32(v) for v in (2 * task, 2, built.total_steps))
  return prog.replicate(StreamPosition(Visit.in_order(task, built.spec.num_tasks), *steps), built.members)


def _all_boundaries(built, learner):
  """The learner after the boundaries of every task, and the seconds that those of the last tenth took, each."""
  found, hooks = [], (built.programs.start_task, built.programs.end_task)
  deleted = deleted_pairs(built.stream, 0)
  for task in range(built.spec.num_tasks):
    rows = program_arguments.boundary_arguments(built, deleted, task, _where(built, task))
    start, compiled = time.perf_counter(), built.clock.seconds["compile"]
    for program in hooks:
      if program is not None:
        learner = jax.block_until_ready(program(built.hyper, learner, loop.all_alive(built), rows))
    found.append(time.perf_counter() - start - (built.clock.seconds["compile"] - compiled))
  tail = found[-max(3, len(found) // 10) :]
  return learner, float(np.median(tail)) if any(hooks) else 0.0


def _step(built, learner, task: int, repeats: int) -> float:
  """Seconds of a step: a scan of 64 of them over one of none, on what the last task trains on."""
  plan = schedule.schedule(built.stream, list(range(task)), task, task, built.trains_on, built.recipe)
  rows = schedule.rows(plan, 0, 0, min(2, plan.steps), 64, np.zeros(len(plan.pairs.index), bool))
  packed = prog.shard_members(tuple(np.stack([part]) for part in rows), built.members)
  where, alive = _where(built, task), loop.all_alive(built)
  copied = jax.jit(tree.copy)

  def scan(steps: int) -> float:
    given = jax.block_until_ready(copied((learner, alive)))
    count = prog.replicate(jnp.int32(steps), built.members)
    start = time.perf_counter()
    jax.block_until_ready(built.programs.chunk(built.hyper, given, packed, (built.train, where, count)))
    return time.perf_counter() - start

  scan(0), scan(64)
  each = [(scan(64) - scan(0)) / 64 for _ in range(repeats)]
  return max(float(np.median(each)), 1e-9)


def _host(built, event: int):
  """What the host does for one Learn event of one seed, beside waiting: its schedule, its rows, its boundary's rows."""
  task = built.stream.events[event].task
  plan = schedule.schedule(
    built.stream, program_arguments.learned_before(built, event), event, task, built.trains_on, built.recipe
  )
  deleted = deleted_pairs(built.stream, event)
  schedule.rows(plan, 0, 0, plan.steps, built.options.chunk_steps, plan.pairs.select(deleted))
  return program_arguments.boundary_arguments(built, deleted, task, _where(built, task))


def _save(built, state, repeats: int) -> tuple[float, float]:
  """Seconds and bytes of the checkpoint after the last event."""
  with tempfile.TemporaryDirectory() as folder:
    writer = checkpoint.Writer(folder)
    save = saving.saver(built, writer, {}, folder)
    save(state)
    found = seconds(lambda: save(state), min(3, repeats))
    writer.close()
    last = checkpoint.numbers(folder)[-1]
    files = [p for p in pathlib.Path(folder, str(last)).rglob("*") if p.is_file()]
    return found, float(sum(p.stat().st_size for p in files))
