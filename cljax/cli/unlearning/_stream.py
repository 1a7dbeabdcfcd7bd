"""Unlearning methods on a stream of requests between the tasks: each goes through all, beside exact retraining."""

from __future__ import annotations

import numpy as np

import cljax
from cljax import methods
from cljax.cli import _workdir
from cljax.cli.unlearning._job import ORACLE_SEED, Compared, Job, built_for, check, needs, prepared
from cljax.cli.unlearning._lens import lens
from cljax.evaluation import evidence


def compare(job: Job) -> Compared:
  """As :func:`cljax.cli.unlearning._compare.compare`, with gaps to the retrained models averaged over the requests.

  The reference is ``retrain`` on the same seeds, the floor ``retrain`` on as many others.
  """
  names = [n for n in job.methods if n != "retrain"]
  plan = built_for(job, ["retrain", *names])
  base = plan["retrain"]
  check(job, base)
  learns = [e for e in base.stream.events if isinstance(e, cljax.Learn)]
  events: list = []
  for at in range(len(learns) + 1):
    events += [request for after, request in job.request if after == at]
    events += learns[at : at + 1]
  late = [after for after, _ in job.request if not 0 < after <= len(learns)]
  if late:
    raise cljax.UsageError(
      f"request: position {late[0]}; expected 1 to {len(learns)}, the number of tasks learned before"
    )
  stream = base.stream._replace(events=tuple(events))
  count = len(job.seeds)
  others = [ORACLE_SEED + s for s in range(count)]
  runs = {"reference": ("retrain", job.seeds), "retrained": ("retrain", others), **{n: (n, job.seeds) for n in names}}
  first = prepared(base, stream, job.seeds).setup
  steps, look = first.total_steps, lens(first)
  job.report(evidence.cost([(what, count) for what in runs], steps) + "; retrain repeats its steps at each request")
  results, refused = {}, {}
  for label, (name, seeds) in runs.items():
    job.report(label)
    try:
      made = prepared(plan[name], stream, seeds)
      results[label] = made.run(str(job.workdir / "methods" / _workdir.in_path(label)), stop=job.stop)
    except cljax.UsageError as error:  # one that cannot answer does not sink the others
      if name == "retrain":
        raise
      refused[label] = str(error)
      job.report(f"{label}: {error}")
  reference = results.pop("reference")
  rows_after = [i + 1 for i, e in enumerate(stream.events) if isinstance(e, cljax.Forget)]
  mean = {k: np.asarray([r[k] for r in reference.forgotten], float).mean(1) for k in ("forget", "retain")}  # [requests]
  matrix = lambda r: next(iter(r.scores.values()))  # of the main score
  tests = lambda r: np.asarray([_seen(matrix(r)[:, row], stream, row) for row in rows_after])  # [requests, S]
  values: dict = {}
  about: dict = {}
  for label, why in refused.items():
    entry = methods.lookup(runs[label][0])
    about[label] = {"exactness": entry.exactness, "needs": needs(entry.access), "alive": 0, "refused": why}
    about[label]["epochs"], values[label] = float("nan"), {}
  for label, result in results.items():
    entry = methods.lookup(runs[label][0])
    alive = int(np.asarray(result.alive).sum())
    seconds = result.seconds["train"]
    about[label] = {"exactness": entry.exactness, "needs": needs(entry.access), "alive": alive, "epochs": seconds}
    values[label] = {}
    if alive < count:
      continue
    found = {k: np.asarray([r[k] for r in result.forgotten], float) for k in ("forget", "retain")}  # [requests, S]
    gap = lambda k, found=found: _mean(np.abs(found[k] - mean[k][:, None]))
    values[label] = {
      "forget_gap": gap("forget"), "retain_gap": gap("retain"),
      "test_gap": np.abs(tests(result) - tests(reference).mean(1)[:, None]).mean(0),
      "forget_accuracy": _mean(found["forget"]), "retain_accuracy": _mean(found["retain"]),
      "final_accuracy": matrix(result)[:, -1].mean(-1),
    }  # fmt: skip
  order = ["retrained", *names]
  context = {"steps": steps, "rows_to_forget": sum(r["rows"] for r in reference.forgotten), "population": count}
  context |= {
    "oracles": 2 * count,
    "seeds": list(job.seeds),
    "schedule": job.schedule,
    "requests": len(rows_after),
    "epoch_seconds": float("nan"),
  }
  values, about = ({n: of[n] for n in order} for of in (values, about))
  return Compared(values, about, context, look.stream_headings, "")


def _mean(values):
  """``[S]``: the mean over requests, of those that had something left to forget; NaN of none."""
  there = np.isfinite(values)
  return np.where(there.any(0), np.where(there, values, 0).sum(0) / np.maximum(there.sum(0), 1), np.nan)


def _seen(accuracy, stream, row: int):
  """Mean test score over the tasks learned before a row of the matrix: ``[S]``."""
  learned = sorted({e.task for e in stream.events[:row] if isinstance(e, cljax.Learn)})
  return accuracy[:, learned].mean(-1)
