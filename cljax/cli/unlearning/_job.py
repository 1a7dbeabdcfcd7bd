"""What the comparisons of unlearning methods share: what was asked, and the runs it takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath

import cljax
from cljax import UsageError, engine, methods, objectives
from cljax.cli import _build, _config


class Job(NamedTuple):
  """One comparison: a configuration file with its overrides, the methods, the request and how many models."""

  file: _config.File
  overrides: Sequence[_config.Override]
  methods: Sequence[str]
  request: Any  # a Forget, or [(after how many tasks, Forget)] for a stream of requests
  seeds: Sequence[int]
  oracles: int
  shadows: int
  workdir: epath.Path
  report: Callable[[str], None]
  stop: Callable[[], bool]
  schedule: str = "epochs"  # of retraining, of the oracles and of the method ``retrain`` alike
  downstream: str = ""  # what features are probed on beside: 'rest', or a data set's name
  tradeoff: int = 0  # checkpoints of each method's steps for the trade-off AUC; 0 for none


class Compared(NamedTuple):
  """``values {row: {metric: [S]}}`` of the original, the retrained and each method; ``about {row: facts}``."""

  values: dict[str, dict[str, Any]]
  about: dict[str, dict[str, Any]]
  context: dict[str, Any]
  headings: dict[str, str]  # of each metric
  note: str  # what the columns are
  more: dict[str, dict[str, Any]] = {}  # {row: {metric of evidence_more: [S] or number}}


ORACLE_SEED = 10_000  # oracles share no seed with the models that unlearn


def built_for(job: Job, names: Sequence[str]) -> dict[str, _build.Built]:
  """Everything a run of each method needs, '' the original model; a mistake in the last one costs nothing.

  An option of ``forget`` must be read by one of them at least.
  """
  cache: dict = {}
  points, out = _config.Points([], {}, {}, {}), {}
  for name in names:
    alike = [_config.Override("forget.schedule", job.schedule)] if name == "retrain" else []
    overrides = [*job.overrides, _config.Override("forget.name", name), *alike]
    config, _ = points.resolve(job.file, overrides, asked=True)
    if config["evaluators"]["names"]:
      given = ", ".join(config["evaluators"]["names"])
      raise UsageError(f"evaluators: got {given}; unlearning is compared without (--config.evaluators=)")
    out[name] = _build.build(config, cache)
  points.check()
  for line in points.lines():
    job.report(line)
  return out


def purges(job: Job) -> bool:
  """Whether ``checkpoint.purge_before_deletion`` is asked for. Raises UsageError where ids are not to be kept."""
  config, _ = _config.Points([], {}, {}, {}).resolve(
    job.file, [*job.overrides, _config.Override("forget.name", job.methods[0])], asked=True
  )
  if not config["checkpoint"]["keep_ids"]:
    raise UsageError("checkpoint.keep_ids: got False, but a comparison names its request; launch.train keeps none")
  return config["checkpoint"]["purge_before_deletion"]


def prepared(built: _build.Built, stream, seeds) -> engine.Prepared:
  arguments = {**built.arguments, "options": built.arguments["options"]._replace(on_divergence="freeze")}
  identity = {**built.identity, "events": [repr(e) for e in stream.events], "rows": [len(t) for t in stream.train]}
  return engine.prepare(stream, built.model, seeds=list(seeds), config=identity, **arguments)


def needs(access) -> str:
  flags = (("forget_data", "forget"), ("retain_data", "retain"), ("prefix", "all past data"))
  return " and ".join(label for field, label in flags if getattr(access, field)) or "no data"


def reuses(built: _build.Built) -> bool:
  """Whether the method edits what plain training made: then every method starts from the same trained models."""
  given = built.arguments["objective"], built.arguments["objective_options"]
  spec = cljax.engine.setup.spec_of(built.stream, 1, objectives.given(*given))
  try:
    method = methods.make(built.arguments["forget"], built.model, spec, **built.arguments["forget_hyper"])
  except UsageError:
    return True  # it trains nothing: what prepares it is refused, and says why
  plain = method._replace(forget=None, access=cljax.Access()) == cljax.Method()
  return plain and not method.access.prefix


def check(job: Job, base: _build.Built) -> None:
  if base.stream.task_id_given:
    raise UsageError("stream.kind: 'task' tells the task at test; unlearning is compared where it is not told")
  if any(getattr(a, "dtype", None) is np.dtype(object) for a in jax.tree.leaves(base.stream.dataset.train.x)):
    raise UsageError("data: must fit the device to be forgotten from")
  for name in job.methods:
    if not methods.lookup(name).access.forgets:
      answer = ", ".join(sorted(n for n, e in methods.METHODS.items() if e.access.forgets))
      raise UsageError(f"methods: {name!r} answers no deletion request; those that do: {answer}")
