"""The picture of a table of parity: published against measured, with the line where they are equal."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cljax.cli.reporting import _plots

COLORS = {"agrees": "#0060a8", "differs": "#c04000"}


def draw(content: Mapping[str, Any], path) -> None:
  """Writes the picture: both error bars are one standard error of the mean. Settings without a published value stand
  below, by what was measured."""
  pyplot = _plots._pyplot()
  rows = [r for r in content["rows"] if r["mean"] is not None]
  both = [r for r in rows if r["published"] is not None]
  lone = [r for r in rows if r["published"] is None]
  heights = [5.6] * bool(both) + [0.9 + 0.26 * len(lone)] * bool(lone)
  if not heights:
    return
  figure = pyplot.figure(figsize=(6.4, 0.5 + sum(heights)), layout="constrained")
  axes = list(figure.subplots(len(heights), 1, squeeze=False, height_ratios=heights).ravel())
  if both:
    _against(axes[0], both)
  if lone:
    _alone(axes[-1], lone)
  figure.suptitle(f"{content['benchmark']}: mean accuracy after the last task, %")
  _plots._save(figure, path)


def together(contents: Sequence[Mapping[str, Any]], path) -> None:
  """Writes the picture of several benchmarks, a mark for each; its colour is the verdict."""
  pyplot = _plots._pyplot()
  figure, axis = pyplot.subplots(figsize=(6.4, 6.0), layout="constrained")
  axis.plot([0, 100], [0, 100], color="#8a96a3", linewidth=1, zorder=1)
  seen: set[str] = set()
  for content, mark in zip(contents, itertools.cycle("os^Dvp<>*X"), strict=False):
    rows = [r for r in content["rows"] if r["mean"] is not None and r["published"] is not None]
    for row in rows:
      color = COLORS.get(row["verdict"].partition(",")[0], "#6b7885")
      axis.errorbar(
        row["published"]["mean"], row["mean"], xerr=_error(row["published"]), yerr=row["stderr"] or 0.0, fmt=mark,
        markersize=5, capsize=2, color=color, zorder=2,
      )  # fmt: skip
      seen.add(row["verdict"].partition(",")[0])
    if rows:
      axis.plot([], [], mark, color="#5a6673", label=content["benchmark"])
  for word in sorted(seen):
    axis.plot([], [], "s", color=COLORS.get(word, "#6b7885"), label=word)
  axis.set(xlabel="published", ylabel="cljax", xlim=(0, 102), ylim=(0, 102), aspect="equal")
  axis.set_title("Mean accuracy after the last task, %; bars: one standard error", fontsize=10)
  axis.grid(alpha=0.3)
  axis.legend(fontsize=8, loc="upper left")
  _plots._save(figure, path)


def _error(number: Mapping[str, Any]) -> float:
  known = number["deviation"] is not None and number["runs"]
  return number["deviation"] / np.sqrt(number["runs"]) if known else 0.0


def _short(row: Mapping[str, Any]) -> str:
  return row["preset"].partition("/")[2]


def limits(rows) -> tuple[float, float]:
  """The ends of both axes: all points with their bars, and room for names beside them."""
  bars = [(r["published"]["mean"], _error(r["published"])) for r in rows] + [
    (r["mean"], r["stderr"] or 0) for r in rows
  ]
  low, high = min(v - e for v, e in bars), max(v + e for v, e in bars)
  room = 0.2 * max(high - low, 4.0)
  return low - room, high + room


def _away(a: float, b: float, below: bool, point: float, named: list[tuple[float, float]]) -> int:
  """How many points a name stands from its mark, so that it lies upon none of ``named``, which it joins; ``point`` is
  about a point of the page in the values' unit."""
  side = 1 if below else -1
  at = lambda away: (a + 30 * side * point, b - away * side * point)
  near = lambda p: any(abs(p[0] - q[0]) < 60 * point and abs(p[1] - q[1]) < 9 * point for q in named)
  away = next((n for n in range(7, 70, 3) if not near(at(n))), 7)
  named.append(at(away))
  return away


def _against(axis, rows) -> None:
  x = [r["published"]["mean"] for r in rows]
  y = [r["mean"] for r in rows]
  ends = limits(rows)
  axis.plot(ends, ends, color="#8a96a3", linewidth=1, zorder=1)
  seen: set[str] = set()
  named: list[tuple[float, float]] = []
  for row, a, b in zip(rows, x, y, strict=True):
    first = row["verdict"].partition(",")[0]
    word = first if first in COLORS else "not judged"
    axis.errorbar(
      a, b, xerr=_error(row["published"]), yerr=row["stderr"] or 0.0, fmt="o", markersize=4, capsize=2,
      color=COLORS.get(word, "#6b7885"), label=None if word in seen else word, zorder=2,
    )  # fmt: skip
    seen.add(word)
    below = b < a
    away = _away(a, b, below, (ends[1] - ends[0]) / 400, named)
    place = (
      {"xytext": (7, -away), "ha": "left", "va": "top"}
      if below
      else {"xytext": (-7, away), "ha": "right", "va": "bottom"}
    )
    axis.annotate(_short(row), (a, b), textcoords="offset points", fontsize=8, **place)
  axis.set(xlim=ends, ylim=ends, xlabel="published", ylabel="cljax", aspect="equal")
  axis.grid(alpha=0.3)
  axis.legend(fontsize=8, loc="lower right", title="bars: one standard error", title_fontsize=8)


def _alone(axis, rows) -> None:
  at = np.arange(len(rows))[::-1]
  axis.errorbar([r["mean"] for r in rows], at, xerr=[r["stderr"] or 0.0 for r in rows], fmt="o", markersize=4,
                capsize=2, color="#6b7885")  # fmt: skip
  axis.set_yticks(at, [_short(r) for r in rows], fontsize=8)
  axis.set(ylim=(-0.6, len(rows) - 0.4), xlabel="cljax, no published value at hand (bars: one standard error)")
  axis.grid(axis="x", alpha=0.3)
