"""A result as a table of pandas, and as a notebook shows it."""

from __future__ import annotations

import html
from typing import Any

import numpy as np

from cljax.core.types import UsageError


def columns(result) -> dict[str, list]:
  """One row for each member, event and task, as columns.

  ``member``, ``event`` (as in ``RunResult.events``; -1 before the first), ``kind`` ('start', 'learn', 'forget'),
  ``learned`` (the task of a Learn event), ``task`` (the one whose test rows these are), each score by its name on the
  task's test rows, ``task_accuracy`` over the task's own classes, and ``validation``, where there are any.
  """
  events: list[dict[str, Any]] = [{"kind": "start"}, *result.events]
  main = next(iter(result.scores.values()))
  size, _, tasks = main.shape
  place = [(m, e, t) for m in range(size) for e in range(len(events)) for t in range(tasks)]
  members, rows, which = (np.array(part) for part in zip(*place, strict=True))
  out: dict[str, Any] = {
    "member": members.tolist(),
    "event": (rows - 1).tolist(),
    "kind": [events[e]["kind"] for e in rows],
    "learned": [events[e].get("task") for e in rows],
    "task": which.tolist(),
  }
  more = {"task_accuracy": result.task_accuracy, "validation": result.validation}
  for name, matrix in {**result.scores, **{k: v for k, v in more.items() if v is not None}}.items():
    out[name] = np.asarray(matrix)[members, rows, which].tolist()
  return out


def to_pandas(result):
  """:func:`columns` as a ``pandas.DataFrame``. Raises UsageError where pandas is not installed."""
  try:
    import pandas
  except ImportError:
    raise UsageError("to_pandas: pandas is not installed; pip install pandas, or use RunResult.scores") from None
  frame = pandas.DataFrame(columns(result))
  return frame.astype({"learned": "Int64"})


def to_html(result) -> str:
  """The main score after each event on each task, as the mean over members."""
  name, matrix = next(iter(result.scores.items()))
  mean = np.asarray(matrix)[np.asarray(result.alive)].mean(0) if np.any(result.alive) else np.asarray(matrix).mean(0)
  shown = [str(e.get("kind")) + (f" {e['task']}" if "task" in e else "") for e in result.events]
  head = "".join(f"<th>task {t}</th>" for t in range(mean.shape[1]))
  cell = lambda v: "<td>-</td>" if np.isnan(v) else f"<td>{v:.3f}</td>"
  body = "".join(
    f"<tr><th>{html.escape(label)}</th>{''.join(map(cell, row))}</tr>"
    for label, row in zip(["start", *shown], mean, strict=True)
  )
  count = len(result.alive)
  caption = f"{html.escape(name)} on test rows, mean over {count} member{'' if count == 1 else 's'}"
  return f"<table><caption>{caption}</caption><tr><th>after</th>{head}</tr>{body}</table>"
