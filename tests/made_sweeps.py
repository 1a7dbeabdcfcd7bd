"""Sweeps for the report's tests: made-up accuracies, written by the functions that write real ones."""

from __future__ import annotations

import types

import numpy as np

from cljax.evaluation import results
from cljax.io import files

TASKS = 4


def matrix(rng, seeds: int, level: float, tasks: int = TASKS, events: int = TASKS) -> np.ndarray:
  """``[S, E+1, T]`` around ``level``: what is learned stays at it, what is ahead is near zero."""
  base = np.where(np.arange(tasks) < np.arange(events + 1)[:, None], level, 0.02)
  return np.clip(base + 0.03 * rng.standard_normal((seeds, events + 1, tasks)), 0, 1)


def result(method, level, *, seeds=(0, 1, 2), rng, validation=None, alive=None, stream="made/class/4", forgets=False,
           curves=True, second=None, **options):  # fmt: skip
  """A ``result.json`` of ``method``; ``validation`` is the level on validation rows, None for no such rows.

  ``second``: the level of a second score, accuracy; the first one is an error then, and lower is better.
  """
  count = len(seeds)
  events = [{"kind": "learn", "task": t} for t in range(TASKS)]
  if forgets:
    events.append({"kind": "forget", "classes": [1]})
  accuracy = matrix(rng, count, level, events=len(events))
  other = None if second is None else matrix(rng, count, second, events=len(events))
  inside = [
    {"event": e, "task": e, "step": s, "total": 4 * e + s, "accuracy": matrix(rng, count, level)[:, e + 1].tolist()}
    for e in range(TASKS)
    for s in (2, 4)
  ]
  fields = types.SimpleNamespace(
    fisher={},
    accuracy=accuracy,
    task_accuracy=np.clip(accuracy + 0.1, 0, 1),
    validation=None if validation is None else matrix(rng, count, validation, events=len(events)),
    events=events,
    forgotten=[{"event": 4, "rows": 9, "forget": [0.1] * count, "retain": [0.8] * count}] if forgets else [],
    curves=inside if curves else [],
    alive=np.asarray(alive or [True] * count),
    state_bytes=int(options.get("bytes", 1000)),
    steps=16,
    seconds={"compile": 5.0, "train": 2.0 * count, "eval": 1.0 * count},
    compilations={},
    params_sha256=[f"{method}{level}{options}{s}" for s in seeds],
    scores={"accuracy": accuracy} if second is None else {"squared_error": accuracy, "accuracy": other},
    better={"accuracy": "higher"} if second is None else {"squared_error": "lower", "accuracy": "higher"},
    evaluations={},
    evaluations_better={},
  )
  config = {
    "data": {"name": "made", "digest": "d1"},
    "stream": {"kind": "class", "tasks": TASKS, "validation": 0.1},
    "method": {"name": method, **{k: v for k, v in options.items() if k != "bytes"}},
    "forget": {"name": ""},
    "eval": {"every": 2},
  }
  kind = "class" if second is None else "group"
  if second is not None:
    config["objective"] = {"name": "regression", "noise": 1.0}
  return results.describe(fields, config=config, method=method, stream=stream, kind=kind, seeds=seeds)


def write(folder, found):
  """Writes results as a sweep leaves them; returns the folder."""
  lines = []
  for i, r in enumerate(found):
    name = f"{r['method']}-{i}"
    results.write(folder / "runs" / name / "result.json", r)
    lines += results.rows(r, run=name, point={})
  files.write_text(folder / "rows.jsonl", "".join(files.dumps(row) + "\n" for row in lines))
  return folder
