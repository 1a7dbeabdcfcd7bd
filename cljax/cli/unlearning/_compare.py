"""Unlearning methods side by side: runs, and what is measured on them."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

import cljax
from cljax import UsageError, engine, methods, streams
from cljax.cli import _workdir
from cljax.cli.unlearning import _shadows
from cljax.cli.unlearning._job import (
  ORACLE_SEED,
  Compared,
  Job,
  built_for,
  check,
  needs,
  prepared,
  reuses,
)
from cljax.evaluation import evidence
from cljax.metrics import unlearning as metrics


def compare(job: Job) -> Compared:
  """Trains the original models and the oracles, lets each method answer the request, and measures all of them."""
  plan = built_for(job, ["", *job.methods])
  base = plan.pop("")
  check(job, base)
  stream = base.stream._replace(events=tuple(e for e in base.stream.events if isinstance(e, cljax.Learn)))
  rows = evidence.sides(stream, job.request)
  gone = streams.resolve_pairs(job.request, stream)
  count = len(job.seeds)
  population = max(job.oracles, count)
  seeds = [*job.seeds, *(s for s in range(2 * population) if s not in job.seeds)][:population]
  oracle_seeds = [ORACLE_SEED + s for s in range(max(job.oracles, 2 * count))]
  reuse = {n: reuses(plan[n]) for n in job.methods}
  own = sum(not r for r in reuse.values())
  trainings = {"originals": population, "oracles": len(oracle_seeds), "shadows": job.shadows}
  trainings["of methods that train their own way"] = own * (population + job.shadows)
  original = prepared(base, stream, seeds)
  job.report(evidence.cost([(what, n) for what, n in trainings.items() if n], original.setup.total_steps))
  trained = original.run(str(job.workdir / "original"), stop=job.stop)
  bank = prepared(base, evidence.without_rows(stream, gone), oracle_seeds)
  since = time.perf_counter()
  retrained = bank.run(str(job.workdir / "oracles"), stop=job.stop)
  bank_seconds = time.perf_counter() - since
  shadows = _shadows.train(job, base, stream, gone, job.shadows) if job.shadows else None
  model = original.setup.model
  before = evidence.answers(original.setup, trained.learner, rows, model)
  oracles = evidence.answers(bank.setup, retrained.learner, rows, model)
  reference, first_before = evidence.first(oracles, count), evidence.first(before, count)

  def measured(answers, against, name=None) -> dict[str, Any]:
    values: dict[str, Any] = dict(
      evidence.measure(evidence.first(answers, count), reference, first_before, rows, model)
    )
    if population >= 8:
      values |= evidence.population(answers, against, rows)
    if shadows is not None and name is not None:
      built = plan.get(name, base)
      values |= _shadows.scores(job, shadows, name, built, reuse.get(name, True), model)
    return values

  half = len(oracle_seeds) // 2
  others = evidence.first(oracles, half, half)
  values = {"original": measured(before, oracles, ""), "retrained": measured(others, evidence.first(oracles, half))}
  epochs = base.arguments["training"].epochs * len(stream.events)
  epoch = trained.seconds["train"] / epochs
  about: dict[str, dict[str, Any]] = {
    "original": {"exactness": "", "epochs": 0.0, "needs": "", "alive": count},
    "retrained": {"exactness": "exact", "epochs": float(epochs), "needs": "all past data", "alive": count},
  }
  with_request = stream._replace(events=(*stream.events, job.request))
  for name in job.methods:
    since = time.perf_counter()
    made = prepared(plan[name], with_request, seeds)
    entry = methods.lookup(name)
    about[name] = {"exactness": entry.exactness, "needs": needs(entry.access), "epochs": float("nan"), "alive": 0}
    values[name] = {}
    start = engine.continued(made, trained) if reuse[name] else None
    try:
      result = made.run(str(job.workdir / "methods" / _workdir.in_path(name)), stop=job.stop, start=start)
    except UsageError as error:  # one that cannot answer this request does not sink the others
      about[name]["refused"] = str(error)
      job.report(f"{name}: {error}")
      continue
    seconds = result.seconds["train"] - (0.0 if reuse[name] else trained.seconds["train"])
    about[name]["epochs"] = max(0.0, seconds) / epoch
    after = evidence.answers(made.setup, result.learner, rows, model)
    sound = np.all([np.isfinite(z).all((1, 2)) for z in after.logits.values()], 0) & np.asarray(result.alive)
    about[name]["alive"] = int(sound[:count].sum())
    if sound.all():
      values[name] = measured(after, oracles, name)
      about[name]["over_forgets"] = _below(after, oracles, rows)
    job.report(f"{name}: {time.perf_counter() - since:.0f} s")
  context = {
    "steps": original.setup.total_steps,
    "rows_to_forget": int(sum(mine.sum() for mine in gone)),
    "epoch_seconds": epoch,
  }
  context |= {"population": population, "seeds": list(job.seeds), "oracles": len(oracle_seeds)}
  context |= {"shadows": job.shadows, "oracle_seconds": bank_seconds, "oracle_parts": dict(retrained.seconds)}
  return Compared(values, about, context)


def _below(after, oracles, rows) -> bool:
  """Over-forgetting: the mean forget accuracy lies below that of every oracle."""
  mean = metrics.accuracy(after.logits["forget"], rows.y["forget"]).mean()
  return bool(metrics.over_forgetting(mean, metrics.accuracy(oracles.logits["forget"], rows.y["forget"])))
