"""Which methods can be extended: a run of two tasks goes on with a third, beside a run of three from the start.

``python -m experiments.extended_methods --out=DIR [--methods=er,gem]``

On tiny blobs, each method of the registry with its default options (as a smaller memory where it has one). Each line of
DIR/methods.jsonl says 'exact' (the same bits and the same accuracies), 'refused' with the reason, or 'wrong'. Run it
again, and it goes on. Exits with code 1 where one is wrong.
"""

from __future__ import annotations

import pathlib
import sys
from typing import Any

import numpy as np
from absl import app, flags

import cljax
from cljax import data, methods, models, streams
from cljax.io import files

SMALL = {"capacity": 12, "replay_batch": 4, "reference_batch": 4}


def dataset():
  """Six classes of tiny images."""
  rng = np.random.default_rng(0)
  centres = rng.normal(size=(6, 4, 4, 1))
  of = lambda n: (np.repeat(np.arange(6), n), rng.normal(size=(6 * n, 4, 4, 1)))
  (y, noise), (y_test, noise_test) = of(20), of(6)
  split = lambda y, noise: data.types.split((centres[y] + 0.3 * noise).astype(np.float32), y)
  return data.types.dataset("blobs", split(y, noise), split(y_test, noise_test), [f"class{c}" for c in range(6)])


def outcome(name: str, blobs, room: int = 0) -> tuple[str, str]:
  """``('exact' | 'refused' | 'wrong' | 'not run', reason)`` of one method."""
  entry = methods.METHODS[name]
  hyper = {k: v for k, v in SMALL.items() if k in entry.options}
  kind = "task" if entry.access.task_id_at_test else "class"
  given: dict[str, Any] = {"classes_per_task": 2, "reserve_tasks": room}
  model = models.mlp((4, 4, 1), 6, hidden=(6,))

  def run(tasks, **more):
    stream = streams.build(blobs, kind, tasks=tasks, **given)
    return cljax.run(stream, model, name, hyper, training=cljax.Recipe(batch_size=8, epochs=2), **more)

  try:
    whole = run(3)
    first = run(2)
  except cljax.CljaxError as error:
    return "not run", str(error)
  try:
    found = run(3, learner=first)
  except cljax.UsageError as error:
    return "refused", str(error)
  there = ~np.isnan(found.accuracy)
  same = found.params_sha256 == whole.params_sha256
  return ("exact" if same and np.array_equal(found.accuracy[there], whole.accuracy[there]) else "wrong"), ""


def main(argv) -> None:
  del argv
  out = pathlib.Path(flags.FLAGS.out).expanduser()
  out.mkdir(parents=True, exist_ok=True)
  path = out / "methods.jsonl"
  done = {(row["method"], row["room"]) for row in files.read_lines(path)}
  blobs, failed = dataset(), 0
  for name in flags.FLAGS.methods or methods.METHODS:
    for room in (0, 3):
      if (name, room) in done:
        continue
      how, why = outcome(name, blobs, room)
      files.JsonLines(path).write({"method": name, "room": room, "outcome": how, "reason": why})
      print(f"{name}, room for {room or 'its own'} tasks: {how} {why}", flush=True)
      failed += how == "wrong"
      if how != "refused":
        break  # with room it is the same
  sys.exit(1 if failed else 0)


if __name__ == "__main__":
  flags.DEFINE_list("methods", [], "Methods; all by default.")
  flags.DEFINE_string("out", "~/extended_methods", "Where outcomes are noted.")
  app.run(main)
