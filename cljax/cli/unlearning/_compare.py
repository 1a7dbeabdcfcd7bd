"""Unlearning methods side by side: runs, and what is measured on them."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

import cljax
from cljax import UsageError, engine, methods, streams
from cljax.cli import _workdir
from cljax.cli.unlearning import _more, _shadows
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
from cljax.cli.unlearning._lens import lens
from cljax.engine import programs
from cljax.engine.loop import initial_learner
from cljax.evaluation import authors_evidence, evidence, evidence_more


def compare(job: Job) -> Compared:
  """Trains the original models and the oracles, lets each method answer the request, and measures all of them."""
  by_steps = ["retrain"] if job.schedule == "steps" and "retrain" not in job.methods else []
  plan = built_for(job, ["", *job.methods, *by_steps])
  base = plan.pop("")
  check(job, base)
  stream = base.stream._replace(events=tuple(e for e in base.stream.events if isinstance(e, cljax.Learn)))
  gone = streams.resolve_pairs(job.request, stream)
  count = len(job.seeds)
  population = max(job.oracles, count)
  seeds = [*job.seeds, *(s for s in range(2 * population) if s not in job.seeds)][:population]
  oracle_seeds = [ORACLE_SEED + s for s in range(max(job.oracles, 2 * count))]
  reuse = {n: reuses(plan[n]) for n in job.methods}
  own = sum(not r for r in reuse.values())
  with_request = stream._replace(events=(*stream.events, job.request))
  trainings = {"originals": population, "oracles": len(oracle_seeds), "shadows": job.shadows}
  if job.schedule == "steps":  # trained with the rows, to be replayed without
    trainings["oracles, trained first as originals"] = len(oracle_seeds)
  trainings["of methods that train their own way"] = own * (population + job.shadows)
  original = prepared(base, stream, seeds)
  look = lens(original.setup)
  added = _more.of(job, stream, original.setup)
  rows = look.sides(stream, job.request)
  for one in added:
    rows = one.rows(rows)
  job.report(evidence.cost([(what, n) for what, n in trainings.items() if n], original.setup.total_steps))
  trained = original.run(str(job.workdir / "original"), stop=job.stop)
  if job.schedule == "steps":
    bank = prepared(plan["retrain"], with_request, oracle_seeds)
  else:
    bank = prepared(base, evidence.without_rows(stream, gone), oracle_seeds)
  since = time.perf_counter()
  retrained = bank.run(str(job.workdir / "oracles"), stop=job.stop)
  bank_seconds = time.perf_counter() - since
  shadows = _shadows.train(job, base, stream, gone, job.shadows, look) if job.shadows else None
  before = look.answers(original.setup, trained.learner, rows)
  oracles = look.answers(bank.setup, retrained.learner, rows)
  reference, first_before = evidence.first(oracles, count), evidence.first(before, count)
  untrained = None
  if look.more is not None:
    fresh = programs.gather(initial_learner(original.setup), original.setup.members)
    untrained = evidence.first(look.answers(original.setup, fresh, rows), count)

  def measured(answers, against, name=None, setup=original.setup) -> dict[str, Any]:
    own = evidence.first(answers, count)
    values: dict[str, Any] = dict(look.measure(own, reference, first_before, rows, setup))
    for one in added:
      values |= one.measure(own, reference, rows, setup)
    if population >= 8:
      values |= look.population(answers, against, rows)
    if shadows is not None and name is not None:
      built = plan.get(name, base)
      values |= _shadows.scores(job, shadows, name, built, reuse.get(name, True), look)
    return values

  def beside(answers, against, values, setup=original.setup) -> dict[str, Any]:
    """The same evidence in other forms; takes what of it is in ``values`` out of them."""
    found = {k: values.pop(k) for k in (*evidence_more.HEADINGS, *authors_evidence.BESIDE) if k in values}
    if look.more is None:
      return found
    found |= look.more(evidence.first(answers, count), reference, first_before, untrained, rows, setup)
    return found | (evidence_more.population(answers, against, rows) if population >= 8 else {})

  half = len(oracle_seeds) // 2
  others = evidence.first(oracles, half, half)
  values = {"original": measured(before, oracles, ""), "retrained": measured(others, evidence.first(oracles, half))}
  more = {"original": beside(before, oracles, values["original"])}
  more["retrained"] = beside(others, evidence.first(oracles, half), values["retrained"])
  more["retrained"] |= evidence_more.floors(oracles, rows) if look.more is not None and population >= 8 else {}
  epochs = base.arguments["training"].epochs * len(stream.events)
  epoch = trained.seconds["train"] / epochs
  about: dict[str, dict[str, Any]] = {
    "original": {"exactness": "", "epochs": 0.0, "needs": "", "alive": count},
    "retrained": {"exactness": "exact", "epochs": float(epochs), "needs": "all past data", "alive": count},
  }
  about["original"]["chances"] = look.chances(before, oracles, rows) if population >= 8 else {}
  for name in job.methods:
    since = time.perf_counter()
    entry = methods.lookup(name)
    about[name] = {"exactness": entry.exactness, "needs": needs(entry.access), "epochs": float("nan"), "alive": 0}
    values[name] = {}
    try:
      made = prepared(plan[name], with_request, seeds)
      start = engine.continued(made, trained) if reuse[name] else None
      result = made.run(str(job.workdir / "methods" / _workdir.in_path(name)), stop=job.stop, start=start)
    except UsageError as error:  # one that cannot answer this request does not sink the others
      about[name]["refused"] = str(error)
      job.report(f"{name}: {error}")
      continue
    seconds = result.seconds["train"] - (0.0 if reuse[name] else trained.seconds["train"])
    about[name]["epochs"] = (
      seconds / epoch if seconds > 0 else float("nan")
    )  # less than the clocks of two runs differ by
    about[name] |= {} if reuse[name] else {"own_training": True}
    after = look.answers(made.setup, result.learner, rows)
    sound = look.sound(after) & np.asarray(result.alive)
    about[name]["alive"] = int(sound[:count].sum())
    if sound.all():
      values[name] = measured(after, oracles, name, made.setup)
      more[name] = beside(after, oracles, values[name], made.setup)
      if job.tradeoff and reuse[name]:
        values[name] |= _more.tradeoff(
          job, name, plan[name], with_request, seeds, trained, before, after, rows, look.answers
        )
      about[name]["chances"] = look.chances(after, oracles, rows) if population >= 8 else {}
      about[name]["over_forgets"] = look.over_forgets(after, oracles, rows)
    job.report(f"{name}: {time.perf_counter() - since:.0f} s")
  if job.tradeoff:
    _more.tell_untraded(job, [n for n in job.methods if not reuse[n]])
  context = {
    "steps": original.setup.total_steps,
    "rows_to_forget": int(sum(mine.sum() for mine in gone)),
    "epoch_seconds": epoch,
  }
  context |= {"population": population, "seeds": list(job.seeds), "oracles": len(oracle_seeds)}
  context |= {"schedule": job.schedule, "shadows": job.shadows}
  context |= {"oracle_seconds": bank_seconds, "oracle_parts": dict(retrained.seconds)}
  headings, note = look.headings, look.note
  for one in added:
    headings, note = headings | one.headings, f"{note} {one.note(rows)}"
  if job.tradeoff:
    headings, note = headings | _more.TRADEOFF, f"{note} {_more.TRADEOFF_NOTE.format(count=job.tradeoff)}"
  return Compared(values, about, context, headings, note, more)
