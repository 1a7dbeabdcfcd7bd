"""``cljax.load``: parameters and predictions of a run from its workdir."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from etils import epath

from cljax import data, models, objectives, streams
from cljax.core.types import CljaxError, Learn, Learner, Model, UsageError
from cljax.engine import extending, own_arguments, own_streams, precision, prediction, presentations, recipe
from cljax.engine import programs as prog
from cljax.engine.api import method_of, prepare
from cljax.engine.setup import Member, spec_of
from cljax.engine.step import build, rescaled
from cljax.io import checkpoint, files, formats, sealing
from cljax.io import history as stages
from cljax.streams import per_seed


class Loaded(NamedTuple):
  """A run read back. ``params`` and ``learner`` have a leading member axis; ``position`` says how far it had come.

  ``params`` are those to judge by, which are not those of ``learner`` under an optimizer such as schedule_free."""

  params: Any
  predict: Callable  # predict(x, member=0, task=None) -> logits, as they were judged there
  learner: Learner
  config: dict
  position: dict
  notes: tuple[str, ...]  # one line for each damaged checkpoint that was passed over
  result: dict | None = None  # of a launcher's run that has ended: the content of its result.json


class History(NamedTuple):
  """A run on disk, rebuilt once for all its checkpoints.

  ``read(number) -> (learner, position)`` raises DamagedError. ``parts(values) -> step.LearnerFns`` of one member
  gives its method and its ``predict(learner, x, task)``; ``values`` holds ``[S]`` arrays. ``model`` takes raw inputs.
  ``own_streams``: ``stream`` is that of the members with the first one's seed; the others have other streams.
  """

  numbers: list[int]
  config: dict
  stream: Any
  model: Model
  values: dict
  parts: Callable
  read: Callable
  trains_on: str = "current"  # of the method's access
  presentations: Callable = lambda number: None  # number -> Presentations of that checkpoint, where they were counted
  own_streams: bool = False


def load(
  workdir: str | os.PathLike, *, number: int | None = None, data_dir: str | None = None, **arguments: Any
) -> Loaded:
  """Reads the newest sound checkpoint of a run (or checkpoint ``number``) and rebuilds its ``predict``.

  A run of the launchers is rebuilt from its configuration alone (``data_dir``: where the data lies, if not in the
  default place). A run of :func:`cljax.run` needs what it was called with: ``stream`` and ``model``, and ``method``,
  ``hyper``, ``forget``, ``forget_hyper``, ``optimizer``, ``optimizer_options``, ``training``, ``objective``,
  ``objective_options`` where they were given.
  ``workdir`` may also be a row of a sweep (``SWEEP/runs/NAME``), whose members are read from the populations that they
  were trained in, or such a population (``SWEEP/groups/NAME``).
  Raises UsageError where there is no run or an argument is missing, CljaxError where no checkpoint is sound.
  """
  own = of_row(workdir)
  if own:
    return _joined([load(group, number=number, data_dir=data_dir, **arguments) for group, _ in own],
                   [members for _, members in own])  # fmt: skip
  directory = f"{workdir}/checkpoints"
  found = checkpoint.numbers(directory)
  if not found or (number is not None and number not in found):
    wanted = "any checkpoint" if number is None else f"checkpoint {number}"
    raise UsageError(f"workdir: {workdir} does not hold {wanted}; it has {found or 'none'}")
  notes: list[str] = []
  for candidate in reversed(found) if number is None else [number]:
    try:
      meta = checkpoint.read_meta(directory, candidate)
      given = arguments or _from_config(meta["config"], data_dir, workdir)
      like, *_, rebuild = _rebuild(meta["config"], **given)
      state = checkpoint.read_state(directory, candidate, meta, like)
    except checkpoint.DamagedError as error:
      notes.append(f"{error}; trying the one before it")
      continue
    learner = state["learner"]
    params, predict = rebuild(learner, meta["position"])
    return Loaded(params, predict, learner, meta["config"], meta["position"], tuple(notes), _result(workdir))
  raise CljaxError("no sound checkpoint is left: " + "; ".join(notes))


def _result(workdir) -> dict | None:
  """The content of a run's ``result.json``; None where there is none, or none that can be read."""
  path = epath.Path(workdir) / "result.json"
  try:
    return formats.read(path, files.loads(path.read_bytes())) if path.exists() else None
  except ValueError:
    return None


def of_row(workdir) -> list[tuple[str, list[int]]]:
  """Of a sweep's row, the populations that hold its members: ``(folder, which of them)``, each seed once, newest first;
  none where the folder is no row. UsageError for a whole sweep, with its rows."""
  path = epath.Path(workdir)
  if not (path / "checkpoints").exists() and (path / "groups").exists():
    rows = [p.name for p in sorted((path / "runs").iterdir())] if (path / "runs").exists() else []
    raise UsageError(
      f"workdir: {path} holds a sweep; give one of its rows, {path}/runs/NAME of {', '.join(rows) or 'none'}"
    )
  groups = path.parent.parent / "groups"
  if path.parent.name != "runs" or (path / "checkpoints").exists() or not groups.exists():
    return []
  found: list[tuple[str, list[int]]] = []
  taken: set[int] = set()
  units = [p for p in groups.iterdir() if (p / "unit.json").exists() and checkpoint.numbers(p / "checkpoints")]
  for unit in sorted(units, key=lambda p: (p / "unit.json").stat().mtime, reverse=True):
    members = files.loads((unit / "unit.json").read_bytes())["members"]
    mine = [i for i, m in enumerate(members) if m["run"] == path.name and m["seed"] not in taken]
    taken |= {members[i]["seed"] for i in mine}
    if mine:
      found.append((str(unit), mine))
  if not found:
    raise UsageError(f"workdir: {path} is no row of a sweep that has checkpoints")
  return found


def _joined(loaded: list[Loaded], members: list[list[int]]) -> Loaded:
  """The chosen members of several populations as one, in the order of their seeds."""
  at = [(one.config["members"][i][0], k, i) for k, (one, mine) in enumerate(zip(loaded, members, strict=True))
        for i in mine]  # fmt: skip
  at.sort()
  pick = lambda trees: jax.tree.map(lambda *a: jnp.stack([a[k][i] for _, k, i in at]), *trees)

  def predict(x, member: int = 0, task: int | None = None):
    _, k, i = at[member]
    return loaded[k].predict(x, i, task)

  config = {**loaded[0].config, "members": [loaded[k].config["members"][i] for _, k, i in at]}
  notes = tuple(note for one in loaded for note in one.notes)
  learner = pick([one.learner for one in loaded])
  return Loaded(pick([one.params for one in loaded]), predict, learner, config, loaded[0].position, notes)


def config_of(workdir) -> dict:
  """The configuration in a run's newest sound checkpoint; errors are those of :func:`meta_of`."""
  return meta_of(workdir)["config"]


def meta_of(workdir) -> dict:
  """The meta of a run's newest sound checkpoint; UsageError where there is none, CljaxError where none is sound."""
  directory, notes = f"{workdir}/checkpoints", []
  found = checkpoint.numbers(directory)
  if not found:
    raise UsageError(f"workdir: {workdir} does not hold any checkpoint")
  for number in reversed(found):
    try:
      return checkpoint.read_meta(directory, number)
    except checkpoint.DamagedError as error:
      notes.append(str(error))
  raise CljaxError("no sound checkpoint is left: " + "; ".join(notes))


def history(workdir, *, data_dir: str | None = None, first_stream: bool = False, **arguments) -> History:
  """Opens all checkpoints of a run, to look at it over time; arguments and errors are those of :func:`load`.

  Where each seed has a stream of its own, ``first_stream`` takes that of the first seed; without it that is an error.

  Those of an earlier stage of a run that was extended are read as learners of the newest: the places that came with its
  tasks are those of a fresh one, as extending made them.
  """
  directory = f"{workdir}/checkpoints"
  found, config = checkpoint.numbers(directory), config_of(workdir)
  given = dict(arguments or _from_config(config, data_dir, workdir))
  given["stream"], apart = per_seed.of_members(given["stream"], [seed for seed, _ in config["members"]])
  if apart and not first_stream:
    raise UsageError("workdir: each seed of this run has a stream of its own (stream.per_seed); what is looked at over "
                     "time is of one stream: run one seed by itself")  # fmt: skip
  like, parts, values, trains_on, _ = _rebuild(config, **given)

  growing: dict[int, extending.Growing] = {}  # by the number of an earlier stage's events

  def read(number: int):
    meta = checkpoint.read_meta(directory, number)
    held_leaves = {p: told for p, told in meta["leaves"].items() if not p.startswith(checkpoint.COUNTED)}
    if held_leaves == checkpoint.leaves_of(like):
      return checkpoint.read_state(directory, number, meta, like)["learner"], meta["position"]
    held = next((s for s in stages.read(workdir) if not checkpoint.differences(s["config"], meta["config"])), None)
    if held is None:
      raise checkpoint.DamagedError(f"checkpoint {number}: its arrays are others, and it is of no stage of this run")
    size = len(held["events"])
    if size not in growing:
      growing[size] = _growing(given, held, config)
    learner = growing[size].arrays(directory, number, meta)["learner"]
    return prog.fetch(learner, growing[size].new.members), meta["position"]

  def counted(number: int):
    record = presentations.read(directory, number, checkpoint.read_meta(directory, number))
    return presentations.told(presentations.widened(record, given["stream"]), given["stream"])

  raw = rescaled(given["model"], given["stream"].dataset.scale)
  return History(found, config, given["stream"], raw, values, parts, read, trains_on, counted, bool(apart))


def _growing(given: Mapping[str, Any], held: Mapping[str, Any], config: dict) -> extending.Growing:
  """Reads checkpoints of the stage ``held`` as learners of the run that ``given`` and ``config`` are of."""
  members = [Member(seed, dict(hyper)) for seed, hyper in config["members"]]
  stream = given["stream"]

  def made(stream):
    learned = tuple(e for e in stream.events if isinstance(e, Learn))  # whatever answers the others
    rest = {k: v for k, v in given.items() if k not in ("stream", "forget", "forget_hyper")}
    more = {k: given[k] for k in ("forget", "forget_hyper") if given.get("forget")}
    return prepare(stream._replace(events=learned), **rest, **more, population=members, config=config).setup

  return extending.Growing(made(extending.earlier(stream, held)), made(stream))


def _from_config(config: dict, data_dir, workdir) -> dict:
  """The arguments of ``run`` that a launcher's configuration stands for; of data that have grown since, with the rows
  that the stages of the run in ``workdir`` say it had."""
  sealing.check_open(config, "its stream can not be rebuilt; give the arguments of cljax.run")
  if not all(isinstance(config.get(section), dict) for section in ("data", "stream", "model", "method")):
    raise UsageError("stream, model: this run was not started by a launcher; give the arguments of cljax.run")
  rest = lambda section, *drop: {k: v for k, v in config[section].items() if k not in ("name", "digest", *drop)}
  wanted = f"data_dir: {f'got {data_dir}' if data_dir else 'not given'}; expected the folder of this run's data"
  try:
    dataset = data.load(config["data"]["name"], data_dir=data_dir, **rest("data"))
  except UsageError as error:
    raise UsageError(f"{wanted} ({str(error).removeprefix('name: ')})") from error
  made = lambda dataset: streams.build(dataset, **config["stream"])
  try:
    dataset = stages.as_held(dataset, config["data"]["digest"], stages.read(workdir), made)
  except UsageError as error:
    raise UsageError(f"{wanted}: {config['data']['name']} there: {error}") from error
  stream = made(dataset)
  shape = jax.tree.map(lambda a: a.shape[1:], dataset.train.x)
  fields = recipe.Recipe._fields
  training = {k: config[s][k] for k in fields for s in ("train", "optimizer") if k in config[s]}
  return {
    "stream": stream,
    "model": models.build(config["model"]["name"], shape, stream.num_classes, **rest("model")),
    "objective": config.get("objective", {}).get("name", "classification"),
    "objective_options": {k: v for k, v in config.get("objective", {}).items() if k != "name"},
    "method": config["method"]["name"],
    "hyper": rest("method"),
    "forget": config["forget"]["name"],
    "forget_hyper": rest("forget"),
    "optimizer": config["optimizer"]["name"],
    "optimizer_options": recipe.read_options(config["optimizer"]["name"], rest("optimizer", *fields)),
    "training": recipe.Recipe(**training),
  }


def _rebuild(
  config, *, stream, model, method="finetune", hyper=None, forget="", forget_hyper=None, optimizer="sgd",
  optimizer_options=None, training: recipe.Recipe = recipe.Recipe(), objective="classification", objective_options=None,
):  # fmt: skip
  """``(abstract state, values -> parts, values [S], trains_on, rebuild)`` with ``rebuild(learner, position) ->
  (parameters to judge by, predict)``."""
  members = [dict(hyper) for _, hyper in config["members"]]
  stream, streams = per_seed.of_members(stream, [seed for seed, _ in config["members"]])
  make_method, traced = method_of(method, hyper or {}, forget, forget_hyper or {})
  make_optimizer, also = recipe.optimizer_of(optimizer, dict(optimizer_options or {}))
  learned = objectives.given(objective, objective_options)
  defaults = {**traced, **also, **getattr(learned, "hyper", {})}
  values = {k: jnp.asarray([m.get(k, v) for m in members], jnp.float32) for k, v in defaults.items()}
  spec = spec_of(stream, training.batch_size, learned)
  asked = config.get("objective", {}).get("name", "classification")
  if asked != spec.objective.name:
    raise UsageError(f"objective: got {spec.objective.name!r}; the run learned {asked!r}")
  raw = rescaled(precision.at(model, training.precision), stream.dataset.scale)
  values |= jax.tree.map(jnp.asarray, own_streams.arguments(streams))

  def parts(values):
    values, here = own_arguments.of_member(values, spec, stream.view.apply)
    here = here._replace(objective=learned(raw, here, values))
    method = make_method(raw, here, values)
    return build("method", method, raw, here, make_optimizer(values), training, stream.view.apply, None)

  probe = parts(defaults)
  wide = lambda a: jax.ShapeDtypeStruct((len(members), *a.shape), a.dtype)
  learner = jax.tree.map(wide, jax.eval_shape(probe.init, jax.random.key(0)))
  like = {"learner": learner, "alive": jax.ShapeDtypeStruct((len(members),), jnp.bool_)}

  def rebuild(learner, position):
    judged = prediction.judged_at(stream, probe.method.access.trains_on, position)
    predict = prediction.predictor(stream, parts, probe.method, judged, values, learner)
    return jax.vmap(probe.evaluated)(learner).params, predict

  return like, parts, values, probe.method.access.trains_on, rebuild
