"""The report as one HTML page that needs nothing else."""

from __future__ import annotations

import base64
import functools
import io
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from cljax.cli.reporting import _text as text
from cljax.cli.reporting._data import Run
from cljax.cli.reporting._plots import MOST_CELLS, _event_names, _pyplot, span
from cljax.cli.reporting._table import RANKING, Block, Line, Protocol, Ranked, Summary, summarize
from cljax.cli.reporting._templates import render
from cljax.evaluation import evaluations, scores

RATIO = 100  # of the greatest to the least of a matrix, from which its colours follow logarithms


class Cell(NamedTuple):
  """What stands there, what to sort by (None: comes last), a tooltip."""

  shown: str
  value: float | str | None
  tip: str = ""


class Column(NamedTuple):
  """``better``: 1 where high is good, -1 where low is, 0 where none is. ``bold``: the best one is marked."""

  heading: str
  hint: str
  cell: Callable[[Line], Cell]
  better: int = 0
  bold: bool = True


def _number(s: Summary, score: str) -> Cell:
  return Cell(text.shown(s, score), None if math.isnan(s.mean) else s.mean)


def _metric(key: str, heading: str, hint: str, better: int, score: str = scores.ACCURACY) -> Column:
  nothing = Summary(math.nan, math.nan)
  cell = lambda x: _number(summarize(x.run.values[key]) if key in x.run.values else nothing, score)
  return Column(heading, hint, cell, better)


def _others(block: Block) -> list[Column]:
  """Two columns for each score that is not the main one."""
  out = []
  for name, way in {n: w for x in block.lines for n, w in x.run.better.items() if n != block.score}.items():
    said, unit = scores.label(name), scores.unit(name)
    hint = f"test {said} after the last task, mean over all tasks; {way} is better; it chose nothing"
    out.append(_metric(f"{name}.acc", f"{said}{unit}", hint, scores.sign(way), name))
    hint = f"mean loss of {said} from each task's best to its last; above 0 is worse"
    out.append(_metric(f"{name}.forgetting", f"{said} forgetting{unit}", hint, -1, name))
  return out


def _evaluated(block: Block) -> list[Column]:
  """A column for each metric of an evaluator."""
  out = []
  for key, way in {k: w for x in block.lines for k, w in x.run.evaluated.items()}.items():
    of, name = evaluations.metric(key), key.partition("/")[0]
    hint = f"{scores.label(of)} by the evaluator {name} after the last event, mean over tasks that have one"
    hint += f"; {way} is better" if way else ""
    out.append(_metric(key, f"{evaluations.label(key)}{scores.unit(of)}", hint, scores.sign(way) if way else 0, of))
  return out


def _cost(value: float, shown: str) -> Cell:
  return Cell(shown, None if math.isnan(value) else value)


def columns(block: Block, protocol: Protocol, every: bool) -> list[Column]:
  """The columns of the headline table, or of the table of all configurations."""
  score = block.score
  plain, name = score == scores.ACCURACY, scores.label(score)
  in_points = " in points" if plain else ""
  out = [
    Column(protocol.score_name(score), text.score_meaning(protocol, block.scenario, score, block.sign),
           lambda x: _number(x.score, score), block.sign),
    Column("against baseline", f"difference to the baseline{in_points}; corrected p-value, see below",
           _tested(every, score)),
    Column("time a seed", "training and evaluation of one seed, its share of the population that ran together",
           lambda x: _cost(x.run.seconds, text.seconds(x.run.seconds)), -1, False),
    Column("kept", "bytes the method keeps between tasks, beside the model",
           lambda x: _cost(x.run.state_bytes, text.kept(x.run.state_bytes)), -1, False),
    Column("seeds", "number of seeds", lambda x: Cell(str(len(x.run.seeds)), len(x.run.seeds))),
  ]  # fmt: skip
  known = {k for x in block.lines for k in x.run.values}
  more = [
    ("task_acc", "task-masked", "ACC where only the classes of the row's task compete", 1),
    ("average_incremental_accuracy", "AIA", "average incremental accuracy: mean over events, of tasks so far", 1),
    ("acc_over_rows", "ACC over rows", "ACC where each test row of the tasks seen counts once, not each task", 1),
    (
      "average_incremental_accuracy_over_rows",
      "AIA over rows",
      "AIA where each test row counts once, not each task",
      1,
    ),
    ("forgetting", "forgetting", "mean fall from each task's best accuracy to its last", -1),
    ("wc_acc", "WC-ACC", "worst-case accuracy: the last task now, the others at their worst inside later tasks", 1),
  ]
  if every:
    more += [
      ("min_acc", "min-ACC", "mean over old tasks of their worst accuracy since they were learned", 1),
      ("bwt", "BWT", "backward transfer", 1),
      ("fwt", "FWT", "forward transfer", 1),
      ("never_learned", "never learned", "accuracy on tasks that no event learns", 0),
    ]
  if protocol.first_tasks is not None:
    more.insert(
      0, ("acc", f"{'ACC' if plain else name} all tasks", "test accuracy after the last task, over all tasks", 1)
    )
  if not plain:  # what is a change is so signed that forgetting is above 0 where it got worse
    changes = ("forgetting", "bwt", "fwt")
    names = {"accuracy": name, "AIA": f"{name} over events", "min-": "worst ", "WC-": "worst-case ", "ACC": name}
    worded = lambda words: functools.reduce(lambda said, old: said.replace(old, names[old]), names, words)
    more = [(k, worded(h), worded(w), way if k in changes else block.sign * way) for k, h, w, way in more]
  meaning = {"forget": f"{name} on the rows to forget, after that event", "retain": f"{name} on the rows kept"}
  asked = [(k, k.split(" ")) for k in sorted(known) if " " in k]
  more = [(k, f"{what}, event {at}", meaning[what], 0) for k, (what, at) in asked] + more
  out += [_metric(*m, score) for m in more if m[0] in known]
  out += _others(block) + _evaluated(block)
  if any(not math.isnan(x.validation.mean) for x in block.lines):
    when = "" if protocol.first_tasks is None else f" after {protocol.first_tasks}"
    hint = f"{name} on held-out training rows" + (when and f" of the first {protocol.first_tasks} tasks") + "; selects"
    out.append(Column(f"validation{when}", hint, lambda x: _number(x.validation, score)))
  if every:
    out.append(Column("compile", "compilation of the program; a persistent cache shortens it",
                      lambda x: _cost(x.run.compile_seconds, text.seconds(x.run.compile_seconds))))  # fmt: skip
  return out


def _tested(every: bool, score: str) -> Callable[[Line], Cell]:
  def cell(line: Line) -> Cell:
    test = line.test_all if every else line.test
    shown = "baseline" if line.baseline else text.against(test, score)
    return Cell(shown, test.difference if test else 0.0 if line.baseline else None, text.explained(test, line))

  return cell


class Heading(NamedTuple):
  """Sorts its column: ``first``, the order of the first click; ``order``, the one that the table has."""

  name: str
  hint: str
  first: str
  order: str = ""


def _table(label: str, kind: str, headings: Sequence[Heading], order: str, rows: Sequence[Any], caption: str) -> str:
  """``rows`` have a name, tags, a flag and cells; the table stands in the ``order`` of its second column."""
  headings = [h._replace(order=order if i == 1 else "") for i, h in enumerate(headings)]
  return render("table", label=label, kind=kind, headings=headings, rows=rows, caption=caption)


def table(block: Block, protocol: Protocol, every: bool) -> str:
  lines = block.lines if every else block.shown
  spec = columns(block, protocol, every)
  cells = [[c.cell(x) for c in spec] for x in lines]
  forgets = any(x.run.forgets for x in lines)  # then no accuracy alone says who is best
  best = [
    _best([row[i] for row in cells], lines, c.better, every) if c.bold and not forgets else set()
    for i, c in enumerate(spec)
  ]
  rows = []
  for n, (line, row) in enumerate(zip(lines, cells, strict=True)):
    bad = sum(not a for a in line.run.alive)
    rows.append({
      "name": line.run.label,
      "tags": [t for t, there in (("selected", line.choice and every), ("baseline", line.baseline)) if there],
      "flag": f"{bad} of {len(line.run.alive)} diverged" if bad else "",
      "cells": [{**cell._asdict(), "best": n in best[i]} for i, cell in enumerate(row)],
    })  # fmt: skip
  names = [Heading("configuration" if every else "method", "name and what sets it apart", "ascending")]
  names += [Heading(c.heading, c.hint, "ascending" if c.better < 0 else "descending") for c in spec]
  told = "Accuracies in %"
  if block.score != scores.ACCURACY:
    told = "Accuracies in %, other scores as they are" if any(x.run.others for x in lines) else "Scores"
  caption = f"{told}, mean ± standard error over seeds" + ("." if forgets else "; the best of a column is bold.")
  if every:
    caption += " P-values are corrected over all configurations of this table."
  label = f"{block.name}: {'all configurations' if every else 'comparison'}"
  return _table(label, "every" if every else "chosen", names, "descending", rows, caption)


def _best(cells: Sequence[Cell], lines: Sequence[Line], better: int, every: bool) -> set[int]:
  """The rows with the best value, if they are not all alike.

  Diverged runs cannot be it; in the headline table neither can what was not selected: test accuracy must not choose.
  """
  able = {i: c.value for i, (c, x) in enumerate(zip(cells, lines, strict=True))
          if isinstance(c.value, float) and all(x.run.alive) and (x.selected or every)}  # fmt: skip
  if not better or len(set(able.values())) < 2:
    return set()
  top = max(better * v for v in able.values())
  return {i for i, v in able.items() if better * v == top}


def matrices(block: Block) -> str:
  """The score matrices of every run that has one, each folded; empty where none has."""
  runs = []
  for x in block.lines:
    run = x.run
    if run.matrix is None:
      continue
    panels = [_matrix(run.matrix.mean(0), run, f"{run.scenario or scores.label(run.score)}", run.score)]
    panels += [_matrix(m.mean(0), run, scores.label(n), n) for n, m in run.others.items()]
    panels += [
      _matrix(m.mean(0), run, f"evaluator {n.partition('/')[0]}", evaluations.metric(n))
      for n, m in run.evaluations.items()
    ]
    if run.task_matrix is not None:
      panels.append(_matrix(run.task_matrix.mean(0), run, "task-masked"))
    score = f"{text.shown(x.score, run.score)}{scores.unit(run.score, ' ')}"
    tag = "selected" if x.choice else ""
    runs.append({"label": run.label, "opened": x is block.winner, "tag": tag, "score": score, "panels": panels})
  return render("matrices", runs=runs) if runs else ""


def _mixed(values, low: float, high: float) -> np.ndarray:
  """``[..., 3]`` of 0 to 255: white at ``low`` to blue at ``high``."""
  share = np.nan_to_num(np.clip((np.asarray(values) - low) / ((high - low) or 1), 0, 1))[..., None]
  return np.round(255 + (np.asarray([0, 75, 135]) - 255) * share).astype(np.uint8)


def _shade(value: float, low: float = 0, high: float = 100) -> str:
  """Background and ink of a cell, the ink with enough contrast."""
  if math.isnan(value):
    return "background:#eee;color:#333"
  dark = (value - low) / ((high - low) or 1) > 0.55
  return f"background:rgb({','.join(map(str, _mixed(value, low, high)))});color:{'#fff' if dark else '#111'}"


def task_name(run: Run, task: int) -> str:
  """A task's number, with its name where it has one."""
  return f"{task} {run.tasks[task]}" if task < len(run.tasks) else str(task)


def _matrix(matrix: np.ndarray, run: Run, heading: str, score: str = scores.ACCURACY) -> dict[str, Any]:
  """``[E+1, T]`` as a table with the number in each cell, or as a picture where there are too many."""
  plain, name = score == scores.ACCURACY, scores.label(score)
  values = 100 * matrix if plain else matrix
  low, high = span(score, matrix)
  wide = 0 < RATIO * low < high  # else one cell alone would have a colour
  shade, ends = (np.log(values), (math.log(low), math.log(high))) if wide else (values, (low, high))
  unit = " %" if plain else ""
  over = "1 seed" if len(run.seeds) == 1 else f"mean over {len(run.seeds)} seeds"
  title = f"{heading}, test {name}{' in %' if plain else ''}, {over}"
  rows, count = values.shape
  if rows > MOST_CELLS + 1 or count > MOST_CELLS:
    scale = max(1, min(12, 500 // max(rows, count)))
    said = f"{name} matrix of {run.label}: {rows} rows, one after each event, {count} tasks; the last row has "
    said += f"mean {scores.number(score, np.nanmean(matrix[-1]))}{unit}"
    legend = f"Rows: after each event, from before the first one. Columns: tasks. White is {low:.4g}, blue "
    legend += f"{high:.4g}{unit}{', by their logarithms' * wide}."
    picture = base64.b64encode(_png(shade, *ends)).decode()
    return {
      "title": title, "said": said, "legend": legend, "picture": picture, "width": count * scale, "height": rows * scale
    }  # fmt: skip
  cell = lambda v: "" if math.isnan(v) else f"{v:.0f}" if plain or 1000 <= abs(v) < 10**6 else f"{v:.3g}"
  body = [
    (name, [(cell(v), _shade(at, *ends)) for v, at in zip(row, colours, strict=True)])
    for name, row, colours in zip(_event_names(run.events), values, shade, strict=True)
  ]
  return {"title": title, "picture": "", "tasks": [task_name(run, t) for t in range(count)], "rows": body}


def _png(values: np.ndarray, low: float = 0, high: float = 100) -> bytes:
  """One pixel a cell, in the colours of :func:`_shade`."""
  out = io.BytesIO()
  _pyplot().imsave(out, _mixed(values, low, high), format="png")
  return out.getvalue()


def best_mean(ranked: Sequence[Ranked], i: int, sign: int) -> float:
  """The best mean on the ``i``-th stream."""
  return sign * max((sign * s.mean for r in ranked if (s := r.scores[i])), default=math.nan)


def ranking_table(ranked: Sequence[Ranked], blocks: Sequence[Block]) -> str:
  first_click = lambda b: "descending" if b.sign > 0 else "ascending"
  names = [
    Heading("method", "its selected configuration on each stream", "ascending"),
    Heading("average rank", RANKING, "ascending"),
    Heading("mean score", "over streams", first_click(blocks[0])),
    Heading("against baseline", "paired over seeds, averaged over streams", "descending"),
  ]
  names += [Heading(b.name, "score on this stream", first_click(b)) for b in blocks]
  score = blocks[0].score
  top = [best_mean(ranked, i, b.sign) for i, b in enumerate(blocks)]
  first = min((r.rank for r in ranked if not math.isnan(r.rank)), default=math.nan)
  number = lambda value: None if value is None or math.isnan(value) else value
  rows = []
  for r in ranked:
    against = "baseline" if r.baseline else text.against(r.test, score)
    cells = [
      (text.NONE if math.isnan(r.rank) else f"{r.rank:.2f}", number(r.rank), r.rank == first),
      (text.shown(r.mean, score), number(r.mean.mean), False),
      (against, r.test.difference if r.test else 0 if r.baseline else None, False),
    ]
    cells += [(text.shown(s, b.score), None if s is None else s.mean, s is not None and s.mean == t)
              for s, t, b in zip(r.scores, top, blocks, strict=True)]  # fmt: skip
    named = [{"shown": shown, "value": value, "tip": "", "best": best} for shown, value, best in cells]
    rows.append({"name": r.title, "tags": [], "flag": "", "cells": named})
  unit = " in %" if text.only_accuracy(blocks) else ""
  caption = f"Scores{unit}, mean ± standard error over seeds. {RANKING}"
  return _table("Ranking over streams", "ranking", names, "ascending", rows, caption)
