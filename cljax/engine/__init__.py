"""The engine: it turns a method, a model, a stream and a recipe into compiled programs and runs them."""

from cljax import _old_names
from cljax.engine.api import RunResult, method_of, prepare, run
from cljax.engine.loop import DivergedError, Stopped
from cljax.engine.prepared import Prepared, continued, event_record
from cljax.engine.recipe import Recipe
from cljax.engine.restore import load
from cljax.engine.setup import Member, Options

__all__ = [
  "DivergedError", "Member", "Options", "Prepared", "Recipe", "RunResult", "Stopped", "continued", "event_record",
  "load", "method_of", "prepare", "run",
]  # fmt: skip
__getattr__ = _old_names.from_module(__name__)
