"""Modules and names as they were called in 0.1: they go on working with a DeprecationWarning until 0.3."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import os
import sys
import types
import warnings

MODULES = {
  f"cljax.{old}": f"cljax.{new}"
  for old, new in {
    "ahead": "engine.precompile", "checkpoint": "io.checkpoint", "cost": "evaluation.cost", "dtypes": "core.dtypes",
    "evaluation_parameters": "engine.evaluation_parameters", "evidence": "evaluation.evidence",
    "feed": "engine.schedule",
    "holding": "engine.holding", "identity": "io.identity", "judging": "core.judging", "layout": "core.layout",
    "ledger": "io.ledger", "loading": "engine.restore", "loop": "engine.loop", "mesh": "engine.mesh",
    "method": "core.method", "prediction": "engine.prediction", "programs": "engine.programs",
    "recipe": "engine.recipe",
    "results": "evaluation.results", "rows": "core.rows", "selection": "evaluation.selection", "setup": "engine.setup",
    "step": "engine.step", "tree": "core.tree", "types": "core.types", "writers": "io.files",
    "writers_tracking": "io.trackers", "optimizers.activations": "models.activations",
    "projectors.linear": "theory.linear",
    **{f"optimizers.{name}": f"edits.{name}" for name in ("averaging", "editing", "lifecycle", "pruning")},
    **{
      f"methods.{old}": f"methods.{new}" for old, new in {
        "anchors": "penalties.anchors", "averaging": "replay.averaging", "decay": "penalties.decay",
        "edits": "plasticity.edits", "forgetting": "unlearning.entries", "lifecycle": "plasticity.lifecycle",
        "pruning": "masks.pruning", "replay_projection": "projection.with_replay",
        "schedules": "plasticity.schedules", "subspaces": "projection.subspaces", "unified": "replay.unified",
        "unlearning_descent": "unlearning.descent", "unlearning_edits": "unlearning.edits",
        "unlearning_structures": "unlearning.structures", "variational": "penalties.variational",
      }.items()
    },
  }.items()
}  # fmt: skip


def warn(old: str, new: str) -> None:
  """Warns at the line that uses the old name, however many frames of the import system lie between."""
  frame = sys._getframe()
  # `from cljax import checkpoint` asks there.
  own = (__file__, *(os.path.join(os.path.dirname(__file__), name) for name in ("__init__.py", "_dependencies.py")))
  while frame.f_back and (frame.f_code.co_filename in own or "importlib" in frame.f_code.co_filename):
    frame = frame.f_back
  text, where = f"{old} is now {new}; the old name goes with 0.3", frame.f_globals
  registry = where.setdefault("__warningregistry__", {})
  warnings.warn_explicit(
    text, DeprecationWarning, frame.f_code.co_filename, frame.f_lineno, where.get("__name__"), registry
  )


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
  """Gives the module at its new place for an import by its old name."""

  def find_spec(self, fullname, path=None, target=None):
    if fullname == "cljax.methods.refresh":  # an alias would stand in the place of the plug-in of that name
      raise ModuleNotFoundError(f"{fullname} is now cljax.methods.replay.refresh", name=fullname)
    return importlib.machinery.ModuleSpec(fullname, self) if fullname in MODULES else None

  def create_module(self, spec):
    warn(spec.name, MODULES[spec.name])
    return None

  def exec_module(self, module):
    # importlib hands out what stands in sys.modules, so both names are one module.
    sys.modules[module.__name__] = importlib.import_module(MODULES[module.__name__])


def install() -> None:
  if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
    sys.meta_path.insert(0, _Finder())


def asked_at() -> str:
  """The file and line that asked, outside of this package: ``'my_method.py, line 22'``; '' where there is none."""
  own = os.path.dirname(__file__)
  frame: types.FrameType | None = sys._getframe()
  while frame and frame.f_code.co_filename.startswith(own):
    frame = frame.f_back
  return f"{frame.f_code.co_filename}, line {frame.f_lineno}" if frame else ""


def gone(name: str, instead: str) -> str:
  """One line about a name that 0.1 had and nothing stands for."""
  return f"{name} ({asked_at()}) is gone since 0.2; {instead} (docs/porting.md)"


def from_package(package: str, names: dict[str, str]):
  """A module's ``__getattr__`` for ``names`` that another package, ``{name: package}`` or ``{name: 'package:new
  name'}``, has now, and for the old places of modules below it. ``{name: 'gone: what instead'}`` is an AttributeError
  that says so."""

  def getter(name: str):
    if f"{package}.{name}" in MODULES:
      return importlib.import_module(f"{package}.{name}")
    if name not in names:
      raise AttributeError(f"module {package!r} has no attribute {name!r}")
    home, _, new = names[name].partition(":")
    if home == "gone":
      raise AttributeError(gone(f"{package}.{name}", new.strip()))
    warn(f"{package}.{name}", f"{home}.{new or name}")
    return getattr(importlib.import_module(home), new or name)

  return getter
