"""What a population costs: a training step of one seed inside it over a step of one seed alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

import cljax
from cljax import engine, models, streams
from cljax.core import tree
from cljax.data import Dataset, Split
from experiments import benchmarks
from experiments.benchmarks import Stats, Table, ratio, shown

SEEDS = (1, 2, 4, 8, 16, 64)
STEPS = {"mlp": 100, "cnn": 4}  # of each run
BATCH = 32
# Targets of the project: the gain of the MLP on two cores; on a GPU, all 64 seeds of it within 4 times one.
TARGET_CPU, TARGET_GPU = 1.8, 4.0


def dataset(rows: int, shape) -> Dataset:
  """Noise: what is timed is the arithmetic."""
  rng = np.random.default_rng(0)

  def split(n):
    x = rng.normal(size=(n, *shape)).astype(np.float32)
    return Split(x, np.arange(n, dtype=np.int32) % 10, np.arange(n, dtype=np.int32), np.zeros(n, np.int32))

  return Dataset("noise", split(rows), split(20), 10, tuple(map(str, range(10))), ("all",), 1.0, "noise")


def trained(run: engine.Prepared) -> Callable[[], float]:
  """A run as a timer: the seconds that it trained; compiling and evaluating are not in them."""

  def timer() -> float:
    clock = run.setup.clock.seconds
    before = clock["train"]
    run.run()
    return clock["train"] - before

  return timer


def rounds(runs: Mapping[Any, engine.Prepared], repeats: int, warmup: int = 1) -> dict[Any, Stats]:
  """Seconds that each run trained, by round."""
  return benchmarks.rounds({name: trained(run) for name, run in runs.items()}, repeats, warmup)


def plot(rows: list[dict[str, Any]], path: str) -> None:
  """Throughput over that of one seed against the number of seeds, a line a model."""
  import matplotlib

  matplotlib.use("Agg")
  from matplotlib import pyplot

  figure, axis = pyplot.subplots(figsize=(5.5, 4))
  for kind in dict.fromkeys(row["model"] for row in rows):
    mine = [row for row in rows if row["model"] == kind]
    axis.plot([row["seeds"] for row in mine], [row["gain"] for row in mine], marker="o", label=kind)
  axis.axhline(1.0, color="grey", linewidth=1)
  axis.set(xlabel="seeds in the population", ylabel="throughput over one seed alone", xscale="log")
  axis.set_xticks(SEEDS, [str(s) for s in SEEDS])
  axis.minorticks_off()
  axis.grid(alpha=0.3)
  axis.legend()
  figure.tight_layout()
  figure.savefig(path, dpi=100)
  pyplot.close(figure)


def suite(report, repeats: int, kinds=("mlp", "cnn"), seeds=SEEDS, shape=(28, 28, 1), hidden=(256, 256)) -> Table:
  rows: list[dict[str, Any]] = []
  for kind in kinds:
    model = models.mlp(shape, 10, hidden=hidden) if kind == "mlp" else models.cnn(shape, 10)
    size = tree.size(jax.eval_shape(model.init, jax.random.key(0))[0])
    stream = streams.build(dataset(STEPS[kind] * BATCH, shape), "class", tasks=1, validation=0.0)
    report(f"{kind}: populations of {', '.join(map(str, seeds))} seeds, {repeats} rounds")
    training, options = cljax.Recipe(batch_size=BATCH), cljax.Options(max_interval_s=1e9)
    # A small rate: noise is to stay finite.
    given: dict[str, Any] = {"optimizer_options": {"learning_rate": 1e-4}, "training": training, "options": options}
    made = {n: engine.prepare(stream, model, seeds=n, **given) for n in seeds}
    stats = rounds(made, repeats)
    for n in seeds:
      each = Stats(stats[n].samples / n)
      gain = ratio(stats[seeds[0]], each)
      row: dict[str, Any] = {"model": f"{kind} ({size:,})", "seeds": n, "step ms": 1e3 * stats[n].median / STEPS[kind]}
      row["seed-step ms"] = row["step ms"] / n
      row["gain"], row["gain [quartiles]"] = gain[0], shown(gain)
      row["all over one"] = ratio(stats[n], stats[seeds[0]])[0]
      rows.append(row)
  where = f"{jax.default_backend()}, {jax.local_device_count()} devices"
  notes = [
    f"{where}. gain: one seed's step alone over its step in the population; all over one: the population's over it.",
    "MLP 784-256-256-10, CNN of three 3x3 layers on 28x28; finetune with SGD, batch 32; paired by round.",
    f"Targets, MLP: gain of at least {TARGET_CPU} on two cores; on a GPU 64 seeds within {TARGET_GPU} times one.",
  ]
  return Table("Cost of a seed in a population", rows, notes, lambda path: plot(rows, path))
