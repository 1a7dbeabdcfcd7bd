"""HFC against NumPy in float64: weights of rows by their tasks, three means, and what holds of the weights."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bench import Bench
from by_hand import RATE, backward, batch_of, cross_entropy, forward, log_softmax, near

from cljax import models, streams
from cljax.engine.step import FRESH
from cljax.methods.replay import hfc
from cljax.models import aggregation

HYPER = {"capacity": 12, "replay_batch": 12, "relation": 0.5}


@pytest.fixture(scope="module")
def three(make_blobs):
  """Three tasks of two classes."""
  return streams.build(make_blobs(classes=6), "class", tasks=3, validation=0.0)


@pytest.fixture(scope="module")
def trained(three):
  """A bench; after two tasks; two steps into the third."""
  bench = Bench("hfc", three, models.mlp((4, 4, 1), 6, hidden=(8,)), HYPER, rows=12)
  two = bench.train(2, (0, 1))
  begun = bench.boundary("start_task", two, 2)
  return bench, two, bench.steps(begun, 2, 2, met=(0, 1))


def sigmoid(z):
  return 1 / (1 + np.exp(-z))


def weights_by_hand(z, y, task, current, share):
  g = np.log((1 - np.exp(-cross_entropy(z, y))) ** share + 1)
  w1, w2 = np.zeros(len(y)), np.zeros(len(y))
  for t in np.unique(task):
    own = task == t
    r = g[own] / g[own].mean()
    if t == current:
      w1[own], w2[own] = (1 - share) * np.clip(r, 0.5, 1), 0.8 * share
    else:
      w1[own], w2[own] = np.sqrt(1 - share) * np.clip(r, 0.5, 1.2), share * np.clip(r, 0.5, 1.2)
  return w1, w2


def test_hfc_s_step_by_hand(trained):
  """``mean w1 BCE + mean w2 BCE(T) + 0.5 mean_c w2_c BCE(o_c, T_c)`` over rows and exemplars, of which some are absent;
  the weights have no gradient."""
  bench, two, moved = trained
  present = np.array([1, 1, 1, 0, 1, 1, 0, 1, 1, 1, 1, 1], bool)
  after, _, loss = bench.step(moved, *bench.arguments(2, 0, jnp.asarray(present * FRESH)))
  split, memory = bench.stream.dataset.train, two.method_state.memory
  kept = np.asarray(memory.rows["id"])[: int(memory.count)]
  x, y = (a[present] for a in batch_of(bench, 2, 0))
  part = len(kept) / (len(kept) + len(bench.stream.train[2]))
  share = np.r_[np.full(len(y), (1 - part) / len(y)), np.full(len(kept), part / len(kept))]
  x, y = np.concatenate([x, split.x[kept]]), np.r_[y, split.y[kept]]
  task = y // 2
  z, said = forward(moved.params, x)[1], forward(two.params, x)[1]
  labels = np.eye(6)[y]
  targets = np.where(np.arange(6) < 4, sigmoid(said), labels)
  w1, w2 = weights_by_hand(z, y, task, 2, 4 / 6)
  assert np.ptp(w1[task == 2]) > 1e-3
  bce = lambda z, t: (np.logaddexp(0, z) - t * z).mean(-1)
  total = (share * (w1 * bce(z, labels) + w2 * bce(z, targets))).sum()
  d = (share * w1)[:, None] * (sigmoid(z) - labels) / 6 + (share * w2)[:, None] * (sigmoid(z) - targets) / 6
  for c in range(6):
    own = y == c
    o, t, w = z[own].mean(0), targets[own].mean(0), w2[own].mean()
    total += 0.5 * w * bce(o, t) / 6
    d[own] += 0.5 * w * (sigmoid(o) - t) / 6 / 6 / own.sum()
  np.testing.assert_allclose(float(loss), total, rtol=1e-5)
  want = {n: -RATE * g for n, g in backward(moved.params, x, d).items()}
  near(jax.tree.map(lambda a, b: a - b, after.params, moved.params), want)


def test_the_first_task_of_hfc_is_plain_binary_cross_entropy(trained):
  """z is 0: every ratio is 1 and nothing is distilled; outputs of classes to come are asked, as all compete here."""
  bench = trained[0]
  start = bench.boundary("start_task", bench.start(), 0)
  some = [bench.step(start, *bench.arguments(0, 0), relation=r)[2] for r in (0.0, 7.0)]
  x, y = batch_of(bench, 0, 0)
  z = forward(start.params, x)[1]
  each = (np.logaddexp(0, z) - np.eye(6)[y] * z)[:, :2].mean(-1)
  np.testing.assert_allclose(some[0], each.mean(), rtol=1e-5)
  assert some[0] == some[1]


def weighed(logits, y, task, z, **more):
  there = more.pop("there", jnp.ones(len(y)))
  given = jnp.float32(logits), jnp.asarray(y), jnp.asarray(task), there, jnp.int32(2), z, 3
  return [np.asarray(w) for w in hfc.compensation(*given, **more)]


def test_weights_of_equal_rows_are_those_of_z_alone():
  """Equal g in a group: ratios of 1; so without compensation whatever g is. Distillation's share grows with z."""
  y, task = np.array([0, 1, 2, 3, 4, 5]), np.array([0, 0, 1, 1, 2, 2])
  for z in (0.0, 0.5, 0.8):
    want1 = np.where(task == 2, 1 - z, np.sqrt(1 - z))
    want2 = np.where(task == 2, 0.8 * z, z)
    equal = np.eye(6)[y] * np.where(task == 1, 3.0, 1.0)[:, None]
    rng = np.random.default_rng(0)
    for logits, on in ((equal, True), (rng.normal(size=(6, 6)), False)):
      w1, w2 = weighed(logits, y, task, z, compensate=on)
      np.testing.assert_allclose(w1, want1, rtol=1e-5, atol=1e-7)
      np.testing.assert_allclose(w2, want2, rtol=1e-5, atol=1e-7)


def test_weights_are_bounded_and_detached_and_of_rows_that_are_there():
  """New rows in [(1 - z) / 2, 1 - z]; old ones in [z / 2, 1.2 z]; a step without rows of a task, or with absent ones,
  is as one without them; a row that is known for certain has the least weight and no NaN."""
  rng = np.random.default_rng(1)
  logits, y = 4 * rng.normal(size=(60, 6)), rng.integers(0, 6, 60)
  logits[:30:2] = 200 * np.eye(6)[y[:30:2]]
  task, z = y // 2, 0.6
  w1, w2 = weighed(logits, y, task, z)
  new = task == 2
  assert w1[new].min() >= 0.2 - 1e-6
  assert w1[new].max() <= 0.4 + 1e-6
  assert w2[~new].min() >= 0.3 - 1e-6
  assert w2[~new].max() <= 0.72 + 1e-6
  np.testing.assert_allclose([w1[~new].max() / np.sqrt(0.4), w2[~new].max() / 0.6], 1.2, rtol=1e-5)
  np.testing.assert_allclose(w2[new], 0.48, rtol=1e-5)
  slope = jax.grad(lambda l: sum(w.sum() for w in hfc.compensation(
    l, jnp.asarray(y), jnp.asarray(task), jnp.ones(60), jnp.int32(2), z, 3
  )))(jnp.float32(logits))  # fmt: skip
  np.testing.assert_array_equal(slope, 0)
  only = weighed(logits[~new], y[~new], task[~new], z)
  for a, b in zip(only, (w1, w2), strict=True):
    np.testing.assert_allclose(a, b[~new], rtol=1e-5)
  there = jnp.asarray(np.arange(60) % 3 > 0, jnp.float32)
  some = np.asarray(there) > 0
  absent = np.where(some[:, None], logits, np.nan)
  part = weighed(logits[some], y[some], task[some], z)
  for a, b in zip(weighed(absent, y, task, z, there=there), part, strict=True):
    np.testing.assert_allclose(a[some], b, rtol=1e-5)
  inside = np.arange(6) < 4
  masked = weighed(logits[~new], y[~new], task[~new], z, inside=jnp.asarray(inside))
  g = np.log((1 - np.exp(log_softmax(logits[~new][:, :4])[np.arange((~new).sum()), y[~new]])) ** z + 1)
  for t in (0, 1):
    own = task[~new] == t
    np.testing.assert_allclose(masked[1][own], z * np.clip(g[own] / g[own].mean(), 0.5, 1.2), rtol=1e-4)


def test_means_of_classes_are_over_rows_that_are_there():
  values = jnp.float32([[1, 2], [3, 4], [5, 6], [np.nan, 0]])
  got = hfc.of_classes(values, jnp.array([1, 0, 1, 2]), jnp.float32([1, 1, 1, 0]), 3)
  np.testing.assert_array_equal(got, [[3, 4], [3, 4], [0, 0]])


def test_hfc_with_aggregation_is_hfc_of_that_model(three):
  """The same step as of the model with the token that hfc is given from outside."""
  network = models.cnn((4, 4, 1), 6, widths=(4, 8))
  own = Bench("hfc", three, network, {**HYPER, "aggregate": True, "heads": 2}, rows=12)
  given = Bench("hfc", three, aggregation.aggregated(network, own.spec, "hfc", 2), HYPER, rows=12)
  start, other = own.start(), given.start()
  same = lambda a, b: jax.tree.map(np.testing.assert_array_equal, a.params, b.params)
  same(start, other)
  same(own.steps(start, 0, 2), given.steps(other, 0, 2))
  assert set(start.params) == {"network", "aggregation"}
