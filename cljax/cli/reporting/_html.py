"""The report as one HTML page that needs nothing else."""

from __future__ import annotations

import base64
import math
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from cljax.cli.reporting import _svg as svg
from cljax.cli.reporting import _text as text
from cljax.cli.reporting._data import Run
from cljax.cli.reporting._plots import MOST_CELLS, _event_names
from cljax.cli.reporting._svg import escape
from cljax.cli.reporting._table import RANKING, Block, Line, Protocol, Ranked, Summary, summarize

MOST = 20  # configurations in a chart


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


def _number(s: Summary) -> Cell:
  return Cell(text.percent(s), None if math.isnan(s.mean) else s.mean)


def _metric(key: str, heading: str, hint: str, better: int) -> Column:
  nothing = Summary(math.nan, math.nan)
  return Column(
    heading, hint, lambda x: _number(summarize(x.run.values[key]) if key in x.run.values else nothing), better
  )


def _cost(value: float, shown: str) -> Cell:
  return Cell(shown, None if math.isnan(value) else value)


def columns(block: Block, protocol: Protocol, every: bool) -> list[Column]:
  """The columns of the headline table, or of the table of all configurations."""
  out = [
    Column(protocol.score_name, text.score_meaning(protocol, block.scenario), lambda x: _number(x.score), 1),
    Column("against baseline", "difference to the baseline in points; corrected p-value, see below", _tested(every)),
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
    more.insert(0, ("acc", "ACC all tasks", "test accuracy after the last task, over all tasks", 1))
  meaning = {"forget": "accuracy on the rows to forget, after that event", "retain": "accuracy on the rows kept"}
  asked = [(k, k.split(" ")) for k in sorted(known) if " " in k]
  more = [(k, f"{what}, event {at}", meaning[what], 0) for k, (what, at) in asked] + more
  out += [_metric(*m) for m in more if m[0] in known]
  if any(not math.isnan(x.validation.mean) for x in block.lines):
    when = "" if protocol.first_tasks is None else f" after {protocol.first_tasks}"
    hint = "accuracy on held-out training rows" + (when and f" of the first {protocol.first_tasks} tasks") + "; selects"
    out.append(Column(f"validation{when}", hint, lambda x: _number(x.validation)))
  if every:
    out.append(Column("compile", "compilation of the program; a persistent cache shortens it",
                      lambda x: _cost(x.run.compile_seconds, text.seconds(x.run.compile_seconds))))  # fmt: skip
  return out


def _tested(every: bool) -> Callable[[Line], Cell]:
  def cell(line: Line) -> Cell:
    test = line.test_all if every else line.test
    shown = "baseline" if line.baseline else text.against(test)
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
  caption = "Accuracies in %, mean ± standard error over seeds" + (
    "." if forgets else "; the best of a column is bold."
  )
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


def _figure(chart: str, caption: str) -> str:
  return f"<figure>{chart}<figcaption>{escape(caption)}</figcaption></figure>"


def _legend(lines: Sequence[Line]) -> str:
  items = "".join(
    f'<li data-name="{escape(x.run.label)}">{svg.swatch(n)}{escape(x.run.label)}</li>' for n, x in enumerate(lines)
  )
  return f'<ul class="legend" aria-label="Legend">{items}</ul>'


def so_far(run: Run) -> np.ndarray:
  """``[S, E]``: mean accuracy over the tasks learned so far, after each event."""
  assert run.matrix is not None
  met: list[int] = []
  out = []
  for row, event in enumerate(run.events, 1):
    if event["kind"] == "learn" and event["task"] not in met:
      met.append(event["task"])
    out.append(run.matrix[:, row, met].mean(-1) if met else np.full(len(run.matrix), np.nan))
  return np.stack(out, 1)


def _stderr(values: np.ndarray) -> np.ndarray:
  return values.std(0, ddof=1) / math.sqrt(len(values)) if len(values) > 1 else np.full(values.shape[1], np.nan)


def charts(block: Block, protocol: Protocol) -> str:
  lines = block.shown[:MOST]
  place = {x.run.label: n for n, x in enumerate(lines)}
  parts = []
  drawn = [x for x in lines if x.run.matrix is not None]
  events = drawn[0].run.events if drawn else ()
  kin = [x for x in drawn if x.run.events == events]
  if kin:
    names = _event_names(events)[1:]
    series = []
    for x in kin:
      values = 100 * so_far(x.run)
      series.append(
        svg.Series(place[x.run.label], x.run.label, np.arange(values.shape[1]), values.mean(0), _stderr(values))
      )
    learning = all(e["kind"] == "learn" for e in events)
    after = "after learning task" if learning else "after learning task, or event"
    said = f"{block.name}: accuracy on the tasks so far, after each event"
    parts.append(_figure(
      svg.lines(series, after, "accuracy on tasks so far, %", said, names),
      "Accuracy over events: mean over the tasks learned so far, ± standard error over seeds.",
    ))  # fmt: skip
  curved = [x for x in kin if x.run.curves is not None and len(x.run.curves.event) > len(events)]
  if curved:
    parts.append(_gap(block, curved, place))
  score = f"{protocol.score_name}, %"
  costs = (
    ("seconds", "training and evaluation of a seed", lambda x: x.run.seconds, text.seconds, 10),
    ("kept bytes", "kept between tasks", lambda x: x.run.state_bytes, text.kept, 2),
  )
  for name, label, cost, show, base in costs:
    points = [
      svg.Point(place[x.run.label], x.run.label, cost(x), 100 * x.score.mean, 100 * x.score.stderr)
      for x in lines
      if not math.isnan(cost(x) + x.score.mean)
    ]
    if points:
      said = f"{block.name}: {name} against {protocol.score_name}"
      parts.append(_figure(
        svg.scatter(points, label, score, said, show, base),
        f"Cost against accuracy: {name}, logarithmic. Up and to the left is better.",
      ))  # fmt: skip
  more = "" if len(block.shown) <= MOST else f'<p class="soft">Charts show the first {MOST} of the table.</p>'
  return f'{more}{_legend(lines)}<div class="charts">{"".join(parts)}</div>' if parts else ""


def _gap(block: Block, lines: Sequence[Line], place: Mapping[str, int]) -> str:
  """Accuracy on the first task at every evaluation, the stability gap where it falls and comes back."""
  first = next(e["task"] for e in lines[0].run.events if e["kind"] == "learn")
  series, borders, widest = [], [], 0
  for x in lines:
    c = x.run.curves
    assert c is not None
    steps, values = svg.thin(c.total, 100 * c.accuracy[:, :, first].mean(0))
    series.append(svg.Series(place[x.run.label], x.run.label, steps, values))
    borders = [int(c.total[c.event == e].max()) for e in np.unique(c.event)][:-1]
    widest = max(widest, int(np.diff(c.total).max()))
  said = f"{block.name}: accuracy on task {first} while later tasks are learned"
  return _figure(
    svg.lines(series, "optimizer step (dotted: a new event)", f"accuracy on task {first}, %", said, borders=borders),
    f"Stability gap: accuracy on task {first}, the first one learned, at every evaluation (at most {widest} steps "
    "apart; shorter falls stay unseen), mean over seeds.",
  )


def matrices(block: Block) -> str:
  parts = []
  for x in block.lines:
    run = x.run
    if run.matrix is None:
      continue
    panels = [_matrix(run.matrix.mean(0), run, f"{run.scenario or 'accuracy'}")]
    if run.task_matrix is not None:
      panels.append(_matrix(run.task_matrix.mean(0), run, "task-masked"))
    tag = ' <span class="tag">selected</span>' if x.choice else ""
    opened = " open" if x is block.winner else ""
    parts.append(
      f'<details data-name="{escape(run.label)}"{opened}><summary>{escape(run.label)}{tag}: '
      f'{text.percent(x.score)} %</summary><div class="matrices">{"".join(panels)}</div></details>'
    )
  return "".join(parts)


def _shade(value: float) -> str:
  """Background and ink of a cell in percent: white to blue, the ink with enough contrast."""
  if math.isnan(value):
    return "background:#eee;color:#333"
  share = min(1.0, max(0.0, value / 100))
  mixed = [round(255 + (c - 255) * share) for c in (0, 75, 135)]
  return f"background:rgb({','.join(map(str, mixed))});color:{'#fff' if share > 0.55 else '#111'}"


def _matrix(matrix: np.ndarray, run: Run, heading: str) -> str:
  """``[E+1, T]`` as a table with the number in each cell, or as a picture where there are too many."""
  percent = 100 * matrix
  over = "1 seed" if len(run.seeds) == 1 else f"mean over {len(run.seeds)} seeds"
  title = f"<h3>{escape(heading)}, test accuracy in %, {over}</h3>"
  rows, count = percent.shape
  if rows > MOST_CELLS + 1 or count > MOST_CELLS:
    scale = max(1, min(12, 500 // max(rows, count)))
    said = f"accuracy matrix of {run.label}: {rows} rows, one after each event, {count} tasks; the last row has "
    said += f"mean {np.nanmean(percent[-1]):.1f} %"
    source = base64.b64encode(_png(percent)).decode()
    size = f'width="{count * scale}" height="{rows * scale}"'
    return (
      f'<div class="matrix">{title}<img alt="{escape(said)}" {size} src="data:image/png;base64,{source}">'
      '<p class="soft">Rows: after each event, from before the first one. Columns: tasks. White is 0, blue 100 %.</p>'
      "</div>"
    )
  head = "".join(f'<th scope="col">{t}</th>' for t in range(count))
  body = "".join(
    f'<tr{" class=start" if i == 0 else ""}><th scope="row">{escape(name)}</th>'
    + "".join(f'<td style="{_shade(v)}">{"" if math.isnan(v) else f"{v:.0f}"}</td>' for v in row)
    + "</tr>"
    for i, (name, row) in enumerate(zip(_event_names(run.events), percent, strict=True))
  )
  head = f"<thead><tr><th>after \\ on task</th>{head}</tr></thead>"
  return f'<div class="matrix">{title}<table>{head}<tbody>{body}</tbody></table></div>'


def _png(percent: np.ndarray) -> bytes:
  """One pixel a cell, in the colours of :func:`_shade`."""
  share = np.nan_to_num(np.clip(percent / 100, 0, 1))[..., None]
  pixels = np.round(255 + (np.asarray([0, 75, 135]) - 255) * share).astype(np.uint8)
  raw = b"".join(b"\0" + row.tobytes() for row in pixels)
  chunk = lambda kind, data: (
    struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
  )  # fmt: skip
  header = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], 8, 2, 0, 0, 0)
  return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")


def ranking_table(ranked: Sequence[Ranked], blocks: Sequence[Block]) -> str:
  names = [
    ("method", "its selected configuration on each stream", "ascending"),
    ("average rank", RANKING, "ascending"),
    ("mean score", "over streams", "descending"),
    ("against baseline", "paired over seeds, averaged over streams", "descending"),
  ]
  names += [(b.name, "score on this stream", "descending") for b in blocks]
  top = [max((s.mean for r in ranked if (s := r.scores[i])), default=math.nan) for i in range(len(blocks))]
  first = min((r.rank for r in ranked if not math.isnan(r.rank)), default=math.nan)
  body = []
  for r in ranked:
    cells = [
      (text.NONE if math.isnan(r.rank) else f"{r.rank:.2f}", "" if math.isnan(r.rank) else r.rank, r.rank == first),
      (text.percent(r.mean), "" if math.isnan(r.mean.mean) else r.mean.mean, False),
      (
        "baseline" if r.baseline else text.against(r.test),
        r.test.difference if r.test else 0 if r.baseline else "",
        False,
      ),
    ]
    cells += [(text.percent(s), "" if s is None else s.mean, s is not None and s.mean == t)
              for s, t in zip(r.scores, top, strict=True)]  # fmt: skip
    tds = "".join(
      f'<td data-value="{value}"{" class=best" if best else ""}>{escape(shown)}</td>' for shown, value, best in cells
    )
    name = escape(r.title)
    body.append(f'<tr data-name="{name}"><th scope="row" data-value="{name}">{name}</th>{tds}</tr>')
  inner = f"{_head(names, 1, 'ascending')}<tbody>{''.join(body)}</tbody>"
  caption = f"Scores in %, mean ± standard error over seeds. {RANKING}"
  return _scroll("ranking", inner, "Ranking over streams", caption)
