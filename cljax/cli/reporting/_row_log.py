"""What the raw log of a run says of single test rows, as numbers, lines and a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cljax import CljaxError, UsageError, metrics
from cljax.cli import _config
from cljax.cli.reporting._templates import render
from cljax.evaluation import scores
from cljax.io import row_log, tables

HEADING = "Test rows, from the raw log"
# Key in cljax.metrics.ROW_METRICS -> heading, what it is, and whether it is a score, in the score's own unit.
WORDS = {
  "row_weighted": ("over rows", "the score over all rows of the tasks learned, each counting once", True),
  "worst_class": ("worst class", "the score of the class where it is worst", True),
  "worst_group": ("worst group", "the score of the group where it is worst", True),
  "examples_forgotten": ("forgotten", "share of the rows that were right after some event and are wrong now", False),
  "examples_shaken": ("shaken", "times that a row went from right to wrong between evaluations, mean", False),
  "error_recency": ("recency", "share of the errors on earlier classes that name one of the last task's", False),
  "ensemble_accuracy": ("majority vote", "accuracy of the vote of all seeds", True),
}
_SHARES = ("examples_forgotten", "error_recency")
NONE = "keeps no raw log of its evaluations (eval.log), so nothing is said of single test rows"


def register(path: str) -> None:
  """Runs a Python file that puts metrics of its own into ``cljax.metrics.ROW_METRICS``; UsageError where it fails."""
  if not path:
    return
  before = dict(metrics.ROW_METRICS)
  try:
    _config.load(path)
  except FileNotFoundError:
    raise UsageError(
      f"metrics: no file {path!r}; expected a Python file that adds to cljax.metrics.ROW_METRICS"
    ) from None
  except UsageError as error:
    raise UsageError(str(error).replace("config:", "metrics:", 1)) from None
  if before == metrics.ROW_METRICS:
    raise UsageError(f"metrics: {path!r} adds nothing to cljax.metrics.ROW_METRICS")


def numbers(log: row_log.RowLog) -> dict[str, Any]:
  """``{"score", "better", "seeds", "entries", "deleted", "seen", "metrics" {name: [S] or [S][C]}}``, JSON-ready."""
  found = {name: value.tolist() for name, value in metrics.of_rows(log).items()}
  return {
    "score": log.main, "better": log.scores[log.main]["better"], "seeds": list(log.seeds), "entries": len(log.present),
    "deleted": int((~log.present).sum()), "missing": [n for n, r in enumerate(log.records) if r is None],
    "seen": int(metrics.seen_rows(log).sum()), "metrics": found,
  }  # fmt: skip


def of_run(folder, members: Sequence[int] | None = None) -> tuple[dict[str, Any] | None, str]:
  """``(numbers, why there are none)`` of the run in a folder, of some of its members."""
  try:
    log = row_log.read(folder)
  except (CljaxError, OSError) as error:
    return None, str(error)
  if log is None or not log.records:
    return None, NONE
  return numbers(log if members is None else log.pick(members)), ""


def of_seeds(folder, seeds: Sequence[int], notes: list[str]) -> dict[str, Any] | None:
  """The numbers of a run in a folder, where its log is of these seeds; what is wrong with it goes to ``notes``."""
  found, why = of_run(folder)
  if why not in ("", NONE):
    notes.append(f"{folder}: {why}; nothing is said of its single test rows")
  return found if found and found["seeds"] == list(seeds) else None


def joined(a: Mapping[str, Any] | None, b: Mapping[str, Any] | None, new: Sequence[int]) -> dict[str, Any] | None:
  """The numbers over the seeds of ``a`` and the members ``new`` of ``b``: not what is of all seeds together."""
  if a is None or b is None:
    return None
  one = lambda of, n: len(of["metrics"].get(n, ())) == len(of["seeds"]) and n != "ensemble_accuracy"
  each = {n: [*v, *(b["metrics"][n][i] for i in new)] for n, v in a["metrics"].items() if one(a, n) and one(b, n)}
  return {**a, "seeds": [*a["seeds"], *(b["seeds"][i] for i in new)], "metrics": each}


def shown(name: str, values, score: str) -> str:
  """A metric over seeds, in the unit of the score where it is one; of one number a class, the least and the most."""
  values = np.asarray(values, np.float64)
  own = WORDS.get(name, ("", "", name == "class_scores"))[2]
  unit = score if own else scores.ACCURACY if name in _SHARES else ""
  if values.ndim > 1:
    mean = [np.mean(v) for v in values.reshape(len(values), -1).T if not np.isnan(v).all()]
    ends = [scores.number(unit, v) for v in (min(mean), max(mean))] if mean else ["-"]
    return " to ".join(dict.fromkeys(ends)) + scores.unit(unit, " ")
  summed = metrics.summarize(values)
  return scores.with_error(unit, summed["mean"], summed["stderr"]) + scores.unit(unit, " ")


def lines(found: Mapping[str, Any] | None, why: str) -> list[str]:
  """An analysis' section."""
  if found is None:
    return [f"This run {why}." if why == NONE else why]
  what = f"{found['seen']} rows of the tasks learned, of {found['entries']} in the log"
  out = [what + (f"; {found['deleted']} are gone with what was asked to forget." if found["deleted"] else ".")]
  if found["missing"]:
    out.append(f"Evaluations {', '.join(map(str, found['missing']))} are missing in the log.")
  score = scores.label(found["score"])
  said = {n: (f"{score} by class" if n == "class_scores" else n, shown(n, v, found["score"])) for n, v in
          found["metrics"].items()}  # fmt: skip
  wide = [max((len(each[k]) for each in said.values()), default=0) for k in (0, 1)]
  meaning = lambda n: WORDS[n][1] if n in WORDS else "least and most" if n == "class_scores" else ""
  return out + [f"{a:{wide[0]}}  {b:>{wide[1]}}  {meaning(n)}".rstrip() for n, (a, b) in said.items()]


def cells(found: Mapping[str, Any]) -> dict[str, str]:
  """What a report's table has of a run, by heading."""
  named = lambda n: WORDS[n][0] if n in WORDS else n
  return {named(n): shown(n, v, found["score"]) for n, v in found["metrics"].items() if n != "class_scores"}


def rows(named: Sequence[tuple[str, str, Mapping[str, Any] | None]]) -> list[dict[str, str]]:
  """``{heading: text}`` of each ``(stream, configuration, numbers)`` that has a log."""
  have = [(stream, label, cells(found)) for stream, label, found in named if found]
  heads = list(dict.fromkeys(h for *_, each in have for h in each))
  return [{"stream": s, "configuration": c, **{h: each.get(h, "–") for h in heads}} for s, c, each in have]


def without(named: Sequence[tuple[str, str, Mapping[str, Any] | None]]) -> str:
  """One line for the runs that have no log; '' where all do."""
  lacking = list(dict.fromkeys(label for _, label, found in named if not found))
  few = ", ".join(lacking[:4]) + (f" and {len(lacking) - 4} more" if len(lacking) > 4 else "")
  return f"No raw log of single test rows (eval.log): {few}." if lacking else ""


def text(named: Sequence[tuple[str, str, Mapping[str, Any] | None]], several: bool) -> list[str]:
  """The table for a terminal, and the line for what has none."""
  table, lacks = rows(named), without(named)
  out = []
  if table:
    head = list(table[0])[0 if several else 1 :]
    out = [HEADING, *tables.aligned([head, *([r[h] for h in head] for r in table)], None, ruled=True)]
  return out + ([lacks] if lacks else [])


def section(named: Sequence[tuple[str, str, Mapping[str, Any] | None]], several: bool) -> str:
  """The same for the page."""
  table, hints = rows(named), {heading: hint for heading, hint, _ in WORDS.values()}
  head = list(table[0])[0 if several else 1 :] if table else []
  told = "; ".join(f"{h}: {hints[h]}" for h in head if h in hints)
  return render(
    "single_rows", heading=HEADING, rows=table, head=head, hints=hints, told=told, lacks=without(named)
  )  # fmt: skip
