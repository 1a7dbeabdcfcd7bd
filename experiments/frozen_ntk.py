"""Fast NTK where it is meant to stand, beside where it is not: ``python -m experiments.frozen_ntk`` (five minutes).

A backbone, MLP 64-64, is trained on the digits 5 to 9 and never sees the others. From it five seeds learn the digits 0
to 4: ``frozen``, with the hidden kernels as they are (method ``freeze``, its option ``patterns``), biases and head
tuned; or ``whole``, with every weight. Class 3 is then forgotten by ``fast_ntk`` over what ``frozen`` tunes, linearised
at the backbone: the same edit in both, at its defaults, with 128 rows of each side in the place of 32, and with its
length looked for. ``retrained`` are models that learn the digits 0 to 4 without the 3, from the same backbone.

Measures what ``experiments/results/forget_defaults/frozen_ntk.tsv`` lacks (``--only=frozen/fast_ntk`` anew) and writes
its table in ``docs/forget_defaults.md``.
"""

from __future__ import annotations

import functools

import jax
import numpy as np
from absl import app, flags

import cljax
from cljax import data, engine, models, streams
from cljax.evaluation import evidence
from experiments import _page_table
from experiments.forget_defaults import EPOCHS, FOLDER, PAGE, SEEDS, SIDES, TRAINED, accuracies, holds

FILE, MARK = FOLDER / "frozen_ntk.tsv", "frozen_ntk"
FIELDS = ("method", *SIDES, *(f"{side}_sd" for side in SIDES), "why")
SEEN_BEFORE, LEARNED, REQUEST = range(5, 10), range(5), "class=3"
TUNED = "bias|^head/"  # what fast_ntk edits and a frozen backbone lets be tuned
FROZEN = {"patterns": "hidden_0/kernel,hidden_1/kernel", "begin_task": 0}
BACKBONES = {"frozen": ("freeze", FROZEN), "whole": ("finetune", {})}
EDITS = {
  "fast_ntk": {},
  "fast_ntk rows=128": {"rows": 128},
  "fast_ntk rows=128 search=10": {"rows": 128, "search": 10},
}
ROWS = ("original", "retrained", *EDITS)


def stream_of(classes):
  order = [*classes, *(c for c in range(10) if c not in classes)]
  return streams.build(
    data.load("digits"), "class", tasks=1, classes_per_task=len(classes), class_order=order, validation=0.0
  )


def trained(stream, model, method=("finetune", {}), forget="", forget_hyper=None, seeds=SEEDS):
  optimizer, options = TRAINED["mlp"]
  made = engine.prepare(
    stream, model, *method, forget=forget, forget_hyper=forget_hyper or {}, optimizer=optimizer,
    optimizer_options=options, seeds=seeds, training=cljax.Recipe(batch_size=32, epochs=EPOCHS),
  )  # fmt: skip
  return made, made.run()


@functools.cache
def backbone():
  """A model that starts where training on the first digits ended."""
  stream = stream_of(SEEN_BEFORE)
  model = models.mlp(stream.dataset.train.x.shape[1:], stream.num_classes, hidden=(64, 64))
  params = jax.tree.map(lambda a: np.asarray(a[0]), trained(stream, model, seeds=1)[1].learner.params)
  return model._replace(init=lambda key: (params, {}))


def line(name: str) -> dict[str, str]:
  which, _, row = name.partition("/")
  stream, request = stream_of(LEARNED), streams.parse_request(REQUEST)
  rows, method = evidence.sides(stream, request), BACKBONES[which]
  forget = {}
  if row == "retrained":
    stream = evidence.without_rows(stream, streams.resolve_pairs(request, stream))
  elif row != "original":
    stream = stream._replace(events=(*stream.events, request))
    forget = {"forget": "fast_ntk", "forget_hyper": {"leaves": TUNED, **EDITS[row]}}
  made, result = trained(stream, backbone(), method, **forget)
  answers = evidence.answers(made.setup, result.learner, rows, made.setup.model)
  return {"method": name, "why": "", **accuracies(answers, rows)}


def table(rows) -> str:
  head = "| backbone | edit | forget | retain | test | forgets the class, keeps the rest |\n" + "| --- " * 6 + "|\n"
  body = ""
  for name, row in rows.items():
    which, _, edit = name.partition("/")
    there = f"{which}/retrained" in rows and edit in EDITS
    verdict = ("yes" if holds(row, rows[f"{which}/retrained"]) else "**no**") if there else ""
    cells = " | ".join(f"{row[s]} ± {row[f'{s}_sd']}" for s in SIDES)
    body += f"| {which} | `{edit}` | {cells} | {verdict} |\n"
  return head + body


def main(argv) -> None:
  del argv
  names = [f"{which}/{row}" for which in BACKBONES for row in ROWS]
  ordered = lambda rows: {name: rows[name] for name in names if name in rows}
  show = lambda rows: _page_table.show(PAGE, MARK, table(ordered(rows)))
  _page_table.measured(FILE, FIELDS, names, line, flags.FLAGS.only, show)


if __name__ == "__main__":
  flags.DEFINE_list("only", [], "rows to measure anew")
  app.run(main)
