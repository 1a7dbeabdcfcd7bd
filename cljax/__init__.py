"""cljax: continual learning and machine unlearning in JAX."""

from cljax.engine import Member, Options, RunResult, run
from cljax.loading import load
from cljax.loop import DivergedError, Stopped
from cljax.method import Method, Reference, compose
from cljax.recipe import Recipe
from cljax.regularizers import attach, consolidate
from cljax.types import (
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

__all__ = [
  "Access", "AccessError", "Batch", "CljaxError", "DivergedError", "Forget", "Learn", "Learner", "Member", "Memory",
  "Method", "Model", "Options", "Outputs", "Recipe", "Reference", "RunResult", "Stopped", "UsageError", "attach",
  "compose", "consolidate", "load", "run",
]  # fmt: skip
