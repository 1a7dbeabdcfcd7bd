"""The form of a record, and the kinds of entries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class Record(NamedTuple):
  """What stands behind an entry. Tests are named by function (``test_f``, ``test_f[id]``, ``stem::test_f``).

  ``arguments``, ``neutral`` and ``first_task_plain`` are of methods: the options under which the contract suite runs
  it; those that must reproduce the base run (None: it has none); whether it trains as finetune does before the first
  boundary.
  """

  spec: str = ""  # file and section of the specification: 'regularizers_projectors 1.1'
  compared: tuple[str, ...] = ()  # tests against an independent NumPy or closed-form computation
  invariants: tuple[str, ...] = ()  # tests of its laws
  claim: tuple[str, ...] = ()  # modules in experiments/claims
  no_claim: str = ""  # or why there is none; default: the kind's reason
  parity: tuple[str, ...] = ()  # rows of published numbers
  deviations: tuple[str, ...] = ()  # from the paper or its code, a line each
  arguments: Mapping[str, Any] = {}
  neutral: Mapping[str, Any] | None = None
  first_task_plain: bool = True

  @property
  def tests(self) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*self.compared, *self.invariants)))


class Kind(NamedTuple):
  """A kind of entries: the package that exports them ('' for names without one), and why they make no claim."""

  package: str
  no_claim: str = ""


PART = "a formula; claims are made for the methods that use it"
KINDS = {
  "loss": Kind("cljax.losses", PART),
  "regularizer": Kind("cljax.regularizers", PART),
  "projector": Kind("cljax.projectors", PART),
  "memory": Kind("cljax.memory", PART),
  "estimator": Kind("cljax.estimators", PART),
  "metric": Kind("cljax.metrics", "a definition, not a method"),
  "unlearning metric": Kind("cljax.metrics.unlearning", "a definition, not a method"),
  "optimizer": Kind("cljax.optimizers", PART),
  "weight edit": Kind("cljax.edits", PART),
  "model": Kind("cljax.models", "a network or an adapter, compared with its definition"),
  "data": Kind("cljax.data", "reads data"),
  "stream": Kind("cljax.streams", "a protocol, compared with its definition"),
  "scenario": Kind("", "a protocol, compared with its definition"),
  "theory": Kind("cljax.theory", "a theorem, compared with its numbers"),
  "edit": Kind("cljax.unlearning", PART),
  "objective": Kind("cljax.objectives", "a definition, not a method"),
  "evaluator": Kind("cljax.evaluators", "a measurement, not a method"),
  "engine": Kind("cljax", "plumbing"),
  "method": Kind("cljax.methods"),
}
