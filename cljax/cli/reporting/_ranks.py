"""The critical-difference picture of a report over several streams (Demsar, JMLR 2006)."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence

import numpy as np

from cljax.cli.reporting._plots import _pyplot, _save
from cljax.cli.reporting._templates import render
from cljax.evaluation.ranks import Ranks

PICTURE = "ranks.png"


def text(found: Ranks | None) -> list[str]:
  """The mean ranks, Friedman's p and the critical difference, a line each."""
  if found is None:
    return ["No ranks are tested: it takes two methods that stand on every stream."]
  wide = max(map(len, found.names))
  out = [f"Mean ranks over {found.streams} streams, 1 is best"]
  out += [f"  {name:{wide}}  {rank:.2f}" for name, rank in zip(found.names, found.ranks, strict=True)]
  return [*out, *said(found)]


def said(found: Ranks) -> list[str]:
  """What the tests say, in sentences."""
  count, apart = len(found.names), int((found.pairs[np.triu_indices(len(found.names), 1)] < found.alpha).sum())
  test = "Friedman's test takes three methods or more."
  if not math.isnan(found.p):
    p = "p < 0.001" if found.p < 0.001 else f"p = {found.p:.3f}"
    test = f"Friedman: chi2({count - 1}) = {found.chi2:.2f}, {p}" + (
      ", so nothing is told apart." if found.p >= found.alpha else "."
    )
  pairs = count * (count - 1) // 2
  return [
    test,
    f"Nemenyi: the critical difference of two mean ranks is {found.difference:.2f} at {found.alpha:g}; {apart} of "
    f"{pairs} pair{'s' * (pairs > 1)} differ{'s' * (apart == 1)} by more."
    + (" With so few streams or methods p is rough." if found.streams < 10 or count < 5 else ""),
  ]


def title(found: Ranks) -> str:
  """Above the picture."""
  p = "" if math.isnan(found.p) else ", Friedman p < 0.001" if found.p < 0.001 else f", Friedman p = {found.p:.3f}"
  return f"Mean ranks over {found.streams} streams{p}"


def section(found: Ranks | None) -> str:
  """The same for the page, with the picture in it."""
  if found is None:
    return render("ranks", picture="", said="", told=text(None)[0])
  content = io.BytesIO()
  _figure(found, title(found)).savefig(content, format="png", dpi=120, bbox_inches="tight")
  _pyplot().close("all")
  source = base64.b64encode(content.getvalue()).decode()
  ranks = "; ".join(f"{name} {rank:.2f}" for name, rank in zip(found.names, found.ranks, strict=True))
  told = f"{' '.join(said(found))} Bars join what is not told apart."
  return render("ranks", picture=source, said=f"{title(found)}: {ranks}", told=told)


def draw(found: Ranks, path, title: str = "") -> None:
  """Writes the picture of :func:`_figure`."""
  _save(_figure(found, title), path)


def _figure(found: Ranks, title: str):
  """The critical-difference picture: an axis of mean ranks, the best at the left, each method on a line of its own,
  bars over those that are not told apart, and the critical difference above."""
  count = len(found.names)
  left = (count + 1) // 2  # the better half stands at the left
  lines = max(left, count - left)
  row, top = 0.27, 0.78 + 0.27 * bool(title)
  axis = 5.2
  place = lambda rank: axis * (rank - 1) / max(count - 1, 1)
  spans = [(place(found.ranks[a]) - 0.05, place(found.ranks[b]) + 0.05) for a, b in found.groups]
  levels = _levels(spans)
  bars = 0.13 * (max(levels, default=-1) + 1) + 0.16
  widest = max(len(name) for name in found.names)
  margin = max(1.2, 0.085 * widest + 0.85)
  width, height = axis + 2 * margin, top + bars + row * lines + 0.2
  figure = _pyplot().figure(figsize=(width, height))
  plane = figure.add_axes((0, 0, 1, 1))
  plane.set_xlim(0, width)
  plane.set_ylim(height, 0)
  plane.axis("off")
  at = lambda rank: margin + place(rank)
  thin = {"color": "#1c2733", "linewidth": 1.0, "solid_capstyle": "butt"}
  plane.plot([at(1), at(count)], [top, top], **thin)
  step = max(1, -(-count // 12))
  for rank in range(1, count + 1):
    named = (rank - 1) % step == 0 or rank == count
    plane.plot([at(rank)] * 2, [top - (0.08 if named else 0.04), top], **thin)
    if named and (rank == count or count - rank >= step / 2):
      plane.text(at(rank), top - 0.11, str(rank), ha="center", va="bottom", fontsize=9)
  wide = axis * found.difference / max(count - 1, 1)
  above = top - 0.42
  if wide <= axis:
    plane.plot([margin, margin + wide], [above, above], **thin)
    for x in (margin, margin + wide):
      plane.plot([x, x], [above - 0.04, above + 0.04], **thin)
    plane.text(margin + wide + 0.08, above, f"CD = {found.difference:.2f}", ha="left", va="center", fontsize=9)
  else:  # nothing can be told apart
    plane.text(margin, above, f"CD = {found.difference:.2f}, more than there are ranks", va="center", fontsize=9)
  for (first, last), level in zip(spans, levels, strict=True):
    y = top + 0.12 + 0.13 * level
    plane.plot([margin + first, margin + last], [y, y], color="#0060a8", linewidth=3.2, solid_capstyle="round")
  for i, (name, rank) in enumerate(zip(found.names, found.ranks, strict=True)):
    better = i < left
    line = i if better else count - 1 - i
    y = top + bars + row * (line + 0.5)
    edge = margin - 0.18 if better else width - margin + 0.18
    plane.plot([at(rank), at(rank), edge], [top, y, y], **{**thin, "linewidth": 0.8})
    text = f"{name}  {rank:.2f}" if better else f"{rank:.2f}  {name}"
    plane.text(edge + (-0.06 if better else 0.06), y, text, ha="right" if better else "left", va="center", fontsize=9)
  if title:
    plane.text(width / 2, 0.1, title, ha="center", va="top", fontsize=10)
  return figure


def _levels(spans: Sequence[tuple[float, float]]) -> list[int]:
  """A level for each bar: those that would touch stand below one another, others beside."""
  ends: list[float] = []
  out = []
  for first, last in spans:
    level = next((n for n, end in enumerate(ends) if end + 0.15 < first), len(ends))
    ends[level : level + 1] = [last]
    out.append(level)
  return out
