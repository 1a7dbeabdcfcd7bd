"""Forget a class, forget another, learn more: what is known of the first then, for every method that answers requests.

``python -m experiments.stay_gone`` measures what ``experiments/results/unlearning/stay_gone.tsv`` lacks (``--only=ssd``
these anew), and writes that file and the table of ``docs/deletion.md`` between its marks.

Digits in two tasks of five classes, learned by replay (``er``, 200 rows) with an MLP 100-100, three seeds. After the
first task class 3 is to be forgotten, then class 0, then the second task is learned. Accuracy on the training and test
rows of class 3, among all classes learned so far, after each of these; what retraining has is the row ``retrain``. Each
method has its defaults. Methods that can answer only within their own training (``sisa``,
``clpu_derpp``) are not asked: they are exact.
"""

from __future__ import annotations

import pathlib

import numpy as np
from absl import app, flags

import cljax
from cljax import data, engine, methods, models, streams
from experiments import _page_table
from experiments._proof_records import ROOT

FILE = pathlib.Path(ROOT) / "experiments" / "results" / "unlearning" / "stay_gone.tsv"
PAGE = pathlib.Path(ROOT) / "docs" / "deletion.md"
MOMENTS = ("learned", "first", "second", "later")
FIELDS = ("method", *(f"{side}_{moment}" for side in ("gone", "kept") for moment in MOMENTS), "spread")
FIRST, SECOND, SEEDS = 3, 0, 3


def accuracies(dataset, classes: int = 10):
  """An evaluator: accuracy on the rows of class FIRST, and on those of the classes that no request names and that were
  learned in the first task."""
  x, y = (np.concatenate([getattr(s, f) for s in (dataset.train, dataset.test)]) for f in ("x", "y"))

  def measure(learner, predict, stream, event):
    del learner, event
    first = np.unique(dataset.train.y[stream.train[0]])
    right = np.argmax(np.asarray(predict(x)), 1) == y
    kept = np.isin(y, first) & ~np.isin(y, (FIRST, SECOND))
    return {"gone": right[y == FIRST].mean(), "kept": right[kept].mean()}

  return cljax.Evaluator("stay_gone", measure)


def made(dataset, name: str, model=None, epochs: int = 20, seeds: int = SEEDS, options=None, **base):
  """The prepared run of a method."""
  stream = streams.build(dataset, "class", tasks=2, validation=0.0, forget=f"1:class={FIRST}; 1:class={SECOND}")
  model = model or models.mlp(dataset.train.x.shape[1:], stream.num_classes, hidden=(100, 100))
  return engine.prepare(
    stream, model, "er", base or {"capacity": 200}, forget=name, forget_hyper=options or {},
    optimizer="sgd", optimizer_options={"learning_rate": 0.05}, seeds=seeds, evaluators=accuracies(dataset),
    training=cljax.Recipe(batch_size=32, epochs=epochs),
  )  # fmt: skip


def found(result) -> dict[str, np.ndarray]:
  """``{"gone", "kept": [S, 4]}`` at the MOMENTS."""
  return {side: np.asarray(values)[:, 1:, 0] for side, values in result.evaluations["stay_gone"].items()}


def asked() -> list[str]:
  """Methods that answer a request which another learner trained for."""
  own = ("acil", "clpu_derpp", "fecam", "ranpac", "simplecil", "sisa", "slda")  # these answer for their own training
  return sorted(n for n, e in methods.METHODS.items() if e.access.forgets and n not in own)


def line(dataset, name: str) -> dict[str, str]:
  try:
    values = found(made(dataset, name).run())
  except cljax.CljaxError as error:  # it cannot answer, or diverged
    return dict.fromkeys(FIELDS, "") | {"method": name, "spread": str(error).splitlines()[0]}
  means = {f"{side}_{m}": f"{100 * v[:, i].mean():.1f}" for side, v in values.items() for i, m in enumerate(MOMENTS)}
  return {"method": name, **means, "spread": f"{100 * values['gone'][:, 3].std(ddof=1):.1f}"}


def table(rows: dict[str, dict[str, str]]) -> str:
  head = (
    "| method | class 3: learned | forgotten | after class 0 | after the second task | others: learned | forgotten "
  )
  head += "| after class 0 | after the second task |\n" + "| --- " * 9 + "|\n"
  order = ["retrain", *sorted(set(rows) - {"retrain"})]
  cells = lambda r: " | ".join(r[f] for f in FIELDS[1:-1])
  refused = [f"`{n}`: {rows[n]['spread']}" for n in order if not rows[n][FIELDS[1]]]
  body = "".join(f"| `{n}` | {cells(rows[n])} |\n" for n in order if rows[n][FIELDS[1]])
  return head + body + ("\n" + "\n".join(refused) + "\n" if refused else "")


def main(argv) -> None:
  del argv
  dataset = data.load("digits")
  show = lambda rows: _page_table.show(PAGE, "stay_gone", table(rows)) if "retrain" in rows else None
  _page_table.measured(FILE, FIELDS, asked(), lambda name: line(dataset, name), flags.FLAGS.only, show)


if __name__ == "__main__":
  flags.DEFINE_list("only", [], "methods to measure anew")
  app.run(main)
