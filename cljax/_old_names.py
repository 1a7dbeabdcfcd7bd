"""Modules and names as they were called in 0.1: they go on working with a DeprecationWarning until 0.3."""

from __future__ import annotations

import dis
import importlib
import importlib.abc
import importlib.machinery
import sys

from cljax import _callers

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

_INSIDE = "gone: it was the engine's inside, which is not public (docs/versions.md)"
_HEADS = "gone: cljax.methods.heads.skipping(model, spec, skip)"
# Names that modules of 0.1 had and those that stand in their places have not: ``package:name now``, or what there is
# instead. Modules that have moved answer from here by themselves; those in their old places ask `from_module`.
NAMES = {
  "cljax.ahead": {"ahead": "cljax.engine.precompile:precompile"},
  "cljax.data.arrays": {
    "FOLDER_DEFAULTS": "gone: data.load('folder:PATH') fills in what is not given",
    "load_folder": "cljax.data.folders",
  },
  "cljax.data.images": {"is_colour": "gone: data.images.header(data) gives it beside the size"},
  "cljax.engine": {"predictor": "gone: cljax.load(workdir).predict, or RunResult.predict"},
  "cljax.evidence": {"outside": "cljax.evaluation.evidence:outside_noise_floor"},
  "cljax.loop": {
    "count_correct": _INSIDE,
    "deleted_rows": "gone: streams.deleted_pairs(stream, upto), by task",
  },
  "cljax.mesh": {"leads": "cljax.engine.mesh:is_main_process", "several": "cljax.engine.mesh:is_multi_process"},
  "cljax.methods.projection": {"skipping": _HEADS},
  "cljax.methods.pruning": {"mean_activation": "cljax.methods.masks.pruning:mean_activity"},
  "cljax.methods.replay": {
    "insert": "cljax.methods.replay:insert_pending",
    "share": "gone: replayed rows are a group of their own: append(batch, more, scale=)",
  },
  "cljax.methods.variational": {
    "follow_posterior": "gone: cljax.core.tree.follow(method_state, before, learner.params)",
  },
  "cljax.programs": {
    "Members": "cljax.engine.programs:PopulationLayout",
    "spread": "cljax.engine.programs:shard_members",
  },
  "cljax.results": {"percent": "cljax.evaluation.results:shown"},
  "cljax.rows": {"spread": "gone: rows.sample(key, rows, size) draws them, by class if wanted"},
  "cljax.setup": {"Setup": "cljax.engine.setup:CompiledRun"},
  "cljax.step": {
    "Parts": "cljax.engine.step:LearnerFns",
    "Where": "cljax.engine.step:StreamPosition",
    "kept": "cljax.engine.step:state_between_tasks",
    "without_absent": "cljax.engine.step:zero_absent_rows",
  },
  "cljax.streams.build": {"from_tasks": "cljax.streams"},
}


def warn(old: str, new: str) -> None:
  """Warns at the line that uses the old name."""
  _callers.warn(f"{old} is now {new}; the old name goes with 0.3", DeprecationWarning)


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
    new = sys.modules[module.__name__] = importlib.import_module(MODULES[module.__name__])
    if module.__name__ in NAMES and "__getattr__" not in vars(new):
      vars(new)["__getattr__"] = from_module(module.__name__)


def install() -> None:
  if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
    sys.meta_path.insert(0, _Finder())


def gone(name: str, instead: str) -> str:
  """One line about a name that 0.1 had and nothing stands for."""
  return f"{name} ({_callers.place()}) is gone since 0.2; {instead} (docs/porting.md)"


def _refuse(package: str, name: str, text: str):
  """AttributeError, or ImportError in ``from package import name``, which would tell an AttributeError in words of its
  own."""
  asks = _callers.frame()
  if asks is not None and dis.opname[asks.f_code.co_code[asks.f_lasti]] == "IMPORT_FROM":
    raise ImportError(text, name=package)
  raise AttributeError(text, name=name)


def from_package(package: str, names: dict[str, str]):
  """A module's ``__getattr__`` for ``names`` that another package, ``{name: package}`` or ``{name: 'package:new
  name'}``, has now, and for the old places of modules below it. ``{name: 'gone: what instead'}`` is an error that says
  so."""

  def getter(name: str):
    if f"{package}.{name}" in MODULES:
      return importlib.import_module(f"{package}.{name}")
    if name not in names:
      raise AttributeError(f"module {package!r} has no attribute {name!r}")
    home, _, new = names[name].partition(":")
    if home == "gone":
      _refuse(package, name, gone(f"{package}.{name}", new.strip()))
    warn(f"{package}.{name}", f"{home}.{new or name}")
    return getattr(importlib.import_module(home), new or name)

  return getter


def from_module(module: str):
  """The ``__getattr__`` of a module of 0.1, for what it had in :data:`NAMES`."""
  return from_package(module, NAMES[module])
