"""Methods: one short factory each, only composing the layers below; and the registry."""

from cljax.methods import (
  decay,
  distillation,
  forgetting,
  masks,
  penalties,
  projection,
  prototypes,
  references,
  replay,
)
from cljax.methods.registry import METHODS, Entry, Option, Plan, check_options, lookup, make, plan, register

__all__ = [
  "METHODS", "Entry", "Option", "Plan", "check_options", "decay", "distillation", "forgetting", "lookup", "make",
  "masks", "penalties", "plan", "projection", "prototypes", "references", "register", "replay",
]  # fmt: skip
