"""What a projector costs once tasks are stored: step time over plain SGD and bytes kept, at 1 to 20 tasks."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cljax import methods, models, projectors, streams
from cljax.core import tree
from cljax.core.types import Visit
from cljax.data import Dataset, Split
from cljax.engine import recipe
from cljax.engine.setup import spec_of
from cljax.engine.step import Data, StreamPosition, build, state_between_tasks
from experiments.benchmarks import Table, paired, ratio, shown

TASKS = (1, 5, 10, 20)
STEPS = {"mlp": 10, "cnn": 3}  # a timed call is one scan of so many steps
BATCH, ROWS = 32, 128  # a step's rows; a task's rows
STORED = 50  # rows of each task for agem and gem, of which agem draws a batch
DIRECTIONS = 20  # of each task for ogd and pca_ogd


def hyper(name: str, kind: str, tasks: int) -> dict[str, Any]:
  """The options that a method is timed with; a convolution has many rows for each sample, so it looks at fewer."""
  look = {"samples": 125 if kind == "mlp" else 16}
  limit = {"max_bytes": 2**34}
  return {
    "agem": {"capacity": STORED * tasks},
    "gem": {"capacity": STORED * tasks},
    "gpm": look,
    "ogd": {"samples": DIRECTIONS, **limit},
    "pca_ogd": {"directions": DIRECTIONS, "samples": 2 * DIRECTIONS, **limit},
    "coso": {},
    "cuber": look,
  }.get(name, {})


NAMES = ("finetune", "agem", "gem", "gpm", "ogd", "pca_ogd", "coso", "cuber")
# gem's gradients without its program, and gpm once its bases are full; beside the others, not in the plot.
PARTS = {"gem gradients": "gem", "gpm full rank": "gpm"}


def dataset(shape) -> Dataset:
  """Noise of 40 factors, so that inputs span a part of their space, as images do."""
  rng = np.random.default_rng(0)
  factors = rng.normal(size=(40, int(np.prod(shape))))

  def split(n):
    x = (rng.normal(size=(n, 40)) @ factors / 40).astype(np.float32).reshape(n, *shape)
    return Split(x, np.arange(n, dtype=np.int32) % 10, np.arange(n, dtype=np.int32), np.zeros(n, np.int32))

  return Dataset("factors", split(ROWS), split(20), 10, tuple(map(str, range(10))), ("all",), 1.0, "factors")


def filled(state):
  """Every OGD basis full of noise: a step costs the same whatever is stored, and storing it for real takes minutes."""

  def fill(s):
    if not isinstance(s, projectors.OGDState):
      return s
    capacity = jax.tree.leaves(s.basis)[0].shape[0]
    size = sum(b.size for b in jax.tree.leaves(s.basis)) / capacity
    leaves, structure = jax.tree.flatten(s.basis)
    noise = [jax.random.normal(jax.random.key(i), b.shape) / np.sqrt(size) for i, b in enumerate(leaves)]
    return s._replace(basis=jax.tree.unflatten(structure, noise), rank=jnp.int32(capacity))

  return jax.tree.map(fill, state, is_leaf=lambda s: isinstance(s, projectors.OGDState))


def full_rank(state):
  """GPM bases that span their whole space."""

  def fill(s):
    if not isinstance(s, projectors.GPMState):
      return s
    bases = {path: jnp.eye(b.shape[0], b.shape[1], dtype=b.dtype) for path, b in s.bases.items()}
    return s._replace(bases=bases, ranks={path: jnp.int32(b.shape[1]) for path, b in bases.items()})

  return jax.tree.map(fill, state, is_leaf=lambda s: isinstance(s, projectors.GPMState))


def only_gradients() -> optax.GradientTransformationExtraArgs:
  """Takes the reference gradients and does next to nothing with them."""

  def update(updates, state, params=None, *, references, **extra):
    del params, extra
    (given,) = references.values()
    return jax.tree.map(lambda u, g: u + 0.0 * g[0], updates, given), state

  return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def trainer(name: str, kind: str, stream, model):
  """``(run, bytes)``: a function of no arguments that takes steps with every task of the stream stored."""
  spec = spec_of(stream, BATCH)
  label, name = name, PARTS.get(name, name)
  method = methods.make(name, model, spec, **hyper(name, kind, spec.num_tasks))
  if label == "gem gradients":
    method = method._replace(transform=only_gradients())
  optimizer = recipe.make_optimizer("sgd", learning_rate=1e-4)
  parts = build(
    name,
    method,
    model,
    spec,
    optimizer,
    recipe.Recipe(batch_size=BATCH),
    stream.view.apply,
    recipe.make_augment("none"),
  )
  split = stream.dataset.train
  x, y, ids, labels = map(jnp.asarray, (split.x, split.y, split.id, stream.labels))
  data = Data(x, y, ids, labels, jax.tree.map(jnp.asarray, stream.view.tables))
  where = lambda task: StreamPosition(Visit.in_order(task, spec.num_tasks), *(jnp.int32(v) for v in (0, 10, 20)))
  learner = jax.jit(parts.init)(jax.random.key(0))
  step = lambda learner, where, index: parts.step(
    learner, data, where, jnp.asarray(True), index, jnp.full(BATCH, where.visit.task), jnp.ones(BATCH, jnp.int32)
  )[0]
  one, hooks = jax.jit(step), {h: jax.jit(h) for h in (parts.start_task, parts.end_task) if h is not None}
  for task, rows in enumerate(stream.train):
    index = jnp.asarray(rows, jnp.int32)
    args = data, where(task), index, jnp.full_like(index, task), jnp.int32(len(index))
    if parts.start_task is not None:
      learner = hooks[parts.start_task](learner, jnp.asarray(True), *args)
    if name == "coso":  # its sketch is of the gradients
      learner = one(learner, where(task), index[:BATCH])
    if parts.end_task is not None and "ogd" not in name:
      learner = hooks[parts.end_task](learner, jnp.asarray(True), *args)
  learner = learner._replace(opt_state=filled(learner.opt_state))
  if label == "gpm full rank":
    learner = learner._replace(opt_state=full_rank(learner.opt_state))
  index, last = jnp.asarray(stream.train[-1][:BATCH], jnp.int32), where(spec.num_tasks - 1)

  @jax.jit
  def run(learner):
    return jax.lax.scan(lambda c, _: (step(c, last, index), None), learner, length=STEPS[kind])[0].params

  return lambda: run(learner), tree.nbytes(state_between_tasks(learner))


def plot(rows: list[dict[str, Any]], path: str) -> None:
  """Growth with the number of stored tasks: step time over plain SGD above, bytes kept below, one column a model."""
  import matplotlib

  matplotlib.use("Agg")
  from matplotlib import pyplot

  kinds = list(dict.fromkeys(row["model"] for row in rows))
  figure, axes = pyplot.subplots(2, len(kinds), figsize=(5 * len(kinds), 7), squeeze=False, sharex=True)
  for column, kind in enumerate(kinds):
    for name in NAMES[1:]:
      mine = [row for row in rows if row["model"] == kind and row["method"] == name]
      for axis, key in zip(axes[:, column], ("ratio", "state MB"), strict=True):
        axis.plot([row["tasks"] for row in mine], [row[key] for row in mine], marker="o", label=name)
    axes[0, column].set(title=kind, yscale="log")
    axes[1, column].set(xlabel="tasks stored", yscale="log")
  axes[0, 0].set_ylabel("step time over plain SGD")
  axes[1, 0].set_ylabel("bytes kept (MB)")
  axes[0, -1].legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
  for axis in axes.flat:
    axis.grid(alpha=0.3)
  figure.tight_layout()
  figure.savefig(path, dpi=100)
  pyplot.close(figure)


def suite(report, repeats: int, kinds=("mlp",), tasks=TASKS, shape=(28, 28, 1), hidden=(256, 256)) -> Table:
  rows: list[dict[str, Any]] = []
  for kind in kinds:
    model = models.mlp(shape, 10, hidden=hidden) if kind == "mlp" else models.cnn(shape, 10)
    size = tree.size(jax.eval_shape(model.init, jax.random.key(0))[0])
    for count in tasks:
      stream = streams.build(dataset(shape), "permuted", tasks=count, validation=0.0)
      report(f"{kind}, {count} tasks stored: {len(NAMES + tuple(PARTS))} programs, {repeats} rounds")
      made = {name: trainer(name, kind, stream, model) for name in (*NAMES, *PARTS)}
      stats = paired({name: run for name, (run, _) in made.items()}, repeats)
      for name, (_, nbytes) in made.items():
        row: dict[str, Any] = {"model": f"{kind} ({size:,})", "tasks": count, "method": name}
        row["step ms"] = 1e3 * stats[name].median / STEPS[kind]
        row["ratio [quartiles]"] = shown(ratio(stats[name], stats["finetune"])) if name != "finetune" else ""
        row["ratio"] = ratio(stats[name], stats["finetune"])[0]
        row["state MB"] = nbytes / 1e6
        rows.append(row)
  notes = [
    f"ratio: a training step over one of finetune (plain SGD), batch {BATCH}, paired by round.",
    "Data: noise of 40 factors, its inputs permuted by each task.",
    f"agem and gem store {STORED} rows of each task; ogd and pca_ogd {DIRECTIONS} directions of each.",
    "gem gradients: gem without its quadratic program. gpm full rank: its bases span their whole space.",
    "gpm, cuber and coso at their defaults, but gpm and cuber look at 16 rows of a task for the CNN.",
  ]
  return Table("Cost of a projector by the number of stored tasks", rows, notes, lambda path: plot(rows, path))
