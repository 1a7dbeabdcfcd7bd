"""What a buffer costs: add and sample inside a scan by capacity, over the copies they must make, and beside a step."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

import cljax
from cljax import engine, models, streams
from cljax.core import tree
from cljax.data import Dataset, Split
from experiments.benchmarks import Stats, Table, exponent, paired, population, ratio, shown
from experiments.benchmarks import _memory_programs as programs

CAPACITIES = {
  "64 float32": (200, 1_000, 10_000, 100_000, 1_000_000),
  "784 uint8": (200, 1_000, 10_000, 100_000),
}
ENGINE = (200, 10_000, 100_000)  # capacities of er under the engine
STEPS = {"reservoir": 100, "ring": 100, "class_balanced": 20}  # a timed call is one scan of so many steps
LONG = 100_000  # from this capacity on, a tenth of the steps for class_balanced
TARGET = 0.15  # of the project: reservoir add and sample over a training step, at capacity 10,000


def by_capacity(report, repeats: int, capacities, steps=STEPS, hidden=(256, 256)) -> list[dict[str, Any]]:
  """Add and sample of every policy at every capacity, with the copies and a training step in the same rounds."""
  table: list[dict[str, Any]] = []
  step = programs.training(steps["reservoir"], hidden)
  for kind, sizes in capacities.items():
    for capacity in sizes:
      report(f"rows of {kind}, capacity {capacity:,}: {repeats} rounds")
      taken = {p: max(n // 10, 1) if p == "class_balanced" and capacity >= LONG else n for p, n in steps.items()}
      runs: dict[str, Any] = {p: programs.add_and_sample(p, kind, capacity, taken[p]) for p in programs.POLICIES}
      nbytes = {p: tree.nbytes(runs[p].carry[1]) for p in runs}
      runs["copy of the rows"] = programs.row_copies(kind, capacity, steps["reservoir"])
      runs["copy of the buffer"] = programs.whole_copy(kind, capacity)
      runs["training step"] = step
      stats = paired(runs, repeats)
      each = {name: taken.get(name, 1 if name == "copy of the buffer" else steps["reservoir"]) for name in runs}
      per_step = {name: Stats(s.samples / each[name]) for name, s in stats.items()}
      for policy in programs.POLICIES:
        share = ratio(per_step[policy], per_step["training step"])
        row: dict[str, Any] = {"rows": kind, "policy": policy, "capacity": capacity}
        row["buffer MB"] = nbytes[policy] / 1e6
        row["add + sample us"] = 1e6 * per_step[policy].median
        row["copy of the rows us"] = 1e6 * per_step["copy of the rows"].median
        row["copy of the buffer us"] = 1e6 * per_step["copy of the buffer"].median
        row["over the rows' copy"] = ratio(per_step[policy], per_step["copy of the rows"])[0]
        row["of a step"], row["of a step [quartiles]"] = share[0], shown(share)
        row["target"] = TARGET if policy == "reservoir" and capacity == 10_000 else ""
        table.append(row)
      del runs
  return table


def prepared(rows: int, batch: int, method: str, hyper, hidden=(256, 256)):
  """One epoch of the engine on noise: bytes of 28x28 images, a network 784-256-256-10, SGD."""
  rng = np.random.default_rng(0)

  def split(n):
    x = rng.integers(0, 255, (n, 28, 28, 1)).astype(np.uint8)
    return Split(x, np.arange(n, dtype=np.int32) % 10, np.arange(n, dtype=np.int32), np.zeros(n, np.int32))

  dataset = Dataset("noise", split(rows), split(20), 10, tuple(map(str, range(10))), ("all",), 1 / 255, "noise")
  stream = streams.build(dataset, "class", tasks=1, validation=0.0)
  training, options = cljax.Recipe(batch_size=batch), cljax.Options(max_interval_s=1e9)
  given: dict[str, Any] = {"optimizer_options": {"learning_rate": 1e-4}, "training": training, "options": options}
  return engine.prepare(stream, models.mlp((28, 28, 1), 10, hidden=hidden), method, hyper, **given)


def under_engine(report, repeats: int, capacities, steps: int = 100, hidden=(256, 256)) -> list[dict[str, Any]]:
  """A step of er at each capacity over one of finetune whose batch is as large as er's two parts."""
  report(f"er under the engine at capacities {', '.join(map(str, capacities))}: {repeats} rounds")
  batch = programs.BATCH
  runs: dict[Any, Any] = {"finetune": prepared(2 * batch * steps, 2 * batch, "finetune", None, hidden)}
  for capacity in capacities:
    runs[capacity] = prepared(batch * steps, batch, "er", {"capacity": capacity}, hidden)
  stats: dict[Any, Any] = population.rounds(runs, repeats)
  return [
    {"capacity": c, "us": 1e6 * stats[c].median / steps, "ratio": ratio(stats[c], stats["finetune"])}
    for c in capacities
  ]


def exponents(table: list[dict[str, Any]]) -> dict[tuple[str, str], float]:
  """The fitted exponent of add and sample in the capacity, by rows and policy."""
  out = {}
  for kind, policy in dict.fromkeys((row["rows"], row["policy"]) for row in table):
    mine = [row for row in table if (row["rows"], row["policy"]) == (kind, policy)]
    out[kind, policy] = exponent([row["capacity"] for row in mine], [row["add + sample us"] for row in mine])
  return out


def plot(table: list[dict[str, Any]], path: str) -> None:
  """Microseconds against capacity: each policy between the copy of the rows and the copy of the buffer."""
  import matplotlib

  matplotlib.use("Agg")
  from matplotlib import pyplot

  kinds, slopes = list(dict.fromkeys(row["rows"] for row in table)), exponents(table)
  figure, axes = pyplot.subplots(1, len(kinds), figsize=(5.5 * len(kinds), 4), squeeze=False, sharey=True)
  for axis, kind in zip(axes[0], kinds, strict=True):
    for policy in programs.POLICIES:
      mine = [row for row in table if (row["rows"], row["policy"]) == (kind, policy)]
      at = [row["capacity"] for row in mine]
      label = f"{policy}: exponent {slopes[kind, policy]:.2f}"
      axis.plot(at, [row["add + sample us"] for row in mine], marker="o", label=label)
    for name in ("rows", "buffer"):
      axis.plot(at, [row[f"copy of the {name} us"] for row in mine], "--", color="grey", label=f"copy of the {name}")
    axis.set(xscale="log", yscale="log", xlabel="capacity", title=f"rows of {kind}", ylabel="us a step")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=7)
  figure.tight_layout()
  figure.savefig(path, dpi=100)
  pyplot.close(figure)


def suite(report, repeats: int, capacities=CAPACITIES, engines=ENGINE, steps=STEPS, hidden=(256, 256)) -> Table:
  table = by_capacity(report, repeats, capacities, steps, hidden)
  slopes = "; ".join(f"{policy}, {kind}: {slope:.2f}" for (kind, policy), slope in exponents(table).items())
  notes = [
    f"A step inserts the {programs.BATCH} rows of the last one, then draws as many: in a scan, the state donated. "
    "Buffers are full and have seen as many rows as they store, the dearest case: every row enters.",
    "A row is an input with its label, id and task. copy of the rows: the same bytes written and read in one piece "
    "each. copy of the buffer: what each step would cost if it did not write in place.",
    f"of a step: over a hand-written training step, 784-256-256-10, SGD, batch {programs.BATCH}, paired by round; "
    f"target for the reservoir at 10,000: {TARGET:.2f}.",
    f"Exponent of add + sample in the capacity: {slopes}.",
  ]
  if engines:
    found = under_engine(report, repeats, engines, steps["reservoir"], hidden)
    told = "; ".join(f"capacity {f['capacity']:,}: {f['us']:.0f} us, {shown(f['ratio'])}" for f in found)
    size = f"{2 * programs.BATCH}"
    notes.append(f"cljax.run, a step of er (batch {programs.BATCH}, as many replayed) over finetune at {size}: {told}.")
  where = f"{jax.default_backend()}, {jax.local_device_count()} devices"
  return Table("Cost of a memory by its capacity", table, [*notes, where + "."], lambda path: plot(table, path))
