"""What a transform costs: a training step with it over one without, on the MLP and the CNN, in one run."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cljax import models, optimizers, regularizers
from cljax.core import tree
from experiments.benchmarks import Table, paired, ratio, shown

STEPS = {"mlp": 100, "cnn": 10}  # a timed call is one scan of so many steps
# Targets of the project: quadratic penalties and spectral with one power iteration.
TARGETS = {n: 1.3 for n in ("ewc", "online_ewc", "mas", "si", "l2", "l2_previous", "l2_init")} | {"spectral": 1.5}

FACTORIES = {
  "ewc": lambda: regularizers.ewc(1.0),
  "online_ewc": lambda: regularizers.online_ewc(1.0),
  "mas": lambda: regularizers.mas(1.0),
  "si": lambda: regularizers.si(1.0),
  "l2": lambda: regularizers.l2(1e-4),
  "l2_previous": lambda: regularizers.l2_previous(1e-4),
  "l2_init": lambda: regularizers.l2_init(1e-4),
  "hierarchical": lambda: regularizers.hierarchical(1e-4),
  "spectral": lambda: regularizers.spectral(1e-4),
  "wasserstein": lambda: regularizers.wasserstein(1e-4),
  "classp": lambda: optimizers.scale_by_classp(),
}


def workload(kind: str, batch_size: int):
  """The model, its parameters and one batch of noise: 784-256-256-10, or three 3x3 convolutions on 28x28."""
  shape = (28, 28, 1)
  model = models.mlp(shape, 10, hidden=(256, 256)) if kind == "mlp" else models.cnn(shape, 10)
  params, model_state = model.init(jax.random.key(0))
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.normal(size=(batch_size, *shape)), jnp.float32)
  y = jnp.asarray(rng.integers(0, 10, batch_size), jnp.int32)

  def loss(params, x):
    outputs, _ = model.apply(params, model_state, x, train=False, key=jax.random.key(0))
    return optax.softmax_cross_entropy_with_integer_labels(outputs.logits, y).mean()

  return params, x, loss


def trainer(tx, state, params, x, loss, steps: int):
  """A function of no arguments that takes ``steps`` jitted training steps from ``params`` and ``state``."""

  @jax.jit
  def run(params, state, x):
    def step(carry, _):
      params, state = carry
      updates, state = tx.update(jax.grad(loss)(params, x), state, params)
      return (optax.apply_updates(params, updates), state), None

    return jax.lax.scan(step, (params, state), length=steps)[0]

  return lambda: run(params, state, x)


def anchored(tx, params):
  """The state after a first task: what a boundary fills is filled, so that nothing is skipped."""
  state = tx.init(params)
  boundary = (regularizers.EwcState, regularizers.OnlineEwcState, regularizers.MasState, regularizers.L2PreviousState)
  for found in regularizers.find(state):
    if isinstance(found, (*boundary, regularizers.SiState, regularizers.HierarchicalState)):
      needs = isinstance(found, boundary[:3])
      importance = jax.tree.map(jnp.ones_like, params) if needs else None
      return regularizers.consolidate(state, params, importance=importance)
  return state


def suite(report, repeats: int) -> Table:
  rows: list[dict[str, Any]] = []
  for kind, batch_size in (("mlp", 32), ("mlp", 128), ("cnn", 32)):
    params, x, loss = workload(kind, batch_size)
    # A small rate: what is timed is the arithmetic, and it must stay finite over all rounds.
    plain = optax.sgd(1e-4)
    runs = {"plain": trainer(plain, plain.init(params), params, x, loss, STEPS[kind])}
    sizes = {}
    for name, make in FACTORIES.items():
      tx = optax.chain(make(), optax.sgd(1e-4))
      state = anchored(tx, params)
      sizes[name] = tree.nbytes(state)
      runs[name] = trainer(tx, state, params, x, loss, STEPS[kind])
    report(f"{kind}, batch {batch_size}: {len(runs)} programs, {repeats} rounds")
    stats = paired(runs, repeats)
    size = sum(p.size for p in jax.tree.leaves(params))
    for name in runs:
      row = {"model": f"{kind} ({size:,})", "batch": batch_size, "transform": name}
      row["step ms"] = 1e3 * stats[name].median / STEPS[kind]
      if name != "plain":
        row["ratio [quartiles]"] = shown(ratio(stats[name], stats["plain"]))
        row["target"] = TARGETS.get(name, "")
        row["state / parameter bytes"] = sizes[name] / tree.nbytes(params)
      rows.append(row)
  notes = [
    "ratio: a training step with the transform before SGD over one of SGD alone, paired by round.",
    "MLP 784-256-256-10, CNN of three 3x3 layers on 28x28; targets at most 1.3 (quadratic) and 1.5 (spectral).",
  ]
  return Table("Cost of a transform in a training step", rows, notes)
