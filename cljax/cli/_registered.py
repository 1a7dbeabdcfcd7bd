"""Models, methods, objectives and evaluators that a configuration file registers, known again where there is no
``--config``: in workers and in analyses."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

from etils import epath

from cljax import UsageError, evaluators, methods, objectives
from cljax.cli import _config, _workdir, presets
from cljax.io import files, own_code
from cljax.models.build import ZOO

FILE = "launch.json"


def code(config: Mapping[str, Mapping[str, Any]], answers: Iterable[str] = ()) -> dict[str, str]:
  """By section, the digest of what the user wrote of it; none for what comes with cljax or an installed package."""
  name = lambda section: config[section]["name"]
  made = lambda names: [methods.METHODS[n].factory for n in names if n in methods.METHODS]
  found: dict[str, list[Any]] = {
    "method": made([name("method")]),
    "forget": made(dict.fromkeys([name("forget"), *answers])),
    "objective": [o.make for o in [objectives.OBJECTIVES.get(name("objective"))] if o is not None],
    "model": [ZOO[name("model")]] if name("model") in ZOO else [],
    "evaluators": [evaluators.EVALUATORS[n].fn for n in sorted(config["evaluators"]["names"])
                   if n in evaluators.EVALUATORS],
  }  # fmt: skip
  digests = {section: own_code.digest(roots) for section, roots in found.items()}
  return {section: digest for section, digest in digests.items() if digest}


def remember(workdir: epath.Path, config: str) -> None:
  """Notes which configuration file a workdir's runs come from."""
  file, colon, argument = config.partition(":")
  known = file == presets.PREFIX and not os.path.isfile(file)
  content = {"config": config if known else os.path.abspath(file) + colon + argument}
  if _workdir.read_json(workdir / FILE) != content:
    files.write_text(workdir / FILE, files.dumps(content) + "\n")


def recall(workdir: epath.Path, identities: Iterable[Mapping[str, Any]]) -> None:
  """Loads that file where a run's model, method, objective or evaluator is not in the registry; of a cluster's job,
  the copy beside its code.

  Raises UsageError where it is not there, or does not register them.
  """
  registries: dict[str, Mapping] = {
    "model": ZOO,
    "method": methods.METHODS,
    "forget": methods.METHODS,
    "objective": objectives.OBJECTIVES,
    "evaluators": evaluators.EVALUATORS,
  }
  fields = [(s, i[s]) for i in identities for s in registries if isinstance(i.get(s), Mapping)]
  named = {(s, n) for s, own in fields for n in (own.get("names", ()) if s == "evaluators" else (own.get("name"),))}
  keys = {"forget": "method.name", "evaluators": "evaluators"}
  unknown = lambda: sorted((keys.get(s, f"{s}.name"), n) for s, n in named if n and n not in registries[s])
  if not unknown():
    return
  copy = workdir / "code" / "config.py"
  noted = (_workdir.read_json(workdir / FILE) or {}).get("config")
  file = str(noted).partition(":")[0] if noted else ""
  place = next((p for p in (file, os.fspath(copy)) if p and os.path.isfile(p)), "")
  if not place:
    where = f"its configuration file, {file or copy}, is not there any more"
    raise UsageError(f"{unknown()[0][0]}: unknown {unknown()[0][1]!r}; {where}")
  _config.load(place)
  if unknown():
    raise UsageError(f"{unknown()[0][0]}: unknown {unknown()[0][1]!r}; {place} does not register it any more")
