"""Charts as inline SVG: lines with error bars, and points with names. Each part has a title, shown as a tooltip."""

from __future__ import annotations

import html
import itertools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

# Dark enough on white for lines (3:1 at least) and told apart by most colour-blind readers; dashes repeat them.
COLORS = ("#0060a8", "#c04a00", "#007a58", "#8b3a8b", "#555555", "#b5123e", "#7a6a00", "#00788a", "#6b4226", "#27348b")
DASHES = ("", "7 3", "2 3", "9 3 2 3")
MARKS = ("circle", "square", "triangle", "diamond")
WIDTH, HEIGHT = 540, 330
LEFT, RIGHT, TOP, BOTTOM = 48, 14, 12, 44


class Series(NamedTuple):
  """A line ``y(x)`` with an error at each point (NaN for none), in the colour ``n``; the filter looks at ``name``."""

  n: int
  name: str
  x: np.ndarray
  y: np.ndarray
  error: np.ndarray | None = None


class Point(NamedTuple):
  n: int
  name: str
  x: float
  y: float
  error: float


def color(n: int) -> str:
  return COLORS[n % len(COLORS)]


def escape(text: object) -> str:
  return html.escape(str(text), quote=True)


def swatch(n: int) -> str:
  """The sign of series ``n`` in a legend."""
  return (
    f'<svg class="swatch" width="34" height="12" aria-hidden="true"><line x1="1" y1="6" x2="33" y2="6" '
    f'stroke="{color(n)}" stroke-width="2" stroke-dasharray="{_dash(n)}"/>{_mark(n, 17, 6)}</svg>'
  )


def _dash(n: int) -> str:
  return DASHES[(n // len(COLORS)) % len(DASHES)]


def _mark(n: int, x: float, y: float, size: float = 4, tooltip: str = "") -> str:
  fill, title = f'fill="{color(n)}"', f"<title>{escape(tooltip)}</title>" if tooltip else ""
  kind = MARKS[n % len(MARKS)]
  if kind == "circle":
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{size}" {fill}>{title}</circle>'
  if kind == "square":
    side = 1.8 * size
    corner = f'x="{x - side / 2:.1f}" y="{y - side / 2:.1f}"'
    return f'<rect {corner} width="{side:.1f}" height="{side:.1f}" {fill}>{title}</rect>'
  s = 1.3 * size
  corners = [(x, y - s), (x + s, y + s * 0.8), (x - s, y + s * 0.8)]
  if kind == "diamond":
    corners = [(x, y - s), (x + s, y), (x, y + s), (x - s, y)]
  return f'<polygon points="{" ".join(f"{a:.1f},{b:.1f}" for a, b in corners)}" {fill}>{title}</polygon>'


class _Axes(NamedTuple):
  at_x: Callable[[float], float]
  at_y: Callable[[float], float]
  parts: list[str]


def _axes(at_x, x_ticks, y_range, x_label: str, y_label: str) -> _Axes:
  low, high = y_range
  bottom = HEIGHT - BOTTOM
  at_y = lambda v: bottom - (v - low) / (high - low) * (bottom - TOP)
  parts = []
  for value in _nice(low, high):
    y = at_y(value)
    parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
    parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>')
  for value, text in x_ticks:
    x = at_x(value)
    parts.append(f'<line class="tick" x1="{x:.1f}" x2="{x:.1f}" y1="{bottom}" y2="{bottom + 4}"/>')
    parts.append(f'<text x="{_inside(x, text):.1f}" y="{bottom + 17}" text-anchor="middle">{escape(text)}</text>')
  parts.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{bottom}" y2="{bottom}"/>')
  middle = (LEFT + WIDTH - RIGHT) / 2
  parts.append(f'<text class="label" x="{middle}" y="{HEIGHT - 6}" text-anchor="middle">{escape(x_label)}</text>')
  turn = f'transform="translate(13 {(TOP + bottom) / 2}) rotate(-90)"'
  parts.append(f'<text class="label" {turn} text-anchor="middle">{escape(y_label)}</text>')
  return _Axes(at_x, at_y, parts)


LETTER = 7.0  # width of a letter, about


def _inside(x: float, text: str) -> float:
  """The middle of a label that is to stand at x, moved so far that none of it is cut off."""
  half = LETTER * len(text) / 2
  return max(half, min(WIDTH - half, x))


def _apart(places: Sequence[float], names: Sequence[str]) -> range:
  """As many labels, evenly taken, as stand beside each other."""
  for step in range(1, len(names)):
    shown = range(0, len(names), step)
    spans = [(_inside(places[i], names[i]), LETTER * (len(names[i]) + 1) / 2) for i in shown]
    if all(b[0] - a[0] >= a[1] + b[1] for a, b in itertools.pairwise(spans)):
      return shown
  return range(0, len(names), max(1, len(names)))


def _nice(low: float, high: float) -> list[float]:
  """About five round values in a range."""
  raw = (high - low) / 5.5
  unit = 10 ** math.floor(math.log10(raw))
  step = next(m * unit for m in (1, 2, 5, 10) if m * unit >= raw * 0.999)
  return [round(i * step, 10) for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _wrap(axes: _Axes, body: Sequence[str], title: str) -> str:
  return (
    f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">'
    f"{''.join(axes.parts)}{''.join(body)}</svg>"
  )


def _around(heights: Sequence[float], share: float) -> tuple[float, float]:
  """A range of y with some space above and below."""
  low, high = (min(heights), max(heights)) if heights else (0.0, 1.0)
  margin = share * (high - low) or 0.1 * abs(high) or 0.5
  return low - margin, high + margin


def _ends(y, error) -> list[float]:
  """Where error bars end; of what is undefined nothing."""
  y, error = np.asarray(y, float), np.nan_to_num(np.asarray(0.0 if error is None else error, float))
  ends = np.concatenate([np.ravel(y - error), np.ravel(y + error)])
  return ends[np.isfinite(ends)].tolist()


def lines(
  series: Sequence[Series], x_label: str, y_label: str, title: str, names=(), borders=(), percent: bool = True
) -> str:
  """Lines from 0 to 100 in percent, or over the range that they have. ``names``: what stands at x = 0, 1, ...;
  ``borders``: x of vertical lines."""
  span = [v for s in series for v in (s.x[0], s.x[-1])]
  low, high = (min(span), max(span)) if span else (0, 1)
  pad = 0.03 * (high - low) or 0.5
  low, high = low - pad, high + pad
  at_x = lambda v: LEFT + (v - low) / (high - low) * (WIDTH - RIGHT - LEFT)
  if names:
    ticks = [(float(i), names[i]) for i in _apart([at_x(i) for i in range(len(names))], names)]
  else:
    ticks = [(v, f"{v:g}") for v in _nice(low + pad, high - pad)]
  heights = (0, 102) if percent else _around([v for s in series for v in _ends(s.y, s.error)], 0.06)
  axes = _axes(at_x, ticks, heights, x_label, y_label)
  body = [f'<line class="border" x1="{at_x(b):.1f}" x2="{at_x(b):.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
          for b in borders]  # fmt: skip
  body += [_line(s, axes, names, percent) for s in series]
  return _wrap(axes, body, title)


MOST_POINTS = 600


def thin(x: np.ndarray, y: np.ndarray, sign: int = 1) -> tuple[np.ndarray, np.ndarray]:
  """At most about :data:`MOST_POINTS` points: of each group of neighbours the lowest (``sign`` -1: the highest), so
  that no fall is lost."""
  size = -(-len(x) // MOST_POINTS)
  if size < 2:
    return x, y
  keep = [start + int(np.argmin(sign * y[start : start + size])) for start in range(0, len(x), size)]
  keep = sorted({0, *keep, len(x) - 1})
  return x[keep], y[keep]


def _line(s: Series, axes: _Axes, names, percent: bool) -> str:
  n = s.n
  there = ~np.isnan(s.y)
  path = " ".join(f"{axes.at_x(a):.1f},{axes.at_y(b):.1f}" for a, b in zip(s.x[there], s.y[there], strict=True))
  parts = [
    f'<polyline points="{path}" fill="none" stroke="{color(n)}" stroke-width="2" stroke-dasharray="{_dash(n)}">'
    f"<title>{escape(s.name)}</title></polyline>"
  ]
  few = len(s.x) <= 40
  for i in np.flatnonzero(there) if few else []:
    x, y = axes.at_x(s.x[i]), axes.at_y(s.y[i])
    error = math.nan if s.error is None else s.error[i]
    tell = f"{s.name}, {names[i] if len(names) == len(s.x) else f'{s.x[i]:g}'}: {_told(s.y[i], percent)}"
    if not math.isnan(error):
      parts.append(_bar(n, x, axes, s.y[i], error))
      tell += f" ± {_told(error, percent)}"
    parts.append(_mark(n, x, y, 3 if len(s.x) > 15 else 4, tell + " %" * percent))
  return f'<g data-name="{escape(s.name)}">{"".join(parts)}</g>'


def _told(value: float, percent: bool) -> str:
  return f"{value:.1f}" if percent else f"{value:.4g}"


def _bar(n: int, x: float, axes: _Axes, y: float, error: float) -> str:
  top, low = axes.at_y(y + error), axes.at_y(y - error)
  return (
    f'<path d="M{x:.1f} {top:.1f}V{low:.1f}M{x - 4:.1f} {top:.1f}h8M{x - 4:.1f} {low:.1f}h8" '
    f'stroke="{color(n)}" fill="none"/>'
  )


def scatter(
  points: Sequence[Point], x_label: str, y_label: str, title: str, show: Callable[[float], str], base: int = 10,
  percent: bool = True,
) -> str:  # fmt: skip
  """Names points on a logarithmic x axis; x = 0 stands at its left end. ``show`` writes a value of x."""
  positive = [p.x for p in points if p.x > 0]
  low = math.log10(min(positive)) if positive else 0.0
  high = math.log10(max(positive)) if positive else 1.0
  pad = max(0.15, 0.12 * (high - low))
  start = low - pad - (max(0.4, 0.25 * (high - low)) if any(p.x <= 0 for p in points) else 0)
  where = lambda v: math.log10(v) if v > 0 else start + pad / 2
  scale = (WIDTH - RIGHT - LEFT) / (high + pad - start)
  at_x = lambda v: LEFT + (where(v) - start) * scale
  heights = [v for p in points for v in (p.y - np.nan_to_num(p.error), p.y + np.nan_to_num(p.error))]
  bottom, top = min(heights), max(heights)
  margin = max(2.0, 0.12 * (top - bottom))
  ticks = [(v, show(v)) for v in _round_values(low - pad / 2, high + pad / 2, base)]
  if any(p.x <= 0 for p in points):
    ticks.insert(0, (0, show(0)))
  span = (max(0.0, bottom - margin), min(102.0, top + margin)) if percent else _around(heights, 0.12)
  axes = _axes(at_x, ticks, span, x_label, y_label)
  body, taken = [], [(at_x(p.x) - 6, axes.at_y(p.y) - 6, at_x(p.x) + 6, axes.at_y(p.y) + 6) for p in points]
  for p in points:
    x, y = at_x(p.x), axes.at_y(p.y)
    tell = f"{p.name}: {_told(p.y, percent)}{' %' * percent}, {show(p.x)}"
    bar = "" if math.isnan(p.error) else _bar(p.n, x, axes, p.y, p.error)
    text = _name(p.name, x, y, taken)
    body.append(f'<g data-name="{escape(p.name)}">{bar}{_mark(p.n, x, y, 5, tell)}{text}</g>')
  return _wrap(axes, body, title)


def _name(name: str, x: float, y: float, taken: list) -> str:
  """A name beside its point, where it hides nothing; nothing where there is no such place: the tooltip has it."""
  wide = 6.4 * len(name)
  for dx, dy, anchor in ((9, 4, "start"), (-9, 4, "end"), (0, -11, "middle"), (0, 19, "middle"), (9, -9, "start"),
                         (9, 17, "start"), (-9, -9, "end"), (-9, 17, "end")):  # fmt: skip
    left = x + dx - {"start": 0.0, "end": wide, "middle": wide / 2}[anchor]
    box = (left, y + dy - 10, left + wide, y + dy + 3)
    inside = box[0] >= LEFT and box[2] <= WIDTH and box[1] >= 0 and box[3] <= HEIGHT - BOTTOM
    if inside and not any(box[0] < b[2] and b[0] < box[2] and box[1] < b[3] and b[1] < box[3] for b in taken):
      taken.append(box)
      return f'<text x="{x + dx:.1f}" y="{y + dy:.1f}" text-anchor="{anchor}">{escape(name)}</text>'
  return ""


def _round_values(low: float, high: float, base: int) -> list[float]:
  """At most about six round values between ``10**low`` and ``10**high``: powers of two, or decimals."""
  if base == 2:
    first, last = math.ceil(low / math.log10(2)), math.floor(high / math.log10(2))
    return [2.0**p for p in range(first, last + 1, max(1, -(-(last + 1 - first) // 6)))]
  powers = range(math.floor(low), math.ceil(high) + 1)
  for steps in ((1, 1.5, 2, 3, 4, 5, 6, 8), (1, 2, 3, 5), (1, 3), (1,)):
    values = [m * 10.0**p for p in powers for m in steps if low <= math.log10(m * 10.0**p) <= high]
    if len(values) <= 6:
      return values
  return values[:: -(-len(values) // 6)]
