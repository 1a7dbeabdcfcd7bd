"""A run that is ready to begin, to go on, or to be extended."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from cljax import _callers
from cljax.core.types import Forget, Learn, UsageError
from cljax.engine import extending, precompile, presentations, row_log, saving, stages
from cljax.engine import mesh as meshes
from cljax.engine import programs as prog
from cljax.engine.loop import DivergedError, Hooks, State, all_alive, begin
from cljax.engine.program_arguments import init_arguments
from cljax.engine.setup import CompiledRun
from cljax.io import checkpoint, history, identity, owner, sealing


class Prepared(NamedTuple):
  """A run whose data is on the device; its programs are compiled as they are first needed, and kept.

  ``run(workdir=None, report=None, stop=None, start=None, extend=False) -> RunResult`` runs it from its beginning, or
  from what ``workdir`` holds; as often as one likes, to the same bits. ``start``, a ``State`` of ``engine.loop`` such
  as :func:`continued` makes, stands in for the beginning. ``extend``: ``workdir`` may hold a run of the first of these
  events. ``precompile(submit)`` lets other threads compile them before (``engine.precompile``).
  """

  setup: CompiledRun
  config: Callable  # () -> the configuration that checkpoints hold
  result: Callable  # State -> RunResult
  answers: str = ""  # the method that answers Forget events
  evaluators: Sequence[str] = ()
  by_event: Mapping[int, tuple[str, Mapping]] = {}  # Forget events that another method answers: its name and options
  again: Callable | None = None  # (stream, forget=None) -> Prepared: the same on another stream, or of another method
  begun: str = ""  # what it begins with, where that is no fresh learner
  remarks: Sequence[str] = ()  # of the method, on options that have no effect in this run

  def precompile(self, submit: Callable[[Callable[[], object]], object]) -> None:
    """Hands ``submit`` the compilation of each program that the run will need."""
    precompile.precompile(self.setup, submit)

  def run(
    self, workdir: str | None = None, report: Callable | None = None, stop: Callable | None = None,
    start: State | None = None, extend: bool = False,
  ) -> Any:  # fmt: skip
    """Trains over all events and gives the :class:`RunResult`; arguments as of :func:`run`."""
    if extend and not (workdir and epath.Path(workdir).exists()):
      raise UsageError(f"extend: got workdir={workdir!r}; expected the folder of the run that is to be extended")
    if workdir and meshes.is_main_process(self.setup.members.mesh):
      with owner.holding(workdir):
        return self._run(workdir, report, stop, start, extend)
    return self._run(workdir, report, stop, start, extend)

  def _run(self, workdir, report, stop, start, extend) -> Any:
    mesh = self.setup.members.mesh
    if extend or start is not None:
      self.check_even("extend" if extend else "learner")
    remarks = (*self.remarks, *((self.setup.unkept,) if self.setup.unkept else ()))
    for text in remarks if meshes.is_main_process(mesh) else ():
      report({"kind": "note", "text": text}) if report else _callers.warn(text)
    report = report if report and meshes.is_main_process(mesh) else lambda message: None
    asked = stop or (lambda: False)
    writer = checkpoint.Writer(str(workdir) + "/checkpoints") if workdir else None
    config = self.whole_config(workdir) if writer else {}
    waiting = (lambda: False) if meshes.is_multi_process(mesh) else asked
    log = row_log.Recording(self.setup, workdir)
    hooks = Hooks(lambda state: None, report, lambda: meshes.anywhere(asked(), mesh), lambda *_: None, waiting, log.add)
    state = self.found(writer, workdir, config, hooks, extend) if writer else None
    if state is None and start is not None:
      log = row_log.Recording(self.setup, workdir, start.log)
      hooks = hooks._replace(log=log.add)
    state = (start or begin(self.setup)) if state is None else state
    log.begin(len(state.accuracy))
    meshes.agree("workdir: what it holds", [state.event, state.step, int(state.ended), state.total], mesh)
    save = saving.saver(self.setup, writer, config, workdir)
    hooks = hooks._replace(save=save, deleted=saving.recorder(self.setup, workdir, self.answers))
    by = lambda event, setup: saving.recorder(setup, workdir, self.by_event[event][0])
    fresh = writer is not None and not checkpoint.numbers(writer.directory)
    try:
      state = stages.run(self.setup, self.others(), state, hooks, by)
    except DivergedError:
      if fresh:
        saving.give_back(self.setup, writer, workdir)
      raise
    finally:
      if writer:
        writer.close()
    return self.result(state)._replace(log=log.told())

  def whole_config(self, workdir: str | None = None) -> dict:
    """The configuration that checkpoints hold, with what the run began with; in a ``workdir`` whose run keeps no ids,
    sealed."""
    whole = {**self.config(), **({"begun": self.begun} if self.begun else {})}
    if self.setup.options.checkpoint_keep_ids or not workdir:
      return whole
    if meshes.is_multi_process(self.setup.members.mesh):
      raise UsageError("checkpoint.keep_ids: got False, with which one process trains; the mesh is of several")
    return sealing.config(workdir, whole)

  def others(self) -> dict[int, Callable]:
    """``{event: () -> the setup of the method that answers it}``, one setup for each method, made when it is asked
    for; its data are those that are on the device."""
    shared = ("train", "evaluation", "blocks", "partial", "evaluators")
    kept: dict[str, CompiledRun] = {}

    def made(answer) -> CompiledRun:
      if repr(answer) not in kept:
        assert self.again is not None
        other = self.again(self.setup.stream, answer).setup
        kept[repr(answer)] = other._replace(**{f: getattr(self.setup, f) for f in shared})
      return kept[repr(answer)]

    return {e: functools.partial(made, answer) for e, answer in self.by_event.items()}

  def stage(self, what: str, first: int, config: Mapping, workdir: str | None) -> dict:
    """The record of a stage of this run, for the history of its workdir."""
    names = {e: self.by_event.get(e, (self.answers,))[0] for e, event in enumerate(self.setup.stream.events)
             if isinstance(event, Forget)}  # fmt: skip
    record = history.stage(self.setup.stream, config, what, first, names)
    if not self.setup.options.checkpoint_keep_ids:
      record["events"] = sealing.events(workdir, record["events"])
    return record

  def found(self, writer: checkpoint.Writer, workdir: str, config: dict, hooks: Hooks, extend: bool) -> State | None:
    """The state that the workdir holds, of this run or of a stage of it before; None where it holds none."""
    if extend:
      self.extends(workdir)
    held = history.read(workdir)
    same = [at for at, h in enumerate(held) if not _differences(h["config"], config)]
    if len(held) > 1 and len(held) - 1 in same:
      return self.of_stages(writer, held, config, hooks)
    state = saving.resume(self.setup, writer, config, hooks.report)
    if meshes.is_main_process(self.setup.members.mesh) and (not held or len(held) - 1 not in same):
      # What was announced, but never begun, is no stage.
      history.write(workdir, held[: same[-1] + 1] if same else [self.stage("begun", 0, config, workdir)])
    return state

  def remember(self, workdir: str) -> None:
    """Begins the history of a workdir that holds this run, ended by 0.1.0, which kept none."""
    history.write(workdir, [self.stage("begun", 0, self.whole_config(), workdir)])

  def check_even(self, what: str) -> None:
    """UsageError where members take steps of their own number, of ``what`` goes on with a run."""
    if self.setup.streams:
      why = "train.patience" if self.setup.recipe.patience else "stream.per_seed and several seeds"
      raise UsageError(f"{what}: got it with {why}; a run goes on from where all its members have taken the same steps")

  def extends(self, workdir: str) -> None:
    """Notes this run in the workdir's history as the one that goes on with what is there; UsageError, with the reason,
    where it does not."""
    directory, config, held = f"{workdir}/checkpoints", self.whole_config(), history.read(workdir)
    if not self.setup.options.checkpoint_keep_ids:
      raise UsageError("extend: got it with checkpoint.keep_ids=False; what is extended is known by its requests")
    for stage in held:
      sealing.check_open(stage["config"], "it can not be extended")
    numbers = checkpoint.numbers(directory)
    if not numbers:
      raise UsageError(f"extend: {workdir} does not hold any checkpoint; run it without extend first")
    if not held:
      raise UsageError(f"extend: {workdir} has no {history.FILE}; run it once more as it was, and then extend it")
    if not _differences(held[-1]["config"], config):
      return
    meta = checkpoint.read_meta(directory, numbers[-1])
    while len(held) > 1 and _differences(held[-1]["config"], meta["config"]):
      held.pop()  # announced, but never begun
    self.check_even("extend")
    self.check_extends(held[-1], meta)
    if meshes.is_main_process(self.setup.members.mesh):
      what = "forget" if isinstance(self.setup.stream.events[-1], Forget) else "extended"
      history.write(workdir, [*held, self.stage(what, len(held[-1]["events"]), config, workdir)])

  def check_extends(self, held: Mapping, meta: Mapping) -> Any:
    """The run as it was in the stage ``held``, of which ``meta`` is a checkpoint's; UsageError, with the reason, where
    this one does not go on with it."""
    stream = self.setup.stream
    history.check_prefix(held, stream)
    assert self.again is not None
    before = self.again(extending.earlier(stream, held))._replace(begun=self.begun)
    # What the stream is made of was compared, task by task; a launcher's configuration names it in its sections.
    apart = ("stream", "data", "answers", "events", "code.view")
    told = lambda d: d.partition(":")[0].partition(".")[0] in apart or d.startswith(apart)
    of_code = meta["versions"] == checkpoint.versions()  # other versions trace the same code to other operations
    differing = [d for d in _differences(held["config"], before.whole_config(), of_code) if not told(d)]
    if differing:
      raise UsageError(f"extend: the run in the workdir differs in more than its events: {'; '.join(differing)}")
    again = self.again
    extending.check(before.setup, self.setup, lambda stream: again(stream).setup)
    return before

  def of_stages(self, writer: checkpoint.Writer, held: list[dict], config: dict, hooks: Hooks) -> State:
    """The newest sound checkpoint of any stage."""
    notes: list[str] = []
    saving.clear(self.setup, writer)
    for number in reversed(checkpoint.numbers(writer.directory)):
      try:
        meta = checkpoint.read_meta(writer.directory, number)
        if not _differences(meta["config"], config):
          state = saving.resume(self.setup, writer, config, hooks.report)
          assert state is not None
          return state
        at = [h for h in held[:-1] if not _differences(h["config"], meta["config"])]
        if not at:
          raise UsageError(f"workdir: checkpoint {number} is of no stage of this run")
        before = self.check_extends(at[-1], meta)
        state = extending.restore(before.setup, self.setup, writer.directory, number, meta, hooks)
      except checkpoint.DamagedError as error:
        notes.append(f"{error}; trying the one before it")
        hooks.report({"kind": "note", "text": notes[-1]})
        continue
      saving.taken_up(self.setup, writer, state.event)
      hooks.report({"kind": "resumed", "event": state.event, "step": state.step, "total": state.total})
      return state
    raise UsageError("workdir: no sound checkpoint is left: " + "; ".join(notes))


def _differences(saved: Mapping, given: Mapping, of_code: bool = False) -> list[str]:
  found = checkpoint.differences(dict(saved), dict(given))
  return [d for d in found if of_code or not identity.of_other_code(d)]


def continued(built: Prepared, result: Any) -> State:
  """Where ``result``'s run ended, as a state that ``built`` can go on from: its stream begins with the same events.

  Several ways to forget can so start from one trained population. Its stream may have more tasks. Raises UsageError
  where the learners or the members are not the same.
  """
  members = built.setup.members
  shapes = lambda t: [(a.shape, a.dtype) for a in jax.tree.leaves(t)]
  # Copies: what training is given it takes, and the result stays what it is.
  given = {"learner": saving.copied(result.learner), "alive": jnp.asarray(result.alive)}
  events = [event_record(e) for e in built.setup.stream.events[: len(result.events)]]
  if [*result.evaluations] != [*built.evaluators]:
    raise UsageError("result: its evaluators are not those of this run")
  state = State(given["learner"], given["alive"], event=len(result.events), total=result.steps,
                accuracy=_rows(result), forgotten=list(result.forgotten), curves=list(result.curves))  # fmt: skip
  state.log = result.log
  if built.setup.options.presentations:
    if result.presentations is None:
      raise UsageError("result: has no presentations, which are counted from a run's beginning (train.presentations)")
    state.presented = presentations.widened(presentations.counted(result.presentations), built.setup.stream)
  had = next(iter(result.scores.values())).shape[-1]
  growing = None
  if had < built.setup.stream.num_tasks and events == result.events:
    assert built.again is not None
    held = {"events": events, "tasks": [None] * had}
    before = built.again(extending.earlier(built.setup.stream, held))
    again = built.again
    extending.check(before.setup, built.setup, lambda stream: again(stream).setup)
    growing = extending.Growing(before.setup, built.setup)
  target = growing.old if growing else built.setup
  wanted = jax.eval_shape(
    lambda t: prog.unpad(t, members),
    {"learner": target.programs.init.shape(*init_arguments(target)), "alive": all_alive(target)},
  )
  if shapes(given) != shapes(wanted) or events != result.events:
    raise UsageError("result: its learners or its events are not those that this run begins with")
  # A composed method keeps its parts' states by name; where they hold no arrays only the tree differs.
  arrays = jax.tree.unflatten(jax.tree.structure(wanted), jax.tree.leaves(given))
  arrays = growing.grown(arrays) if growing else prog.shard_members(arrays, members)
  state.learner, state.alive = arrays["learner"], arrays["alive"]
  if growing:
    log = row_log.Recording(built.setup, None, result.log)
    quiet = Hooks(lambda s: None, lambda m: None, lambda: False, log=log.add)
    at = lambda row: begin(built.setup) if row == 0 else state if row == len(result.events) else None
    state = extending.widened(state, growing.old, built.setup, at, quiet)
    state.log = log.told()
  return state


def _rows(result) -> list[dict]:
  """The rows of scores of a result, as a state has them."""
  rows = lambda a: None if a is None else np.asarray(a).swapaxes(0, 1).tolist()
  own = lambda name: result.task_accuracy if name == "accuracy" else result.scores[name]  # over the task's classes
  both = {name: {"test": rows(matrix), "task": rows(own(name))} for name, matrix in result.scores.items()}
  main, *others = both
  parts = {**both[main], "validation": rows(result.validation)}
  at = lambda parts, r: {k: v[r] for k, v in parts.items() if v is not None}
  more = lambda r: {"scores": {name: at(both[name], r) for name in others}} if others else {}
  said = {n: {m: rows(matrix) for m, matrix in found.items()} for n, found in result.evaluations.items()}
  told = lambda r: {"evaluations": {n: at(found, r) for n, found in said.items()}} if said else {}
  texts = lambda r: {n: {w: [list(of[r]) for of in v] for w, v in by.items()} for n, by in result.texts.items()}
  shown = lambda r: {"texts": texts(r)} if result.texts else {}
  return [at(parts, r) | more(r) | told(r) | shown(r) for r in range(len(result.events) + 1)]


def event_record(event: Learn | Forget) -> dict:
  """An event as a run's records have it: its ``kind`` and what it names, ready for JSON."""
  if isinstance(event, Learn):
    return {"kind": "learn", "task": event.task}
  assert isinstance(event, Forget)
  named = {k: list(v) for k, v in event._asdict().items() if v and k != "match"}
  return {"kind": "forget", **named, **({} if event.match == "any" else {"match": event.match})}
