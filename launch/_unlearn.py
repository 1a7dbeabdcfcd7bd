"""Unlearning methods side by side: runs, and what is measured on them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath

import cljax
from cljax import UsageError, engine, evidence, methods, streams
from launch import _build, _config


class Job(NamedTuple):
  """One comparison: a configuration file with its overrides, the methods, the request and how many models."""

  file: _config.File
  overrides: Sequence[_config.Override]
  methods: Sequence[str]
  request: Any  # a Forget, or [(after how many tasks, Forget)] for a stream of requests
  seeds: Sequence[int]
  oracles: int
  workdir: epath.Path
  report: Callable[[str], None]
  stop: Callable[[], bool]


class Compared(NamedTuple):
  """``values {row: {metric: [S]}}`` of the original, the retrained and each method; ``about {row: facts}``."""

  values: dict[str, dict[str, Any]]
  about: dict[str, dict[str, Any]]
  context: dict[str, Any]


ORACLE_SEED = 10_000  # oracles share no seed with the models that unlearn


def built_for(job: Job, name: str, cache: dict) -> _build.Built:
  """Everything a run of one method needs; ``name`` empty for the original model."""
  more = [_config.Override("forget.name", name)] if name else []
  return _build.build(_config.resolve(job.file, [*job.overrides, *more]), cache)


def prepared(built: _build.Built, stream, seeds) -> engine.Prepared:
  arguments = {**built.arguments, "options": built.arguments["options"]._replace(on_divergence="freeze")}
  identity = {**built.identity, "events": [repr(e) for e in stream.events], "rows": [len(t) for t in stream.train]}
  return engine.prepare(stream, built.model, seeds=list(seeds), config=identity, **arguments)


def compare(job: Job) -> Compared:
  """Trains the original models and the oracles, lets each method answer the request, and measures all of them."""
  cache: dict = {}
  base = built_for(job, "", cache)
  plan = {name: built_for(job, name, cache) for name in job.methods}  # a mistake in the last one costs nothing
  _check(job, base)
  stream = base.stream._replace(events=tuple(e for e in base.stream.events if isinstance(e, cljax.Learn)))
  rows = evidence.sides(stream, job.request)
  gone = streams.resolve(job.request, stream.dataset.train, stream.train, stream.dataset.num_classes)
  population = max(job.oracles, len(job.seeds))
  seeds = [*job.seeds, *(s for s in range(2 * population) if s not in job.seeds)][:population]
  count = len(job.seeds)
  oracle_seeds = [ORACLE_SEED + s for s in range(max(job.oracles, 2 * count))]
  run = lambda made, folder, start=None: made.run(str(job.workdir / folder), stop=job.stop, start=start)
  original = prepared(base, stream, seeds)
  reuses = {n: _reuses(plan[n]) for n in job.methods}
  own = sum(not r for r in reuses.values()) * population
  trainings = [(population, "originals"), (len(oracle_seeds), "oracles"), (own, "of methods that train their own way")]
  job.report(
    evidence.cost([(n, what) for n, what in [(what, n) for n, what in trainings] if what], original.setup.total_steps)
  )
  trained = run(original, "original")
  epochs = base.arguments["training"].epochs
  bank = prepared(base, evidence.without_rows(stream, gone), oracle_seeds)
  retrained = run(bank, "oracles")
  model = original.setup.model
  first = lambda a, start=0: evidence.first(a, count, start)
  before = evidence.answers(original.setup, trained.learner, rows, model)
  oracles = evidence.answers(bank.setup, retrained.learner, rows, model)
  measured = lambda a: evidence.measure(a, first(oracles), first(before), rows, model)
  kloms = lambda a: evidence.population(a, oracles, rows) if population >= 8 else {}
  values = {"original": {**measured(first(before)), **kloms(before)}}
  half = len(oracle_seeds) // 2
  floor_klom = evidence.population(evidence.first(oracles, half), evidence.first(oracles, half, half), rows)
  values["retrained"] = {**measured(first(oracles, count)), **(floor_klom if population >= 8 else {})}
  epoch = trained.seconds["train"] / epochs / max(1, len(stream.events))
  about: dict[str, dict[str, Any]] = {
    "original": {"exactness": "", "epochs": 0.0, "needs": "", "alive": count},
    "retrained": {
      "exactness": "exact",
      "needs": "all past data",
      "epochs": float(epochs * len(stream.events)),
      "alive": count,
    },
  }
  with_request = stream._replace(events=(*stream.events, job.request))
  for name in job.methods:
    since = time.perf_counter()
    made = prepared(plan[name], with_request, seeds)
    entry = methods.lookup(name)
    about[name] = {"exactness": entry.exactness, "needs": _needs(entry.access), "epochs": float("nan"), "alive": 0}
    values[name] = {}
    try:
      result = run(made, f"methods/{name}", engine.continued(made, trained) if reuses[name] else None)
    except UsageError as error:  # one that cannot answer this request does not sink the others
      about[name]["refused"] = str(error)
      job.report(f"{name}: {error}")
      continue
    seconds = result.seconds["train"] - (0.0 if reuses[name] else trained.seconds["train"])
    about[name]["epochs"] = max(0.0, seconds) / epoch
    after = evidence.answers(made.setup, result.learner, rows, model)
    sound = np.all([np.isfinite(z).all((1, 2)) for z in after.logits.values()], 0) & np.asarray(result.alive)
    about[name]["alive"] = int(sound[:count].sum())
    if sound.all():
      values[name] = {**measured(first(after)), **kloms(after)}
      about[name]["over_forgets"] = _below(after, oracles, rows)
    job.report(f"{name}: {time.perf_counter() - since:.0f} s")
  context = {"steps": original.setup.total_steps, "rows_to_forget": int(gone.sum()), "epoch_seconds": epoch}
  context |= {"population": population, "seeds": list(job.seeds), "oracles": len(oracle_seeds)}
  return Compared(values, about, context)


def _below(after, oracles, rows) -> bool:
  """Over-forgetting: the mean forget accuracy lies below that of every oracle."""
  from cljax.metrics import unlearning as metrics

  mean = metrics.accuracy(after.logits["forget"], rows.y["forget"]).mean()
  return bool(metrics.over_forgetting(mean, metrics.accuracy(oracles.logits["forget"], rows.y["forget"])))


def _needs(access) -> str:
  flags = (("forget_data", "forget"), ("retain_data", "retain"), ("prefix", "all past data"))
  return " and ".join(label for field, label in flags if getattr(access, field)) or "no data"


def _reuses(built: _build.Built) -> bool:
  """Whether the method edits what plain training made: then every method starts from the same trained models."""
  spec = cljax.setup.spec_of(built.stream, 1)
  method = methods.make(built.arguments["forget"], built.model, spec, **built.arguments["forget_hyper"])
  plain = method._replace(forget=None, access=cljax.Access()) == cljax.Method()
  return plain and not method.access.prefix


def _check(job: Job, base: _build.Built) -> None:
  if base.stream.task_id_given:
    raise UsageError("stream.kind: 'task' tells the task at test; unlearning is compared where it is not told")
  if base.stream.dataset.train.x.dtype == object:
    raise UsageError("data: must fit the device to be forgotten from")
  for name in job.methods:
    if not methods.lookup(name).access.forgets:
      answer = ", ".join(sorted(n for n, e in methods.METHODS.items() if e.access.forgets))
      raise UsageError(f"methods: {name!r} answers no deletion request; those that do: {answer}")
