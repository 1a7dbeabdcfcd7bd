"""Configurations: a file's ``get_config()``, the defaults of what it names, and flags, merged and checked.

Each section's fields come from the function that takes them: nothing is typed twice. Sections that name something
(data, model, method, forget) take that thing's options, so the name is read first. Later wins: the registry's defaults,
``method_defaults[name]`` of the file, the section in the file (where it is of the same name), ``--config.*`` flags.
"""

from __future__ import annotations

import ast
import difflib
import importlib.util
import inspect
import json
import math
import os
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any, NamedTuple

from cljax import Options, Recipe, UsageError, data, methods, models, recipe, streams

SECTIONS = ("data", "stream", "model", "method", "forget", "optimizer", "train", "eval", "checkpoint")
NAMED = {"data": "digits", "model": "mlp", "method": "finetune", "forget": ""}
# Recipe's fields that belong to the optimizer; the section of each of Options' fields that is not named by its prefix.
_OPTIMIZER_RECIPE = ("reset_per_task", "schedule_over")
_OPTION_SECTION = {"max_interval_s": "checkpoint"}
# These take a single number as well as a list.
_SCALAR_TOO = ("stream.classes_per_task", "stream.label_noise", "stream.input_noise")


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
    return {"name": name, **labelled("model", lambda: models.options(name))}
  if section in ("method", "forget"):
    if not name:
      return {"name": ""}
    try:
      entry = methods.lookup(name)
    except UsageError as error:
      raise UsageError(str(error).replace("method.", f"{section}.", 1)) from None
    return {"name": name, **{k: o.default for k, o in entry.options.items()}}
  if section == "stream":
    return _signature(streams.build)
  if section == "optimizer":
    shared = {k: Recipe._field_defaults[k] for k in _OPTIMIZER_RECIPE}
    return {**_signature(recipe.make_optimizer), **shared}
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


def read_file(path: str) -> File:
  """Loads a configuration file; ``path:ARGUMENT`` calls ``get_config('ARGUMENT')``."""
  file, _, argument = path.partition(":")
  if not path:
    raise UsageError(
      "config: not given; expected a file that defines get_config(), such as experiments/split_digits.py"
    )
  if not os.path.isfile(file):
    raise UsageError(f"config: no file {file!r}; expected a Python file that defines get_config()")
  spec = importlib.util.spec_from_file_location("config_file", file)
  if spec is None or spec.loader is None:
    raise UsageError(f"config: {file!r} is not a Python file; expected one that defines get_config()")
  module = importlib.util.module_from_spec(spec)
  try:
    spec.loader.exec_module(module)
  except Exception as error:
    raise UsageError(f"config: {file!r} cannot be loaded: {type(error).__name__}: {_first(error)}") from error
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
  allowed = (*SECTIONS, "method_defaults")
  for key, value in config.items():
    if key not in allowed:
      raise UsageError(f"config: unknown section {key!r} in {file!r}; allowed: {', '.join(allowed)}")
    if not isinstance(value, Mapping):
      raise UsageError(f"config: section {key!r} in {file!r} is {type(value).__name__}; expected fields")
  sections = {k: dict(v) for k, v in config.items() if k != "method_defaults"}
  return File(sections, {k: dict(v) for k, v in config.get("method_defaults", {}).items()}, module)


def _first(error: Exception) -> str:
  return (str(error).strip().splitlines() or [""])[0]


def resolve(file: File, overrides: Sequence[Override] = ()) -> dict[str, dict[str, Any]]:
  """The whole configuration: every section with all its fields, each of its default's type. Raises UsageError."""
  for key, _, _ in overrides:
    section, dot, field = key.partition(".")
    if section not in SECTIONS or not dot or not field:
      near = difflib.get_close_matches(section, SECTIONS, 1)
      hint = f"; did you mean {near[0]}?" if near and near[0] != section else ""
      raise UsageError(f"{key}: no such key; expected SECTION.FIELD with a section of {', '.join(SECTIONS)}{hint}")
  config = {}
  for section in SECTIONS:
    mine = [o for o in overrides if o.key.partition(".")[0] == section]
    config[section] = _section(file, section, mine)
  for section in ("method", "forget"):
    if config[section]["name"]:
      fields = {k: v for k, v in config[section].items() if k != "name"}
      methods.check_options(config[section]["name"], fields, section)
  return config


def _section(file: File, section: str, overrides: Sequence[Override]) -> dict[str, Any]:
  given = file.sections.get(section, {})
  name = ""
  if section in NAMED:
    own = given.get("name", NAMED[section])
    name = next((str(o.value) for o in reversed(overrides) if o.key == f"{section}.name"), own)
    if not isinstance(name, str):
      raise UsageError(f"{section}.name: got {name!r} of type {type(name).__name__}; expected str")
    given = given if own == name else {}
  out = defaults(section, name)
  layers = [Override(f"{section}.{k}", v) for k, v in given.items()]
  if section in ("method", "forget") and name:
    known = file.method_defaults.get(name, {})
    layers = [Override(f"{section}.{k}", v) for k, v in known.items()] + layers
  for key, value, text in (*layers, *overrides):
    field = key.partition(".")[2]
    if field not in out:
      fields = [f for f in out if f != "name" or section in NAMED]
      near = difflib.get_close_matches(field, fields, 1)
      what = f"{name!r} has no such option" if section in NAMED and name else "no such field"
      hint = f"; did you mean {section}.{near[0]}?" if near else ""
      raise UsageError(f"{key}: {what}; allowed: {', '.join(fields)}{hint}")
    out[field] = coerce(key, value, _default_of(section, field, out, name), text)
  return out


def _default_of(section: str, field: str, out, name: str):
  return name if field == "name" and section in NAMED else defaults(section, name)[field]


def coerce(key: str, value, default, text: bool = False):
  """``value`` in the type of ``default``; ``text`` says that it is command-line text. Raises UsageError."""
  shown = value
  if text and not isinstance(default, str):
    value = _literal(value)
  kind = type(default)
  if default is None:
    return list(value) if isinstance(value, tuple) else value
  if isinstance(default, tuple | list):
    if isinstance(value, int | float) and not isinstance(value, bool):
      return value if key in _SCALAR_TOO else (value,)
    if isinstance(value, tuple | list):
      return tuple(value)
  elif kind is float and isinstance(value, int | float) and not isinstance(value, bool):
    if not math.isfinite(value):
      raise UsageError(f"{key}: got {shown}; expected a finite number")
    return float(value)
  elif kind in (int, bool, str) and type(value) is kind:
    return value
  words = {float: "a number", int: "an integer", bool: "true or false", str: "text", tuple: "a list such as 1,2"}
  raise UsageError(f"{key}: got {shown!r}; expected {words.get(kind, kind.__name__)}")


def _literal(text: str):
  words = {"true": True, "false": False, "none": None, "null": None}
  if text.strip().lower() in words:
    return words[text.strip().lower()]
  try:
    return ast.literal_eval(text.strip())
  except (ValueError, SyntaxError, MemoryError, RecursionError):
    return text


def parse_seeds(text: str) -> list[int]:
  """``'5'`` -> ``[0, 1, 2, 3, 4]``; ``'[3,7]'`` or ``'3,7'`` -> ``[3, 7]``."""
  value = _literal(text)
  whole = lambda v: isinstance(v, int) and not isinstance(v, bool)
  if whole(value) and value >= 1:
    return list(range(value))
  listed = isinstance(value, tuple | list) and value and all(whole(v) and v >= 0 for v in value)
  if listed and len(set(value)) == len(value):
    return list(value)
  raise UsageError(f"seeds: got {text!r}; expected a number of at least 1, or a list of distinct seeds such as 3,7")


def identity(config: Mapping[str, Mapping[str, Any]], digest: str) -> dict[str, dict[str, Any]]:
  """What makes a run that run, as plain JSON: all but where the data lies and how often checkpoints are taken."""
  kept = {s: dict(config[s]) for s in SECTIONS if s != "checkpoint"}
  del kept["data"]["data_dir"]
  kept["data"]["digest"] = digest
  return json.loads(json.dumps(kept))


def essence(identity: Mapping[str, Any]) -> dict[str, Any]:
  """An identity without the keys that have their default values, so that a key that comes new changes nothing.

  What is not a section with known fields stays as it is.
  """
  out: dict[str, Any] = {}
  for section, fields in identity.items():
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
  return resolve(File(merged, {}, ModuleType("identity")))
