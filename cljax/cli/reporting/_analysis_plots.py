"""The pictures of an analysis."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from cljax.cli.reporting._plots import _event_names, _pyplot, _save
from cljax.evaluation import scores

LINES = 10  # tasks with a line of their own
PANELS = 6  # confusions
TICKS = 26


def draw(a: Mapping[str, Any], folder, title: str) -> list[str]:
  """Writes what there is to see into ``folder``; returns the names."""
  made = []
  for name, picture, there in (
    (f"{a['score']['name']}.png", _accuracy, bool(a["events"])),
    ("classes.png", _classes, "classes" in a and len(a.get("moments", ())) > 0 and len(a["class_names"]) <= 200),
    ("confusion.png", _confusion, "classes" in a and len(a.get("moments", ())) > 0 and len(a["class_names"]) <= 100),
    ("layers.png", _layers, len(a.get("moments", ())) > 1),
    ("drift.png", _drift, len(a.get("moments", ())) > 1),
  ):
    if there:
      picture(a, folder / name, title)
      made.append(name)
  return made


def _ticks(axis, names, which: str = "x", room: int = 45) -> None:
  """Labels; so few that they fit into ``room`` characters across."""
  longest = max(map(len, names), default=1)
  upright = which == "x" and longest > 6
  step = max(1, -(-len(names) // (TICKS if which == "y" or upright else max(1, room // (longest + 1)))))
  at = range(0, len(names), step)
  if which == "x":
    axis.set_xticks(at, [names[i] for i in at], rotation=90 if upright else 0, fontsize=8)
  else:
    axis.set_yticks(at, [names[i] for i in at], fontsize=8)


def _sparse(a) -> bool:
  """Whether only some of the events are looked at; then a moment is named by its number, else by what was learned."""
  return len(a["moments"]) < len(a["events"])


def _moment_names(a) -> list[str]:
  names = _event_names(a["events"])
  return [str(e) if _sparse(a) else names[e + 1] for e in a["moments"]]


def _after(a, sparse: bool) -> str:
  if sparse:
    return "after event"
  return "after learning task" if all(e["kind"] == "learn" for e in a["events"]) else "after learning task, or event"


def _accuracy(a, path, title: str) -> None:
  """The main score on each task over time: over steps where it was evaluated inside tasks, else over events."""
  name = a["score"]["name"]
  scale = 100 if name == scores.ACCURACY else 1
  figure, axis = _pyplot().subplots(figsize=(8.0, 4.0), layout="constrained")
  met = list(dict.fromkeys(e["task"] for e in a["events"] if e["kind"] == "learn"))
  if a["curves"]:
    x = [0, *(c["total"] for c in a["curves"])]
    values = np.asarray([a["accuracy"][0], *(c["accuracy"] for c in a["curves"])])
    current = [-1, *(c["event"] for c in a["curves"])]
    starts = [x[i] for i in range(1, len(x) - 1) if current[i + 1] != current[i]]
    axis.set_xlabel("step")
  else:
    values = np.asarray(a["accuracy"])
    x = list(range(len(values)))
    starts = []
    names = _event_names(a["events"])
    _ticks(axis, names, room=80)
    axis.set_xlabel(_after(a, False))
  if len(met) <= LINES:
    colors = _pyplot().get_cmap("viridis")(np.linspace(0, 0.9, len(met)))
    for task, color in zip(met, colors, strict=True):
      axis.plot(x, scale * values[:, task], label=f"task {task}", color=color, linewidth=1.4,
                marker="" if len(x) > 30 else "o", markersize=3)  # fmt: skip
  else:
    learned = [(i, e["task"]) for i, e in enumerate(a["events"]) if e["kind"] == "learn"]
    rows = np.asarray(a["accuracy"])
    axis.clear()
    at = [i for i, _ in learned]
    axis.plot(at, [scale * rows[i + 1][t] for i, t in learned], ".", markersize=4, label="the task just learned")
    before = [list(dict.fromkeys(t for _, t in learned[: n + 1])) for n in range(len(learned))]
    axis.plot(
      at,
      [scale * rows[i + 1][ts].mean() for (i, _), ts in zip(learned, before, strict=True)],
      label="mean over the tasks met",
    )
    never = a["never"]
    if never:
      axis.plot(range(-1, len(rows) - 1), scale * rows[:, never].mean(1), label="tasks never learned")
    axis.set_xlabel("after event")
    starts = []
  for start in starts:
    axis.axvline(start, color="0.7", linewidth=0.8, zorder=0)
  axis.set_ylabel(f"test {scores.label(name)}{scores.unit(name)}")
  if name == scores.ACCURACY:
    axis.set_ylim(-2, 102)
  axis.grid(alpha=0.3)
  axis.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
  axis.set_title(title + ("; grey: a new event begins" if starts else ""), fontsize=10)
  _save(figure, path)


def _heat(axis, values, columns, rows, low, high, cmap, text="{:.0f}"):
  image = axis.imshow(values, vmin=low, vmax=high, cmap=cmap, aspect="auto")
  _ticks(axis, columns)
  _ticks(axis, rows, "y")
  if max(values.shape) <= TICKS:
    middle = (low + high) / 2
    for r in range(values.shape[0]):
      for c in range(values.shape[1]):
        if not np.isnan(values[r, c]):
          light = (
            abs(values[r, c] - middle) < 0.3 * (high - low)
            if cmap.startswith("RdBu")
            else values[r, c] > low + 0.6 * (high - low)
          )
          axis.text(
            c, r, text.format(values[r, c]), ha="center", va="center", fontsize=7, color="black" if light else "white"
          )
  return image


def _classes(a, path, title: str) -> None:
  """Accuracy by class over time, and how much of its best each class has lost."""
  pyplot = _pyplot()
  accuracy, lost = 100 * np.asarray(a["classes"]["accuracy"]).T, 100 * np.asarray(a["classes"]["forgetting"])
  height = max(3.0, 0.24 * min(len(lost), 40) + 1.2)
  figure, (left, right) = pyplot.subplots(
    1, 2, figsize=(min(12.0, 4.5 + 0.4 * accuracy.shape[1]), height), width_ratios=[3, 1], layout="constrained"
  )
  image = _heat(left, accuracy, _moment_names(a), a["class_names"], 0, 100, "viridis")
  left.set_xlabel(_after(a, _sparse(a)))
  left.set_ylabel("class")
  figure.colorbar(image, ax=left, label="accuracy on its test rows, %")
  right.barh(
    range(len(lost)), np.nan_to_num(lost), color=["tab:red" if v > 0 else "tab:green" for v in np.nan_to_num(lost)]
  )
  right.set_ylim(left.get_ylim())
  right.set_yticks([])
  right.axvline(0, color="black", linewidth=0.8)
  right.set_xlabel("best before less now, points")
  figure.suptitle(f"{title}: classes", fontsize=10)
  _save(figure, path)


def _confusion(a, path, title: str) -> None:
  """Row-normalised confusions on the tasks learned so far, at up to six moments."""
  counts, event_names = np.asarray(a["confusion"]), _event_names(a["events"])
  shown = sorted({round(i) for i in np.linspace(0, len(counts) - 1, min(PANELS, len(counts)))})
  columns = min(3, len(shown))
  rows = -(-len(shown) // columns)
  figure, axes = _pyplot().subplots(
    rows, columns, figsize=(3.4 * columns + 0.8, 3.3 * rows + 0.5), squeeze=False, layout="constrained"
  )
  for axis in axes.ravel()[len(shown) :]:
    axis.axis("off")
  for axis, k in zip(axes.ravel(), shown, strict=False):
    total = counts[k].sum(1, keepdims=True)
    with np.errstate(invalid="ignore"):
      share = 100 * np.where(total > 0, counts[k] / total, np.nan)
    image = axis.imshow(share, vmin=0, vmax=100, cmap="Blues")
    _ticks(axis, a["class_names"])
    _ticks(axis, a["class_names"], "y")
    what = event_names[a["moments"][k] + 1]
    axis.set_title(f"after event {a['moments'][k]} ({what if 'forget' in what else 'task ' + what})", fontsize=9)
    axis.set_xlabel("predicted", fontsize=8)
    axis.set_ylabel("class", fontsize=8)
    axis.set_facecolor("0.9")
  figure.colorbar(image, ax=list(axes.ravel()), label="% of the class's rows (grey: not met yet)")
  figure.suptitle(f"{title}: what is taken for what, on the tasks learned so far", fontsize=10)
  _save(figure, path)


def _layers(a, path, title: str) -> None:
  """How far each module moved between moments, and what one module alone gives back or takes away."""
  r, names = a["resets"], a["modules"]
  panels = 3 if r["tasks"] else 1
  height = max(2.6, 0.3 * len(names) + 1.6)
  figure, axes = _pyplot().subplots(1, panels, figsize=(4.6 * panels, height), squeeze=False, layout="constrained")
  moved = np.asarray(a["moved"]).T
  floor = max(moved.max(), 1e-30)
  image = _heat(
    axes[0, 0], moved, _moment_names(a)[1:], names, 0, floor, "viridis", "{:.1e}" if moved.shape[1] <= 6 else ""
  )
  axes[0, 0].set_xlabel(
    "up to event"
    if _sparse(a)
    else "while learning task"
    if all(e["kind"] == "learn" for e in a["events"])
    else "during event"
  )
  axes[0, 0].set_title("mean |change| of a weight", fontsize=9)
  figure.colorbar(image, ax=axes[0, 0])
  if panels == 3:
    name = a["score"]["name"]
    scale = 100 if name == scores.ACCURACY else 1
    gain = scale * (np.asarray(r["restored"]) - np.asarray(r["now"])[:, None]).T
    loss = scale * (np.asarray(r["damaged"]) - np.asarray(r["then"])[:, None]).T
    tasks = [str(t) for t in r["tasks"]]
    most = 100 if scale == 100 else max(np.abs(gain).max(), np.abs(loss).max(), 1e-30)
    colors = "RdBu" if a["score"]["better"] == "higher" else "RdBu_r"
    text = "{:+.0f}" if scale == 100 else "{:+.2g}"
    headings = ("last network, one module put back", "network of then, one module of the last")
    for axis, values, heading in zip(axes[0, 1:], (gain, loss), headings, strict=True):
      image = _heat(axis, values, tasks, r["modules"], -most, most, colors, text)
      axis.set_xlabel(f"{scores.label(name)} on task")
      axis.set_title(heading, fontsize=9)
    figure.colorbar(image, ax=list(axes[0, 1:]), label="points" if scale == 100 else f"change of {scores.label(name)}")
  figure.suptitle(f"{title}: layers", fontsize=10)
  _save(figure, path)


def _drift(a, path, title: str) -> None:
  """``1 - CKA`` of each layer since the first moment."""
  figure, axis = _pyplot().subplots(figsize=(6.5, 3.6), layout="constrained")
  drift = np.asarray(a["drift"])
  colors = _pyplot().get_cmap("viridis")(np.linspace(0, 0.9, drift.shape[1]))
  for i, name in enumerate(a["layers"]):
    axis.plot(drift[:, i], label=name, color=colors[i], marker="o", markersize=3)
  _ticks(axis, _moment_names(a))
  axis.set_xlabel(_after(a, _sparse(a)))
  axis.set_ylabel(f"1 - CKA since event {a['moments'][0]}")
  axis.set_ylim(-0.02, max(0.1, 1.05 * float(np.nanmax(drift, initial=0.0))))
  axis.grid(alpha=0.3)
  axis.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
  axis.set_title(f"{title}: drift of the representation, {a['probe']} test rows", fontsize=10)
  _save(figure, path)
