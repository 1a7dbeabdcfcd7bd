"""How the cost of a run grows with its tasks, its classes, its memory and its parameters."""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.benchmarks import Table, _scaling_point
from experiments.benchmarks._scaling_point import Size

METHODS = ("finetune", "ewc", "online_ewc", "si", "er", "derpp", "agem", "gpm", "lwf")
STORING = ("er", "derpp", "agem")
AXES: dict[str, tuple[tuple[int, ...], tuple[str, ...]]] = {
  "tasks": ((5, 50, 500), METHODS),
  "classes": ((10, 100, 1000), ("ewc", "er", "lwf")),
  "memory": ((100, 1000, 10000), ("er", "agem")),
  "width": ((32, 128, 512), ("ewc", "si", "agem", "gpm")),
}
QUANTITIES = ("step", "boundary", "evaluation", "host", "setup", "compile", "save", "state bytes", "checkpoint bytes")
# The exponent that a quantity may have along an axis; 0 where none is named. Over width: of the parameters.
MAY = {
  "tasks": {"evaluation": 1.0, "setup": 1.0, "save": 1.0, "checkpoint bytes": 1.0},
  "classes": dict.fromkeys(("step", "boundary", "evaluation", "save", "state bytes", "checkpoint bytes"), 1.0),
  "memory": {"save": 1.0, "state bytes": 1.0, "checkpoint bytes": 1.0},
  "width": dict.fromkeys(("step", "boundary", "evaluation", "save", "state bytes", "checkpoint bytes"), 1.0),
}
SLACK = 0.25  # of an exponent, before it is marked
EXACT = {("classes", "ewc", "boundary"): "the exact Fisher sums over classes"}


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
  """The slope of ``log(value)`` over ``log(size)`` between the two largest sizes, where what is constant matters
  least."""
  return float(np.log(values[-1] / values[-2]) / np.log(sizes[-1] / sizes[-2]))


def hyper_of(method: str, size: Size) -> dict[str, Any]:
  return {"capacity": size.memory} if method in STORING else {}


def points(report, repeats: int, axes=AXES) -> list[dict[str, Any]]:
  """``{"axis", "method", "sizes", "along", "values": {quantity: [value]}}``; ``along`` is what exponents are over."""
  out = []
  for axis, (values, methods) in axes.items():
    for method in methods:
      report(f"{axis}: {method} at {', '.join(map(str, values))}")
      sizes = [Size()._replace(**{axis: v}) for v in values]
      found = []
      for size in sizes:
        found.append(_scaling_point.measured(method, size, repeats, hyper_of(method, size)))
        gc.collect()
      along = [float(s.parameters) for s in sizes] if axis == "width" else [float(v) for v in values]
      have = [q for q in QUANTITIES if all(q in f for f in found)]
      out.append({
        "axis": axis, "method": method, "sizes": list(values), "along": along,
        "values": {q: [f[q] for f in found] for q in have},
      })  # fmt: skip
  return out


def may(axis: str, method: str, quantity: str) -> float:
  """The exponent that is no defect."""
  return MAY[axis].get(quantity, 0.0) + (1.0 if (axis, method, quantity) in EXACT else 0.0)


def shown(quantity: str, values: Sequence[float]) -> str:
  """First and last value in a unit that suits them."""
  if "bytes" in quantity:
    unit, factor = ("KiB", 1024.0)
  else:
    unit, factor = ("us", 1e-6) if max(values) < 1e-3 else ("ms", 1e-3) if max(values) < 1 else ("s", 1.0)
  return f"{values[0] / factor:.3g} → {values[-1] / factor:.3g} {unit}"


def rows_of(found: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
  rows = []
  for point in found:
    row: dict[str, Any] = {"axis": f"{point['axis']} {point['sizes'][0]} to {point['sizes'][-1]}"}
    row["method"] = point["method"]
    for quantity in QUANTITIES:
      values = point["values"].get(quantity)
      if values is None:
        row[quantity] = ""
        continue
      slope = exponent(point["along"], values)
      much = slope > may(point["axis"], point["method"], quantity) + SLACK
      row[quantity] = f"{'**' * much}{slope:.2f}{'**' * much} ({shown(quantity, values)})"
    rows.append(row)
  return rows


def marked(found: Sequence[Mapping[str, Any]]) -> list[str]:
  """One text for each quantity and axis that grows faster than it may, with the methods and their exponents."""
  faster: dict[tuple[str, str], list[str]] = {}
  for point in found:
    for quantity, values in point["values"].items():
      slope = exponent(point["along"], values)
      if slope > may(point["axis"], point["method"], quantity) + SLACK:
        faster.setdefault((quantity, point["axis"]), []).append(f"{point['method']} {slope:.2f}")
  return [f"{quantity} over {axis}: {', '.join(names)}" for (quantity, axis), names in faster.items()]


def plot(found: Sequence[Mapping[str, Any]], path: str) -> None:
  """Log-log: a column an axis, a row a quantity, a line a method; dashed, the growth that is no defect."""
  import matplotlib

  matplotlib.use("Agg")
  from matplotlib import pyplot

  axes = list(dict.fromkeys(p["axis"] for p in found))
  kinds = ("step", "boundary", "evaluation", "host", "save", "checkpoint bytes")
  figure, grid = pyplot.subplots(
    len(kinds), len(axes), figsize=(3.2 * len(axes), 2.2 * len(kinds)), squeeze=False, layout="constrained"
  )
  names = list(dict.fromkeys(p["method"] for p in found))
  for column, axis in enumerate(axes):
    for at, quantity in enumerate(kinds):
      panel = grid[at][column]
      mine = [p for p in found if p["axis"] == axis and quantity in p["values"]]
      for point in mine:
        color = f"C{names.index(point['method'])}"
        panel.loglog(point["along"], point["values"][quantity], marker="o", ms=3, color=color, label=point["method"])
      if mine:
        x = np.asarray(mine[0]["along"])
        base = min(p["values"][quantity][0] for p in mine)
        panel.loglog(x, base * (x / x[0]) ** MAY[axis].get(quantity, 0.0), color="grey", linestyle="--", linewidth=1)
      panel.set_title(f"{quantity}{'' if 'bytes' in quantity else ', s'}", fontsize=8)
      panel.tick_params(labelsize=7)
      if at == len(kinds) - 1:
        panel.set_xlabel("parameters" if axis == "width" else axis, fontsize=8)
  handles, labels = grid[0][0].get_legend_handles_labels()
  figure.legend(handles, labels, loc="outside upper center", ncols=max(1, len(names)), fontsize=7)
  figure.savefig(path, dpi=90)
  pyplot.close(figure)


def suite(report, repeats: int, axes=AXES) -> Table:
  found = points(report, repeats, axes)
  base = Size()
  notes = [
    "Cells: growth exponent between the two larger sizes (value at the smallest → at the largest); bold: more than "
    f"{SLACK} above what it may be. Width's exponents are over the parameters.",
    f"Where not varied: {base.tasks} tasks, {base.classes} classes, memory {base.memory}, two layers of {base.width}; "
    f"noise of {_scaling_point.INPUTS} inputs, {_scaling_point.TRAIN} training and {_scaling_point.TEST} test rows a "
    f"task, batch {_scaling_point.BATCH}, one seed.",
    "step: inside a scan, at the last task. boundary: start_task and end_task of the last tasks, state of all before. "
    "evaluation: of all tasks, after one event. host: schedule and rows of the last event. save: its checkpoint.",
    "May grow: evaluation, setup and the checkpoint linearly with tasks (its rows of accuracies); with classes and "
    "width what passes over the parameters; with memory only its bytes and their checkpoint.",
    *(f"{why}: {method}, {quantity} over {axis}." for (axis, method, quantity), why in EXACT.items()),
    *([f"Faster than it may: {text}." for text in marked(found)] or ["Nothing grows faster than it may."]),
  ]
  return Table("Growth of cost", rows_of(found), notes, lambda path: plot(found, path))
