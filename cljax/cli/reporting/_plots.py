"""Pictures of results. Matplotlib is imported here, inside the functions, because its import takes over a second."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cljax.core.extras import needed
from cljax.evaluation import scores
from cljax.evaluation.results import best_by_validation, diverged, over_seeds, rivals, shown, title
from cljax.io.files import write_bytes


def _pyplot():
  with needed("a picture"):
    import matplotlib

  matplotlib.use("Agg")
  from matplotlib import pyplot

  return pyplot


PICTURES = ("accuracy_matrix.png", "score_matrix.png")
MOST_CELLS = 26  # rows or columns of a matrix that still get a number in each cell


def _event_names(events: Sequence[Mapping[str, Any]]) -> list[str]:
  """A label for each row of the matrix: 'start', then '0', '1', ... for tasks and 'forget class 3' and the like."""
  names = ["start"]
  for event in events:
    if event["kind"] == "learn":
      names.append(str(event["task"]))
      continue
    parts = []
    for key, one in (("classes", "class"), ("ids", "row"), ("tasks", "task"), ("groups", "group")):
      values = event.get(key, [])
      if values:
        parts.append(f"{one} {','.join(map(str, values))}" if len(values) < 4 else f"{len(values)} {one}s")
    names.append("forget " + ", ".join(parts))
  return names


def picture(result: Mapping[str, Any]) -> str:
  """The file that :func:`matrix` draws of a result."""
  return PICTURES[scores.main(result) != scores.ACCURACY]


def span(name: str, matrix) -> tuple[float, float]:
  """What the ends of the colours stand for: accuracy 0 to 100 %, other scores the least and the greatest."""
  if name == scores.ACCURACY:
    return 0, 100
  there = np.asarray(matrix)[np.isfinite(matrix)]
  return (float(there.min()), float(there.max())) if there.size else (0, 1)


def _scaled(name: str, values):
  """In percent where it is accuracy."""
  return 100 * values if name == scores.ACCURACY else values


def _heatmap(axes, matrix, events, heading: str, size: float, name: str = scores.ACCURACY, span=(0, 100)):
  """Draws one matrix ``[E+1, T]`` of a score, accuracy in percent, with a number in each cell where they are not too
  many."""
  low, high = span
  matrix = _scaled(name, matrix)
  image = axes.imshow(matrix, vmin=low, vmax=high, cmap="viridis", aspect="auto")
  rows, columns = matrix.shape
  crowded = rows > MOST_CELLS or columns > MOST_CELLS
  for r in range(0 if crowded else rows):
    for c in range(columns):
      value = matrix[r, c]
      text = f"{value:.0f}" if name == scores.ACCURACY else f"{value:.3g}"
      if np.isnan(value):
        continue
      dark = value < low + 0.6 * (high - low)
      axes.text(c, r, text, ha="center", va="center", fontsize=size, color="white" if dark else "black")
  names = _event_names(events) if rows <= MOST_CELLS else ["start", *map(str, range(len(events)))]
  across, down = (range(0, n, -(-n // MOST_CELLS)) for n in (columns, rows))
  axes.set_xticks(across, [str(c) for c in across])
  axes.set_yticks(down, [names[r] for r in down])
  axes.set_xlabel(f"{scores.label(name)} on task")
  axes.set_ylabel(
    "after event"
    if rows > MOST_CELLS
    else "after learning task"
    if all(e["kind"] == "learn" for e in events)
    else "after learning task, or event"
  )
  axes.set_title(heading, fontsize=10)
  # A line under the row from before the first event, which nothing was learned for.
  axes.axhline(0.5, color="white", linewidth=2)
  return image


def _final(result: Mapping[str, Any], name: str) -> str:
  """``ACC 81.2 ± 1.0 %``, or the same of another score."""
  group = result["metrics"] if name == scores.main(result) else result["score_metrics"][name]
  said = "ACC" if name == scores.ACCURACY else scores.label(name)
  return f"{said} {shown(group['acc'], name)}{scores.unit(name, ' ')}"


def _matrices(result: Mapping[str, Any]) -> list[tuple[str, str, np.ndarray]]:
  """``(score, heading, matrix)`` of every score, and of task-masked accuracy where it is there."""
  over = lambda values: np.asarray(values, float).mean(0)
  every = scores.matrices(result)
  out = [(n, f"{result['scenario']}: {_final(result, n)}", over(m)) for n, m in every.items()]
  if "task_accuracy_matrix" in result:
    acc = shown(result["task_metrics"]["acc"])
    out.append((scores.ACCURACY, f"task-masked: ACC {acc} %", over(result["task_accuracy_matrix"])))
  return out


def _save(figure, path) -> None:
  content = io.BytesIO()
  figure.savefig(content, format="png", dpi=120, bbox_inches="tight")
  _pyplot().close(figure)
  write_bytes(path, content.getvalue())


def matrix(result: Mapping[str, Any], path) -> None:
  """``accuracy_matrix.png`` of one run: mean over seeds, a row after each event; task-masked beside it where it is; or
  ``score_matrix.png``: those of all its scores, each with colours of its own."""
  panels = _matrices(result)
  rows, columns = panels[0][2].shape
  columns, rows = min(columns, MOST_CELLS), min(rows, MOST_CELLS)
  width, height = max(3.6, 0.5 * columns + 1.2), max(2.8, 0.42 * rows + 1.0)
  figure, axes = _pyplot().subplots(
    1, len(panels), figsize=(width * len(panels) + 0.8, height), squeeze=False, layout="constrained"
  )
  plain = {n for n, _, _ in panels} == {scores.ACCURACY}
  for axis, (name, heading, values) in zip(axes[0], panels, strict=True):
    image = _heatmap(axis, values, result["events"], heading, 9, name, span(name, values))
    if not plain:
      figure.colorbar(image, ax=axis, label=f"test {scores.label(name)}{scores.unit(name)}")
  if plain:
    figure.colorbar(image, ax=list(axes[0]), label="test accuracy, %")
  seeds = len(result["seeds"])
  over = "1 seed" if seeds == 1 else f"mean over {seeds} seeds"
  figure.suptitle(f"{title(result)} on {result['stream']}, {over}")
  _save(figure, path)


MOST = 12


def comparison(results: Sequence[Mapping[str, Any]], labels: Sequence[str], path) -> None:
  """A sweep in one picture: accuracy over events with error bars, final accuracy as bars, and the matrices; or the same
  of the main score. Where results have several, of the first one's.

  Shows one configuration a method, the best by validation, where there are several; at most :data:`MOST`.
  """
  name = scores.main(results[0])
  same = [i for i, r in enumerate(results) if scores.main(r) == name]
  results, labels = [results[i] for i in same], [labels[i] for i in same]
  marked = best_by_validation(results)
  many = len(results) > len({rivals(r) for r in results})
  chosen = [i for i in range(len(results)) if not many or not marked or i in marked]
  if len({rivals(results[i]) for i in chosen}) == 1 and many:
    chosen = list(range(len(results)))
  chosen = chosen[:MOST]
  labels = [label + " (diverged)" * bool(diverged(r)) for label, r in zip(labels, results, strict=True)]
  pyplot = _pyplot()
  columns = min(4, max(2, len(chosen)))
  grid = -(-len(chosen) // columns)
  means = [np.asarray(scores.matrices(r)[name], float).mean(0) for r in results]
  ends = span(name, np.concatenate([means[i].ravel() for i in chosen]))
  rows, tasks = means[chosen[0]].shape
  cell = max(2.2, 0.3 * min(rows, MOST_CELLS) + 0.9)
  figure = pyplot.figure(figsize=(3.7 * columns, 4.0 + (cell + 0.2) * grid), layout="constrained")
  top, bottom = figure.subfigures(2, 1, height_ratios=[4.0, (cell + 0.2) * grid])
  curve, bars = top.subplots(1, 2)
  colors = pyplot.get_cmap("tab10" if len(chosen) <= 10 else "tab20").colors
  for n, i in enumerate(chosen):
    _curve(curve, results[i], labels[i], colors[n], n, len(chosen))
  learning = all(e["kind"] == "learn" for e in results[chosen[0]]["events"])
  curve.set_xlabel("after learning task" if learning else "after learning task, or event")
  curve.set_ylabel(f"{scores.label(name)} on tasks so far{scores.unit(name)}")
  if name == scores.ACCURACY:
    curve.set_ylim(0, 102)
  curve.grid(alpha=0.3)
  curve.legend(fontsize=7, ncols=2 if len(chosen) > 6 else 1)
  values = [results[i]["metrics"]["acc"] for i in chosen]
  at = np.arange(len(chosen))[::-1]
  nan = lambda v: float("nan") if v is None else v  # one that diverged
  bars.barh(at, [_scaled(name, nan(v["mean"])) for v in values], xerr=[_scaled(name, v["stderr"] or 0) for v in values],
            color=[colors[n] for n in range(len(chosen))], capsize=3)  # fmt: skip
  bars.set_yticks(at, [labels[i] for i in chosen], fontsize=8)
  bars.set_xlabel(f"final {scores.label(name)}, {results[chosen[0]]['scenario']}{scores.unit(name)}")
  if name == scores.ACCURACY:
    bars.set_xlim(0, 100)
  bars.grid(axis="x", alpha=0.3)
  axes = bottom.subplots(grid, columns, squeeze=False).ravel()
  for axis in axes[len(chosen) :]:
    axis.axis("off")
  for n, (axis, i) in enumerate(zip(axes, chosen, strict=False)):
    heading = f"{labels[i]}\n{shown(results[i]['metrics']['acc'], name)}{scores.unit(name, ' ')}"
    image = _heatmap(axis, means[i], results[i]["events"], heading, 8 if tasks <= 6 else 6, name, ends)
    if n % columns:
      axis.set_ylabel("")
  bottom.colorbar(image, ax=list(axes), label=f"test {scores.label(name)}{scores.unit(name)}")
  note = "" if len(chosen) == len(results) else ", best of each method by validation"
  streams = ", ".join(dict.fromkeys(results[i]["stream"] for i in chosen))
  figure.suptitle(f"{streams}, {over_seeds([results[i] for i in chosen])}{note}")
  _save(figure, path)


def _curve(axes, result, label, color, n: int, count: int) -> None:
  """Mean accuracy (or main score) over the tasks learned so far, after each event, with its standard error."""
  name = scores.main(result)
  matrix = np.asarray(scores.matrices(result)[name], float)[:, 1:]
  met: list[list[int]] = [[]]
  for event in result["events"]:
    met.append(met[-1] + [event["task"]] if event["kind"] == "learn" and event["task"] not in met[-1] else met[-1])
  so_far = _scaled(name, np.stack([matrix[:, i, tasks].mean(-1) for i, tasks in enumerate(met[1:])], 1))
  error = so_far.std(0, ddof=1) / np.sqrt(len(so_far)) if len(so_far) > 1 else None
  # A small shift keeps error bars of methods that agree apart.
  x = np.arange(so_far.shape[1]) + 0.2 * (n / max(1, count - 1) - 0.5)
  axes.errorbar(x, so_far.mean(0), yerr=error, label=label, color=color, marker="o", markersize=3, capsize=2)
  names, count = _event_names(result["events"])[1:], so_far.shape[1]
  shown = range(0, count, -(-count // MOST_CELLS))
  axes.set_xticks(shown, [names[i] for i in shown], fontsize=8)
