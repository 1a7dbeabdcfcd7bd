"""EWC at strengths over decades with its pull in the gradient and behind the optimizer: ``python -m
experiments.decoupled_penalties [--data=mnist] [--data_dir=DIR] [--optimizer=sgd] [--forms=...] [--out=FILE]``
prints a table.

Permuted pictures in five tasks, an MLP of 100-100 hidden units with a shared head, one epoch at batch 32, a rate of
0.1, three seeds; nothing is tuned. Beside EWC alone, it composed with GPM, whose projection acts after the pull. A
member is lost where its loss became NaN. All strengths and seeds of a form are one program.
"""

from __future__ import annotations

import json
import pathlib
import time

import numpy as np
from absl import app, flags

import cljax
from cljax import data, methods, metrics, models, streams

STRENGTHS = (1.0, 10.0, 100.0, 1000.0, 10000.0)


def with_gpm(decoupled: bool):
  """The factory of GPM and EWC; ``strength`` is EWC's."""

  def factory(model, spec, *, strength):
    return cljax.compose(
      gpm=methods.make("gpm", model, spec),
      ewc=methods.make("ewc", model, spec, strength=strength, decoupled=decoupled),
    )

  return factory


FORMS = {
  "finetune": ("finetune", {}, (None,)),
  "ewc": ("ewc", {}, STRENGTHS),
  "ewc, decoupled": ("ewc", {"decoupled": True}, STRENGTHS),
  "gpm": ("gpm", {}, (None,)),
  "gpm + ewc": (with_gpm(False), {}, STRENGTHS),
  "gpm + ewc, decoupled": (with_gpm(True), {}, STRENGTHS),
}


def measured(name: str, stream, model, optimizer: str, rate: float, seeds: int) -> list[dict]:
  """A row for each strength of a form."""
  method, options, strengths = FORMS[name]
  hyper = options if strengths == (None,) else {**options, "strength": 1.0}
  at = lambda s: {} if s is None else {"method.strength": s}
  began = time.perf_counter()
  result = cljax.run(
    stream, model, method, hyper, optimizer=optimizer, optimizer_options={"learning_rate": rate},
    training=cljax.Recipe(batch_size=32), options=cljax.Options(on_divergence="freeze"),
    population=[cljax.Member(seed, at(s)) for s in strengths for seed in range(seeds)],
  )  # fmt: skip
  seconds = time.perf_counter() - began
  average = 100 * np.asarray(metrics.average_accuracy(result.learning_rows)).reshape(-1, seeds)
  last = 100 * np.asarray(result.accuracy)[:, -1].reshape(-1, seeds, stream.num_tasks)
  alive = np.asarray(result.alive).reshape(-1, seeds)
  rows = []
  for k, s in enumerate(strengths):
    own = alive[k]
    of = lambda v, own=own: float(v[own].mean()) if own.any() else None
    rows.append({
      "form": name, "strength": s, "lost": int((~own).sum()), "average": of(average[k]),
      "spread": float(average[k][own].std(ddof=1)) if own.sum() > 1 else None, "first": of(last[k, :, 0]),
      "last": of(last[k, :, -1]), "seconds": seconds,
    })  # fmt: skip
  return rows


def line(row: dict) -> str:
  number = lambda v: "-" if v is None else f"{v:.1f}"
  strength = "" if row["strength"] is None else f"{row['strength']:g}"
  cells = (row["form"], strength, f"{number(row['average'])} ± {number(row['spread'])}", number(row["first"]))
  return "| " + " | ".join((*cells, number(row["last"]), str(row["lost"]))) + " |"


def main(argv) -> None:
  del argv
  given = FLAGS
  stream = streams.build(
    data.load(given.data, data_dir=given.data_dir or None), "permuted", tasks=5, validation=0.0, rows=given.rows
  )
  model = models.mlp(stream.dataset.train.x.shape[1:], stream.num_classes, hidden=(100, 100))
  print("| form | strength | average accuracy | first task | last task | lost |\n| --- | --- | --- | --- | --- | --- |")
  found = []
  for name in given.forms:
    rows = measured(name, stream, model, given.optimizer, given.rate, given.seeds)
    print("\n".join(map(line, rows)), flush=True)
    found += rows
  if given.out:
    settings = {k: given[k].value for k in ("data", "optimizer", "rate", "rows", "seeds")}
    pathlib.Path(given.out).write_text(json.dumps({"settings": settings, "table": found}, indent=1) + "\n")


FLAGS = flags.FLAGS

if __name__ == "__main__":
  flags.DEFINE_string("data", "mnist", "what cljax.data.load takes")
  flags.DEFINE_string("data_dir", "", "where its files are")
  flags.DEFINE_string("optimizer", "sgd", "an optimizer by name")
  flags.DEFINE_float("rate", 0.1, "its learning rate")
  flags.DEFINE_multi_enum("forms", list(FORMS), list(FORMS), "which of them, each by a flag of its own")
  flags.DEFINE_integer("rows", 6000, "training rows of a task")
  flags.DEFINE_integer("seeds", 3, "seeds of each strength")
  flags.DEFINE_string("out", "", "file of the figures, JSON")
  app.run(main)
