"""All that is fixed before the first step of a run: sizes, data on the device, compiled programs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cljax import objectives
from cljax.core.checks import MOST, check_integer
from cljax.core.types import Batch, Forget, Learn, Model, Spec, UsageError
from cljax.data import limits
from cljax.engine import evaluating, own_streams, patience, precision, schedule
from cljax.engine import mesh as meshes
from cljax.engine import objective_forms as forms
from cljax.engine import programs as prog
from cljax.engine.access import check_labels, check_reads_one_task
from cljax.engine.device_rows import device_data, evaluation_of, own_evaluation, target_dtype
from cljax.engine.own_arguments import of_member
from cljax.engine.recipe import Recipe, check_recipe, make_augment
from cljax.engine.revealing import check_reveals
from cljax.engine.step import Data, LearnerFns, build, rescaled
from cljax.streams.requests import resolve_pairs


class Member(NamedTuple):
  """One member of a population: a seed, and values that override the run's traced hyper-parameters."""

  seed: int
  hyper: Mapping[str, float] = {}


class Options(NamedTuple):
  """How a run is evaluated, fed and kept."""

  eval_every: int = 0  # evaluate each so many steps (0: after events only)
  eval_limit: int = 0  # rows of each task in those evaluations, evenly by class (0: all)
  eval_block: int = 256
  eval_ahead: bool = True  # False: tasks that are yet to be learned are not evaluated
  eval_log: str = "scores"  # the raw log: 'none', 'scores' or 'predictions' (and the scores)
  eval_log_limit: int = 64  # MB a run: above that there is no log
  feed: str = "device"  # 'device' (data on the device) or 'grain' (data larger than memory)
  boundary_limit: int = 4096  # with grain: rows of a task that a boundary pass sees
  chunk_steps: int = 512  # longest scan
  checkpoint_every: int = 0  # steps between checkpoints inside a task (0: after events only)
  checkpoint_purge_before_deletion: bool = False  # after a Forget event no checkpoint from before it stays
  checkpoint_keep_ids: bool = True  # False: requests are written down as salted hashes alone
  max_interval_s: float = 60.0  # a scan is cut so that it takes at most about this long
  on_divergence: str = "stop"  # 'stop' or 'freeze'
  presentations: bool = False  # count forgetting events over the presentations of training rows
  population_group: int = 0  # members that a device trains at once (0: on accelerators all, on CPU one)


class CompiledRun(NamedTuple):
  """All that is fixed before the first step."""

  stream: Any
  spec: Spec
  members: prog.PopulationLayout
  population: tuple[Member, ...]
  model: Model  # on raw inputs, before the method wraps it
  parts: LearnerFns  # the learner's pure functions at the run's own hyper-parameters
  parts_of: Callable  # the same at other values, without placement on a mesh
  programs: prog.Programs
  hyper: Any
  train: Data
  evaluation: Data
  blocks: prog.Blocks
  partial: prog.Blocks
  trains_on: str
  replays: bool
  recipe: Recipe
  options: Options
  clock: prog.Clock
  total_steps: int
  inputs: Any  # what the objective shows the model, abstract
  evaluators: Callable | None = None  # (state, hooks) -> {name: {metric: [S][T]}}
  kept: evaluating.Kept | None = None  # what evaluations keep of each row, for the raw log
  unkept: str = ""  # why they keep nothing, where something was asked for
  streams: tuple = ()  # of each member, where each has one of its own; ``stream`` is then the first one's


def spec_of(stream, batch_size: int, objective: Callable | None = None) -> Spec:
  """The static sizes that factories see; with the objective at its own values (default: classification's)."""
  split = stream.dataset.train
  of = lambda a, *lead: jax.ShapeDtypeStruct((*lead, *a.shape[1:]), a.dtype)
  whole = jax.tree.map(lambda a: of(a, 1), split.x)
  probe = jax.eval_shape(stream.view.apply, stream.view.tables, whole, jax.ShapeDtypeStruct((1,), np.int32))
  room = max(stream.num_tasks, stream.room)  # tasks to come have no classes yet
  shapes, dtypes = (lambda t: jax.tree.map(lambda a: a.shape[1:], t)), (lambda t: jax.tree.map(lambda a: a.dtype, t))
  spec = Spec(
    num_classes=stream.num_classes,
    num_tasks=room,
    input_shape=shapes(probe),
    input_dtype=dtypes(probe),
    batch_size=batch_size,
    num_rows=len(split.id),
    task_rows=max(stream.row_room, *(len(t) for t in stream.train)),
    total_rows=sum(len(t) for t in stream.train),
    classes_of_task=np.pad(stream.classes_of_task, ((0, room - stream.num_tasks), (0, 0))),
    active=stream.active,
    task_id_given=stream.task_id_given,
    row_shape=shapes(whole),
    row_dtype=dtypes(whole),
    row=jax.tree.map(of, whole),
    shown=jax.tree.map(of, probe),
    view=_viewed(stream.view),
    target=jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], target_dtype(a)), split.y),
    scale=stream.dataset.scale,
  )
  return spec._replace(objective=forms.made(objective or objectives.classification(), None, spec, {}))


def _viewed(view) -> Callable:
  """A view of inputs that holds nothing of a stream but its tables."""
  return lambda x, row_task: view.apply(jax.tree.map(jnp.asarray, view.tables), x, row_task)


def setup(
  stream,
  model: Model,
  make_method: Callable,
  make_optimizer: Callable,
  hyper: Mapping[str, float],
  population: Sequence[Member],
  recipe: Recipe,
  options: Options,
  devices=None,
  name: str = "method",
  axes: Mapping[str, int] | None = None,
  objective: Callable | None = None,
  elsewhere: Collection[int] = (),
  streams: Sequence[Any] = (),
) -> CompiledRun:
  """Builds the programs. ``make_method(model, spec, values)`` and ``make_optimizer(values)`` get the dict of traced
  values; ``name`` is what errors call the method. Forget events ``elsewhere`` are answered by another setup.
  ``streams``: of each member, where each has one of its own (:mod:`cljax.engine.own_streams`).
  """
  if not population:
    raise UsageError("seeds: got none; expected at least one")
  split = stream.dataset.train
  check_recipe(recipe, jax.tree.map(lambda a: a.shape[1:], split.x))
  _check_options(options)
  _check_size(stream, len(population))
  _check_batch(stream, recipe.batch_size)
  if recipe.patience and not streams:  # members end tasks apart
    streams = (stream,) * len(population)
  own_streams.check(streams, options, axes)
  apart = len({id(s) for s in streams}) > 1
  objective = objective or objectives.classification()
  spec = spec_of(stream, recipe.batch_size, objective)
  model = rescaled(precision.at(model, recipe.precision), stream.dataset.scale)
  if spec.objective.classes and not stream.dataset.has_classes:
    raise UsageError(
      f"objective.name: {spec.objective.name!r} needs classes, which the data do not have (y is "
      f"{jax.tree.leaves(spec.target)[0].dtype}); give an objective of real targets or tokens, such as regression"
    )
  inputs = _check_model(model, spec)
  forms.check_rows(stream, model, spec)
  if options.presentations and not spec.objective.classes:
    raise UsageError(f"train.presentations: got True under {spec.objective.name!r}; what is right is a class")
  evaluating.check_log(options, spec.objective)
  members = prog.layout(len(population), devices, axes, options.population_group)
  precision.check_backend(recipe.precision, members.platform)
  if options.presentations and meshes.is_multi_process(members.mesh):
    raise UsageError("train.presentations: got True, which one process counts; the mesh is of several")
  place: meshes.Placement | None = None
  if members.placed is not None:
    place, over = meshes.placement(members.placed), meshes.rows_over(members.placed)
    if recipe.batch_size % over:
      raise UsageError(f"train.batch_size: got {recipe.batch_size}; expected a multiple of the mesh's {over} shares")
  clock = prog.Clock()
  augment, view, record = make_augment(recipe.augment), stream.view.apply, options.presentations
  for member in population:
    unknown = set(member.hyper) - set(hyper)
    if unknown:
      raise UsageError(
        f"hyper: unknown {sorted(unknown)[0]!r}; a grid may vary {', '.join(sorted(hyper)) or 'nothing'}"
      )
  values = {name: np.asarray([m.hyper.get(name, v) for m in population], np.float32) for name, v in hyper.items()}
  members_values = {**values, **own_streams.arguments(streams)}

  def parts_of(values, place=place):
    values, here = of_member(values, spec, view)
    here = here._replace(objective=objective(model, here, values))
    method = make_method(model, here, values)
    return build(name, method, model, here, make_optimizer(values), recipe, view, augment, place, record)

  probe = parts_of(dict(hyper))
  check_labels(name, probe.method.access, stream, recipe, options.presentations, spec.objective)
  check_reads_one_task(probe.method, model, inputs, spec.task_id_given)
  kept, unkept = evaluating.log_form(stream, population, probe.objective, options, spec.num_classes)
  if apart and kept:
    kept, unkept = None, "eval.log: off; with stream.per_seed each seed is tested on other rows of a task"
  made = prog.make(parts_of, probe, stream.view.apply, spec, members, clock, kept)
  train = device_data(stream, options)
  evaluation, whole, part = own_evaluation(streams, options) if apart else evaluation_of(stream, options)
  access = probe.method.access
  patience.check(stream, streams, recipe, access.trains_on)
  learned: list[int] = []
  taken: dict[int, int] = {}  # tasks of which requests take rows, with all that they have
  total = 0
  for e, event in enumerate(stream.events):
    if isinstance(event, Learn):
      total += schedule.schedule(stream, learned, e, event.task, access.trains_on, recipe).steps
      learned.append(event.task)
      if total > MOST:
        raise UsageError(
          f"train.epochs: got {recipe.epochs}, which makes {total:,} steps; at most {MOST:,} can be counted"
        )
    elif e in elsewhere:
      continue
    elif not access.forgets or (probe.forget is None and not access.prefix):
      raise UsageError(
        f"stream.forget: event {e} asks to forget, but the method does not; choose one with forget.name, such as "
        "retrain, ssd or scrub"
      )
    else:
      _check_holds(event, access)
      named = resolve_pairs(event, stream)
      taken |= {t: len(stream.train[t]) for t in dict.fromkeys(learned) if named[t].any()}
  if access.forgets and any(isinstance(v, Forget) and e not in elsewhere for e, v in enumerate(stream.events)):
    check_reveals(name, probe, access.prefix, taken)
  return CompiledRun(
    stream=stream,
    spec=spec,
    members=members,
    population=tuple(population),
    model=model,
    parts=probe,
    parts_of=lambda values: parts_of(values, None),
    programs=made,
    hyper=prog.shard_members(members_values, members),
    train=prog.replicate(train, members),
    evaluation=prog.replicate(evaluation, members),
    blocks=own_streams.on_device(whole, members),
    partial=own_streams.on_device(part, members),
    trains_on=access.trains_on,
    replays=access.prefix,
    recipe=recipe,
    options=options,
    clock=clock,
    total_steps=own_streams.total_steps(streams, access.trains_on, recipe) if streams else total,
    inputs=inputs,
    kept=kept,
    unkept=unkept,
    streams=tuple(streams),
  )


def _check_options(options: Options) -> None:
  if options.feed not in ("device", "grain"):
    raise UsageError(f"train.feed: unknown {options.feed!r}; allowed: device, grain")
  if options.on_divergence not in ("stop", "freeze"):
    raise UsageError(f"train.on_divergence: unknown {options.on_divergence!r}; allowed: stop, freeze")
  if not isinstance(options.checkpoint_purge_before_deletion, bool):
    raise UsageError(
      f"checkpoint.purge_before_deletion: got {options.checkpoint_purge_before_deletion!r}; expected True or False"
    )
  if not isinstance(options.checkpoint_keep_ids, bool):
    raise UsageError(f"checkpoint.keep_ids: got {options.checkpoint_keep_ids!r}; expected True or False")
  if not isinstance(options.eval_ahead, bool):
    raise UsageError(f"eval.ahead: got {options.eval_ahead!r}; expected True or False")
  if not isinstance(options.presentations, bool):
    raise UsageError(f"train.presentations: got {options.presentations!r}; expected True or False")
  if options.presentations and not options.checkpoint_keep_ids:
    raise UsageError(
      "train.presentations: got True with checkpoint.keep_ids=False; a record that lacks the deleted rows names them"
    )
  least = {
    "eval_every": 0,
    "eval_log_limit": 1,
    "eval_limit": 0,
    "eval_block": 1,
    "boundary_limit": 1,
    "chunk_steps": 1,
    "checkpoint_every": 0,
    "population_group": 0,
  }
  sections = {f: f"train.{f}" for f in ("boundary_limit", "chunk_steps", "population_group")}
  for field, low in least.items():
    check_integer(sections.get(field, field.replace("_", ".", 1)), getattr(options, field), low)
  interval = options.max_interval_s
  if isinstance(interval, bool) or not isinstance(interval, int | float) or not interval > 0:
    raise UsageError(
      f"checkpoint.max_interval_s: got {options.max_interval_s!r}; expected a positive number of seconds"
    )


FIGURES = 96  # bytes of a task's test, own-class and validation figures, as the host keeps them


def _check_batch(stream, size: int) -> None:
  split = stream.dataset.train
  row = sum(int(np.prod(a.shape[1:])) for a in jax.tree.leaves(split.x) if hasattr(a, "shape"))
  limits.check_memory(f"train.batch_size: a batch of {size:,} rows", size * (4 * row + 64), "ask for fewer")


def _check_size(stream, members: int) -> None:
  """Every event is followed by an evaluation of every task, and all are kept: thousands of tasks want gigabytes."""
  size = FIGURES * members * (len(stream.events) + 1) * stream.num_tasks
  what = f"stream.tasks: the scores of {stream.num_tasks} tasks after {len(stream.events)} events"
  limits.check_memory(what, size, "ask for fewer tasks or fewer seeds at a time")
  rows = sum(map(len, stream.test)) + sum(map(len, stream.validation))
  limits.check_memory(f"stream.tasks: {rows:,} places of evaluation rows", 16 * rows, "ask for fewer tasks or rows")


def _check_holds(event: Forget, access) -> None:
  for need, flag in (("forget", access.forget_data), ("retain", access.retain_data), ("prefix", access.prefix)):
    if flag and need not in event.holds:
      raise UsageError(f"forget: the method needs {need!r} data, but the request holds only {', '.join(event.holds)}")


def _check_model(model: Model, spec: Spec) -> Any:
  """Traces the model on what the objective applies it on, and returns that, abstract; UsageError where the model does
  not take it, or where what it gives does not fit the targets."""
  learned, rows = spec.objective, lambda shape, dtype: jax.ShapeDtypeStruct((2, *shape), dtype)

  def refused(error):
    return UsageError(f"model: does not take inputs of shape {spec.input_shape}: {forms.first_line(error)}")

  def apply(params, state, x):
    try:
      task = jnp.zeros(jax.tree.leaves(x)[0].shape[0], jnp.int32) if model.by_task else 0
      return model.apply(params, state, x, train=False, key=jax.random.key(0), task=task, mask=None)
    except forms.FAILS as error:
      raise refused(error) from error

  try:
    params, state = jax.eval_shape(model.init, jax.random.key(0))
  except (TypeError, ValueError) as error:
    raise refused(error) from error
  x = jax.tree.map(lambda a: rows(a.shape, a.dtype), spec.shown)
  if learned.classes:
    out = jax.eval_shape(lambda p, s, x: apply(p, s, x)[0].logits, params, state, x)
    given = getattr(out, "shape", None)
    if given != (2, spec.num_classes):
      told = f"logits of shape {given[1:]}" if given else f"a {type(out).__name__}, no logits"
      raise UsageError(f"model: gives {told}; the stream has {spec.num_classes} classes")
    if learned.name == "classification":
      return x

  def batch(count):
    of = lambda shape, dtype: jax.ShapeDtypeStruct((count, *shape), dtype)
    x, y = (jax.tree.map(lambda a: of(a.shape, a.dtype), part) for part in (spec.shown, spec.target))
    number = of((), np.int32)
    mask = of((spec.num_classes,), bool) if learned.classes else None
    return Batch(x, y, of((), np.float32), number, number, mask)

  shown = []

  def whole(params, state):
    shown.append(forms.check_forms(learned, lambda p, x: apply(p, state, x), params, batch))
    return 0

  jax.eval_shape(whole, params, state)
  return x if shown[0] is None else shown[0]
