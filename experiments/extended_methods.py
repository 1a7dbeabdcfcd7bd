"""Which methods can be extended by tasks: a run of two tasks goes on with a third, beside one of three from the start.

``python -m experiments.extended_methods`` measures what ``experiments/results/extended.tsv`` lacks (``--only=er,gem``
these anew), and writes that file and the table of ``docs/extending.md`` between its marks.

On tiny blobs, a class-incremental stream (task-incremental where the method needs the task), with the arguments of its
record and small memories. Where a method is refused it is tried again with the room that its refusal names. Exits with
code 1 where a method that is not refused ends on other bits or accuracies.
"""

from __future__ import annotations

import pathlib
import re
import sys

import numpy as np
from absl import app, flags

import cljax
from cljax import data, methods, models, streams
from experiments import _page_table
from experiments._proof_records import ROOT, records

FILE = pathlib.Path(ROOT) / "experiments" / "results" / "extended.tsv"
PAGE = pathlib.Path(ROOT) / "docs" / "extending.md"
FIELDS = ("method", "extends", "reason")
SMALL = {"capacity": 12, "replay_batch": 4, "reference_batch": 4}
YES, ROOM, NO, WRONG = "yes", "with room", "no", "wrong"


def dataset():
  """Six classes of tiny images."""
  rng = np.random.default_rng(0)
  centres = rng.normal(size=(6, 4, 4, 1))
  of = lambda n: (np.repeat(np.arange(6), n), rng.normal(size=(6 * n, 4, 4, 1)))
  (y, noise), (y_test, noise_test) = of(20), of(6)
  split = lambda y, noise: data.types.split((centres[y] + 0.3 * noise).astype(np.float32), y)
  return data.types.dataset("blobs", split(y, noise), split(y_test, noise_test), [f"class{c}" for c in range(6)])


def line(name: str, blobs) -> dict[str, str]:
  """What became of one method, and why."""
  entry = methods.METHODS[name]
  hyper = {k: v for k, v in SMALL.items() if k in entry.options} | dict(records.arguments(name))
  kind = "task" if entry.access.task_id_at_test else "class"
  model = records.network(name, models.mlp((4, 4, 1), 6, hidden=(6,)), classes=6)

  def run(tasks, room=None, **more):
    stream = streams.build(blobs, kind, tasks=tasks, classes_per_task=2, **(room or {}))
    return cljax.run(stream, model, name, hyper, training=cljax.Recipe(batch_size=8, epochs=1), **more)

  told = lambda how, why="": {"method": name, "extends": how, "reason": why}
  room: dict[str, int] = {}
  first, reason = run(2), ""
  for _ in range(2):
    try:
      found = run(3, room, learner=first)
      break
    except cljax.UsageError as error:
      reason = str(error).removeprefix("extend: ")
      asked = {k: int(v) for k, v in re.findall(r"stream\.(reserve_\w+)=(\d+)", reason)}
      if room or not asked:
        return told(NO, reason)
      room = asked
      first = run(2, room)
  else:
    return told(NO, reason)
  whole = run(3, room)
  there = ~np.isnan(found.accuracy)
  if found.params_sha256 != whole.params_sha256 or not np.array_equal(found.accuracy[there], whole.accuracy[there]):
    return told(WRONG, "other bits than the run that had all tasks")
  return told(ROOM, reason) if room else told(YES)


def table(rows: dict[str, dict[str, str]]) -> str:
  """The table of the docs, of methods that are refused without room, or at all; the others in one line."""
  apart = [r for _, r in sorted(rows.items()) if r["extends"] != YES]
  head = "| method | extends | without room |\n| --- | --- | --- |\n"
  body = "".join(f"| `{r['method']}` | {r['extends']} | {r['reason']} |\n" for r in apart)
  rest = ", ".join(f"`{name}`" for name, r in sorted(rows.items()) if r["extends"] == YES)
  return f"{head}{body}\nTo the bits of a run that had all tasks, without anything reserved: {rest}.\n"


def main(argv) -> None:
  del argv
  blobs = dataset()
  show = lambda rows: _page_table.show(PAGE, "extended", table(rows))
  names = sorted(methods.METHODS)
  rows = _page_table.measured(FILE, FIELDS, names, lambda name: line(name, blobs), flags.FLAGS.only, show)
  sys.exit(any(row["extends"] == WRONG for row in rows.values()))


if __name__ == "__main__":
  flags.DEFINE_list("only", [], "Methods to measure anew.")
  app.run(main)
