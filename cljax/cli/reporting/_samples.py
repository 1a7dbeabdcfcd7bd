"""What evaluators show beside numbers: texts, of each prompt what was said after one event and the next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cljax.cli.reporting._data import Run
from cljax.cli.reporting._html import task_name
from cljax.cli.reporting._plots import _event_names
from cljax.cli.reporting._table import Block
from cljax.cli.reporting._templates import render
from cljax.evaluation import scores

SHOWN = 2  # prompts of a task
FIRST = 8  # tasks


def section(block: Block) -> str:
  """The texts of every run that has some, each folded; empty where none has."""
  runs = [
    {"label": x.run.label, "opened": x is block.winner, "tag": "selected" if x.choice else "", "parts": _parts(x.run)}
    for x in block.lines
    if any(any(of_task for row in v[0] for of_task in row) for v in x.run.texts.values())
  ]
  return render("samples", runs=runs) if runs else ""


def _parts(run: Run) -> list[dict[str, Any]]:
  """Of each kind of text a title and its tasks, with a table a prompt."""
  names = _event_names(run.events)
  parts = []
  for key, of_seeds in run.texts.items():
    events = of_seeds[0]
    tasks = range(min(FIRST, len(events[0])))
    tables = [
      {"task": task_name(run, task), **table}
      for task in tasks
      for table in _tables([row[task] for row in events], names)
    ]
    what = scores.label(key.partition("/")[2])
    left = f", the first {FIRST} of {len(events[0])} tasks" if len(events[0]) > FIRST else ""
    parts.append({"title": f"{what}, seed {run.seeds[0]}{left}", "tables": tables})
  return parts


def _tables(of_events: Sequence[Sequence[Mapping[str, Any]]], names: Sequence[str]) -> list[dict[str, Any]]:
  """The first prompts of a task: what stands under each name, an event a row, without the one before the first."""
  prompts = list(dict.fromkeys((e["row"], e.get("prompt", "")) for entries in of_events for e in entries))[:SHOWN]
  out = []
  for row, prompt in prompts:
    lines = []
    for name, entries in list(zip(names, of_events, strict=True))[1:]:
      said = next((e.get("said", "") for e in entries if e["row"] == row), None)
      lines.append((name, said))
    out.append({"row": row, "prompt": prompt, "lines": lines})
  return out
