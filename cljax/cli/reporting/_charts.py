"""The charts of a report: scores over events, cost against score, the stability gap."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from cljax.cli.reporting import _svg as svg
from cljax.cli.reporting import _text as text
from cljax.cli.reporting._data import Run
from cljax.cli.reporting._plots import _event_names
from cljax.cli.reporting._table import Block, Line, Protocol
from cljax.cli.reporting._templates import render
from cljax.evaluation import scores

MOST = 20  # configurations in a chart


def _figure(chart: str, caption: str) -> str:
  return render("figure", chart=_drawn(chart), caption=caption)


def _drawn(picture: str):
  """A picture of :mod:`cljax.cli.reporting._svg`, whose words are escaped there."""
  from markupsafe import Markup

  return Markup(picture)


def scaled(score: str, values):
  """In percent where it is accuracy."""
  return 100 * values if score == scores.ACCURACY else values


def so_far(run: Run, score: str = "") -> np.ndarray:
  """``[S, E]``: mean of a score (default: the main one) over the tasks learned so far, after each event."""
  matrix = run.others.get(score, run.matrix)
  assert matrix is not None
  met: list[int] = []
  out = []
  for row, event in enumerate(run.events, 1):
    if event["kind"] == "learn" and event["task"] not in met:
      met.append(event["task"])
    out.append(matrix[:, row, met].mean(-1) if met else np.full(len(matrix), np.nan))
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
    others = dict.fromkeys(n for x in kin for n in x.run.others)
    parts += [_over_events(block, kin, place, name) for name in (block.score, *others)]
  curved = [x for x in kin if x.run.curves is not None and len(x.run.curves.event) > len(events)]
  if curved:
    parts.append(_gap(block, curved, place))
  plain = block.score == scores.ACCURACY
  score = protocol.score_name(block.score) + scores.unit(block.score)
  good = "Up" if block.sign > 0 else "Down"
  costs = (
    ("seconds", "training and evaluation of a seed", lambda x: x.run.seconds, text.seconds, 10),
    ("kept bytes", "kept between tasks", lambda x: x.run.state_bytes, text.kept, 2),
  )
  for name, label, cost, show, base in costs:
    points = [
      svg.Point(place[x.run.label], x.run.label, cost(x), *(scaled(block.score, v) for v in x.score))
      for x in lines
      if not math.isnan(cost(x) + x.score.mean)
    ]
    if points:
      said = f"{block.name}: {name} against {protocol.score_name(block.score)}"
      parts.append(_figure(
        svg.scatter(points, label, score, said, show, base, plain),
        f"Cost against {scores.label(block.score)}: {name}, logarithmic. {good} and to the left is better.",
      ))  # fmt: skip
  more = "" if len(block.shown) <= MOST else f"Charts show the first {MOST} of the table."
  legend = [(x.run.label, _drawn(svg.swatch(n))) for n, x in enumerate(lines)]
  return render("charts", more=more, legend=legend, figures=parts) if parts else ""


def _over_events(block: Block, lines: Sequence[Line], place: Mapping[str, int], score: str) -> str:
  """A score, the main one or another, on the tasks so far after each event."""
  events, series = lines[0].run.events, []
  for x in lines:
    if score not in x.run.others and score != block.score:
      continue
    values = scaled(score, so_far(x.run, score))
    series.append(
      svg.Series(place[x.run.label], x.run.label, np.arange(values.shape[1]), values.mean(0), _stderr(values))
    )
  learning = all(e["kind"] == "learn" for e in events)
  after = "after learning task" if learning else "after learning task, or event"
  name = scores.label(score)
  said = f"{block.name}: {name} on the tasks so far, after each event"
  label = f"{name} on tasks so far{scores.unit(score)}"
  lower = ", lower is better" if any(x.run.better.get(score) == "lower" for x in lines) else ""
  return _figure(
    svg.lines(series, after, label, said, _event_names(events)[1:], percent=score == scores.ACCURACY),
    f"{name.capitalize()} over events{lower}: mean over the tasks learned so far, ± standard error over seeds.",
  )


def _gap(block: Block, lines: Sequence[Line], place: Mapping[str, int]) -> str:
  """The main score on the first task at every evaluation, the stability gap where it gets worse and comes back."""
  name, unit = scores.label(block.score), scores.unit(block.score)
  first = next(e["task"] for e in lines[0].run.events if e["kind"] == "learn")
  series, borders, widest = [], [], 0
  for x in lines:
    c = x.run.curves
    assert c is not None
    steps, values = svg.thin(c.total, scaled(block.score, c.accuracy[:, :, first].mean(0)), block.sign)
    series.append(svg.Series(place[x.run.label], x.run.label, steps, values))
    borders = [int(c.total[c.event == e].max()) for e in np.unique(c.event)][:-1]
    widest = max(widest, int(np.diff(c.total).max()))
  said = f"{block.name}: {name} on task {first} while later tasks are learned"
  step, label = "optimizer step (dotted: a new event)", f"{name} on task {first}{unit}"
  return _figure(
    svg.lines(series, step, label, said, borders=borders, percent=bool(unit)),
    f"Stability gap: {name} on task {first}, the first one learned, at every evaluation (at most {widest} steps "
    "apart; shorter falls stay unseen), mean over seeds.",
  )
