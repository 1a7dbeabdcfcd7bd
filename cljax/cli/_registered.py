"""Methods and objectives that a configuration file registers, known again where there is no ``--config``: in workers
and in analyses."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

from etils import epath

from cljax import UsageError, methods, objectives
from cljax.cli import _config, _workdir
from cljax.io import files

FILE = "launch.json"


def remember(workdir: epath.Path, config: str) -> None:
  """Notes which configuration file a workdir's runs come from."""
  file, colon, argument = config.partition(":")
  content = {"config": os.path.abspath(file) + colon + argument}
  if _workdir.read_json(workdir / FILE) != content:
    files.write_text(workdir / FILE, files.dumps(content) + "\n")


def recall(workdir: epath.Path, identities: Iterable[Mapping[str, Any]]) -> None:
  """Loads that file where a run's method or objective is not in the registry; of a cluster's job, the copy beside its
  code.

  Raises UsageError where it is not there, or does not register them.
  """
  registries: dict[str, Mapping] = {
    "method": methods.METHODS,
    "forget": methods.METHODS,
    "objective": objectives.OBJECTIVES,
  }
  named = {(s, i[s].get("name")) for i in identities for s in registries if isinstance(i.get(s), Mapping)}
  unknown = lambda: sorted(
    ("objective" if s == "objective" else "method", n) for s, n in named if n and n not in registries[s]
  )
  if not unknown():
    return
  copy = workdir / "code" / "config.py"
  noted = (_workdir.read_json(workdir / FILE) or {}).get("config")
  file = str(noted).partition(":")[0] if noted else ""
  place = next((p for p in (file, os.fspath(copy)) if p and os.path.isfile(p)), "")
  if not place:
    where = f"its configuration file, {file or copy}, is not there any more"
    raise UsageError(f"{unknown()[0][0]}.name: unknown {unknown()[0][1]!r}; {where}")
  _config.load(place)
  if unknown():
    raise UsageError(f"{unknown()[0][0]}.name: unknown {unknown()[0][1]!r}; {place} does not register it any more")
