"""A method's pure functions on one stream, without the engine; and comparisons of trees."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from cljax import methods, recipe, tree
from cljax.setup import spec_of
from cljax.step import Data, Where, build

BATCH = 8


class Bench:
  """One method's pure functions on one stream, without the engine."""

  def __init__(self, name, stream, model, hyper=None, fuse=True, rows=BATCH, optimizer=None):
    entry = methods.METHODS[name]
    plan = methods.plan({"method": (name, {**entry.test, **(hyper or {})})})
    self.stream, self.spec = stream, spec_of(stream, rows)
    optimizer = optimizer or recipe.make_optimizer("sgd", learning_rate=0.1)
    training = recipe.Recipe(batch_size=rows)
    augment = recipe.make_augment("none")
    method = plan.build(model, self.spec, plan.hyper)
    self.parts = build(name, method, model, self.spec, optimizer, training, stream.view.apply, augment)
    split = stream.dataset.train
    ids = np.arange(len(split.y), dtype=np.int32)
    self.data = Data(*map(jnp.asarray, (split.x, split.y, ids, stream.labels)), stream.view.tables)
    options = {} if fuse else {"xla_disable_hlo_passes": "fusion"}
    self.step = jax.jit(self.parts.step, compiler_options=options)
    self.init = jax.jit(self.parts.init)
    self.hooks = {h: jax.jit(h) for h in (self.parts.start_task, self.parts.end_task) if h is not None}

  def where(self, task):
    return Where(*(jnp.asarray(v, jnp.int32) for v in (task, 0, 10, 20)))

  def rows(self, task, k, weight=None):
    pool = np.asarray(self.stream.train[task])
    size = self.spec.batch_size
    index = pool[(np.arange(size) + k * BATCH) % len(pool)]
    weight = np.ones(size, np.int32) if weight is None else weight
    return jnp.asarray(index, jnp.int32), jnp.full(size, task, jnp.int32), jnp.asarray(weight)

  def boundary(self, hook, learner, task):
    if hook is None:
      return learner
    rows = np.asarray(self.stream.train[task], np.int32)
    index = np.pad(rows, (0, self.spec.task_rows - len(rows)))
    args = (jnp.asarray(index), jnp.full(len(index), task, jnp.int32), jnp.int32(len(rows)))
    return self.hooks[hook](learner, self.data, self.where(task), *args)

  def arguments(self, task, k=0, weight=None):
    return self.data, self.where(task), jnp.asarray(True), *self.rows(task, k, weight)

  def start(self, seed=0):
    return self.init(jax.random.key(seed))

  def train(self, steps=3, tasks=(0, 1), weight=None):
    learner = self.start()
    for task in tasks:
      learner = self.boundary(self.parts.start_task, learner, task)
      for k in range(steps):
        learner = self.step(learner, *self.arguments(task, k, weight))[0]
      learner = self.boundary(self.parts.end_task, learner, task)
    return learner


def assert_same(a, b):
  """Bit-equal leaves, named."""
  for path, x, y in zip(tree.paths(a), jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
      x, y = jax.random.key_data(x), jax.random.key_data(y)
    np.testing.assert_array_equal(np.asarray(x), np.asarray(y), err_msg=path)


def assert_near(a, b, tolerance=2e-5):
  for path, x, y in zip(tree.paths(a), jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    np.testing.assert_allclose(np.asarray(x), np.asarray(y), atol=tolerance, rtol=2e-4, err_msg=path)
