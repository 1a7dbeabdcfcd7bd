"""What each method needs of a network: tried on several of a kind, from a plain function to one of the zoo.

``python -m experiments.model_needs`` measures what ``experiments/results/model_needs.tsv`` lacks (``--only=er,gem``
these anew), and writes that file and the list of ``docs/own_model.md`` between its marks. Two batches are trained in
each of two tasks of tiny blobs, with the arguments of its record; what is refused is refused with its own line.
"""

from __future__ import annotations

import pathlib

import flax.linen as nn
import jax
from absl import app, flags

import cljax
from cljax import methods, models, streams
from experiments import _page_table
from experiments._proof_records import ROOT, records
from experiments.extended_methods import SMALL, dataset

FILE = pathlib.Path(ROOT) / "experiments" / "results" / "model_needs.tsv"
PAGE = pathlib.Path(ROOT) / "docs" / "own_model.md"
FIELDS = ("method", "needs", "reason")
SHAPE, CLASSES, WIDTH = (4, 4, 1), 6, 6
PICTURES, EXCHANGED = "layers with places", "an activation that can be exchanged (`with_activation`)"


class _Net(nn.Module):
  sown: tuple[str, ...] = ()

  @nn.compact
  def __call__(self, x):
    x = nn.relu(nn.Dense(WIDTH)(x.reshape(x.shape[0], -1)))
    for name in self.sown:
      self.sow("intermediates", name, x)
    return nn.Dense(CLASSES)(x)


def bare() -> cljax.Model:
  """Logits from a function, and nothing else."""

  def init(key):
    a, b = jax.random.split(key)
    return {"first": jax.random.normal(a, (16, WIDTH)) / 4, "last": jax.random.normal(b, (WIDTH, CLASSES)) / 2}

  return models.from_apply(init, lambda p, x: jax.nn.relu(x.reshape(x.shape[0], -1) @ p["first"]) @ p["last"])


# What the first model that works has more than the ones before.
KINDS = {
  "": bare,
  "captured layers": lambda: models.from_linen(_Net(), SHAPE),
  "sown features": lambda: models.from_linen(_Net(("features",)), SHAPE),
  "sown hidden activations": lambda: models.from_linen(_Net(("features", "hidden")), SHAPE),
  "units": lambda: models.mlp(SHAPE, CLASSES, hidden=(WIDTH,)),
  PICTURES: lambda: models.cnn(SHAPE, CLASSES, widths=(4, 6)),
}


def line(name: str, blobs) -> dict[str, str]:
  """What one method needs, and what it says where it lacks it."""
  entry = methods.METHODS[name]
  hyper = {k: v for k, v in SMALL.items() if k in entry.options} | dict(records.arguments(name))
  kind = "task" if entry.access.task_id_at_test else "class"
  stream = streams.build(blobs, kind, tasks=2, classes_per_task=3)
  reason = ""
  for needs, make in KINDS.items():
    try:
      cljax.run(stream, make(), name, hyper, training=cljax.Recipe(batch_size=32, epochs=1))
      return {"method": name, "needs": needs, "reason": reason}
    except cljax.UsageError as error:
      reason = str(error)
  return {"method": name, "needs": "none of these", "reason": reason}


def table(rows: dict[str, dict[str, str]]) -> str:
  """The list of the docs: methods by what they need."""
  # The first of these models with units is the first of the zoo, which has more than those.
  needed = lambda row: EXCHANGED if "with_activation" in row["reason"] else row["needs"]
  of = lambda needs: ", ".join(f"`{name}`" for name, row in sorted(rows.items()) if needed(row) == needs)
  named = {needs or "logits alone": of(needs) for needs in (*KINDS, EXCHANGED, "none of these")}
  return "".join(f"- {needs}: {found}\n" for needs, found in named.items() if found)


def main(argv) -> None:
  del argv
  blobs = dataset()
  show = lambda rows: _page_table.show(PAGE, "needs", table(rows))
  _page_table.measured(FILE, FIELDS, sorted(methods.METHODS), lambda n: line(n, blobs), flags.FLAGS.only, show)


if __name__ == "__main__":
  flags.DEFINE_list("only", [], "Methods to measure anew.")
  app.run(main)
