"""What a search found, as JSON and as a page: the protocol, the chosen values, what they give beside the defaults."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cljax.cli.tuning import halving
from cljax.evaluation import scores, selection
from cljax.io import formats, tables

HEAD = ("method", "chosen", "validation score", "tuned", "as it stands", "gain", "runs searched", "steps searched")


def told(protocol) -> dict[str, Any]:
  """The protocol as JSON holds it, with a sentence that names it."""
  changes = ", ".join(f"{k}={v}" for k, v in protocol.changes.items())
  where = (
    f"the first {protocol.first_tasks} tasks; reported on the tasks after them"
    if protocol.first_tasks
    else f"another stream ({changes}); reported on the stream of the configuration, all tasks"
  )
  rounds = ", then ".join(f"{r.configurations} x {r.seeds} seeds" for r in protocol.rungs)
  name = (
    f"{protocol.configurations} configurations of each method ({protocol.sampler} points of seed "
    f"{protocol.sampler_seed}, its own values first), {rounds}, scored on validation rows of {where}. Seeds searched: "
    f"{', '.join(map(str, protocol.seeds))}; none of them is reported."
  )
  return {
    "name": name, "configurations": protocol.configurations, "rungs": [list(r) for r in protocol.rungs],
    "seeds": list(protocol.seeds), "sampler": protocol.sampler, "sampler_seed": protocol.sampler_seed,
    "first_tasks": protocol.first_tasks, "search": dict(protocol.changes),
  }  # fmt: skip


def reported(result: Mapping[str, Any] | None, first_tasks: int) -> dict[str, Any] | None:
  """Test score after the last task, over the tasks that were not searched on: values of the seeds that lived, mean, and
  standard error ``std(ddof=1) / sqrt(S)``; None without a result."""
  if result is None:
    return None
  matrix = scores.matrices(result)[scores.main(result)]
  every = selection.reported_accuracy(matrix, result["events"], first_tasks or None)
  alive = np.asarray(result.get("alive") or [True] * len(every))
  values = every[alive]
  count = len(values)
  return {
    "seeds": [s for s, a in zip(result["seeds"], alive, strict=True) if a], "values": values.tolist(),
    "mean": float(values.mean()) if count else None,
    "stderr": float(values.std(ddof=1) / math.sqrt(count)) if count > 1 else None,
    "diverged": int((~alive).sum()), "score": scores.main(result), "better": scores.better(result),
    "state_bytes": result["state_bytes"], "steps": result["steps"],
  }  # fmt: skip


def content(command: str, protocol, found: Sequence, reports: Mapping[str, Sequence]) -> dict[str, Any]:
  """What ``tune.json`` holds. ``found``: the searches; ``reports``: of each method the results of its own values and of
  the chosen ones."""
  rows = []
  for search in found:
    both = [reported(r, protocol.first_tasks) for r in reports.get(search.method, (None, None))]
    candidates = [
      {"point": {k: v for k, v in point.items() if k != "method.name"}, "scores": [row[i] for row in search.scores]}
      for i, point in enumerate(search.points)
    ]
    runs = halving.trained([halving.Rung(min(r.configurations, len(search.points)), r.seeds) for r in protocol.rungs])
    rows.append({
      "method": search.method, "ranges": [r.text() for r in search.ranges], "candidates": candidates,
      "chosen": search.going[0] if search.going else None, "runs": runs, "steps": search.steps,
      "as_it_stands": both[0], "tuned": both[1],
    })  # fmt: skip
  return {**formats.noted(), "command": command, "protocol": told(protocol), "methods": rows}


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
  number = lambda r: "-" if r is None else scores.with_error(r["score"], r["mean"], r["stderr"])
  gain, words, score = "-", "none lived", "-"
  tuned, plain = row["tuned"], row["as_it_stands"]
  if row["chosen"] is not None:
    chosen = row["candidates"][row["chosen"]]
    words = ", ".join(f"{k.removeprefix('method.')}={v}" for k, v in chosen["point"].items()) or "as it stands"
    last = next(v for v in reversed(chosen["scores"]) if v is not None)
    score = scores.number(tuned["score"] if tuned else scores.ACCURACY, last)
  if tuned and plain and tuned["mean"] is not None and plain["mean"] is not None:
    by = tuned["mean"] - plain["mean"]
    gain = f"{100 * by:+.1f}" if tuned["score"] == scores.ACCURACY else f"{by:+.3g}"
  return (row["method"], words, score, number(tuned), number(plain), gain, str(row["runs"]), f"{row['steps']:,}")


def markdown(content: Mapping[str, Any]) -> str:
  """The page: the table, how it came about, and what was searched."""
  body = tables.markdown(HEAD, [_cells(row) for row in content["methods"]])
  ranges = [f"- {row['method']}: {'; '.join(row['ranges']) or 'nothing to search'}" for row in content["methods"]]
  notes = [
    "Tuned, as it stands: test score after the last task (accuracy in percent), mean ± standard error over the seeds "
    "reported; a chosen value may be worse there, and is shown all the same.",
  ]
  return (
    f"# Tuned\n\n`{content['command']}`\n\n" + "\n".join(body) + f"\n\n{content['protocol']['name']}\n\n"
    + "\n".join(notes) + "\n\nSearched:\n\n" + "\n".join(ranges) + "\n"
  )  # fmt: skip
