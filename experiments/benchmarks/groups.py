"""What a population cut into groups costs: a seed's step and the memory of a chunk, by ``train.population_group``."""

from __future__ import annotations

from typing import Any

import jax

import cljax
from cljax import engine, streams
from cljax.core import tree
from experiments.benchmarks import Stats, Table, ratio, rounds, shown
from experiments.benchmarks.engine import network
from experiments.benchmarks.population import BATCH, dataset, trained

SEEDS, GROUPS = 8, (1, 2, 4, 8)
STEPS = {"mlp": 100, "cnn": 4, "resnet": 1}  # of each run


def scratch(run: engine.Prepared) -> int:
  """Bytes that the compiled chunk needs on each device beside its arguments and results; 0 where XLA does not say."""
  compiled = [future.result() for future in run.setup.programs.chunk._compiled.values()]
  return max((c.memory_analysis().temp_size_in_bytes for c in compiled if c.memory_analysis() is not None), default=0)


def suite(report, repeats: int, kinds=("mlp", "cnn", "resnet"), seeds=SEEDS, groups=GROUPS, shape=(28, 28, 1)) -> Table:
  rows: list[dict[str, Any]] = []
  for kind in kinds:
    model = network(kind, shape)
    size = tree.size(jax.eval_shape(model.init, jax.random.key(0))[0])
    stream = streams.build(dataset(STEPS[kind] * BATCH, shape), "class", tasks=1, validation=0.0)
    report(f"{kind}: {seeds} seeds in groups of {', '.join(map(str, groups))}, {repeats} rounds")
    given: dict[str, Any] = {"optimizer_options": {"learning_rate": 1e-4}, "training": cljax.Recipe(batch_size=BATCH)}
    of = lambda group: cljax.Options(max_interval_s=1e9, population_group=group)
    made = {g: engine.prepare(stream, model, seeds=seeds, options=of(g), **given) for g in groups}
    stats = rounds({g: trained(run) for g, run in made.items()}, repeats)
    for g in groups:
      each, over = Stats(stats[g].samples / seeds), ratio(stats[g], stats[groups[0]])
      rows.append({
        "model": f"{kind} ({size:,})", "seeds": seeds, "group": g, "seed-step ms": 1e3 * each.median / STEPS[kind],
        "over groups of 1": over[0], "[quartiles]": shown(over), "scratch MB": scratch(made[g]) / 2**20,
      })  # fmt: skip
  where = f"{jax.default_backend()}, {jax.local_device_count()} devices"
  notes = [
    f"{where}, over which the seeds are shared out before each share is cut into groups. Finetune, SGD, batch {BATCH}.",
    "scratch: what the compiled chunk needs on a device beside its arguments and results.",
  ]
  return Table("Cost of a population by groups", rows, notes)
