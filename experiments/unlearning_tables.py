"""Writes the tables of ``experiments/results/unlearning`` anew from the numbers beside them: ``python -m
experiments.unlearning_tables``.

Marks are those of the present rule. A table from before KLoM had marks has none there, and says so: its models' margins
were not kept.
"""

from __future__ import annotations

import pathlib

import numpy as np
from absl import app

from cljax.cli.unlearning import _lens, _table
from cljax.cli.unlearning._job import Compared
from cljax.evaluation import authors_evidence, evidence
from cljax.io import files
from experiments._proof_records import ROOT

FOLDER = pathlib.Path(ROOT) / "experiments" / "results" / "unlearning"
WITHOUT = (
  "Marks are made anew from the stored numbers (Welch, Holm). KLoM has none here: the table is from before it had any, "
  "and the models' margins were not kept. The edits are those of then, which in a stream of requests could aim at a "
  "class that an earlier request took."
)


def compared(found: dict) -> tuple[Compared, bool]:
  """What ``unlearn.json`` holds, and whether it is of a stream of requests."""
  context = {**found["context"], "shadows": found["context"].get("shadows", 0)}
  stream = "requests" in context
  about = {n: {**a, "epochs": np.nan if a["epochs"] is None else a["epochs"]} for n, a in found["about"].items()}
  numbers = lambda v: np.asarray(v, float) if isinstance(v, list) else v
  values = {n: {k: numbers(v) for k, v in of.items()} for n, of in found["values"].items()}
  own = _lens.stream_headings("accuracy") if stream else evidence.METRICS | evidence.ROW_METRICS
  context = {"schedule": "steps" if stream else "epochs"} | context  # as they were, when there was no choice
  # Of the second tables that alone which the first one speaks of.
  beside = lambda of: {k: numbers(v) for k, v in of.items() if k in authors_evidence.BESIDE}
  more = {n: second for n, of in found.get("more", {}).items() if (second := beside(of))}
  headings, note = found.get("headings", own), found.get("note", _lens.OF_CLASSES)
  return Compared(values, about, context, headings, note, more), stream


def text(found: dict) -> str:
  table, stream = compared(found)
  page = _table.markdown(table, found["request"], found["command"], stream)
  if any("chances" in about for about in found["about"].values()):
    return page
  head, rest = page.split("\n", 1)
  return f"{head}\n\n{WITHOUT}\n{rest}"


def main(argv) -> None:
  del argv
  for path in sorted(FOLDER.glob("*.json")):
    files.write_text(path.with_suffix(".md"), text(files.loads(path.read_bytes())))


if __name__ == "__main__":
  app.run(main)
