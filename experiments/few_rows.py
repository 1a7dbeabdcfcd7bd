"""What is left in a method's state of the only row of a task: ``python -m experiments.few_rows`` (``--only=ewc`` anew).

The middle task of three is one row, forgotten after the third by ``ssd`` (or by the method's own answer). Of every
array as it is, and of its root (importances are means of squares), the best cosine of a vector of a row's size with the
row's absolute values, beside the best with four rows of no task. Refusals are passed by: they follow from this table,
and from that of ``experiments.revealed``. Writes ``experiments/results/few_rows.tsv``.
"""

from __future__ import annotations

import pathlib
from typing import Any

import jax
import numpy as np
from absl import app, flags

import cljax
from cljax import engine, methods, models, streams
from cljax.core import tree
from experiments import _page_table, _revealed
from experiments._proof_records import ROOT, records

FILE = pathlib.Path(ROOT) / "experiments" / "results" / "few_rows.tsv"
FIELDS = ("method", "cosine", "control", "where")


def line(name: str) -> dict[str, str]:
  told = lambda cosine="", control="", where="": {"method": name, "cosine": cosine, "control": control, "where": where}
  try:
    state, row, others = trained(name, dict(records.arguments(name)))
  except cljax.UsageError as error:
    return told(where=f"refused: {error}")
  if not any(leaf.size > 1 for leaf in jax.tree.leaves(state)):
    return told(where="keeps no array")
  (cosine, where), control = best(state, row), max(best(state, r)[0] for r in others)
  return told(f"{cosine:.3f}", f"{control:.3f}", where)


def trained(name: str, arguments: dict):
  """``(state, row, others)``: what a learner keeps beside its parameters, the row of the middle task, and four of no
  task."""
  entry, whole = methods.METHODS[name], _revealed.data()
  rest, test = np.flatnonzero(whole.train.y >= 2), whole.test.y >= 2
  tasks = [np.flatnonzero(whole.train.y < 2), rest[:1], rest[1:-4]]
  tests = [np.flatnonzero(~test), np.flatnonzero(test), np.flatnonzero(test)]
  asked = cljax.Forget(ids=(int(whole.train.id[rest[0]]),))
  if "temporary" in arguments:  # it forgets tasks
    arguments, asked = {**arguments, "temporary": (1,)}, cljax.Forget(tasks=(1,))
  learns = [cljax.Learn(t) for t in range(3)]
  given: dict[str, Any] = {"task_id_given": True, "active": "task"} if entry.access.task_id_at_test else {}
  made = lambda events: streams.from_tasks(whole, tasks, tests, events=events, **given)
  plan: dict[str, Any] = {"method": name, "hyper": arguments, "forget": "" if entry.access.forgets else "ssd"}
  if entry.access.forgets and not any(
    getattr(entry.access, k) for k in ("prefix", "stores_data", "task_boundaries")
  ):  # an edit: what learns is plain
    plan = {"method": "finetune", "hyper": {}, "forget": name, "forget_hyper": arguments}
  training, options = cljax.Recipe(batch_size=8, epochs=2), cljax.Options(chunk_steps=2)
  model = records.network(name, models.mlp(_revealed.SHAPE, 4, hidden=(8, 7)), _revealed.SHAPE)
  # Built for the stream without its request, which may be refused for what is looked for here.
  run = engine.prepare(made(learns), model, **plan, training=training, options=options)
  run = run._replace(setup=run.setup._replace(stream=made([*learns, asked])))
  state = run.run().learner._replace(params=(), key=(), step=())
  return state, whole.train.x[rest[0]], whole.train.x[rest[-4:]]


def best(state, row) -> tuple[float, str]:
  """The best cosine with ``|row|``, and where."""
  row = np.abs(np.asarray(row, np.float64).ravel())
  found = (0.0, "")
  for path, leaf in zip(tree.paths(state), jax.tree.leaves(state), strict=True):
    if jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key) or np.issubdtype(leaf.dtype, np.integer):
      continue
    for power in (1, 0.5):
      for stack in _revealed.vectors(np.abs(np.asarray(leaf, np.float64)) ** power):
        norms = np.linalg.norm(stack, axis=1)
        cosines = (stack @ row / np.linalg.norm(row))[norms > 1e-12] / norms[norms > 1e-12]
        found = max(found, (float(cosines.max(initial=0)), f"{path}, power {power}"))
  return found


def main(argv) -> None:
  del argv
  rows = _page_table.measured(FILE, FIELDS, sorted(methods.METHODS), line, flags.FLAGS.only, lambda rows: None)
  back = [name for name, row in rows.items() if row["cosine"] and float(row["cosine"]) > 0.95]
  print(f"above 0.95: {', '.join(back)}")


if __name__ == "__main__":
  flags.DEFINE_list("only", [], "methods to measure anew")
  app.run(main)
