"""``cljax.load``: parameters and predictions of a run from its workdir."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cljax import data, engine, models, objectives, streams
from cljax.core.types import CljaxError, Learner, Model, UsageError
from cljax.engine import prediction, recipe
from cljax.engine.setup import spec_of
from cljax.engine.step import build, rescaled
from cljax.io import checkpoint


class Loaded(NamedTuple):
  """A run read back. ``params`` and ``learner`` have a leading member axis; ``position`` says how far it had come.

  ``params`` are those to judge by, which are not those of ``learner`` under an optimizer such as schedule_free."""

  params: Any
  predict: Callable  # predict(x, member=0, task=None) -> logits, as they were judged there
  learner: Learner
  config: dict
  position: dict
  notes: tuple[str, ...]  # one line for each damaged checkpoint that was passed over


class History(NamedTuple):
  """A run on disk, rebuilt once for all its checkpoints.

  ``read(number) -> (learner, position)`` raises DamagedError. ``parts(values) -> step.Parts`` of one member gives its
  method and its ``predict(learner, x, task)``; ``values`` holds ``[S]`` arrays. ``model`` takes raw inputs.
  """

  numbers: list[int]
  config: dict
  stream: Any
  model: Model
  values: dict
  parts: Callable
  read: Callable
  trains_on: str = "current"  # of the method's access


def load(workdir, *, number: int | None = None, data_dir: str | None = None, **arguments) -> Loaded:
  """Reads the newest sound checkpoint of a run (or checkpoint ``number``) and rebuilds its ``predict``.

  A run of the launchers is rebuilt from its configuration alone (``data_dir``: where the data lies, if not in the
  default place). A run of :func:`cljax.run` needs what it was called with: ``stream`` and ``model``, and ``method``,
  ``hyper``, ``forget``, ``forget_hyper``, ``optimizer``, ``optimizer_options``, ``training``, ``objective``,
  ``objective_options`` where they were given.
  Raises UsageError where there is no run or an argument is missing, CljaxError where no checkpoint is sound.
  """
  directory = f"{workdir}/checkpoints"
  found = checkpoint.numbers(directory)
  if not found or (number is not None and number not in found):
    wanted = "any checkpoint" if number is None else f"checkpoint {number}"
    raise UsageError(f"workdir: {workdir} does not hold {wanted}; it has {found or 'none'}")
  notes: list[str] = []
  for candidate in reversed(found) if number is None else [number]:
    try:
      meta = checkpoint.read_meta(directory, candidate)
      given = arguments or _from_config(meta["config"], data_dir)
      like, *_, rebuild = _rebuild(meta["config"], **given)
      state = checkpoint.read_state(directory, candidate, meta, like)
    except checkpoint.DamagedError as error:
      notes.append(f"{error}; trying the one before it")
      continue
    learner = state["learner"]
    params, predict = rebuild(learner, meta["position"])
    return Loaded(params, predict, learner, meta["config"], meta["position"], tuple(notes))
  raise CljaxError("no sound checkpoint is left: " + "; ".join(notes))


def config_of(workdir) -> dict:
  """The configuration in a run's newest sound checkpoint; UsageError where there is none, CljaxError where none is
  sound."""
  directory, notes = f"{workdir}/checkpoints", []
  found = checkpoint.numbers(directory)
  if not found:
    raise UsageError(f"workdir: {workdir} does not hold any checkpoint")
  for number in reversed(found):
    try:
      return checkpoint.read_meta(directory, number)["config"]
    except checkpoint.DamagedError as error:
      notes.append(str(error))
  raise CljaxError("no sound checkpoint is left: " + "; ".join(notes))


def history(workdir, *, data_dir: str | None = None, **arguments) -> History:
  """Opens all checkpoints of a run, to look at it over time; arguments and errors are those of :func:`load`."""
  directory = f"{workdir}/checkpoints"
  found, config = checkpoint.numbers(directory), config_of(workdir)
  given = arguments or _from_config(config, data_dir)
  like, parts, values, trains_on, _ = _rebuild(config, **given)

  def read(number: int):
    meta = checkpoint.read_meta(directory, number)
    return checkpoint.read_state(directory, number, meta, like)["learner"], meta["position"]

  raw = rescaled(given["model"], given["stream"].dataset.scale)
  return History(found, config, given["stream"], raw, values, parts, read, trains_on)


def _from_config(config: dict, data_dir) -> dict:
  """The arguments of ``run`` that a launcher's configuration stands for."""
  if not all(isinstance(config.get(section), dict) for section in ("data", "stream", "model", "method")):
    raise UsageError("stream, model: this run was not started by a launcher; give the arguments of cljax.run")
  rest = lambda section, *drop: {k: v for k, v in config[section].items() if k not in ("name", "digest", *drop)}
  wanted = f"data_dir: {f'got {data_dir}' if data_dir else 'not given'}; expected the folder of this run's data"
  try:
    dataset = data.load(config["data"]["name"], data_dir=data_dir, **rest("data"))
  except UsageError as error:
    raise UsageError(f"{wanted} ({str(error).removeprefix('name: ')})") from error
  if dataset.digest != config["data"]["digest"]:
    raise UsageError(f"{wanted}: {config['data']['name']} there is other data; its digest differs")
  stream = streams.build(dataset, **config["stream"])
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
  make_method, traced = engine.method_of(method, hyper or {}, forget, forget_hyper or {})
  make_optimizer, also = recipe.optimizer_of(optimizer, dict(optimizer_options or {}))
  learned = objectives.given(objective, objective_options)
  defaults = {**traced, **also, **getattr(learned, "hyper", {})}
  members = [dict(hyper) for _, hyper in config["members"]]
  values = {k: jnp.asarray([m.get(k, v) for m in members], jnp.float32) for k, v in defaults.items()}
  spec = spec_of(stream, training.batch_size, learned)
  asked = config.get("objective", {}).get("name", "classification")
  if asked != spec.objective.name:
    raise UsageError(f"objective: got {spec.objective.name!r}; the run learned {asked!r}")
  raw = rescaled(model, stream.dataset.scale)

  def parts(values):
    here = spec._replace(objective=learned(raw, spec, values))
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
