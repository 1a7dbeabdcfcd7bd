"""Methods: one short factory each, only composing the layers below; and the registry."""

from cljax.methods import (
  anchors,
  averaging,
  decay,
  distillation,
  edits,
  forgetting,
  lifecycle,
  masks,
  penalties,
  projection,
  prototypes,
  pruning,
  references,
  replay,
  replay_projection,
  retain_projection,
  subspaces,
  replay_projection,
  retain_projection,
  schedules,
  subspaces,
)
from cljax.methods.registry import METHODS, Entry, Option, Plan, check_options, lookup, make, plan, register

__all__ = [
  "METHODS", "Entry", "Option", "Plan", "anchors", "averaging", "check_options", "decay", "distillation", "edits",
  "forgetting", "lifecycle", "lookup", "make", "masks", "penalties", "plan", "projection", "prototypes", "pruning",
  "references", "register", "replay", "replay_projection", "retain_projection", "schedules", "subspaces",
]  # fmt: skip
