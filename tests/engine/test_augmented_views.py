"""Pictures are augmented as they were read and then shown as their task shows them; memories store them as read."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import cljax
from cljax import methods, streams
from cljax.core.method import Reference
from cljax.core.types import Outputs, Visit
from cljax.engine import recipe
from cljax.engine.setup import spec_of
from cljax.engine.step import Data, StreamPosition, build
from cljax.methods.replay import buffers as replay


@pytest.fixture(scope="module")
def stream(dataset):
  return streams.build(dataset, "permuted", tasks=2, validation=0.0, seed=3)


def watched(stream, kind):
  """A step of er with a reference, whose model gives back what it saw: inputs of the step and of the reference."""
  seen = {}

  def apply(params, state, x, **given):
    logits = x.reshape(x.shape[0], -1)[:, :4] * params["w"]
    return Outputs(logits, x.reshape(x.shape[0], -1)), state

  model = cljax.Model(lambda key: ({"w": jnp.ones(4)}, ()), apply)
  spec = spec_of(stream, 8)
  method = methods.make("er", model, spec, capacity=16)

  def reference(key, learner):
    rows, weight = learner.method_state.memory.rows, jnp.ones(16)
    del key
    return replay.drawn(spec, rows, weight)

  def loss(key, params, learner, batch):
    seen["reference"] = batch.x
    return jnp.sum(params["w"]) * jnp.sum(batch.x) * 0

  def term(key, params, learner, batch, outputs):
    del key, learner, outputs
    seen.update(step=batch.x, task=batch.task)
    return 0.0 * params["w"].sum()

  project = optax.GradientTransformationExtraArgs(
    lambda params: optax.EmptyState(), lambda updates, state, params=None, *, references, **extra: (updates, state)
  )
  method = method._replace(terms={"watch": term}, references={"stored": Reference(reference, loss)}, transform=project)
  optimizer = recipe.make_optimizer("sgd", learning_rate=0.1)
  training = recipe.Recipe(batch_size=8, augment=kind)
  parts = build("er", method, model, spec, optimizer, training, stream.view.apply, recipe.make_augment(kind))
  return parts, seen


@pytest.mark.parametrize("kind", ["flip", "crop_flip"])
def test_every_row_is_a_view_of_an_augmented_picture(stream, kind):
  parts, seen = watched(stream, kind)
  split, perms = stream.dataset.train, stream.view.tables[0]
  data = data_of(stream)
  learner = parts.init(jax.random.key(0))
  ones = jnp.ones(8, jnp.int32)
  for task in (0, 1):
    where = StreamPosition(Visit.in_order(task, 2), *(jnp.int32(v) for v in (0, 10, 20)))
    for k in range(2):
      index = jnp.arange(8) + 8 * k
      with jax.disable_jit():
        learner, _, _ = parts.step(learner, data, where, jnp.asarray(True), index, task * ones, ones)
      stored = learner.method_state
      np.testing.assert_array_equal(stored.pending["x"], split.x[np.asarray(index)], err_msg="stored as read")
      rows = np.asarray(seen["step"]).reshape(len(seen["step"]), -1)
      tasks = np.asarray(seen["task"])
      possible = augmented(split.x, kind)
      for row, t in zip(rows, tasks, strict=True):
        back = np.empty_like(row)
        back[perms[t]] = row
        inside = (np.abs(possible - back).max(1) < 1e-6).any() or not row.any()
        assert inside, "not the view of any augmented picture"


def data_of(stream):
  split = stream.dataset.train
  arrays = map(jnp.asarray, (split.x, split.y, np.arange(len(split.y)), stream.labels))
  return Data(*arrays, jax.tree.map(jnp.asarray, stream.view.tables))


def augmented(x, kind):
  """All that flips (and crops by one pixel after padding) can make of the pictures, ``[M, pixels]``."""
  found = []
  wide = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
  height, width = x.shape[1:3]
  places = [(1, 1)] if "crop" not in kind else [(i, j) for i in range(3) for j in range(3)]
  for i, j in places:
    part = wide[:, i : i + height, j : j + width]
    found += [part, part[:, :, ::-1]] if "flip" in kind else [part]
  return np.concatenate([f.reshape(len(x), -1) for f in found])


def test_a_references_rows_are_shown_as_their_own_tasks(stream):
  parts, seen = watched(stream, "none")
  split = stream.dataset.train
  learner = parts.init(jax.random.key(0))
  state = learner.method_state
  rows = {
    "x": jnp.asarray(split.x[:16]),
    "y": jnp.asarray(split.y[:16]),
    "id": jnp.arange(16),
    "task": jnp.arange(16) % 2,
  }
  learner = learner._replace(method_state=state._replace(memory=state.memory._replace(rows=rows)))
  data = data_of(stream)
  where = StreamPosition(Visit.in_order(1, 2), *(jnp.int32(v) for v in (0, 10, 20)))
  with jax.disable_jit():
    parts.step(learner, data, where, jnp.asarray(True), jnp.arange(8), jnp.ones(8, jnp.int32), jnp.ones(8, jnp.int32))
  flat = split.x[:16].reshape(16, -1)
  wanted = np.stack([flat[i][stream.view.tables[0][i % 2]] for i in range(16)])
  np.testing.assert_array_equal(np.asarray(seen["reference"]).reshape(16, -1), wanted)
