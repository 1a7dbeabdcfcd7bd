"""The report as one HTML page that needs nothing else."""

from __future__ import annotations

import base64
import functools
import math
import struct
import zlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from cljax.cli.reporting import _text as text
from cljax.cli.reporting._data import Run
from cljax.cli.reporting._plots import MOST_CELLS, _event_names, span
from cljax.cli.reporting._svg import escape
from cljax.cli.reporting._table import RANKING, Block, Line, Protocol, Ranked, Summary, summarize
from cljax.evaluation import evaluations, scores


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


def _head(names: Sequence[tuple[str, str, str]], sorted_by: int, order: str) -> str:
  """Headings that sort: ``(name, hint, order of the first click)``."""
  out = []
  for i, (name, hint, first) in enumerate(names):
    now = f' aria-sort="{order}"' if i == sorted_by else ""
    out.append(
      f'<th scope="col" data-first="{first}"{now}><button type="button" title="{escape(hint)}">'
      f"{escape(name)}</button></th>"
    )
  return f"<thead><tr>{''.join(out)}</tr></thead>"


def _scroll(kind: str, inner: str, label: str, caption: str) -> str:
  """A table that scrolls in a box of its own, and a line below it."""
  table = f'<table class="sortable {kind}" aria-label="{escape(label)}">{inner}</table>'
  box = f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(label)}, scrolls sideways">{table}</div>'
  return f'{box}<p class="soft">{escape(caption)}</p>'


def table(block: Block, protocol: Protocol, every: bool) -> str:
  lines = block.lines if every else block.shown
  spec = columns(block, protocol, every)
  cells = [[c.cell(x) for c in spec] for x in lines]
  forgets = any(x.run.forgets for x in lines)  # then no accuracy alone says who is best
  best = [
    _best([row[i] for row in cells], lines, c.better, every) if c.bold and not forgets else set()
    for i, c in enumerate(spec)
  ]
  body = []
  for n, (line, row) in enumerate(zip(lines, cells, strict=True)):
    tags = " ".join(
      f'<span class="tag">{t}</span>'
      for t, there in (("selected", line.choice and every), ("baseline", line.baseline))
      if there
    )
    bad = sum(not a for a in line.run.alive)
    if bad:
      tags += f' <span class="flag">{bad} of {len(line.run.alive)} diverged</span>'
    name = escape(line.run.label)
    tds = []
    for i, cell in enumerate(row):
      tip = f' title="{escape(cell.tip)}"' if cell.tip else ""
      mark = ' class="best"' if n in best[i] else ""
      value = "" if cell.value is None else escape(cell.value)
      tds.append(f'<td data-value="{value}"{tip}{mark}>{escape(cell.shown)}</td>')
    body.append(f'<tr data-name="{name}"><th scope="row" data-value="{name}">{name} {tags}</th>{"".join(tds)}</tr>')
  names = [("configuration" if every else "method", "name and what sets it apart", "ascending")]
  names += [(c.heading, c.hint, "ascending" if c.better < 0 else "descending") for c in spec]
  told = "Accuracies in %"
  if block.score != scores.ACCURACY:
    told = "Accuracies in %, other scores as they are" if any(x.run.others for x in lines) else "Scores"
  caption = f"{told}, mean ± standard error over seeds" + ("." if forgets else "; the best of a column is bold.")
  if every:
    caption += " P-values are corrected over all configurations of this table."
  inner = f"{_head(names, 1, 'descending')}<tbody>{''.join(body)}</tbody>"
  kind = "every" if every else "chosen"
  return _scroll(kind, inner, f"{block.name}: {'all configurations' if every else 'comparison'}", caption)


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
  parts = []
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
    tag = ' <span class="tag">selected</span>' if x.choice else ""
    opened = " open" if x is block.winner else ""
    parts.append(
      f'<details data-name="{escape(run.label)}"{opened}><summary>{escape(run.label)}{tag}: '
      f"{text.shown(x.score, run.score)}{scores.unit(run.score, ' ')}</summary>"
      f'<div class="matrices">{"".join(panels)}</div></details>'
    )
  return "".join(parts)


def _shade(value: float, low: float = 0, high: float = 100) -> str:
  """Background and ink of a cell: white at ``low`` to blue at ``high``, the ink with enough contrast."""
  if math.isnan(value):
    return "background:#eee;color:#333"
  share = min(1.0, max(0.0, (value - low) / ((high - low) or 1)))
  mixed = [round(255 + (c - 255) * share) for c in (0, 75, 135)]
  return f"background:rgb({','.join(map(str, mixed))});color:{'#fff' if share > 0.55 else '#111'}"


def _matrix(matrix: np.ndarray, run: Run, heading: str, score: str = scores.ACCURACY) -> str:
  """``[E+1, T]`` as a table with the number in each cell, or as a picture where there are too many."""
  plain, name = score == scores.ACCURACY, scores.label(score)
  values = 100 * matrix if plain else matrix
  low, high = span(score, matrix)
  unit = " %" if plain else ""
  over = "1 seed" if len(run.seeds) == 1 else f"mean over {len(run.seeds)} seeds"
  title = f"<h3>{escape(heading)}, test {escape(name)}{' in %' if plain else ''}, {over}</h3>"
  rows, count = values.shape
  if rows > MOST_CELLS + 1 or count > MOST_CELLS:
    scale = max(1, min(12, 500 // max(rows, count)))
    said = f"{name} matrix of {run.label}: {rows} rows, one after each event, {count} tasks; the last row has "
    said += f"mean {scores.number(score, np.nanmean(matrix[-1]))}{unit}"
    source = base64.b64encode(_png(values, low, high)).decode()
    size = f'width="{count * scale}" height="{rows * scale}"'
    return (
      f'<div class="matrix">{title}<img alt="{escape(said)}" {size} src="data:image/png;base64,{source}">'
      '<p class="soft">Rows: after each event, from before the first one. Columns: tasks. White is '
      f"{low:.4g}, blue {high:.4g}{unit}.</p>"
      "</div>"
    )
  cell = lambda v: "" if math.isnan(v) else f"{v:.0f}" if plain else f"{v:.3g}"
  head = "".join(f'<th scope="col">{t}</th>' for t in range(count))
  body = "".join(
    f'<tr{" class=start" if i == 0 else ""}><th scope="row">{escape(name)}</th>'
    + "".join(f'<td style="{_shade(v, low, high)}">{cell(v)}</td>' for v in row)
    + "</tr>"
    for i, (name, row) in enumerate(zip(_event_names(run.events), values, strict=True))
  )
  head = f"<thead><tr><th>after \\ on task</th>{head}</tr></thead>"
  return f'<div class="matrix">{title}<table>{head}<tbody>{body}</tbody></table></div>'


def _png(values: np.ndarray, low: float = 0, high: float = 100) -> bytes:
  """One pixel a cell, in the colours of :func:`_shade`."""
  share = np.nan_to_num(np.clip((values - low) / ((high - low) or 1), 0, 1))[..., None]
  pixels = np.round(255 + (np.asarray([0, 75, 135]) - 255) * share).astype(np.uint8)
  raw = b"".join(b"\0" + row.tobytes() for row in pixels)
  chunk = lambda kind, data: (
    struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
  )  # fmt: skip
  header = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], 8, 2, 0, 0, 0)
  return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")


def best_mean(ranked: Sequence[Ranked], i: int, sign: int) -> float:
  """The best mean on the ``i``-th stream."""
  return sign * max((sign * s.mean for r in ranked if (s := r.scores[i])), default=math.nan)


def ranking_table(ranked: Sequence[Ranked], blocks: Sequence[Block]) -> str:
  first_click = lambda b: "descending" if b.sign > 0 else "ascending"
  names = [
    ("method", "its selected configuration on each stream", "ascending"),
    ("average rank", RANKING, "ascending"),
    ("mean score", "over streams", first_click(blocks[0])),
    ("against baseline", "paired over seeds, averaged over streams", "descending"),
  ]
  names += [(b.name, "score on this stream", first_click(b)) for b in blocks]
  score = blocks[0].score
  top = [best_mean(ranked, i, b.sign) for i, b in enumerate(blocks)]
  first = min((r.rank for r in ranked if not math.isnan(r.rank)), default=math.nan)
  body = []
  for r in ranked:
    cells = [
      (text.NONE if math.isnan(r.rank) else f"{r.rank:.2f}", "" if math.isnan(r.rank) else r.rank, r.rank == first),
      (text.shown(r.mean, score), "" if math.isnan(r.mean.mean) else r.mean.mean, False),
      (
        "baseline" if r.baseline else text.against(r.test, score),
        r.test.difference if r.test else 0 if r.baseline else "",
        False,
      ),
    ]
    cells += [(text.shown(s, b.score), "" if s is None else s.mean, s is not None and s.mean == t)
              for s, t, b in zip(r.scores, top, blocks, strict=True)]  # fmt: skip
    tds = "".join(
      f'<td data-value="{value}"{" class=best" if best else ""}>{escape(shown)}</td>' for shown, value, best in cells
    )
    name = escape(r.title)
    body.append(f'<tr data-name="{name}"><th scope="row" data-value="{name}">{name}</th>{tds}</tr>')
  inner = f"{_head(names, 1, 'ascending')}<tbody>{''.join(body)}</tbody>"
  unit = " in %" if text.only_accuracy(blocks) else ""
  caption = f"Scores{unit}, mean ± standard error over seeds. {RANKING}"
  return _scroll("ranking", inner, "Ranking over streams", caption)
