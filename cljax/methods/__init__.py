"""Methods: one short factory each, only composing the layers below; and the registry."""

from cljax.methods import (
  anchors,
  averaging,
  decay,
  distillation,
  edits,
  forgetting,
  gradient_estimators,
  lifecycle,
  masks,
  penalties,
  plasticity,
  projection,
  prototypes,
  pruning,
  references,
  replay,
  replay_projection,
  schedules,
  subspaces,
  unified,
  unlearning_descent,
  unlearning_edits,
  unlearning_structures,
  variational,
)
from cljax.methods.refresh import refresh
from cljax.methods.registry import (
  METHODS,
  Entry,
  Option,
  Plan,
  check_options,
  lookup,
  make,
  of_one_model,
  plan,
  register,
)

__all__ = [
  "METHODS", "Entry", "Option", "Plan", "anchors", "averaging", "check_options", "decay", "distillation", "edits",
  "forgetting", "gradient_estimators", "lifecycle", "lookup", "make", "masks", "of_one_model", "penalties", "plan",
  "plasticity", "projection", "prototypes", "pruning", "references", "refresh", "register", "replay",
  "replay_projection", "schedules", "subspaces", "unified", "unlearning_descent", "unlearning_edits",
  "unlearning_structures", "variational",
]  # fmt: skip
