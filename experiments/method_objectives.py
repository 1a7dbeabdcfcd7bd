"""Which methods run under which objectives: ``python -m experiments.method_objectives [--all] [--check]``.

Every entry of the registry is built and each of its programs traced (shapes alone, nothing compiled or trained) on a
tiny stream of each objective; what is refused stands with its line. Writes ``docs/objectives.md``: the methods that it
lacks, with ``--only=er,gpm`` these anew, with ``--all`` all of them. ``--check`` traces all, writes nothing and exits
with code 1 where the page is another one.
"""

from __future__ import annotations

import functools
import pathlib
import re
import sys
from typing import Any

import numpy as np
from absl import app, flags

PAGE = pathlib.Path(__file__).parent.parent / "docs" / "objectives.md"
OBJECTIVES = (
  "classification", "adversarial", "multi_label", "regression", "sequence", "contrastive", "reconstruction",
  "denoising", "ranking",
)  # fmt: skip
HEAD = """# Methods by objective

What `python -m experiments.method_objectives` finds: each method's programs are traced on a tiny stream of each
objective (two tasks, a request where the method answers one; a stream that tells the task where it asks for it; an
MLP, for text a transformer of one block, for the others the model made for them). Where a method is refused, its line
says why. `contrastive` and `ranking` have no loss of one prediction: what needs `each`, `divergence` or classes is
refused under them; `denoising` has `each`, of one noise a row, and `reconstruction` has it too, but no `divergence`.

What stays with classes has a class in its definition: a mean, a mask, a head or a wrong label of each. `ogd` and
`pca_ogd` hold the gradient of one output of a row, that of its class; of a row with several targets or tokens there is
no such one, and all of them would take as many directions as a row has outputs, which no source has tried. `famr` and
`gs_lora` compare with one who knows nothing of a row: of classes the uniform prediction, else a prediction of 0.

"""


def transformer(activation):
  """Three of four tokens, five wide: an embedding with places, attention, a hidden layer and a head; its hidden units
  are named."""
  import flax.linen as nn
  import jax
  import jax.numpy as jnp

  from cljax import models
  from cljax.core.types import Outputs
  from cljax.models.zoo import activation_of

  class Reader(nn.Module):
    @nn.compact
    def __call__(self, x):
      h = nn.Embed(4, 5, name="embed")(x) + self.param("place", nn.initializers.normal(0.02), (3, 5))
      q, k, v = jnp.split(nn.Dense(15, name="qkv")(nn.LayerNorm(name="norm")(h)), 3, -1)
      score = jnp.where(jnp.tril(jnp.ones((3, 3), bool)), jnp.einsum("bqd,bkd->bqk", q, k), -jnp.inf)
      h = h + nn.Dense(5, name="out")(jax.nn.softmax(score) @ v)
      h = activation_of(activation)(nn.Dense(6, name="hidden")(h))
      return Outputs(nn.Dense(4, name="head")(h), h, (h,))

  units = (models.Unit("hidden/kernel", "hidden/bias", "head/kernel", 0),)
  return models.from_linen(Reader(), (3,), input_dtype=jnp.int32, units=units, with_activation=transformer)


@functools.cache
def setting(objective: str, told: bool):
  """``(stream, model)`` of an objective; ``told``: the task is known at test, and heads are the tasks' own."""
  import cljax
  from cljax import models, streams
  from cljax.data import Dataset, Split

  rng = np.random.default_rng(0)
  count, group = 24, np.repeat(np.arange(2), 12)
  x = rng.normal(size=(count, 4)).astype(np.float32)
  model, classes = models.mlp((4,), 4, hidden=(6,)), 4
  scale: float | None = 1.0
  if objective in ("classification", "adversarial"):
    y = (2 * group + np.arange(count) % 2).astype(np.int32)
  elif objective == "regression":
    y = rng.normal(size=(count, 4)).astype(np.float32)
  elif objective == "multi_label":
    y = rng.integers(0, 2, (count, 4)).astype(np.float32)
  elif objective == "sequence":
    x, y = rng.integers(0, 4, (2, count, 3)).astype(np.int32)
    scale, model = None, transformer("relu")
  elif objective == "ranking":
    x, y = rng.integers(0, 5, (count, 2)).astype(np.int32), np.ones((count, 1), np.float32)
    scale, model = None, models.matrix_factorisation(5, 5, dim=3)
  else:  # of inputs alone; contrastive takes the MLP's four outputs
    x, y = rng.uniform(size=(count, 4)).astype(np.float32), np.ones((count, 1), np.float32)
    model = {"reconstruction": models.vae((4,), 2, (6,)), "denoising": models.denoiser((4,), (6,))}.get(
      objective, model
    )
  split = Split(x, y, np.arange(count, dtype=np.int32), group.astype(np.int32))
  names = tuple("abcd")
  data = Dataset("made", split, split, classes, names, ("0", "1"), scale, "made")
  tasks = [np.flatnonzero(group == t) for t in range(2)]
  events: list[cljax.Learn | cljax.Forget] = [cljax.Learn(0), cljax.Learn(1), cljax.Forget(ids=(0, 1, 2))]
  given: dict[str, Any] = {"task_id_given": True} if told else {}
  if told and objective in ("classification", "adversarial"):
    given["active"] = "task"
  stream = streams.from_tasks(data, tasks, tasks, events=events, **given)
  return stream if stream.num_classes == 4 else stream._replace(num_classes=4), model


def found(method: str, objective: str) -> str:
  """'yes' where all programs trace, else the line that refuses it; 'error: ...' for anything else that is raised."""
  import jax.numpy as jnp

  import cljax
  from cljax import engine, methods
  from cljax.engine import loop, precompile

  entry = methods.METHODS[method]
  told = entry.access.task_id_at_test
  stream, model = setting(objective, told)
  learns = stream._replace(events=stream.events[:2])
  small = {"capacity": 8, "rank": 2, "sketch_rank": 3}
  hyper = {k: v for k, v in small.items() if k in entry.options}
  given: dict[str, Any] = {
    "objective": objective,
    "objective_options": {"items": 5} if objective == "ranking" else {},
    "training": cljax.Recipe(batch_size=6),
    "options": cljax.Options(chunk_steps=2),
  }
  try:
    if entry.access.forgets and method != "clpu_derpp":
      made = engine.prepare(stream, model, "finetune", forget=method, forget_hyper=hyper, **given)
    else:
      made = engine.prepare(learns, model, method, hyper, **given)
    for program, arguments in precompile.calls(made.setup):
      program.shape(*arguments)
    if made.setup.programs.forget is not None and len(made.setup.stream.events) == 3:
      learner = made.setup.programs.init.shape(*loop.init_arguments(made.setup))
      rows = (jnp.zeros(made.setup.spec.total_rows, jnp.int32),) * 2 + (np.int32(3),)
      named = [np.zeros(len(r), bool) for r in made.setup.stream.train]
      whole = np.zeros(made.setup.stream.num_classes, bool)
      shared = loop.request_arguments(made.setup, 2, 0, rows, rows, named, whole)
      made.setup.programs.forget.shape(made.setup.hyper, learner, (), shared)
  except cljax.UsageError as error:
    return str(error)
  except Exception as error:  # a method that breaks is what the table is for
    return f"error: {type(error).__name__}: {str(error).splitlines()[0]}"
  return "yes"


def short(text: str, method: str, objective: str) -> str:
  """A refusal without what its row and column say."""
  for part in (
    f"method.name: '{method}' ",
    f"forget.name: '{method}' ",
    f", which the objective '{objective}' does not have",
    "method.name: ",
    "forget.name: ",
  ):
    text = text.replace(part, "")
  return text.replace("|", "\\|")


def shown() -> dict[str, dict[str, str]]:
  """The cells of the page as it is."""
  lines = re.findall(r"^\| `(\w+)` \| (.*) \|$", PAGE.read_text(), re.M) if PAGE.exists() else []
  return {method: dict(zip(OBJECTIVES, cells.split(" | "), strict=True)) for method, cells in lines}


def page(cells: dict[str, dict[str, str]]) -> str:
  lines = [f"| method | {' | '.join(OBJECTIVES)} |", "|" + " --- |" * (1 + len(OBJECTIVES))]
  for method, row in cells.items():
    lines.append(f"| `{method}` | " + " | ".join(row[o] for o in OBJECTIVES) + " |")
  counts = ", ".join(f"{o} {sum(row[o] == 'yes' for row in cells.values())}" for o in OBJECTIVES)
  return f"{HEAD}Of {len(cells)} methods run: {counts}.\n\n" + "\n".join(lines) + "\n"


def main(argv) -> None:
  del argv
  from cljax import methods

  flag = flags.FLAGS
  kept = {} if flag.all or flag.check else {m: row for m, row in shown().items() if m not in flag.only}
  row = lambda m: {o: short(found(m, o), m, o) for o in OBJECTIVES}
  cells = {m: kept[m] if m in kept else row(m) for m in methods.METHODS}
  broken = [f"{m}, {o}: {text}" for m, row in cells.items() for o, text in row.items() if text.startswith("error")]
  text = page(cells)
  if flags.FLAGS.check:
    sys.exit(int(text != PAGE.read_text()))
  PAGE.write_text(text)
  print(text)
  if broken:
    raise SystemExit("\n".join(["these break:", *broken]))


if __name__ == "__main__":
  flags.DEFINE_bool("all", False, "measure all methods anew")
  flags.DEFINE_list("only", [], "methods to measure anew")
  flags.DEFINE_bool("check", False, "write nothing; exit with 1 where the page is another one")
  app.run(main)
