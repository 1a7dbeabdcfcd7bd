"""``cljax.run``: a stream of events in, an accuracy matrix and a resumable learner out."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from cljax import _cores, estimators, methods, objectives
from cljax import evaluators as evaluating
from cljax.core import tree
from cljax.core.method import Outlook
from cljax.core.types import Learn, Learner, Model, UsageError
from cljax.engine import arguments, frames, held_out, hosted, presentations, recipe, saving, stages
from cljax.engine import programs as prog
from cljax.engine.loop import State, Stopped
from cljax.engine.prediction import judged_at, predictor
from cljax.engine.prepared import Prepared, continued, event_record
from cljax.engine.presentations import Presentations
from cljax.engine.program_arguments import where_in_stream
from cljax.engine.setup import CompiledRun, Member, Options, setup
from cljax.engine.step import state_between_tasks
from cljax.evaluators import Evaluator
from cljax.io import folders, identity, interrupts, own_code
from cljax.io.row_log import RowLog
from cljax.streams import Stream, per_seed
from cljax.streams.rows import domains


class RunResult(NamedTuple):
  """What a run returns. ``S`` members, ``E`` events, ``T`` tasks; accuracies are in [0, 1]."""

  accuracy: Any  # [S, E+1, T] on test data; row 0 is before the first event; None: no such score
  task_accuracy: Any  # the same, over each task's own classes
  validation: np.ndarray | None  # the main score on held-out training rows
  forgotten: list  # for each Forget event: {"event", "rows", "forget" [S], "retain" [S]}, main scores on training rows
  curves: list  # evaluations inside tasks: {"event", "task", "step", "total", "accuracy" [S][T]}, of the main score
  events: list  # what happened, in order
  learner: Learner  # leading axis S
  predict: Callable  # predict(x, member=0, task=None) -> logits, as they were judged last
  params_sha256: list[str]
  state_bytes: int  # bytes a member keeps between tasks, beside parameters and optimizer
  steps: int
  seconds: dict
  compilations: dict
  alive: np.ndarray  # [S] bool: false where the loss became NaN and the member was frozen
  scores: dict  # {name: [S, E+1, T]} on test data: every score of the objective, the main one first
  better: dict  # {name: 'higher' or 'lower'}
  evaluations: dict = {}  # {evaluator: {metric: [S, E+1, T]}}: what evaluators said; NaN where they said nothing
  evaluations_better: dict = {}  # {evaluator: {metric: 'higher' or 'lower'}}, of those that say so
  task_names: tuple = ()  # of a stream of domains, the dataset's group of each task
  texts: dict = {}  # {evaluator: {what: [S][E+1][T] lists of {name: text}}}: what evaluators show beside numbers
  presentations: Presentations | None = None  # of each training row, where train.presentations asks for them
  log: RowLog | None = None  # what each test row's scores are made of, after every event (eval.log)
  evaluated_rows: np.ndarray | None = None  # [S, E+1, T]: test rows in each entry of the main score, where it is a mean
  task_steps: np.ndarray | None = None  # [S, Learn events]: steps that members took, with train.patience
  drawn: Sequence[dict] = ()  # of each member whose stream is its own: its seed, the classes of its tasks, its angles
  fisher: dict = {}  # {'method.fisher': kind}: the Fisher that was taken, where the option leaves it to the objective

  @property
  def learning_rows(self) -> np.ndarray:
    """[S, T, T]: the rows of the main score after each Learn event, what the matrix metrics are defined on."""
    rows = [i + 1 for i, e in enumerate(self.events) if e["kind"] == "learn"]
    return next(iter(self.scores.values()))[:, rows]

  def to_pandas(self) -> Any:
    """One row for each member, event and task (:func:`cljax.engine.frames.columns`); UsageError without pandas."""
    return frames.to_pandas(self)

  def _repr_html_(self) -> str:
    return frames.to_html(self)


def run(
  stream: Stream,
  model: Model,
  method: str | Callable = "finetune",
  hyper: Mapping[str, Any] | None = None,
  *,
  forget: str = "",
  forget_hyper: Mapping[str, Any] | None = None,
  optimizer: str | optax.GradientTransformation | Callable = "sgd",
  optimizer_options: Mapping[str, Any] | None = None,
  training: recipe.Recipe = recipe.Recipe(),
  options: Options = Options(),
  seeds: int | Sequence[int] = 1,
  population: Sequence[Member] | None = None,
  workdir: str | None = None,
  config: Mapping[str, Any] | None = None,
  report: Callable[[dict], None] | None = None,
  stop: Callable[[], bool] | None = None,
  devices: Sequence[jax.Device] | None = None,
  mesh: Mapping[str, int] | None = None,
  objective: str | Callable = "classification",
  objective_options: Mapping[str, Any] | None = None,
  evaluators: str | Evaluator | Sequence[str | Evaluator] = (),
  answers: Mapping[int, str | tuple[str, Mapping[str, Any]]] | None = None,
  extend: bool = False,
  learner: RunResult | None = None,
) -> RunResult:
  """Runs a method over a stream and evaluates it on every task after every event.

  ``method``: a name of ``cljax.methods.METHODS`` with options ``hyper``, or a factory
  ``f(model, spec, **hyper) -> Method``.
  ``forget``: the method that answers Forget events, where ``method`` does not.
  ``optimizer``: a name of ``recipe.OPTIMIZERS`` with ``optimizer_options`` (``learning_rate``, ...), or any optax
  transformation. ``seeds``: a number (seeds 0, 1, ...) or a list; all run in one program. ``population``: instead of
  seeds, a list of :class:`Member`, each with a seed and values for float hyper-parameters such as
  ``{"method.strength": 10.0}``.
  ``workdir``: where checkpoints go; run again with the same arguments to resume, to the same bits.
  ``report`` is called with a dict after every chunk and event; ``stop`` is asked between them. With a ``workdir``
  Ctrl-C and signals that end the process save first.
  ``mesh``: devices for each axis of ``engine.mesh``, such as ``{"data": 2}``: each batch is cut over two. After
  ``jax.distributed.initialize`` these are the devices of all processes, which call this with the same arguments and a
  ``workdir`` that all of them see; process 0 alone reports and writes the ledger, and a stop in one stops all.
  ``objective``: a name of ``cljax.objectives.OBJECTIVES`` with ``objective_options``, or a factory
  ``(model, spec, values) -> Objective`` such as ``cljax.objectives.regression(noise=0.5)``.
  ``evaluators``: names of ``cljax.evaluators.EVALUATORS`` or your own :class:`cljax.Evaluator`, called on the host
  after each event; what they say stands in ``RunResult.evaluations``.
  ``answers``: ``{event: method}`` or ``{event: (method, options)}``, Forget events (by their number in
  ``stream.events``, from 0) that another method answers than ``forget``: one that needs no preparation in training.
  ``extend``: ``workdir`` holds a run whose events this stream begins with; go on from its last checkpoint, to the bits
  of a run that had all events from the start. ``learner``: the same, from the result of a run in memory. Refused is
  what can not be so: what needs to know the tasks ahead (``streams.build(..., reserve_tasks=, reserve_rows=,
  reserve_classes=)``).

  Raises UsageError on wrong arguments, DivergedError where the loss becomes NaN, Stopped where ``stop`` said so.

  >>> import cljax
  >>> from cljax import data, models, streams
  >>> stream = streams.build(data.load("digits"), "class", tasks=5)
  >>> model = models.mlp((8, 8, 1), 10, hidden=(32,))
  >>> training = cljax.Recipe(batch_size=32, epochs=3)
  >>> result = cljax.run(stream, model, "er", {"capacity": 100}, training=training, seeds=2)
  >>> result.accuracy.shape  # seeds, one row before the first event and one after each, tasks
  (2, 6, 5)
  >>> from cljax import metrics
  >>> bool(metrics.average_accuracy(result.learning_rows).mean() > 0.5)
  True
  >>> result.predict(stream.dataset.test.x[:4]).shape
  (4, 10)
  """
  arguments.check_calls(workdir, report, stop)
  if workdir and config is None:
    folders.check_own(workdir)
  prepared = prepare(
    stream, model, method, hyper, forget=forget, forget_hyper=forget_hyper, optimizer=optimizer,
    optimizer_options=optimizer_options, training=training, options=options, seeds=seeds, population=population,
    config=config, devices=devices, mesh=mesh, objective=objective, objective_options=objective_options,
    evaluators=evaluators, answers=answers,
  )  # fmt: skip
  if learner is not None:
    if not isinstance(learner, RunResult):
      raise UsageError(f"learner: got a {type(learner).__name__}; expected what cljax.run returned")
    prepared = prepared._replace(begun=str(learner.params_sha256))
  start = None if learner is None else continued(prepared, learner)
  if not workdir:
    return prepared.run(None, report, stop, start, extend)
  with interrupts.saved_first(stop, Stopped) as asked:
    return prepared.run(workdir, report, asked, start, extend)


def prepare(
  stream: Stream,
  model: Model,
  method: str | Callable = "finetune",
  hyper: Mapping[str, Any] | None = None,
  *,
  forget: str = "",
  forget_hyper: Mapping[str, Any] | None = None,
  optimizer: str | optax.GradientTransformation | Callable = "sgd",
  optimizer_options: Mapping[str, Any] | None = None,
  training: recipe.Recipe = recipe.Recipe(),
  options: Options = Options(),
  seeds: int | Sequence[int] = 1,
  population: Sequence[Member] | None = None,
  config: Mapping[str, Any] | None = None,
  devices: Sequence[jax.Device] | None = None,
  mesh: Mapping[str, int] | None = None,
  objective: str | Callable = "classification",
  objective_options: Mapping[str, Any] | None = None,
  evaluators: str | Evaluator | Sequence[str | Evaluator] = (),
  answers: Mapping[int, str | tuple[str, Mapping[str, Any]]] | None = None,
) -> Prepared:
  """All that :func:`run` does before its first step, with the same arguments: for runs that are repeated or timed."""
  given = {k: v for k, v in locals().items() if k not in ("stream", "answers")}
  by_event = arguments.answers_of(answers, stream)
  sections = {"hyper": hyper, "forget_hyper": forget_hyper, "optimizer_options": optimizer_options, "mesh": mesh,
              "objective_options": objective_options, "config": config}  # fmt: skip
  arguments.check_arguments(stream, model, training, options, sections, devices)
  make_method, hyper_values = method_of(method, hyper or {}, forget, forget_hyper or {})
  make_optimizer, optimizer_values = recipe.optimizer_of(optimizer, dict(optimizer_options or {}))
  recipe.check_effect(training, options, optimizer if isinstance(optimizer, str) else "", optimizer_options or {})
  learned, judges = objectives.given(objective, objective_options), evaluating.given(evaluators)
  values = {**hyper_values, **optimizer_values, **getattr(learned, "hyper", {})}
  members = [Member(s) for s in arguments.seeds_of(seeds)] if population is None else arguments.members_of(population)
  stream, streams = per_seed.of_members(stream, [m.seed for m in members])
  if devices is None and not mesh:
    _cores.offer(len(members))
  name = method if isinstance(method, str) else getattr(method, "__name__", "method")
  name = f"{name} + {forget}" if forget and forget != name else name
  built = setup(
    stream,
    model,
    make_method,
    make_optimizer,
    values,
    members,
    training,
    options,
    devices,
    name,
    mesh,
    learned,
    by_event,
    streams,
  )
  for other, own in {repr(a): a for a in by_event.values()}.values():
    stages.check_unprepared(other, own, built)
  built = hosted.with_evaluators(built, judges)

  @functools.cache  # only checkpoints want it, and it traces the model
  def described() -> Mapping[str, Any]:
    whole = config
    if whole is None:
      whole = identity.describe(
        stream,
        model,
        method,
        hyper,
        forget,
        forget_hyper,
        optimizer,
        optimizer_options,
        training,
        values,
        options,
        inputs=built.inputs,
      )
      if learned != objectives.chosen("classification"):
        whole["objective"] = {"name": built.parts.objective.name, "options": getattr(learned, "told", "()")}
      own = not isinstance(learned, objectives.Chosen) or learned.own_code or _is_own(method, forget, objective)
      if own or not isinstance(method, str) or not isinstance(optimizer, str):
        whole["code"]["parts"] = _parts_digest(built)
      if streams:
        whole["streams"] = [identity.stream_digest(s) for s in streams]
      if judges:
        whole["evaluators"] = sorted(e.name for e in judges)
      for e in judges:
        if e is not evaluating.EVALUATORS.get(e.name):
          whole["code"][f"evaluators.{e.name}"] = identity.code_digest(e.fn)
      if by_event:
        whole["answers"] = [[e, n, {k: repr(v) for k, v in o.items()}] for e, (n, o) in sorted(by_event.items())]
    return {**whole, "members": [[m.seed, dict(m.hyper)] for m in members]}

  def again(stream, forget=None):
    """The same run on another stream; with ``forget``, its name and options, that method answers every request."""
    if forget is None:
      kept = {e: a for e, a in by_event.items() if e < len(stream.events)}
      return prepare(stream, answers=kept, **given)
    return prepare(stream, **{**given, "forget": forget[0], "forget_hyper": forget[1]})

  remarks = _remarks(built, optimizer, [{**values, **m.hyper}.get("optimizer.learning_rate", 0.0) for m in members])
  kinds = _fisher_kinds(
    {"method": (method, hyper or {}), "forget": (forget, forget_hyper or {})}, built.parts.objective
  )
  result = lambda state: _result(built, state, judges)._replace(fisher=kinds)
  return Prepared(built, described, result, forget or name, [e.name for e in judges], by_event, again, remarks=remarks)


def _remarks(built: CompiledRun, optimizer, rates: Sequence[float]) -> tuple[str, ...]:
  """What the method has to say of its options in this run."""
  method = built.parts.method
  if method.remarks is None:
    return ()
  shapes = jax.eval_shape((method.model or built.model).init, jax.random.key(0))[0]
  tasks = tuple(e.task for e in built.stream.events if isinstance(e, Learn))
  name = optimizer if isinstance(optimizer, str) else ""
  return tuple(method.remarks(Outlook(built.total_steps, tasks, name, max(rates), tree.size(shapes))))


def _fisher_kinds(sections: Mapping[str, tuple], learned) -> dict[str, str]:
  """What the option ``fisher`` of each section's method means under the objective."""
  out = {}
  for section, (name, given) in sections.items():
    entry = methods.METHODS.get(name) if isinstance(name, str) else None
    if entry is not None and "fisher" in entry.options:
      kind = given.get("fisher", entry.options["fisher"].default)
      out[f"{section}.fisher"] = estimators.default_kind(learned) if kind == "auto" else kind
  return out


def _is_own(method, forget, objective) -> bool:
  """Whether a name stands for what the user registered: then the name alone does not say what is run."""
  named = [methods.METHODS[n].factory for n in (method, forget) if isinstance(n, str) and n in methods.METHODS]
  if isinstance(objective, str):
    return any(map(own_code.is_own, [*named, objectives.OBJECTIVES[objective].make]))
  return any(map(own_code.is_own, named))


def method_of(
  method: str | Callable, hyper: Mapping[str, Any], forget: str, forget_hyper: Mapping[str, Any]
) -> tuple[Callable, dict[str, Any]]:
  """``(make_method(model, spec, values), {name: traced default})``."""
  if isinstance(method, str):
    sections = {"method": (method, hyper)}
    if forget:
      sections["forget"] = (forget, forget_hyper)
    plan = methods.plan(sections)
    return plan.build, plan.hyper
  if not callable(method):
    raise UsageError(
      f"method: got {type(method).__name__}; expected a registered name or a factory f(model, spec, **hyper)"
    )
  if forget:
    raise UsageError("forget: a factory gives its own forget; compose it there")
  parameters = inspect.signature(method).parameters
  for key in hyper:
    if key not in parameters and not any(p.kind == p.VAR_KEYWORD for p in parameters.values()):
      raise UsageError(f"hyper: the factory takes no {key!r}; it takes {', '.join(list(parameters)[2:]) or 'none'}")
  traced = {f"method.{k}": v for k, v in hyper.items() if isinstance(v, float)}
  static = {k: v for k, v in hyper.items() if not isinstance(v, float)}

  def make(model, spec, values):
    return method(model, spec, **static, **{k: values[f"method.{k}"] for k in hyper if k not in static})

  return make, traced


def _parts_digest(built: CompiledRun) -> str:
  learner = jax.eval_shape(built.parts.init, jax.random.key(0))
  abstract = lambda t: jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), t)
  where = abstract(where_in_stream(built, 0, 0, 1))
  return identity.parts_digest(built.parts, learner, abstract(built.train), where, built.spec, built.inputs)


def _texts(rows: Sequence[dict], count: int) -> dict[str, dict[str, list]]:
  """``{evaluator: {what: [S][E+1][T]}}``; a row from before a task was appended, or without any, has empty lists."""
  named = {(name, what): by[what] for row in rows for name, by in row.get("texts", {}).items() for what in by}
  out: dict[str, dict[str, list]] = {}
  for (name, what), like in named.items():
    nothing: list[list] = [[[] for _ in of_tasks] for of_tasks in like]
    held = [row.get("texts", {}).get(name, {}).get(what, nothing) for row in rows]
    out.setdefault(name, {})[what] = [[of[member] for of in held] for member in range(count)]
  return out


def _result(built: CompiledRun, state: State, judges: Sequence[Evaluator]) -> RunResult:
  members, stream = built.members, built.stream
  learner = prog.fetch(state.learner, members)
  judged = judged_at(stream, built.trains_on, {k: getattr(state, k) for k in saving.SAVED})
  params = jax.tree.map(np.asarray, learner.params)
  count = len(built.population)
  digests = [tree.digest(jax.tree.map(lambda a, i=i: a[i], params)) for i in range(count)]
  one = jax.eval_shape(lambda t: jax.tree.map(lambda a: a[0], t), learner)
  names = [n for n in built.programs._fields if getattr(built.programs, n) is not None]
  values = prog.fetch(built.hyper, members)
  main = built.parts.objective.main
  stacked = lambda name, key: np.asarray(
    [(row if name == main else row["scores"][name])[key] for row in state.accuracy], np.float64
  ).swapaxes(0, 1)  # NaN, of a member that diverged, is null in a checkpoint
  names_of = [main, *(n for n in built.parts.objective.scores if n != main)]
  has = "accuracy" in names_of
  said = lambda name, metric: np.asarray(
    [row["evaluations"][name][metric] for row in state.accuracy], np.float64
  ).swapaxes(0, 1)
  return RunResult(
    accuracy=stacked("accuracy", "test") if has else None,
    task_accuracy=stacked("accuracy", "task") if has else None,
    validation=stacked(main, "validation") if "validation" in state.accuracy[0] else None,
    forgotten=state.forgotten,
    curves=state.curves,
    events=[event_record(e) for e in stream.events],
    learner=learner,
    predict=predictor(stream, built.parts_of, built.parts.method, judged, values, learner),
    params_sha256=digests,
    state_bytes=tree.nbytes(state_between_tasks(one)),
    steps=state.total,
    seconds=dict(built.clock.seconds),
    compilations={n: getattr(built.programs, n).compilations for n in names},
    alive=np.asarray(state.alive)[:count],
    scores={name: stacked(name, "test") for name in names_of},
    better={name: built.parts.objective.scores[name].better for name in names_of},
    evaluations={e.name: {m: said(e.name, m) for m in state.accuracy[0]["evaluations"][e.name]} for e in judges},
    evaluations_better={e.name: dict(e.better) for e in judges},
    task_names=tuple(domains(stream)),
    texts=_texts(state.accuracy, count),
    presentations=presentations.told(state.presented, stream),
    evaluated_rows=held_out.evaluated_rows(built),
    task_steps=np.asarray(state.taken, np.int64).T if state.taken else None,
    drawn=[dict(s.drawn) for s in built.streams or (stream,) * count] if stream.drawn else [],
  )


__all__ = ["Member", "Options", "Prepared", "RunResult", "continued", "prepare", "run"]
