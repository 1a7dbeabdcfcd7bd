"""From a resolved configuration to the arguments of ``cljax.run``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax

import cljax
from cljax import data, engine, methods, models, streams
from cljax.cli import _config, _registered
from cljax.engine import recipe

_OPTIMIZER_TRACED = ("learning_rate", "momentum", "weight_decay")


class Built(NamedTuple):
  """A stream, a model, and the rest of ``cljax.run``'s arguments."""

  stream: Any
  model: cljax.Model
  arguments: dict[str, Any]
  identity: dict[str, Any]


def _without(section: Mapping[str, Any], *names: str) -> dict[str, Any]:
  return {k: v for k, v in section.items() if k not in names}


def build(
  config: Mapping[str, Mapping[str, Any]], cache: dict | None = None, answers: Sequence[Sequence[Any]] = ()
) -> Built:
  """Loads the data and builds everything a run needs; ``cache`` shares datasets and streams between calls.

  ``answers``: ``[event, method, options]`` of each Forget event that another method answers than ``forget.name``.
  """
  cache = {} if cache is None else cache
  dataset = data_of(config, cache)
  key = repr(config["data"]) + repr(config["stream"])
  if key not in cache:
    cache[key] = stream_of(dataset, config["stream"])
  stream = cache[key]
  shape = jax.tree.map(lambda a: a.shape[1:], dataset.train.x)
  model = _config.labelled(
    "model",
    lambda: models.build(
      config["model"]["name"],
      shape,
      stream.num_classes,
      rows=(dataset.train.x, dataset.test.x),
      **_without(config["model"], "name"),
    ),
  )
  training = {k: config[s][k] for k in cljax.Recipe._fields for s in ("train", "optimizer") if k in config[s]}
  options = {field: config[s][name] for field, (s, name) in _config.option_fields().items()}
  learned = _config.objective_of(config)
  arguments = {
    "objective": learned.name,
    "objective_options": dict(learned.options),
    "evaluators": config["evaluators"]["names"],
    "method": config["method"]["name"],
    "hyper": _without(config["method"], "name"),
    "forget": config["forget"]["name"],
    "forget_hyper": _without(config["forget"], "name"),
    "optimizer": config["optimizer"]["name"],
    "optimizer_options": recipe.read_options(
      config["optimizer"]["name"], _without(config["optimizer"], "name", *cljax.Recipe._fields)
    ),
    "training": cljax.Recipe(**training),
    "options": cljax.Options(**options),
  }
  recipe.check_effect(arguments["training"], arguments["options"], arguments["optimizer"], config["optimizer"])
  identity: dict[str, Any] = _config.identity(config, dataset.digest)
  own = _registered.code(config, [name for _, name, _ in answers])
  if own:
    identity["code"] = own
  if answers:
    arguments["answers"] = {event: (name, own) for event, name, own in answers}
    identity["answers"] = [[event, name, dict(own)] for event, name, own in answers]
  return Built(stream, model, arguments, identity)


def data_of(config: Mapping[str, Mapping[str, Any]], cache: dict):
  """The data set of a configuration, loaded once for each cache."""
  key = repr(config["data"])
  if key not in cache:
    options = _without(config["data"], "name", "data_dir")
    cache[key] = _config.labelled(
      "data", lambda: data.load(config["data"]["name"], data_dir=config["data"]["data_dir"] or None, **options)
    )
  return cache[key]


def stream_of(dataset, section: Mapping[str, Any]):
  """The stream that a configuration's section makes of a data set."""
  return _config.labelled("stream", lambda: streams.build(dataset, **_config.read_by_kind(section)))


def traced(config: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
  """The float hyper-parameters that one program takes as arguments, by ``section.field``."""
  out: dict[str, float] = {}
  for section in ("method", "forget"):
    name = config[section]["name"]
    if name:
      options = methods.lookup(name).options
      out.update({f"{section}.{k}": config[section][k] for k, o in options.items() if isinstance(o.default, float)})
  out.update(_config.objective_of(config).hyper)
  for key in _OPTIMIZER_TRACED:
    # Without weight decay its transform is left out of the chain, so 0 is another program.
    if recipe.unread(config["optimizer"]["name"], key):
      continue
    if key != "weight_decay" or config["optimizer"][key]:
      out[f"optimizer.{key}"] = config["optimizer"][key]
  return out


def prepare(built: Built, population: Sequence[cljax.Member], mesh: Mapping[str, int] | None = None) -> engine.Prepared:
  """All before the first step."""
  return engine.prepare(
    built.stream, built.model, population=population, config=built.identity, mesh=mesh, **built.arguments
  )


def execute(
  built: Built,
  population: Sequence[cljax.Member],
  workdir,
  report: Callable[[dict], None],
  stop: Callable[[], bool],
  mesh: Mapping[str, int] | None = None,
  prepared: engine.Prepared | None = None,
) -> cljax.RunResult:
  """Runs or resumes; ``prepared`` is what :func:`prepare` gave for the same arguments."""
  prepared = prepared or prepare(built, population, mesh)
  return prepared.run(str(workdir), report, stop)
