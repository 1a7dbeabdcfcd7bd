"""A step of each method that replays, distils or keeps prototypes over one of er, paired by round."""

from __future__ import annotations

from typing import Any

import jax

import cljax
from cljax import methods
from cljax.methods.table import family
from experiments.benchmarks import Stats, Table, engine, ratio, rounds, shown

BASE = "er"
FAMILIES = ("replay", "distillation", "prototypes")
CASE = engine.Case("mlp", 32, 640, 20, 0)


def suite(report, repeats: int, case=CASE, names=(), shape=(8, 8, 1), hidden=(100, 100), first=engine.FIRST) -> Table:
  chosen = names or [n for n, e in methods.METHODS.items() if family(e) in FAMILIES and n != BASE]
  stream, model = engine.stream_of(case, shape, first), engine.network(case.model, shape, hidden)
  runs, refused = {}, {}
  for name in (BASE, *chosen):
    more = {"capacity": 200} if "capacity" in methods.METHODS[name].options else {}
    try:
      runs[name] = engine.at_second_task(stream, model, name, case, **more)
    except cljax.UsageError as error:
      refused[name] = str(error)
  report(f"{len(runs)} methods, {repeats} rounds")
  spent = rounds({name: run.seconds for name, run in runs.items()}, repeats)
  spent = {name: Stats(s.samples / runs[name].steps) for name, s in spent.items()}
  rows: list[dict[str, Any]] = []
  for name in sorted(spent, key=lambda n: (n != BASE, ratio(spent[n], spent[BASE])[0])):
    over = ratio(spent[name], spent[BASE])
    rows.append({
      "method": name, "step ms": 1e3 * spent[name].median, "over er": over[0], "over er [quartiles]": shown(over)
    })  # fmt: skip
  notes = [
    f"One training step in the second of two tasks of noise, MLP 64-{'-'.join(map(str, hidden))}-10, batch "
    f"{case.batch}, 200 stored rows where there are any, by the run's own clock; over er: the median of the ratios of "
    "a round.",
    "What a method does at a task's end is no step: gdumb, whose steps train nothing, and those that fit classifiers "
    "or means then.",
    *(f"{name}: {why}" for name, why in refused.items()),
    f"{jax.default_backend()}, {jax.local_device_count()} devices; one seed.",
  ]
  return Table("Steps of replay, distillation and prototypes over er's", rows, notes)
