"""Table and pictures of the atlas."""

from __future__ import annotations

import collections

import numpy as np

from cljax.cli.reporting import _plots, _ranks
from cljax.evaluation import ranks, results, scores
from cljax.io import checkpoint, files

BOUNDS = ("finetune", "joint", "cumulative")  # what others are seen between; no rivals


def step_seconds(report) -> float:
  """Seconds of a training step and member in a sweep's report, compiling and evaluating left out."""
  found = [r for r in map(results.read, report.glob("runs/*/result.json")) if r is not None]
  whole = {r["seconds"]["train"]: r["steps"] * r["population"] for r in found}
  return sum(whole) / max(1, sum(whole.values()))


def scored(cell) -> str:
  """``97.1 ± 0.3``, tuned."""
  tuned = cell["found"]["tuned"] if "found" in cell else None
  return "-" if tuned is None else scores.with_error(tuned["score"], tuned["mean"], tuned["stderr"])


def _mean(cell) -> float:
  tuned = (cell or {}).get("found", {}).get("tuned")
  return np.nan if tuned is None or tuned["mean"] is None else tuned["mean"]


def _gathered(cells):
  """``(streams, methods, {(stream, method): cell})``."""
  at = {(c["stream"], c["method"]): c for c in cells}
  return list(dict.fromkeys(c["stream"] for c in cells)), list(dict.fromkeys(c["method"] for c in cells)), at


def ranked(cells) -> ranks.Ranks | None:
  """Mean ranks of those that stand on every stream, bounds left out."""
  streams, methods, at = _gathered(cells)
  whole = [m for m in methods if m not in BOUNDS and all(np.isfinite(_mean(at.get((s, m)))) for s in streams)]
  if len(whole) < 2 or len(streams) < 2:
    return None
  return ranks.mean_ranks(whole, [[_mean(at[s, m]) for m in whole] for s in streams])


def cost(cells) -> dict[str, float]:
  """A method's step over finetune's, the median over streams; NaN without finetune."""
  streams, methods, at = _gathered(cells)
  out = {}
  for m in methods:
    both = [(at.get((s, m), {}).get("step"), at.get((s, "finetune"), {}).get("step")) for s in streams]
    known = [a / b for a, b in both if a and b]
    out[m] = float(np.median(known)) if known else float("nan")
  return out


def kept(cells) -> dict[str, float]:
  """Bytes that a method keeps between tasks, the mean over streams."""
  held = collections.defaultdict(list)
  for c in cells:
    if (tuned := c.get("found", {}).get("tuned")) is not None:
      held[c["method"]].append(tuned["state_bytes"])
  return {m: float(np.mean(v)) for m, v in held.items()}


def markdown(cells, environment: str) -> str:
  """The table: a line a method, by mean rank; each score tuned, in brackets as it stands."""
  streams, methods, at = _gathered(cells)
  found, dear, held = ranked(cells), cost(cells), kept(cells)
  place = dict(zip(found.names, found.ranks, strict=True)) if found else {}
  order = sorted(methods, key=lambda m: (m in BOUNDS, place.get(m, np.inf), m))
  line = lambda parts: "| " + " | ".join(parts) + " |"
  head = ["method", *streams, "mean rank", "bytes kept", "step / finetune's"]
  body = [line(head), line(["---"] * len(head))]
  for m in order:
    texts = []
    for s in streams:
      cell = at.get((s, m), {"reason": "not run"})
      plain = cell.get("found", {}).get("as_it_stands")
      before = "" if plain is None or plain["mean"] is None else f" ({scores.number(plain['score'], plain['mean'])})"
      texts.append(f"{scored(cell)}{before}")
    rank = f"{place[m]:.2f}" if m in place else "bound" if m in BOUNDS else "-"
    bytes_kept = results.human_bytes(int(held[m])) if m in held else "-"
    texts += [rank, bytes_kept, "-" if np.isnan(dear[m]) else f"{dear[m]:.2f}"]
    body.append(line([f"`{m}`", *texts]))
  refused = [f"- {c['stream']}, `{c['method']}`: {c['reason']}" for c in cells if c["reason"]]
  said = "\n".join(_ranks.said(found)) if found else "No ranks: too few methods stand on every stream."
  names = dict.fromkeys(c["protocol"] for c in cells if "protocol" in c)
  hours = sum(c["seconds"] for c in cells) / 3600
  return (
    "# The atlas\n\n`python -m experiments.atlas`\n\nFinal test accuracy in percent, mean ± standard error over seeds, "
    "tuned; in brackets with the registry's values. "
    + f"{said}\n\n" + "\n".join(body)
    + "\n\nStep / finetune's: seconds of a training step and member over finetune's in the same stream, the median "
    "over streams; from the runs themselves, whatever ran beside them, so rough.\n\n"
    + "\n".join(f"- {n}" for n in names) + f"\n- All of it took {hours:.1f} hours of two cores. {environment}\n"
    + ("\nDoes not fit:\n\n" + "\n".join(refused) + "\n" if refused else "")
    + "\n![score against bytes](bytes.png)\n\n![score against step cost](cost.png)\n\n![ranks](ranks.png)\n"
  )  # fmt: skip


def _named(axis, points, taken: list) -> None:
  """Writes each name beside its point where it lies on no other name and no point, or else where it lies on least."""
  renderer = axis.figure.canvas.get_renderer()
  dots = {name: axis.transData.transform(at) for name, at in points}
  for name, at in points:
    tried: list = []
    others = [dot for other, dot in dots.items() if other != name]
    for dx, dy in ((4, 3), (4, -9), (-4, 3), (-4, -9), (4, 11), (4, -17), (-4, 11), (-4, -17), (9, -3)):
      side = "left" if dx > 0 else "right"
      note = axis.annotate(name, at, textcoords="offset points", xytext=(dx, dy), fontsize=7, ha=side)
      box = note.get_window_extent(renderer)
      lies = sum(box.overlaps(other) for other in taken) + sum(box.padded(9).contains(*dot) for dot in others)
      tried.append((lies + 10 * (not (axis.bbox.x0 < box.x0 and box.x1 < axis.bbox.x1)), len(tried), note, box))
      if not tried[-1][0]:
        break
    best = min(tried)
    taken.append(best[3])
    for other in tried:
      if other is not best:
        other[2].remove()


def _scatter(cells, across: dict[str, float], label: str, scale: str, path) -> None:
  """A panel a stream: tuned score against ``across`` on a logarithmic ``scale``; bounds as lines."""
  streams, methods, at = _gathered(cells)
  pyplot = _plots._pyplot()
  columns = min(3, len(streams))
  rows = -(-len(streams) // columns)
  figure = pyplot.figure(figsize=(4.6 * columns, 3.6 * rows), layout="constrained")
  axes = figure.subplots(rows, columns, squeeze=False).ravel()
  points, bounds = {}, {}
  for axis, stream in zip(axes, streams, strict=False):
    found = {m: 100 * _mean(at.get((stream, m))) for m in methods}
    lines = {m: y for m, y in found.items() if m in BOUNDS and np.isfinite(y)}
    places = {m: (max(across.get(m, np.nan), 1e-2), y) for m, y in found.items() if m not in BOUNDS}
    points[axis] = [(m, at_) for m, at_ in places.items() if np.isfinite(at_).all()]
    for y in lines.values():
      axis.axhline(y, color="#8a94a0", linewidth=0.9, linestyle="--")
    for _, (x, y) in points[axis]:
      axis.plot(x, y, "o", color="#0060a8", markersize=4)
    if scale == "symlog":
      axis.set_xscale("symlog", linthresh=1024)
    else:
      axis.set_xscale(scale)
    axis.set_title(stream, fontsize=10)
    axis.grid(alpha=0.25, linewidth=0.6)
    axis.margins(x=0.18, y=0.12)
    end = axis.get_yaxis_transform()
    bounds[axis] = [
      axis.text(0.995, y, m, fontsize=7, color="#5a6570", ha="right", va="bottom", transform=end)
      for m, y in lines.items()
    ]
  for axis in axes[len(streams) :]:
    axis.axis("off")
  figure.supxlabel(label)
  figure.supylabel("accuracy after the last task, %")
  figure.draw_without_rendering()  # the layout stands before names are placed by it
  for axis, of in points.items():
    _named(axis, of, [text.get_window_extent() for text in bounds[axis]])
  _plots._save(figure, path)


def write(cells, out) -> None:
  """``atlas.json``, ``atlas.md`` and the pictures."""
  out.mkdir(parents=True, exist_ok=True)
  versions = checkpoint.versions()
  told = ", ".join(f"{k} {v}" for k, v in versions.items())
  files.write_text(out / "atlas.json", files.dumps({"cells": cells, "versions": versions}, indent=1) + "\n")
  files.write_text(out / "atlas.md", markdown(cells, told))
  _scatter(cells, kept(cells), "bytes kept between tasks", "symlog", out / "bytes.png")
  _scatter(cells, cost(cells), "seconds of a step over finetune's", "log", out / "cost.png")
  found = ranked(cells)
  if found:
    _ranks.draw(found, out / "ranks.png", _ranks.title(found))
