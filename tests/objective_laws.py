"""Laws of every objective, and tiny runs without classes, for tests/objectives."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

import cljax
from cljax import streams
from cljax.core.types import Batch, Outputs
from cljax.data import Dataset, Split
from cljax.objectives import objective


def batch(x, y=None, weight=None, ids=None):
  """A batch of rows ``0..B-1``, or of the ids given."""
  x, y = jax.tree.map(jnp.asarray, (x, y))
  size = jax.tree.leaves(x)[0].shape[0]
  rows = jnp.arange(size, dtype=jnp.int32)
  weight = jnp.ones(size) if weight is None else jnp.asarray(weight, jnp.float32)
  ids = rows if ids is None else jnp.asarray(ids, jnp.int32)
  return Batch(x, jnp.zeros(size, jnp.int32) if y is None else y, weight, ids, rows * 0)


def value_and_slope(one, model, key=None):
  """``(params, batch) -> (loss, gradient)`` through ``model(params, x, key) -> prediction``."""
  key = jax.random.key(7) if key is None else key

  def loss(params, given):
    apply = lambda key, params, batch: (Outputs(model(params, batch.x, key)), {})
    return objective.reduced(*one.loss(key, apply, params, given)[:2], given)

  return jax.jit(jax.value_and_grad(loss))


def scored(one, model):
  """``(params, batch) -> {score: [2]}``: numerators and denominators."""

  def sums(params, given):
    predict = lambda b: model(params, b.x, None)
    return {n: objective.sums(s, jax.random.key(0), predict, given) for n, s in one.scores.items()}

  program = jax.jit(sums)
  return lambda params, given: jax.tree.map(lambda a: np.asarray(a, np.float64), program(params, given))


def same_bits(a, b):
  for one, two in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    np.testing.assert_array_equal(np.asarray(one), np.asarray(two))


def spoiled(given, what=np.nan):
  """The batch with NaN (of integers: 1) in its absent rows."""
  gone = np.asarray(given.weight) == 0

  def spoil(a):
    a = np.array(a)
    a[gone] = what if np.issubdtype(a.dtype, np.floating) else 1
    return jnp.asarray(a)

  x, y = jax.tree.map(spoil, (given.x, given.y))
  return given._replace(x=x, y=y)


def cut(given, count):
  """The first ``count`` rows alone."""
  take = lambda a: None if a is None else jax.tree.map(lambda v: v[:count], a)
  fields = ("x", "y", "weight", "id", "task")
  return given._replace(**{f: take(getattr(given, f)) for f in fields})


def check_absent(one, model, params, given, count):
  """Rows of weight 0, which stand behind the first ``count``, are as if absent: what they hold changes no bit of value,
  gradient or score, and without them all is the same up to the order of sums."""
  clean, dirty = spoiled(given, 0.0), spoiled(given)
  program, totals = value_and_slope(one, model), scored(one, model)
  first = program(params, clean)
  assert all(np.isfinite(a).all() for a in jax.tree.leaves(first))
  assert any(np.abs(a).max() > 0 for a in jax.tree.leaves(first[1]))
  same_bits(first, program(params, dirty))
  close = lambda a, b: np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=2e-5, atol=2e-6)
  jax.tree.map(close, first, program(params, cut(given, count)))
  scores = totals(params, clean)
  same_bits(scores, totals(params, dirty))
  same_bits(scores, totals(params, clean))
  jax.tree.map(close, scores, totals(params, cut(given, count)))


def stream_of(x, y, group, scale, outputs=1):
  """Two tasks by group, a quarter of the rows for test."""

  def part(rows):
    rows = np.flatnonzero(rows)
    ids = np.arange(len(rows), dtype=np.int32)
    return Split(jax.tree.map(lambda a: a[rows], x), y[rows], ids, group[rows].astype(np.int32))

  cut = np.arange(len(group)) % 4 != 0
  train, test = part(cut), part(~cut)
  data = Dataset("made", train, test, outputs, tuple("abcde"[:outputs]), ("0", "1"), scale, "made")
  of = lambda s: [np.flatnonzero(s.group == t) for t in (0, 1)]
  return streams.from_tasks(data, of(train), of(test))


def run(stream, model, objective, method="finetune", epochs=3, rate=0.02, feed="device", **more):
  """A short run under Adam."""
  options = cljax.Options(chunk_steps=4, eval_block=8, feed=feed)
  given = {"training": cljax.Recipe(batch_size=8, epochs=epochs), "options": options}
  rates = {"optimizer": "adam", "optimizer_options": {"learning_rate": rate}}
  return cljax.run(stream, model, method, objective=objective, **given, **rates, **more)
