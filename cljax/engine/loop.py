"""The one loop that the host runs: over the events of a stream, in chunks, with evaluation and checkpoints between."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cljax.core.types import CljaxError, Forget, Learn, UsageError
from cljax.engine import course, held_out, own_streams, patience, presentations, schedule
from cljax.engine import mesh as meshes
from cljax.engine import programs as prog
from cljax.engine.prediction import judged_at
from cljax.engine.program_arguments import (
  boundary_arguments,
  init_arguments,
  padded,
  request_arguments,
  where_in_stream,
)
from cljax.engine.setup import CompiledRun
from cljax.streams.fates import fates, moment, partly
from cljax.streams.labels import has_label
from cljax.streams.requests import deleted_pairs, forgotten_classes, learned_tasks, resolve_pairs

_BRIEF_S = 0.1


class DivergedError(CljaxError):
  """The loss became NaN or infinite; says at which step, in which task, for which seed."""


class Stopped(CljaxError):
  """The run was asked to stop and has saved; running it again resumes it."""


@dataclasses.dataclass
class State:
  """What a run carries from event to event on the host; with the learner, all that a checkpoint holds."""

  learner: Any  # leading axis: padded population
  alive: Any  # [padded] bool
  event: int = 0  # next event
  step: int = 0  # steps done inside it
  ended: bool = False  # its work is done and only its evaluation is left
  total: int = 0  # steps done in all events
  accuracy: list = dataclasses.field(default_factory=list)  # rows of {"test", "task", "validation"}: [S][T]
  forgotten: list = dataclasses.field(default_factory=list)
  curves: list = dataclasses.field(default_factory=list)
  seconds_per_step: float = 0.0
  seconds_per_evaluation: float = math.inf  # of those inside tasks
  replay: Any = None  # how far the replay of this event has come
  presented: Any = None  # what was counted of presentations (presentations.Presented), where it is asked for
  watch: dict = dataclasses.field(default_factory=dict)  # what patience knows of the task that is being learned
  taken: list = dataclasses.field(default_factory=list)  # of each event learned, the steps of each member, by patience
  blocks: tuple = ()  # of a whole evaluation, by the last Forget event (held_out.remaining)
  log: Any = None  # the raw log that a run in memory goes on with (io.row_log.RowLog)


class Hooks(NamedTuple):
  """What the loop tells and asks: ``save(state)``, ``report(dict)``, ``stop() -> bool``; and for each Forget event
  ``deleted(event number, rows [n], parameters before, parameters after, evidence)``.

  ``waiting() -> bool`` is asked at any moment; of several processes no one may stop by itself then. ``log(evaluation,
  rows)``: what a whole evaluation gave of each row, for the raw log.
  """

  save: Callable
  report: Callable
  stop: Callable
  deleted: Callable = lambda *_, **more: None
  waiting: Callable = lambda: False
  log: Callable = lambda number, rows: None


class Replay(NamedTuple):
  """A prefix of events run again: its learner, ``done`` steps into the event ``at`` whose first step is ``start``."""

  learner: Any
  alive: Any
  start: int = 0
  at: int = 0
  done: int = 0
  presented: Any = None


def begin(setup: CompiledRun) -> State:
  """A fresh state: every member initialised from its seed."""
  return State(
    learner=initial_learner(setup),
    alive=all_alive(setup),
    presented=presentations.fresh(setup),
  )


def all_alive(setup: CompiledRun):
  return prog.shard_members(np.ones(len(setup.population), bool), setup.members)


def initial_learner(setup: CompiledRun):
  return setup.programs.init(*init_arguments(setup))


def execute(setup: CompiledRun, state: State, hooks: Hooks, upto: int | None = None) -> State:
  """Runs the events from where ``state`` stands to the end of the stream, or those before event ``upto``."""
  upto = len(setup.stream.events) if upto is None else upto
  if setup.options.on_divergence == "stop" and not np.asarray(state.alive).all():
    raise DivergedError("this run's loss became NaN before; start it afresh with another configuration")
  if not state.accuracy:
    state.accuracy.append(evaluate(setup, state, hooks))
  while state.event < upto:
    event = setup.stream.events[state.event]
    if not state.ended:
      if isinstance(event, Learn):
        state.learner, state.alive = _learn(setup, state, hooks, state.event)
      else:
        _forget(setup, state, hooks, event)
      state.ended = True
    row = evaluate(setup, state, hooks)
    state.accuracy.append(row)
    state.event, state.step, state.ended = state.event + 1, 0, False
    told = {k: v for k, v in row.items() if k != "texts"}  # which go when a request names their rows; logs stay
    hooks.report({"kind": "event", "event": state.event - 1, "total": state.total, **_score(setup), **told})
    hooks.save(state)
  return state


def judged(setup: CompiledRun, state: State):
  """``[T, C]`` on the device: the classes that compete where ``state`` stands (:mod:`cljax.core.judging`)."""
  return prog.replicate(jnp.asarray(judged_at(setup.stream, setup.trains_on, vars(state))), setup.members)


def _learn(setup: CompiledRun, state: State, hooks: Hooks, at: int, replay: Replay | None = None):
  """One Learn event; returns ``(learner, alive)``. It advances ``state`` and saves; unless it replays, it evaluates."""
  event, options, programs = setup.stream.events[at], setup.options, setup.programs
  deleted = deleted_pairs(setup.stream, at if replay is None else state.event + 1)
  way = course.of_event(setup, at, None if replay is None else deleted)
  here = own_streams.event(setup, at, state.taken)
  plan = way.plan._replace(steps=here.steps(way.plan.steps))
  if replay is None:
    learner, alive, done, first = state.learner, state.alive, state.step, state.total - state.step
  else:
    learner, alive, done, first = replay.learner, replay.alive, replay.done, replay.start
  gone = np.zeros(len(plan.pairs.index), bool) if way.thin else plan.pairs.select(deleted)
  where = where_in_stream(setup, at, first, plan.steps, way.total, way.never)
  rows = boundary_arguments(setup, deleted, event.task, where)
  if done == 0 and programs.start_task is not None:
    learner = _wait(programs.start_task(here.hyper, learner, alive, rows), hooks, state, setup)
  capacity = min(options.chunk_steps, max(setup.total_steps, 1))
  if replay is None and done:
    _evaluate_inside_task(setup, state, hooks, plan)  # a stop may have come between a chunk and its evaluation
  if setup.recipe.patience:
    state.watch = state.watch or patience.fresh(len(setup.population))
    plan = _look(setup, state, hooks, here, plan)
  while done < plan.steps:
    count = course.next_count(options, state, plan.steps, done, capacity, replays=replay is not None)
    limits = patience.limits(state.watch, here.plans)
    if state.watch:
      count = min(count, patience.next_border(state.watch, here.plans, patience.epochs_of(setup.recipe, not at), done))
    since, compiled = time.perf_counter(), setup.clock.seconds["compile"]
    lived = np.asarray(alive)[: len(setup.population)]
    counts = here.counts(done, count, len(setup.population), limits)
    with setup.clock.timed("train"):
      order = own_streams.chunk_rows(setup, here, plan, gone, done, counts, capacity)
      hyper = own_streams.chunk(setup, here, counts)
      learner, alive, loss, *said = own_streams.run_chunk(setup, hyper, order, where, learner, alive, count)
      loss = np.asarray(loss)[: len(setup.population), :count]
    spent = time.perf_counter() - since - setup.clock.seconds["compile"] + compiled
    state.seconds_per_step = meshes.first(spent / count, setup.members.mesh)
    counted = (state if replay is None else state.replay).presented
    if said:
      counted = presentations.added(counted, setup.stream, order, said[0], count)
    done += count
    if replay is None:
      state.presented = counted
      state.learner, state.alive, state.step, state.total = learner, alive, done, state.total + count
    else:
      state.replay = replay._replace(learner=learner, alive=alive, done=done, presented=counted)
    living = np.asarray(alive)[: len(setup.population)]
    _report_deaths(setup, state, hooks, loss, lived & ~living, first, done - count, event.task)
    hooks.report({
      "kind": "chunk" if replay is None else "replay", "event": state.event, "task": event.task, "step": done,
      "steps": plan.steps, "total": first + done, "of": setup.total_steps,
      "loss": own_streams.last_loss(loss, counts, living), "living": int(living.sum()),
      "seconds_per_step": state.seconds_per_step,
    })  # fmt: skip
    if replay is None:
      plan = _look(setup, state, hooks, here, plan)
      _evaluate_inside_task(setup, state, hooks, plan)
    if hooks.stop():
      hooks.save(state)
      raise Stopped(f"stopped at step {done} of {plan.steps} of {moment(setup.stream, at)}")
    due = options.checkpoint_every and done % options.checkpoint_every == 0
    if due and done < plan.steps:
      hooks.save(state)
  if programs.end_task is not None:
    with setup.clock.timed("train"):
      learner = _wait(programs.end_task(here.hyper, learner, alive, rows), hooks, state, setup)
  if state.watch:
    state.taken, state.watch = [*state.taken, patience.limits(state.watch, here.plans)], {}
  return learner, alive


def _look(setup: CompiledRun, state: State, hooks: Hooks, here, plan):
  """The plan with the steps after which all members have ended the task, as patience says where the state stands."""
  if not state.watch:
    return plan
  slot, main = setup.stream.num_tasks + setup.stream.events[state.event].task, setup.parts.objective.main

  def score():
    blocks = own_streams.of_slots(setup.blocks, [slot], setup.members)
    found, _ = scored(setup, state, hooks, state.learner, setup.evaluation, blocks)
    return ratio(setup, main, found[main][:, slot, 0])

  sign = -1 if setup.parts.objective.scores[main].better == "lower" else 1
  state.watch = patience.look(state.watch, here.plans, setup.recipe, not state.event, state.step, score, sign)
  return plan._replace(steps=max(patience.limits(state.watch, here.plans)))


def _evaluate_inside_task(setup: CompiledRun, state: State, hooks: Hooks, plan) -> None:
  """The evaluation inside a task that is due at the state's step, once."""
  every = setup.options.eval_every
  if not every or (state.step % every and state.step != plan.steps):
    return
  if state.curves and state.curves[-1]["total"] == state.total:
    return
  row = evaluate(setup, state, hooks, partial=True)
  task = setup.stream.events[state.event].task
  state.curves.append(
    {"event": state.event, "task": task, "step": state.step, "total": state.total, "accuracy": row["test"]}
  )
  hooks.report({"kind": "curve", **_score(setup), **state.curves[-1]})


def _score(setup: CompiledRun) -> dict[str, str]:
  """What a message's numbers are, where that is not accuracy."""
  main = setup.parts.objective.main
  return {} if main == "accuracy" else {"score": main}


def _report_deaths(
  setup: CompiledRun, state: State, hooks: Hooks, loss, died, first: int, before: int, task: int
) -> None:
  """One message for each member ``died [S]`` in the chunk; raises DivergedError where the run is to stop then."""
  texts = []
  for step, who in sorted((int(np.argmin(np.isfinite(loss[i]))), int(i)) for i in np.flatnonzero(died)):
    seed, at = setup.population[who].seed, before + step
    text = f"loss became {loss[who, step]} at step {first + at} (step {at} of task {task}), seed {seed}"
    hooks.report({"kind": "diverged", "seed": seed, "step": first + at, "task": task, "text": text})
    texts.append(text)
  if texts and setup.options.on_divergence == "stop":
    hooks.save(state)
    far = _reach(setup)
    scaled = f" (inputs reach {far:.3g}: scale them)" if far > FAR else ""
    raise DivergedError(f"{texts[0]}; a lower learning rate or penalty strength may be stable{scaled}")


FAR = 30.0  # of inputs that were scaled by their deviation hardly one is beyond


def _reach(setup: CompiledRun) -> float:
  """The largest of the first rows' inputs as the model sees them; 0 where they are no floats."""
  found = [np.asarray(a[:1000]) for a in jax.tree.leaves(setup.stream.dataset.train.x)]
  scale = setup.stream.dataset.scale
  return max((float(np.abs(a * scale).max()) for a in found if scale and a.dtype.kind in "fu" and a.size), default=0.0)


def evaluate(setup: CompiledRun, state: State, hooks: Hooks, partial: bool = False) -> dict:
  """The main score ``[S][T]``: on test rows, the same within the task's classes, and on validation rows where there
  are any; under ``scores`` the same of each other score, under ``evaluations`` what evaluators say after an event."""
  state.blocks = held_out.remaining(setup, state.event + int(state.ended), state.blocks)
  blocks = state.blocks[2 if partial else 1]
  if not (setup.options.eval_ahead or partial):
    blocks = held_out.met(setup, state.event + int(state.ended), blocks)
  since, brief = time.perf_counter(), partial and state.seconds_per_evaluation < _BRIEF_S
  found, rows = scored(setup, state, hooks, state.learner, setup.evaluation, blocks, brief)
  if partial:
    state.seconds_per_evaluation = time.perf_counter() - since
  else:
    hooks.log(state.event + int(state.ended), rows)
  tasks, main = setup.stream.num_tasks, setup.parts.objective.main

  def row(name, sums):
    whole, own = (ratio(setup, name, sums[:, :, k]) for k in (0, 1))
    out = {"test": whole[:, :tasks].tolist(), "task": own[:, :tasks].tolist()}
    if whole.shape[1] > tasks and not partial:
      out["validation"] = whole[:, tasks:].tolist()
    return out

  values = {n: row(n, sums) for n, sums in found.items()}
  others = {n: v for n, v in values.items() if n != main}
  more = setup.evaluators(state, hooks) if setup.evaluators and not partial else {}
  return values[main] | ({"scores": others} if others else {}) | more


def ratio(setup: CompiledRun, name: str, sums) -> np.ndarray:
  """A score from its sums ``[..., 2]``; NaN of no rows, as of a task all of whose rows were deleted."""
  some = sums[..., 1] != 0
  found = setup.parts.objective.scores[name].finish(sums[..., 0] / np.where(some, sums[..., 1], 1))
  return np.where(some, found, math.nan)


def scored(setup: CompiledRun, state: State, hooks: Hooks, learner, data, blocks, brief: bool = False):
  """``({score: [S, slots, 2, 2]}, rows)``: the sums of each member of ``learner`` in each slot of ``blocks``, over the
  judged classes and over the task's own, numerators and denominators; what is kept of each row.

  A ``brief`` one is waited for without a look at the stop flag, which costs more than it is worth.
  """
  with setup.clock.timed("eval"):
    answer = setup.programs.evaluate(
      own_streams.with_blocks(setup, blocks), learner, (), (data, judged(setup, state), blocks.arguments)
    )
    sums, rows = answer if brief else _wait(answer, hooks, state, setup)
    return {n: blocks.by_slot(np.asarray(s)[: len(setup.population)]) for n, s in sums.items()}, rows


def _forget(setup: CompiledRun, state: State, hooks: Hooks, event: Forget) -> None:
  """One Forget event: scrub what is stored, then edit, train or retrain."""
  if setup.options.feed == "grain":
    raise UsageError("stream.forget: needs train.feed='device'; forgetting passes over rows on the device")
  stream, programs = setup.stream, setup.programs
  named, told = resolve_pairs(event, stream), fates(stream, state.event)
  pairs = schedule.pairs_of(stream, learned_tasks(stream.events[: state.event]))
  mask, gone_before = pairs.select(named), pairs.select(deleted_pairs(stream, state.event))
  target = mask & ~gone_before
  keep = ~mask & ~gone_before
  capacity = setup.spec.total_rows
  rows = lambda which: padded(pairs.index[which], pairs.task[which], capacity)
  whole = forgotten_classes(stream, state.event + 1) & ~forgotten_classes(stream, state.event)
  if not target.any():  # all were gone before, or never learned: there is nothing to undo
    learner, alive = state.learner, state.alive
  elif setup.replays:
    learner, alive = _retrain(setup, state, hooks)
    state.presented = state.replay.presented if state.replay else presentations.fresh(setup)
  else:
    learner, alive = state.learner, state.alive
    shared = request_arguments(setup, state.event, state.total, rows(target), rows(keep), named, whole)
    if programs.scrub is not None:
      learner = _wait(programs.scrub(setup.hyper, learner, (), shared[-4:-2]), hooks, state, setup)
    assert programs.forget is not None
    with setup.clock.timed("train"):
      answer = programs.forget(setup.hyper, learner, (), shared)
      learner, permitted = _wait(answer, hooks, state, setup)
    if not np.asarray(permitted).all():
      raise UsageError(f"forget: {setup.parts.method.refusal or 'the method cannot answer this request'}")
  slots, scorable = [], has_label(stream, pairs.index, pairs.task)
  for which in (target & scorable, keep & scorable):
    slots += [(t, pairs.index[which & (pairs.task == t)]) for t in range(setup.stream.num_tasks)]
  size = setup.options.eval_block
  blocks = prog.blocks(slots, size, length=setup.spec.total_rows // size + len(slots))
  blocks = prog.on_device(blocks, setup.members)  # of one shape for every request
  main = setup.parts.objective.main
  found = scored(setup, state, hooks, learner, setup.train, blocks)[0][main][:, :, 0]
  half = setup.stream.num_tasks

  def share(part):
    values = ratio(setup, main, found[:, part].sum(1))
    return [None if np.isnan(v) and not n else float(v) for v, n in zip(values, found[:, part, 1].sum(1), strict=True)]

  evidence = {"forget": share(slice(0, half)), "retain": share(slice(half, None))}
  gone = np.unique(pairs.index[target])
  hooks.deleted(
    state.event, gone, state.learner.params, learner.params, evidence,
    fates=told, partly=partly(stream, state.event, gone),
    after_tasks=sum(isinstance(e, Learn) for e in stream.events[: state.event]),
  )  # fmt: skip
  state.learner, state.alive, state.replay = learner, alive, None
  state.presented = presentations.without(state.presented, deleted_pairs(stream, state.event + 1))
  counts = {name: len(rows) for name, rows in told.items()}
  state.forgotten.append({"event": state.event, "rows": int(target.sum()), "fates": counts, **evidence})


def _retrain(setup: CompiledRun, state: State, hooks: Hooks):
  """Exact retraining: ``(learner, alive)`` after all Learn events so far, from the start, without the deleted rows; or
  from where a replay that was stopped had come. By epochs, a task that has no row left is not learned."""
  replay = state.replay or Replay(initial_learner(setup), all_alive(setup), presented=presentations.fresh(setup))
  deleted = deleted_pairs(setup.stream, state.event + 1)
  for at, event in enumerate(setup.stream.events[: state.event]):
    if isinstance(event, Learn) and at >= replay.at:
      way = course.of_event(setup, at, deleted)
      if event.task in way.never:
        continue
      state.replay = replay = replay._replace(at=at)
      learner, alive = _learn(setup, state, hooks, at, replay)
      replay = Replay(learner, alive, start=replay.start + way.plan.steps, presented=state.replay.presented)
  return replay.learner, replay.alive


def _wait(tree, hooks: Hooks, state: State, setup: CompiledRun):
  """Blocks until ``tree`` is computed, looking at the stop flag; on a stop saves the state from before and raises."""
  # Another thread waits: asking again and again whether it is ready took a seventh of a small evaluation.
  done = threading.Event()
  threading.Thread(target=_tell, args=(tree, done), daemon=True).start()
  while not done.wait(0.02):
    if hooks.waiting():
      hooks.save(state)
      raise Stopped(f"stopped at {moment(setup.stream, state.event)}, after {state.step} of its steps")
  return jax.block_until_ready(tree)


def _tell(tree, done: threading.Event) -> None:
  with contextlib.suppress(Exception):  # whoever waits meets it too
    jax.block_until_ready(tree)
  done.set()
