"""What forgetting without retraining costs in training epochs, and what a bank of oracles costs in trainings."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cljax import data, engine, estimators, models, streams, unlearning
from cljax.core import rows as picking
from cljax.core.tree import fold
from cljax.engine import recipe
from cljax.engine.step import rescaled
from experiments.benchmarks import Table, paired, ratio, shown

ORACLES, EPOCHS, BATCH = 100, 20, 32
NOTES = [
  "One epoch: 1,438 digits in batches of 32 by SGD, one jitted scan; MLP 64-100-100-10. To forget: class 3, 146 rows.",
  "ssd takes both importances, by the estimators' fast pass; 'stored' has the full one from before. slug searches 10 "
  "steps on up to 256 rows; iau takes one gradient over all rows; famr 50 steps on batches of 64.",
  "Oracles: a population over the host's devices (one process), against as many trainings one after the other, each "
  "taken as one such training alone, compiled; seconds of training, without compilation.",
]


def suite(report, repeats: int, oracles: int = ORACLES, epochs: int = EPOCHS) -> Table:
  stream = streams.build(data.load("digits"), "class", tasks=1, validation=0.0)
  split = stream.dataset.train
  model = rescaled(models.mlp((8, 8, 1), 10, hidden=(100, 100)), stream.dataset.scale)
  params, state = model.init(jax.random.key(0))
  gone = np.asarray(split.y) == 3
  forget, retain = (picking.as_rows(n, (split.x[m], split.y[m])) for n, m in (("forget", gone), ("retain", ~gone)))
  x, y = jnp.asarray(split.x), jnp.asarray(split.y)
  steps = len(y) // BATCH
  order = jax.random.permutation(jax.random.key(1), len(y))[: steps * BATCH].reshape(steps, BATCH)
  apply_fn = lambda p, batch: model.apply(p, state, batch.x, train=False, key=None, task=None, mask=None)[0]
  loss_fn = lambda p, b: optax.softmax_cross_entropy_with_integer_labels(apply_fn(p, b).logits, b.y)

  def epoch(params):
    def train(p, at):
      mean = lambda p: optax.softmax_cross_entropy_with_integer_labels(
        model.apply(p, state, x[at], train=True, key=jax.random.key(0), task=None, mask=None)[0].logits, y[at]
      ).mean()
      return jax.tree.map(lambda a, g: a - 0.05 * g, p, jax.grad(mean)(p)), None

    return jax.lax.scan(train, params, order)[0]

  def fisher(p, rows):
    return estimators.fisher_diagonal(
      model, p, state, rows, kind="empirical", key=fold(jax.random.key(0), "f"), batch_size=64
    )

  full = jax.jit(lambda p: fisher(p, picking.as_rows("all", (split.x, split.y))))(params)
  sides: dict[str, Any] = {"forget": forget, "retain": retain}
  calls = {
    "one epoch": epoch,
    "ssd": lambda p: unlearning.ssd(loss_fn, p, importance=fisher, alpha=2.0, **sides),
    "ssd, full importance stored": lambda p: unlearning.ssd(
      loss_fn, p, importance=fisher, alpha=2.0, forget=forget, full_importance=full
    ),
    "slug": lambda p: unlearning.slug(apply_fn, p, **sides),
    "famr": lambda p: unlearning.famr(apply_fn, p, forget=forget),
    "iau": lambda p: unlearning.iau(loss_fn, p, **sides),
  }
  report(f"{len(calls)} programs, {repeats} rounds")
  compiled = {name: jax.jit(call).lower(params).compile() for name, call in calls.items()}
  stats = paired({name: functools.partial(c, params) for name, c in compiled.items()}, repeats)
  rows: list[dict[str, Any]] = []
  for name in calls:
    row: dict[str, Any] = {"what": name, "ms": 1e3 * stats[name].median}
    row["over one epoch [quartiles]"] = shown(ratio(stats[name], stats["one epoch"])) if name != "one epoch" else ""
    rows.append(row)
  training: dict[str, Any] = {
    "training": recipe.Recipe(batch_size=BATCH, epochs=epochs),
    "optimizer_options": {"learning_rate": 0.05},
  }
  without = streams.build(data.load("digits"), "class", tasks=1, validation=0.0)
  without = without._replace(train=tuple(t[~gone[t]] for t in without.train))
  plain = models.mlp((8, 8, 1), 10, hidden=(100, 100))
  report(f"{oracles} oracles")
  bank = engine.prepare(without, plain, seeds=oracles, **training)
  alone = engine.prepare(without, plain, seeds=1, **training)
  seconds = {}
  for name, made, rounds in (("bank", bank, 1), ("alone", alone, max(3, min(9, repeats)))):
    made.run()  # compiles
    spent = []
    for _ in range(rounds):
      before = made.setup.clock.seconds["train"]
      made.run()
      spent.append(made.setup.clock.seconds["train"] - before)
    seconds[name] = float(np.median(spent))
  over = f"{seconds['bank'] / (oracles * seconds['alone']):.2f} of {oracles} trainings one by one"
  rows.append(
    {"what": f"{oracles} oracles of {epochs} epochs", "ms": 1e3 * seconds["bank"], "over one epoch [quartiles]": over}
  )
  return Table("Cost of forgetting", rows, NOTES)
