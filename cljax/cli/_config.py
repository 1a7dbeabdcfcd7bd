"""Configurations: a file's ``get_config()``, the defaults of what it names, and flags, merged and checked.

Each section's fields come from the function that takes them: nothing is typed twice. Sections that name something
(data, model, objective, method, forget) take that thing's options, so the name is read first. Later wins: the
registry's defaults, ``method_defaults[name]`` of the file, the section in the file (where it is of the same name),
``--config.*`` flags.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
import inspect
import json
import os
import sys
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any, NamedTuple

from cljax import Options, Recipe, UsageError, data, evaluators, methods, models, objectives, streams
from cljax.cli import presets
from cljax.cli._values import coerce, literal, short
from cljax.core.extras import needed
from cljax.engine import recipe
from cljax.models import tuning
from cljax.models.build import ZOO

SECTIONS = (
  "data", "stream", "model", "objective", "method", "forget", "optimizer", "train", "eval", "evaluators", "checkpoint",
)  # fmt: skip
NAMED = {"data": "digits", "model": "mlp", "objective": "classification", "method": "finetune", "forget": ""}
# In these sections a field names what reads the others, which all have defaults.
_CHOICE = {"optimizer": "name", "stream": "kind"}
# Recipe's fields that belong to the optimizer; the section of each of Options' fields that is not named by its prefix.
_OPTIMIZER_RECIPE = ("reset_per_task", "schedule_over")
_OPTION_SECTION = {"max_interval_s": "checkpoint"}


class Override(NamedTuple):
  """``section.field`` and its value; ``text`` where it comes from the command line and is yet to be read."""

  key: str
  value: Any
  text: bool = False


class File(NamedTuple):
  """A configuration file: its sections, its defaults for methods, and the module (for ``get_hyper``)."""

  sections: dict[str, dict[str, Any]]
  method_defaults: dict[str, dict[str, Any]]
  module: ModuleType


def option_fields() -> dict[str, tuple[str, str]]:
  """``{field of cljax.Options: (section, name in the section)}``."""
  out = {}
  for field in Options._fields:
    prefix, _, rest = field.partition("_")
    if prefix in ("eval", "checkpoint") and rest:
      out[field] = (prefix, rest)
    else:
      out[field] = (_OPTION_SECTION.get(field, "train"), field)
  return out


def defaults(section: str, name: str = "") -> dict[str, Any]:
  """The fields of a section and their defaults. Raises UsageError for an unknown name."""
  if section == "data":
    return {"name": name, "data_dir": "", **labelled("data", lambda: data.options(name))}
  if section == "model":
    return {"name": name, **labelled("model", lambda: models.options(name)), **tuning.OPTIONS}
  if section == "objective":
    return {"name": name, **objectives.defaults(name)}
  if section in ("method", "forget"):
    if not name:
      return {"name": ""}
    try:
      entry = methods.lookup(name)
    except UsageError as error:
      raise UsageError(str(error).replace("method.", f"{section}.", 1)) from None
    return {"name": name, **{k: o.default for k, o in entry.options.items()}}
  if section == "evaluators":
    return {"names": ()}  # a section of one field: given as ``evaluators=NAME,...``
  if section == "stream":
    return _signature(streams.build)
  if section == "optimizer":
    shared = {k: Recipe._field_defaults[k] for k in _OPTIMIZER_RECIPE}
    return {**_signature(recipe.make_optimizer), "momentum": recipe.MOMENTUM, **shared}
  fields = {name: Options._field_defaults[f] for f, (where, name) in option_fields().items() if where == section}
  if section == "train":
    own = {k: v for k, v in Recipe._field_defaults.items() if k not in _OPTIMIZER_RECIPE}
    return {**own, **fields}
  return fields


def _signature(function) -> dict[str, Any]:
  parameters = inspect.signature(function).parameters
  return {n: p.default for n, p in parameters.items() if p.default is not p.empty}


def labelled(section: str, call):
  """Calls a builder; its errors name the section, and those of Python become usage errors."""
  try:
    return call()
  except UsageError as error:
    text = str(error)
    known = text.startswith((section, "forget request"))
    raise UsageError(text if known else f"{section}.{text}") from error
  except (TypeError, ValueError, OverflowError, ZeroDivisionError) as error:
    raise UsageError(f"{section}: {str(error).splitlines()[0] if str(error) else type(error).__name__}") from error


def load(file: str) -> ModuleType:
  """Runs a configuration file. Raises UsageError.

  Its module is known to Python, under a name of the file's own: dataclasses and Flax modules in it look their
  annotations up there, and the source of a class is found by it.
  """
  name = f"config_file_{hashlib.sha256(os.path.abspath(file).encode()).hexdigest()[:12]}"
  spec = importlib.util.spec_from_file_location(name, file)
  if spec is None or spec.loader is None:
    raise UsageError(f"config: {file!r} is not a Python file; expected one that defines get_config()")
  module = importlib.util.module_from_spec(spec)
  sys.modules[name] = module
  try:
    with needed(f"config: {file!r}"):
      spec.loader.exec_module(module)
  except UsageError:
    raise
  except Exception as error:
    raise UsageError(f"config: {file!r} cannot be loaded: {type(error).__name__}: {_first(error)}") from error
  return module


def read_file(path: str, several: bool = False) -> File:
  """Loads a configuration file; ``path:ARGUMENT`` calls ``get_config('ARGUMENT')``, ``preset:NAME`` is a published
  setting (``several``: or a benchmark of them)."""
  file, _, argument = path.partition(":")
  if file == presets.PREFIX and not os.path.isfile(file):
    return File(*presets.configuration(argument, several))
  if not path:
    raise UsageError(
      "config: not given; expected a file that defines get_config(), such as experiments/split_digits.py"
    )
  if not os.path.isfile(file):
    raise UsageError(f"config: no file {file!r}; expected a Python file that defines get_config()")
  module = load(file)
  if not callable(getattr(module, "get_config", None)):
    raise UsageError(
      f"config: {file!r} defines no get_config(); expected one that returns an ml_collections.ConfigDict"
    )
  try:
    config = module.get_config(argument) if argument else module.get_config()
  except Exception as error:
    raise UsageError(f"config: get_config() of {file!r} failed: {type(error).__name__}: {_first(error)}") from error
  config = config.to_dict() if hasattr(config, "to_dict") else config
  if not isinstance(config, Mapping):
    raise UsageError(f"config: get_config() of {file!r} gave {type(config).__name__}; expected a ConfigDict")
  if "evaluators" in config:
    config = {**config, "evaluators": {"names": _names(config["evaluators"])}}
  allowed = (*SECTIONS, "method_defaults")
  for key, value in config.items():
    if key not in allowed:
      raise UsageError(f"config: unknown section {key!r} in {file!r}; allowed: {', '.join(allowed)}")
    if not isinstance(value, Mapping):
      raise UsageError(f"config: section {key!r} in {file!r} is {type(value).__name__}; expected fields")
  sections = {k: dict(v) for k, v in config.items() if k != "method_defaults"}
  return File(sections, {k: dict(v) for k, v in config.get("method_defaults", {}).items()}, module)


def _names(value) -> list[str]:
  """The names of evaluators in ``'a,b'`` or a list; UsageError for anything else."""
  listed = literal(value) if isinstance(value, str) and value.strip()[:1] in ("[", "(") else value
  if isinstance(listed, str):
    return [part.strip() for part in listed.split(",") if part.strip()]
  if not isinstance(listed, list | tuple) or not all(isinstance(v, str) for v in listed):
    raise UsageError(f"evaluators: got {short(value)}; expected names such as {', '.join(evaluators.names())}")
  return list(listed)


def _first(error: Exception) -> str:
  return (str(error).strip().splitlines() or [""])[0]


def resolve(
  file: File, overrides: Sequence[Override] = (), unread: dict[str, str] | None = None
) -> dict[str, dict[str, Any]]:
  """The whole configuration: every section with all its fields, each of its default's type. Raises UsageError.

  What is given must be read by what is chosen. ``unread``: instead of raising, what is not read goes there, as
  ``{key: why}``, and is left at its default; for one point of a sweep whose other points may read it.
  """
  named = lambda o: Override("evaluators.names", _names(o.value)) if o.key in ("evaluators", "evaluators.names") else o
  overrides = [named(o) for o in overrides]
  for key, _, _ in overrides:
    section, dot, field = key.partition(".")
    if section not in SECTIONS or not dot or not field:
      near = difflib.get_close_matches(section, SECTIONS, 1)
      hint = f"; did you mean {near[0]}?" if near and near[0] != section else ""
      raise UsageError(f"{key}: no such key; expected SECTION.FIELD with a section of {', '.join(SECTIONS)}{hint}")
  config, missed = {}, {} if unread is None else unread
  for section in SECTIONS:
    mine = [o for o in overrides if o.key.partition(".")[0] == section]
    config[section] = _section(file, section, mine, missed)
    if unread is None and missed:
      raise UsageError(next(iter(missed.values())))
  for section in ("method", "forget"):
    if config[section]["name"]:
      fields = {k: v for k, v in config[section].items() if k != "name"}
      methods.check_options(config[section]["name"], fields, section)
  objective_of(config)
  evaluators.given(config["evaluators"]["names"])
  return config


def objective_of(config: Mapping[str, Mapping[str, Any]]) -> objectives.Chosen:
  """The objective of a configuration. Raises UsageError for a value that it does not allow."""
  section = config["objective"]
  return objectives.chosen(section["name"], {k: v for k, v in section.items() if k != "name"})


def no_requests(config: Mapping[str, Mapping[str, Any]]) -> str:
  """Why a method that answers Forget events has no effect: a line where there are none of them."""
  name = config["forget"]["name"]
  if not name or config["stream"]["forget"]:
    return ""
  return f"forget.name: got {name!r}, but nothing is to be forgotten; give stream.forget, such as 2:class=3"


class Points(NamedTuple):
  """What is given over the points of a sweep: what each chose, where a key is read and where not, and why not."""

  chosen: list[dict[str, str]]
  readers: dict[str, list[int]]
  others: dict[str, list[int]]
  why: dict[str, str]

  def resolve(self, file: File, overrides: Sequence[Override], asked: bool = False) -> tuple[dict, dict[str, str]]:
    """``(configuration, {key: why})``, the latter of what this point does not read; ``asked``: requests to forget come
    from elsewhere."""
    missed: dict[str, str] = {}
    config = resolve(file, overrides, missed)
    if no_requests(config) and not asked:
      missed |= {key: no_requests(config) for key, _, _ in [*overrides, Override("forget.name", "")]
                 if key.startswith("forget.")}  # fmt: skip
      config["forget"] = {"name": ""}
    for key in dict.fromkeys(o.key for o in overrides):
      (self.others if key in missed else self.readers).setdefault(key, []).append(len(self.chosen))
    for key, why in missed.items():
      self.why.setdefault(key, why)
      self.others.setdefault(key, [len(self.chosen)])  # also where the file gives it
    for key in config["forget"] if config["forget"]["name"] else ():
      self.readers.setdefault(f"forget.{key}", [len(self.chosen)])
    self.chosen.append({s: str(config[s][_CHOICE.get(s, "name")]) for s in (*NAMED, *_CHOICE)})
    return config, missed

  def check(self) -> None:
    """Raises UsageError for what no point reads."""
    for key, why in self.why.items():
      if key not in self.readers:
        raise UsageError(why)

  def lines(self) -> list[str]:
    """Of what only some points read, by which, told by what differs between points."""
    sections = [s for s in self.chosen[0] if len({c[s] for c in self.chosen}) > 1]
    name = lambda at: " ".join(c for c in (self.chosen[at][s] for s in sections) if c) or "others"
    shown = lambda at: ", ".join(dict.fromkeys(map(name, at)))
    partly = [k for k in self.readers if self.others.get(k)]
    return [f"{k}: read by {shown(self.readers[k])}; not by {shown(self.others[k])}" for k in partly]


def _section(file: File, section: str, overrides: Sequence[Override], missed: dict[str, str]) -> dict[str, Any]:
  given = file.sections.get(section, {})
  name = ""
  if section in NAMED:
    own = given.get("name", NAMED[section])
    name = next((str(o.value) for o in reversed(overrides) if o.key == f"{section}.name"), own)
    if not isinstance(name, str):
      raise UsageError(f"{section}.name: got {name!r} of type {type(name).__name__}; expected str")
    given = given if own == name else {}
  out = defaults(section, name)
  chosen = ""
  if section in _CHOICE:
    own = given.get(_CHOICE[section], out[_CHOICE[section]])
    chosen = str(next((o.value for o in reversed(overrides) if o.key == f"{section}.{_CHOICE[section]}"), own))
    # As with a section of another name: what the file says for its own choice is not said for this one.
    given = {k: v for k, v in given.items() if own == chosen or not not_read(section, chosen, k)}
  layers = [Override(f"{section}.{k}", v) for k, v in given.items()]
  if section in ("method", "forget") and name:
    known = file.method_defaults.get(name, {})
    layers = [Override(f"{section}.{k}", v) for k, v in known.items()] + layers
  for key, value, text in (*layers, *overrides):
    field = key.partition(".")[2]
    if field not in out:
      missed[key] = _unknown(section, field, name, [f for f in out if f != "name" or section in NAMED])
      continue
    if not_read(section, chosen, field):
      missed[key] = f"{key}: got {short(value)}; {not_read(section, chosen, field)}"
      continue
    out[field] = coerce(key, value, _default_of(section, field, out, name), text)
  return out


def _unknown(section: str, field: str, name: str, fields: Sequence[str]) -> str:
  near = difflib.get_close_matches(field, fields, 1)
  what = f"{name!r} has no such option" if section in NAMED and name else "no such field"
  hint = f"; did you mean {section}.{near[0]}?" if near else ""
  readers = _readers(section, field)
  more = f" and {len(readers) - 8} more" if len(readers) > 8 else ""
  read = f"; read by: {', '.join(readers[:8])}{more}" if readers else ""
  return f"{section}.{field}: {what}; allowed: {', '.join(fields)}{hint}{read}"


def _readers(section: str, field: str) -> list[str]:
  """The names under which a section that names something has a field."""
  if section in ("method", "forget"):
    forgets = lambda entry: section == "method" or entry.access.forgets
    return sorted(n for n, entry in methods.METHODS.items() if field in entry.options and forgets(entry))
  if section == "data":
    kinds = {
      "glyphs": "glyphs",
      "authors": "authors",
      "tfds:NAME": "tfds:x",
      "npz:FILE": "npz:x",
      "folder:DIR": "folder:x",
      "text:PATH": "text:x",
    }
    return [shown for shown, name in kinds.items() if field in data.options(name)]
  if section == "objective":
    return sorted(n for n, offer in objectives.OBJECTIVES.items() if field in offer.options)
  return [n for n in ZOO if field in models.options(n)] if section == "model" else []


def not_read(section: str, chosen: str, field: str) -> str:
  """Why a field has no effect beside what the section chose, and what reads it; '' where it is read."""
  if section == "optimizer":
    return recipe.unread(chosen, field)
  if section != "stream":
    return ""
  table = streams.READS
  readers = [kind for kind, options in table.items() if field in options]
  if chosen not in table or chosen in readers or not readers:
    return ""
  return f"kind {chosen!r} does not read it; read by: {', '.join(readers)}"


def read_by_kind(stream: Mapping[str, Any]) -> dict[str, Any]:
  """Those fields of the stream's section that its kind reads."""
  return {k: v for k, v in stream.items() if not not_read("stream", str(stream["kind"]), k)}


def _default_of(section: str, field: str, out, name: str):
  return name if field == "name" and section in NAMED else defaults(section, name)[field]


def identity(config: Mapping[str, Mapping[str, Any]], digest: str) -> dict[str, dict[str, Any]]:
  """What makes a run that run, as plain JSON: all but where the data lies and how often checkpoints are taken.

  The default objective is not named, nor are no evaluators, nor how the raw log is kept by default, nor that seeds
  share a stream or that tasks take all their epochs, nor the default precision and grouping of a population: a run of
  before there were any is the same run.
  """
  kept = {s: dict(config[s]) for s in SECTIONS if s != "checkpoint"}
  del kept["data"]["data_dir"]
  for key in ("log", "log_limit", "ahead"):
    if kept["eval"].get(key) == Options._field_defaults[f"eval_{key}"]:
      del kept["eval"][key]
  for key, usual in (("precision", Recipe), ("population_group", Options)):
    if kept["train"].get(key) == usual._field_defaults[key]:
      del kept["train"][key]
  for section, key in (("stream", "per_seed"), ("train", "patience")):
    if not kept[section][key]:
      del kept[section][key]
  kept["data"]["digest"] = digest
  if kept["objective"] == {"name": NAMED["objective"]}:
    del kept["objective"]
  if not kept["evaluators"]["names"]:
    del kept["evaluators"]
  else:
    kept["evaluators"]["names"] = sorted(kept["evaluators"]["names"])
  return json.loads(json.dumps(kept))


def essence(identity: Mapping[str, Any]) -> dict[str, Any]:
  """An identity without the keys that have their default values, so that a key that comes new changes nothing.

  What is not a section with known fields stays as it is.
  """
  out: dict[str, Any] = {}
  for section, fields in identity.items():
    if section == "objective" and fields == {"name": NAMED["objective"]}:
      continue
    out[section] = fields
    if section not in SECTIONS or not isinstance(fields, Mapping):
      continue
    try:
      usual = json.loads(json.dumps(defaults(section, fields.get("name", ""))))
    except UsageError:
      continue  # a method or a data set that is no more
    out[section] = {k: v for k, v in fields.items() if k == "name" or k not in usual or usual[k] != v}
  return out


def from_identity(identity: Mapping[str, Mapping[str, Any]], more: Mapping[str, Mapping[str, Any]]) -> dict:
  """The whole configuration again: ``identity`` and, by section, ``more`` that is no part of it (where data lies)."""
  merged = {s: {**identity.get(s, {}), **more.get(s, {})} for s in SECTIONS}
  merged["data"].pop("digest", None)
  known = lambda s: {k: v for k, v in merged[s].items() if not not_read(s, str(merged[s].get(_CHOICE.get(s, ""))), k)}
  return resolve(File({s: known(s) for s in SECTIONS}, {}, ModuleType("identity")))
