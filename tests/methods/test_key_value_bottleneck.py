"""The discrete key-value bottleneck against NumPy in float64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bench import Bench
from by_hand import RATE, batch_of, cross_entropy, forward, log_softmax
from isolation_by_hand import OPTIMIZERS

from cljax.core import tree
from cljax.core.types import Outputs, UsageError, rows_from_arrays
from cljax.engine.revealing import revealing
from cljax.methods.prototypes import key_value_bottleneck as kv

HYPER = {"codebooks": 3, "pairs": 5, "width": 2, "passes": 2, "decay": 0.8}


@pytest.fixture(scope="module")
def bench(class_stream, small_model):
  return Bench("key_value_bottleneck", class_stream, small_model, HYPER)


@pytest.fixture(scope="module")
def begun(bench):
  return bench.boundary("start_task", bench.start(), 0)


def reads(state, x):
  """``[B, K]`` by plain distances."""
  f = forward(state.frozen, x)[0]
  r, keys = np.asarray(state.projections, np.float64), np.asarray(state.keys, np.float64)
  h = np.einsum("bi,kid->bkd", f, r)
  return ((h[:, :, None] - keys[None]) ** 2).sum(-1).argmin(-1)


def test_key_value_bottleneck_s_steps_by_hand(bench, begun):
  """The mean of the values that are read, and their slope; rows that share a value add up."""
  learner = begun
  v = np.zeros((3, 5, 4))
  for k in range(3):
    x, y = batch_of(bench, 0, k)
    at = reads(learner.model_state, x)
    z = v[np.arange(3), at].mean(1)
    d = (np.exp(log_softmax(z)) - np.eye(4)[y]) / len(y)
    learner, _, loss = bench.step(learner, *bench.arguments(0, k))
    np.testing.assert_allclose(float(loss), cross_entropy(z, y).mean(), rtol=1e-5)
    for b in range(len(y)):
      for c in range(3):
        v[c, at[b, c]] -= RATE * d[b] / 3
    np.testing.assert_allclose(learner.params["values"], v, atol=1e-6)
  x = bench.stream.dataset.test.x
  got = bench.parts.predict(learner, jnp.asarray(x), jnp.int32(0))
  np.testing.assert_allclose(got, v[np.arange(3), reads(learner.model_state, x)].mean(1), atol=1e-5)


def test_keys_are_averaged_by_hand():
  """Averages of counts and sums, block by block; a key without rows stays where it is."""
  rng = np.random.default_rng(0)
  keys, h, weight = rng.normal(size=(2, 3, 4)), rng.normal(size=(6, 2, 4)), np.array([1, 1, 0, 1, 1, 0.0])
  keys[1, 2] = 50.0
  counts, sums = rng.uniform(0.5, 2, size=(2, 3)), rng.normal(size=(2, 3, 4))
  sums[1, 2] = counts[1, 2] * keys[1, 2]
  state = kv.Moving(*(jnp.asarray(a, jnp.float32) for a in (counts, sums, keys)))
  new = kv.renewed(state, jnp.asarray(h, jnp.float32), jnp.asarray(weight, jnp.float32), 0.7)
  n, s = np.zeros((2, 3)), np.zeros((2, 3, 4))
  for b in range(6):
    for c in range(2):
      i = ((h[b, c] - keys[c]) ** 2).sum(-1).argmin()
      n[c, i] += weight[b]
      s[c, i] += weight[b] * h[b, c]
  counts, sums = 0.7 * counts + 0.3 * n, 0.7 * sums + 0.3 * s
  for got, want in zip(new, (counts, sums, sums / counts[..., None]), strict=True):
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(new.keys[1, 2], keys[1, 2], rtol=1e-5)
  gone = kv.Moving(jnp.zeros((2, 3)), jnp.zeros((2, 3, 4)), state.keys)
  still = kv.renewed(gone, jnp.asarray(h, jnp.float32), jnp.zeros(6), 0.7)
  np.testing.assert_array_equal(still.keys, state.keys)


def test_keys_are_fitted_to_rows_without_labels():
  """They begin at drawn rows' projections, and move as :func:`renewed` says along all of them, in their order."""
  rng = np.random.default_rng(1)
  x, r = rng.normal(size=(300, 6)).astype(np.float32), rng.normal(size=(2, 6, 3)).astype(np.float32)
  fit = lambda y, number, passes, rows=x: kv.keys_of(
    jax.random.key(3), lambda b: b.x, jnp.asarray(r), rows_from_arrays(rows, y), number, 0.8, passes
  )
  zeros, ones = np.zeros(300, np.int32), np.ones(300, np.int32)
  h = np.einsum("bi,kid->kbd", x, r)
  first = np.asarray(fit(zeros, 7, 0))
  drawn = [[int(np.abs(h[c] - key).sum(-1).argmin()) for key in first[c]] for c in range(2)]
  assert drawn[0] == drawn[1]
  assert len(set(drawn[0])) == 7
  np.testing.assert_allclose(first, h[:, drawn[0]], rtol=1e-4, atol=1e-5)
  state = kv.Moving(jnp.ones((2, 7)), jnp.asarray(first), jnp.asarray(first))
  for block in 2 * [slice(0, 256), slice(256, 300)]:
    rows = jnp.asarray(h[:, block].swapaxes(0, 1))
    state = kv.renewed(state, rows, jnp.ones(len(rows)), 0.8)
  np.testing.assert_allclose(fit(zeros, 7, 2), state.keys, rtol=1e-4, atol=1e-5)
  np.testing.assert_array_equal(fit(zeros, 7, 2), fit(ones, 7, 2))
  there = rows_from_arrays(x[:10], zeros[:10], weight=np.array([0, 1, 0, 1, 0, 0, 0, 1, 0, 0]))
  some = np.asarray(kv.keys_of(jax.random.key(3), lambda b: b.x, jnp.asarray(r), there, 5, 0.8, 0))
  np.testing.assert_array_equal(some[:, 3:], some[:, :2])
  np.testing.assert_allclose(np.sort(some[:, :3], 1), np.sort(h[:, [1, 3, 7]], 1), rtol=1e-4, atol=1e-5)
  few = np.asarray(fit(zeros[:4], 9, 0, x[:4]))
  assert set(np.unique(np.abs(few[0][:, None] - h[0, None, :4]).sum(-1).argmin(-1))) <= {0, 1, 2, 3}
  np.testing.assert_allclose(np.abs(few[0][:, None] - h[0, None, :4]).sum(-1).min(-1), 0, atol=1e-4)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_step_moves_what_its_rows_read_alone(optimizer, class_stream, small_model):
  """Under momentum and weight decay; keys, projections and the network stand from the first task on, to the bit."""
  bench = Bench("key_value_bottleneck", class_stream, small_model, HYPER, optimizer=OPTIMIZERS[optimizer]())
  learner = bench.steps(bench.boundary("start_task", bench.start(), 0), 0, 4)
  stands = tree.digest(learner.model_state)
  learner = bench.boundary("start_task", bench.boundary("end_task", learner, 0), 1)
  for k in range(3):
    before = np.asarray(learner.params["values"])
    weight = np.array([2, 2, 1, 0, 0, 0, 0, 0], np.int32)
    x, _ = batch_of(bench, 1, k)
    at = reads(learner.model_state, x[:3])
    learner = bench.step(learner, *bench.arguments(1, k, weight))[0]
    moved = (np.asarray(learner.params["values"]) != before).any(-1)
    want = np.zeros((3, 5), bool)
    want[np.arange(3)[None], at] = True
    np.testing.assert_array_equal(moved, want)
  assert tree.digest(learner.model_state) == stands
  assert not want.all()


def test_a_bottleneck_begins_without_keys_and_values(bench, begun):
  """Glorot's normal; no keys before the first task; values of 0; keys of few rows reveal them."""
  start = bench.start()
  assert not np.asarray(start.model_state.keys).any()
  assert not np.asarray(start.params["values"]).any()
  assert np.asarray(begun.model_state.ready)
  wide = kv.key_value_bottleneck(small(16), bench.spec, decay=0.9, codebooks=64, pairs=2, width=4)
  r = np.asarray(wide.model.init(jax.random.key(0))[1].projections)
  assert r.shape == (64, 16, 4)
  np.testing.assert_allclose(r.std(), (2 / 20) ** 0.5, rtol=0.05)
  assert "projection of their features" in revealing(start)


def small(width):
  from cljax import models

  return models.mlp((4, 4, 1), 4, hidden=(width,))


def test_a_bottleneck_needs_features(class_stream, small_model):
  bare = small_model._replace(
    apply=lambda *a, **told: (Outputs(small_model.apply(*a, **told)[0].logits), small_model.apply(*a, **told)[1])
  )
  with pytest.raises(UsageError, match="'key_value_bottleneck' needs a model that returns features"):
    Bench("key_value_bottleneck", class_stream, bare)
