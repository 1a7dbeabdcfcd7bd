"""Methods: one short factory each, only composing the layers below; and the registry."""

from cljax.methods import penalties, references, replay
from cljax.methods.registry import METHODS, Entry, Option, Plan, check_options, lookup, plan, register

__all__ = [
  "METHODS",
  "Entry",
  "Option",
  "Plan",
  "check_options",
  "lookup",
  "penalties",
  "plan",
  "references",
  "register",
  "replay",
]
