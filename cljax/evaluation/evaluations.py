"""What evaluators said of a run (``cljax.evaluators``), as results, rows and tables have it.

``result.json`` has, where there are any, ``evaluations {name: {metric: [S][E+1][T]}}``, ``evaluations_better {name:
{metric: 'higher' | 'lower'}}`` of those metrics that have a better way, and ``evaluation_metrics {name: {metric:
{"final": summary over seeds}}}``; where an evaluator shows texts, ``texts {name: {what: [S][E+1][T] lists of
{"row": test row, name: text}}}``. In rows and columns a metric is called ``NAME/METRIC``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cljax import metrics
from cljax.evaluation import scores

FINAL = "final"


def final(matrix) -> np.ndarray:
  """``[S]`` of ``[S, E+1, T]``: the mean over tasks after the last event, of those that have a value; NaN of none."""
  last = np.asarray(matrix, np.float64)[:, -1]
  there = ~np.isnan(last)
  count = there.sum(-1)
  return np.where(count, np.where(there, last, 0.0).sum(-1) / np.maximum(count, 1), np.nan)


def described(result, who: Sequence[int]) -> dict[str, Any]:
  """The keys of ``result.json`` for members ``who`` of a :class:`cljax.RunResult`; none where nothing was asked."""
  if not result.evaluations:
    return {}
  each = lambda of: {n: {m: of(v[who]) for m, v in found.items()} for n, found in result.evaluations.items()}
  return {
    "evaluations": each(lambda v: v),
    "evaluations_better": result.evaluations_better,
    "evaluation_metrics": each(lambda v: {FINAL: metrics.summarize(final(v))}),
    **_texts(getattr(result, "texts", {}), who),
  }


def _texts(texts: Mapping[str, Mapping[str, list]], who: Sequence[int]) -> dict[str, Any]:
  return {"texts": {n: {w: [v[i] for i in who] for w, v in by.items()} for n, by in texts.items()}} if texts else {}


def finals(result: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
  """``{NAME/METRIC: summary over seeds}`` of a ``result.json``."""
  found = result.get("evaluation_metrics", {})
  return {f"{name}/{m}": values[FINAL] for name, of in found.items() for m, values in of.items()}


def better(result: Mapping[str, Any]) -> dict[str, str]:
  """``{NAME/METRIC: 'higher', 'lower' or ''}`` of a ``result.json``."""
  said = result.get("evaluations_better", {})
  return {key: str(said.get(name, {}).get(m, "")) for key in finals(result) for name, _, m in [key.partition("/")]}


def matrices(result: Mapping[str, Any]) -> dict[str, Any]:
  """``{NAME/METRIC: [S][E+1][T]}`` of a ``result.json``."""
  return {f"{name}/{m}": v for name, of in result.get("evaluations", {}).items() for m, v in of.items()}


def texts(result: Mapping[str, Any]) -> dict[str, list]:
  """``{NAME/WHAT: [S][E+1][T] lists of {"row": number, name: text}}`` of a ``result.json``."""
  return {f"{name}/{w}": v for name, by in result.get("texts", {}).items() for w, v in by.items()}


def metric(key: str) -> str:
  """The metric of ``NAME/METRIC``, which says how its numbers are written."""
  return key.partition("/")[2]


def label(key: str) -> str:
  """``NAME/METRIC`` in headings: ``linear_probe/accuracy`` is 'linear probe accuracy'."""
  name, _, of = key.partition("/")
  return scores.label(of) if name == of else f"{scores.label(name)} {scores.label(of)}"


def is_whole(found: Mapping[str, Any], shape: tuple[int, int]) -> bool:
  """Whether what is there of evaluators fits a result of ``shape``: seeds, events and one."""
  judged = matrices(found)
  held = [np.asarray(m, np.float64) for m in judged.values()]
  summaries, ways = finals(found), better(found)
  alike = [len(s["values"]) == shape[0] and {"mean", "stderr"} <= set(s) for s in summaries.values()]
  return (
    set(judged) == set(summaries)
    and all(m.ndim == 3 and m.shape[:2] == shape for m in held)
    and all(alike)
    and all(way in ("", *scores.BETTER) for way in ways.values())
    and all(_are_texts(v, shape) for v in texts(found).values())
  )


def _are_texts(of_seeds: Sequence, shape: tuple[int, int]) -> bool:
  entries = [e for events in of_seeds for tasks in events for of_task in tasks for e in of_task]
  fits = len(of_seeds) == shape[0] and all(len(events) == shape[1] for events in of_seeds)
  return fits and all(isinstance(v, str) for e in entries for k, v in dict(e).items() if k != "row")


def joined(a: Mapping[str, Any], b: Mapping[str, Any], join) -> dict[str, Any]:
  """The keys of two results of one configuration over the seeds of both; ``join(x, y)`` joins lists over seeds."""
  if "evaluations" not in b:
    return {}
  held = {n: {m: join(a["evaluations"][n][m], v) for m, v in of.items()} for n, of in b["evaluations"].items()}
  summed = {n: {m: {FINAL: metrics.summarize(final(v))} for m, v in of.items()} for n, of in held.items()}
  shown = {n: {w: join(a["texts"][n][w], v) for w, v in by.items()} for n, by in b.get("texts", {}).items()}
  return {"evaluations": held, "evaluation_metrics": summed, **({"texts": shown} if shown else {})}
