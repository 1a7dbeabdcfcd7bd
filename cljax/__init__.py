"""cljax: continual learning and machine unlearning in JAX.

Names are imported when they are first asked for, so that a launcher can set the environment that JAX reads at its
start, and ``import cljax`` costs nothing.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

_BEGAN = time.time()  # no other file of cljax was read before

from cljax import _dependencies, _old_names  # noqa: E402
from cljax._cores import use_cores  # noqa: E402
from cljax._version import __version__  # noqa: E402

if TYPE_CHECKING:
  from cljax.core.method import Method, Reference, compose
  from cljax.core.types import (
    Access,
    AccessError,
    Batch,
    CljaxError,
    Forget,
    Learn,
    Learner,
    Memory,
    Model,
    Outputs,
    UsageError,
  )
  from cljax.engine import DivergedError, Member, Options, Recipe, RunResult, Stopped, load, run
  from cljax.evaluators import Evaluator
  from cljax.regularizers import attach, consolidate

__all__ = [
  "Access", "AccessError", "Batch", "CljaxError", "DivergedError", "Evaluator", "Forget", "Learn", "Learner", "Member",
  "Memory", "Method", "Model", "Options", "Outputs", "Recipe", "Reference", "RunResult", "Stopped", "UsageError",
  "__version__", "attach", "compose", "consolidate", "load", "run", "use_cores",
]  # fmt: skip

_HOME = {
  "core.types": "Access AccessError Batch CljaxError Forget Learn Learner Memory Model Outputs UsageError",
  "core.method": "Method Reference compose",
  "engine": "DivergedError Member Options Recipe RunResult Stopped load run",
  "evaluators": "Evaluator",
  "regularizers": "attach consolidate",
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names.split()}
_PACKAGES = (
  "cli", "core", "data", "edits", "engine", "estimators", "evaluation", "evaluators", "io", "losses", "memory",
  "methods", "metrics", "models", "objectives", "optimizers", "projectors", "regularizers", "streams", "theory",
  "unlearning",
)  # fmt: skip


def __getattr__(name: str):
  if name in _MODULE_OF:
    value = getattr(_dependencies.imported(f"cljax.{_MODULE_OF[name]}"), name)
  elif name in _PACKAGES or f"cljax.{name}" in _old_names.MODULES:
    value = _dependencies.imported(f"cljax.{name}")
  else:
    raise AttributeError(f"module 'cljax' has no attribute {name!r}")
  globals()[name] = value
  return value


def __dir__():
  return sorted({*globals(), *__all__, *_PACKAGES})


_old_names.install()
