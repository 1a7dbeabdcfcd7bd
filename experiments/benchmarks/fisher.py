"""What a Fisher diagonal costs: each kind over a training epoch on the same rows, its growth, and two plain rivals."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import cljax
from cljax import engine, streams
from cljax.data import Dataset, Split
from experiments.benchmarks import Stats, Table, clocked, exponent, paired, population, ratio, rounds, shown
from experiments.benchmarks._fisher_rivals import (
  BATCH,
  CLASSES,
  Workload,
  epoch,
  fisher,
  one_at_a_time,
  operations,
  vmapped,
)
from experiments.benchmarks._fisher_rivals import workload as make

KINDS = ("empirical", "sampled", "exact", "batched")
ROWS = {"dense": 6016, "norm": 6016, "conv": 256, "attention": 256}  # multiples of the training batch
RIVALS = {"dense": 512, "norm": 256, "conv": 32, "attention": 32}  # rows that the rivals pass over
WIDTHS = (64, 128, 256, 512, 1024)
TARGETS = {"empirical": 1.0, "sampled": 1.0, "exact": 4.0}  # of the project: epochs, dense


def rivals(work: Workload, rows: int, exact: bool) -> dict[str, Any]:
  """The plain ways, each with the rows that it passes over."""
  found = {"batch-1 loop": (one_at_a_time(work, rows), rows), "vmap of grad": (vmapped(work, rows // 8), rows // 8)}
  if exact:
    found["batch-1 loop, exact"] = (one_at_a_time(work, rows // 8, exact=True), rows // 8)
  return found


def engine_epoch(work: Workload):
  """The engine's finetune over the same rows for one epoch, as a timer; and a row or two to evaluate on."""
  x, y = np.asarray(work.x), np.asarray(work.y)
  split = lambda n: Split(x[:n], y[:n], np.arange(n, dtype=np.int32), np.zeros(n, np.int32))
  dataset = Dataset("noise", split(len(y)), split(20), 10, tuple(map(str, range(10))), ("all",), 1.0, "noise")
  stream = streams.build(dataset, "class", tasks=1, validation=0.0)
  training, options = cljax.Recipe(batch_size=BATCH), cljax.Options(max_interval_s=1e9)
  given: dict[str, Any] = {"optimizer_options": {"learning_rate": 1e-4}, "training": training, "options": options}
  return population.trained(engine.prepare(stream, work.model, **given))


def matmul_rate(repeats: int, size: int = 1024) -> float:
  """Floating-point operations a second of a square float32 product: the limit that the table names."""
  a = jax.random.normal(jax.random.key(0), (size, size))
  product = jax.jit(jnp.matmul)
  return 2.0 * size**3 / paired({"product": lambda: product(a, a)}, repeats)["product"].median


def by_layer(report, repeats: int, rows: dict[str, int], few: dict[str, int], make=make) -> list[dict[str, Any]]:
  """Every kind, and the rivals, over an epoch on the same rows, for each sort of layer."""
  table: list[dict[str, Any]] = []
  for layers, count in rows.items():
    work = make(layers, count)
    train, plain = epoch(work), rivals(work, few[layers], layers == "dense")
    over = {"epoch": train} | {kind: fisher(work, kind) for kind in KINDS}
    functions: dict[str, Any] = {name: functools.partial(f, count) for name, f in over.items()}
    functions |= {name: f for name, (f, _) in plain.items()}
    runs = {name: clocked(f) for name, f in functions.items()}
    if layers == "dense":
      runs["epoch, engine"] = engine_epoch(work)
    report(f"{layers}, {count} rows: {len(runs)} programs, {repeats} rounds")
    stats = rounds(runs, repeats, warmup=2)
    for name in runs:
      scale = count / plain[name][1] if name in plain else 1.0
      seconds = Stats(stats[name].samples * scale)
      row: dict[str, Any] = {"layers": f"{layers} ({work.size:,})", "rows": count, "what": name}
      row["ms"], row["epochs"] = 1e3 * seconds.median, ratio(seconds, stats["epoch"])[0]
      row["epochs [quartiles]"] = shown(ratio(seconds, stats["epoch"]))
      row["floor"] = operations(work, name) / operations(work, "epoch") if name in ("epoch", *KINDS) else ""
      row["target"] = TARGETS.get(name, "") if layers == "dense" else ""
      row["timed on"] = plain[name][1] if name in plain else count
      if layers == "dense" and name in ("epoch", "epoch, engine", *KINDS):
        row["operations"] = operations(work, name) * count
      table.append(row)
  return table


def growth(report, repeats: int, counts, widths, rows_of_width: int, make=make) -> list[dict[str, Any]]:
  """Milliseconds of the kinds and of an epoch as rows and widths grow, dense layers."""
  table: list[dict[str, Any]] = []
  cases = [("rows", count, (256, 256)) for count in counts] + [("width", w, (w, w)) for w in widths]
  work = None
  for axis, at, hidden in cases:
    count = at if axis == "rows" else rows_of_width
    if axis == "width" or work is None:
      work = make("dense", max(counts) if axis == "rows" else count, hidden=hidden)
      made = {"epoch": epoch(work)} | {kind: fisher(work, kind) for kind in KINDS[:3]}
    report(f"growth with {axis}: {at}")
    stats = paired({name: functools.partial(f, count) for name, f in made.items()}, repeats)
    for name in made:
      row = {"axis": axis, "at": at, "parameters": work.size, "what": name, "ms": 1e3 * stats[name].median}
      table.append(row | {"epochs": ratio(stats[name], stats["epoch"])[0]})
  return table


def exponents(found: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
  """The fitted exponents of time in rows and in parameters, by axis and by what was timed."""
  out: dict[str, dict[str, float]] = {}
  for axis, size in (("rows", "at"), ("width", "parameters")):
    for name in dict.fromkeys(row["what"] for row in found):
      mine = [row for row in found if row["axis"] == axis and row["what"] == name]
      out.setdefault(axis, {})[name] = exponent([row[size] for row in mine], [row["ms"] for row in mine])
  return out


def plot(table: list[dict[str, Any]], found: list[dict[str, Any]], path: str) -> None:
  """Epochs by sort of layer, and milliseconds against rows and against parameters."""
  import matplotlib

  matplotlib.use("Agg")
  from matplotlib import pyplot

  figure, axes = pyplot.subplots(1, 3, figsize=(14, 4))
  layers = list(dict.fromkeys(row["layers"] for row in table))
  shown_names = (*KINDS, "batch-1 loop", "vmap of grad")
  for i, name in enumerate(shown_names):
    values = [row["epochs"] for row in table if row["what"] == name]
    axes[0].bar(np.arange(len(layers)) + 0.13 * (i - 2.5), values, 0.13, label=name)
  axes[0].set_xticks(range(len(layers)), [name.split(" ")[0] for name in layers])
  axes[0].axhline(1.0, color="grey", linewidth=1)
  axes[0].set(yscale="log", ylabel="time in training epochs")
  axes[0].legend(fontsize=7)
  for axis, name, size in ((axes[1], "rows", "at"), (axes[2], "width", "parameters")):
    for what, slope in exponents(found)[name].items():
      mine = [row for row in found if row["axis"] == name and row["what"] == what]
      axis.plot([row[size] for row in mine], [row["ms"] for row in mine], marker="o", label=f"{what}: {slope:.2f}")
    axis.set(xscale="log", yscale="log", xlabel="rows" if name == "rows" else "parameters", ylabel="ms")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=7, title="exponent")
  figure.tight_layout()
  figure.savefig(path, dpi=100)
  pyplot.close(figure)


def suite(report, repeats: int, rows=ROWS, few=RIVALS, counts=(736, 1504, 3008, 6016), widths=WIDTHS,
          rows_of_width=1024, make=make) -> Table:  # fmt: skip
  rate = matmul_rate(max(repeats, 5))
  table = by_layer(report, repeats, rows, few, make)
  for row in table:
    if "operations" in row:
      row["of matmul rate"] = row.pop("operations") / (1e-3 * row["ms"]) / rate
  found = growth(report, repeats, counts, widths, rows_of_width, make)
  slopes = exponents(found)
  told = lambda axis: ", ".join(f"{name} {slope:.2f}" for name, slope in slopes[axis].items())
  sizes = [row["parameters"] for row in found if row["axis"] == "width"]
  grown = "; ".join(
    f"{axis} {at}: " + ", ".join(f"{r['what']} {r['ms']:.3g}" for r in found if (r["axis"], r["at"]) == (axis, at))
    for axis, at in dict.fromkeys((row["axis"], row["at"]) for row in found)
  )
  notes = [
    f"epochs: time over one training epoch on the same rows, a hand-written jitted loop (SGD, batch {BATCH}).",
    "epoch, engine: the training clock of cljax.run with finetune. Kinds at the library's default batch size.",
    "Rivals pass over few rows ('timed on') and are scaled to all: batch-1 loop, a gradient a row in a jitted scan; "
    "vmap of grad, all rows' gradients at once.",
    "dense: MLP 784-256-256-10; norm: the same with LayerNorm and BatchNorm; conv: three 3x3 layers; attention: ViT of "
    "width 64, depth 2, patches of 4; inputs 28x28.",
    f"floor: multiply-adds of the kind's matrix products over those of an epoch. exact takes C - 1 = {CLASSES - 1} "
    "backward passes; a dense layer's squares are one product for all of them, of one with positions one for each.",
    f"of matmul rate: multiply-adds of the kernels over {rate / 1e9:.0f} GFLOP/s, measured on a 1024x1024 product.",
    f"Exponent of time in rows: {told('rows')}.",
    f"Exponent in parameters ({min(sizes):,} to {max(sizes):,}): {told('width')}.",
    f"Growth in ms, {rows_of_width} rows for widths: {grown}.",
  ]
  return Table("Cost of a Fisher diagonal in training epochs", table, notes, lambda path: plot(table, found, path))
