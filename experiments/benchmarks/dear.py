"""The dear methods: a step of each inside the engine over one of finetune, batch 10, paired by round."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax

from cljax.core import tree
from experiments.benchmarks import Stats, Table, engine, ratio, rounds, shown


class Entry(NamedTuple):
  """A method under options of its own; ``target``: times the step of finetune at batch 10, None where none was set.

  ``share``: a timed call takes one of so many of the case's steps.
  """

  name: str
  options: dict[str, Any] = {}
  target: float | None = None
  share: int = 1

  @property
  def label(self) -> str:
    told = ", ".join(f"{k}={v}" for k, v in self.options.items())
    return f"{self.name} ({told})" if told else self.name


BASE = "finetune"
ENTRIES = (
  Entry("si", {}, 1.3),
  Entry("agem", {}, 2.0),
  Entry("gpm", {}, 3.0),
  Entry("wasserstein", {}, None, 32),
  Entry("wasserstein", {"refresh": 100}, 5.0),
)
CASES = (engine.Case("mlp", 10, 1280, 512, 0),)


def measure(case: engine.Case, entries, repeats: int, shape, hidden, first: int) -> list[dict[str, Any]]:
  """The rows of one batch size."""
  stream, model = engine.stream_of(case, shape, first), engine.network(case.model, shape, hidden)
  runs = {}
  for e in (Entry(BASE), *entries):
    runs[e.label] = engine.at_second_task(
      stream, model, e.name, case._replace(steps=case.steps // e.share), **e.options
    )
  spent = rounds({label: run.seconds for label, run in runs.items()}, repeats)
  spent = {label: Stats(s.samples / runs[label].steps) for label, s in spent.items()}
  size, rows = tree.size(runs[BASE].learner.params), []
  for entry in (Entry(BASE), *entries):
    over = ratio(spent[entry.label], spent[BASE])
    rows.append({
      "model": f"{case.model} ({size:,})", "batch": case.batch, "method": entry.label,
      "step ms": 1e3 * spent[entry.label].median, "over finetune": over[0],
      "over finetune [quartiles]": shown(over), "target": entry.target if entry.target and case.batch == 10 else "",
    })  # fmt: skip
  return rows


def suite(
  report, repeats: int, cases=CASES, entries=ENTRIES, shape=(28, 28, 1), hidden=(256, 256), first=engine.FIRST
) -> Table:
  rows: list[dict[str, Any]] = []
  for case in cases:
    report(f"{case.model}, batch {case.batch}: {', '.join(e.label for e in entries)}; {repeats} rounds")
    rows += measure(case, entries, repeats, shape, hidden, first)
  notes = [
    "step ms: one training step in the second of two tasks of noise, by the run's own clock, as in the suite `engine`; "
    "over finetune: the median of the ratios of a round.",
    "wasserstein alone sorts at each step: a timed call takes fewer.",
    f"{jax.default_backend()}, {jax.local_device_count()} devices; one seed.",
  ]
  return Table("Cost of the dear methods", rows, notes)
