"""Helpers of cljax.methods; its records stand in the other modules, by family."""

from records.form import Record

KIND = "method"
HELPERS = {
  "METHODS": "the registry",
  "Entry": "a row of the registry",
  "Option": "a hyper-parameter",
  "Plan": "checked methods and options",
  "anchors": "the module of methods",
  "averaging": "the module of methods",
  "check_options": "checks options",
  "decay": "the module of methods",
  "distillation": "the module of methods",
  "edits": "the module of methods",
  "forgetting": "the module of methods",
  "gradient_estimators": "the module of methods",
  "lookup": "looks up a name",
  "make": "makes a method by name",
  "masks": "the module of methods",
  "of_one_model": "makes parts on one model",
  "penalties": "the module of methods",
  "plan": "checks sections",
  "plasticity": "the module of methods",
  "projection": "the module of methods",
  "prototypes": "the module of methods",
  "pruning": "the module of methods",
  "references": "the module of methods",
  "register": "adds a name",
  "replay": "the module of methods",
  "replay_projection": "the module of methods",
  "schedules": "the module of methods",
  "subspaces": "the module of methods",
  "unlearning_descent": "the module of methods",
  "unlearning_edits": "the module of methods",
  "unlearning_structures": "the module of methods",
  "variational": "the module of methods",
}
RECORDS: dict[str, Record] = {}
