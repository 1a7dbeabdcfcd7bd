"""CLS-ER against NumPy in float64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bench import Bench, assert_near, assert_same
from by_hand import RATE, backward, batch_of, cross_entropy, forward, log_softmax, near

from cljax import models
from cljax.methods.replay import cls_er

MODEL = models.mlp((4, 4, 1), 4, hidden=(8,))
HYPER = {"capacity": 40, "replay_batch": 30, "strength": 0.7, "decay": 0.6, "plastic_rate": 1.0, "stable_rate": 1.0}


@pytest.fixture(scope="module")
def bench(class_stream, small_model):
  return Bench("cls_er", class_stream, small_model, HYPER)


def mixed(a, b, d):
  return jax.tree.map(lambda a, b: d * np.asarray(a, np.float64) + (1 - d) * np.asarray(b, np.float64), a, b)


def test_averages_begin_with_a_half(bench):
  """d = 1/2, then 0.6, which is below 2/3; without chances they stay where they began, and answer."""
  start = bench.start()
  one = bench.steps(start, 0, 1)
  two = bench.steps(one, 0, 1)
  first = mixed(start.params, one.params, 0.5)
  for part in ("plastic", "stable"):
    state = getattr(one.method_state, part)
    assert_near(state.params, first, 1e-6)
    assert_near(getattr(two.method_state, part).params, mixed(first, two.params, 0.6), 1e-6)
  still = bench.steps(start, 0, 3, plastic_rate=0.0, stable_rate=0.0)
  assert_same(still.method_state.stable.params, start.params)
  assert_same(still.method_state.plastic.params, start.params)
  x = bench.stream.dataset.test.x
  predict = lambda l: bench.parts.predict(l, jnp.asarray(x), jnp.int32(0))
  np.testing.assert_allclose(predict(still), forward(start.params, x)[1], atol=1e-5)
  slow = bench.steps(start, 0, 4, stable_rate=0.0)
  assert_same(slow.method_state.stable.params, start.params)
  assert (
    np.abs(np.asarray(slow.method_state.plastic.params["head"]["bias"] - start.params["head"]["bias"])).max() > 1e-3
  )


def test_averages_are_renewed_as_often_as_said(bench):
  """Over seeds, one step: at 0.3 and at 0.8 of them, each by a coin of its own."""
  start = bench.start()
  many = Bench("cls_er", bench.stream, MODEL, {**HYPER, "plastic_rate": 0.3, "stable_rate": 0.8})
  keys = jax.random.split(jax.random.key(0), 300)
  one = jax.jit(jax.vmap(lambda key: many.parts.step(start._replace(key=key), *many.arguments(0, 0))[0].method_state))
  state = one(keys)
  moved = [
    (np.asarray(getattr(state, p).params["head"]["bias"]) != np.asarray(start.params["head"]["bias"])).any(-1)
    for p in ("plastic", "stable")
  ]
  np.testing.assert_allclose([m.mean() for m in moved], [0.3, 0.8], atol=0.08)
  np.testing.assert_allclose((moved[0] & moved[1]).mean(), 0.24, atol=0.08)


def test_cls_er_holds_each_row_to_the_better_average(bench):
  """The mean over current and stored rows, and the gap to that average's logits of the two, row by row."""
  learner = bench.steps(bench.start(), 0, 2, stable_rate=0.0)
  learner = bench.steps(learner, 1, 1, stable_rate=0.0, plastic_rate=0.0, strength=0.0)
  after, _, loss = bench.step(learner, *bench.arguments(1, 1))
  memory, split = after.method_state.replay.memory, bench.stream.dataset.train
  count = int(memory.count)  # fewer than are drawn, so all of them are
  assert count == 24
  x, y = batch_of(bench, 1, 1)
  kept = np.asarray(memory.rows["id"])[:count]
  old_x, old_y = split.x[kept], split.y[kept]
  fast, slow = (forward(getattr(learner.method_state, p).params, old_x)[1] for p in ("plastic", "stable"))
  chance = [log_softmax(z)[np.arange(count), old_y] for z in (fast, slow)]
  first = chance[0] >= chance[1]
  assert 0 < first.sum() < count
  target = np.where(first[:, None], fast, slow)
  new, old = forward(learner.params, x)[1], forward(learner.params, old_x)[1]
  want = np.r_[cross_entropy(new, y), cross_entropy(old, old_y)].mean() + 0.7 * ((old - target) ** 2).mean()
  np.testing.assert_allclose(float(loss), want, rtol=1e-5)
  slope = lambda z, y: (np.exp(log_softmax(z)) - np.eye(4)[y]) / (8 + count)
  parts = (
    backward(learner.params, x, slope(new, y)),
    backward(learner.params, old_x, slope(old, old_y) + 0.7 * 2 * (old - target) / target.size),
  )
  want = {n: -RATE * (parts[0][n] + parts[1][n]) for n in parts[0]}
  near(jax.tree.map(lambda a, b: a - b, after.params, learner.params), want)


def test_without_strength_cls_er_trains_as_er(bench):
  er = Bench("er", bench.stream, MODEL, {"capacity": 40, "replay_batch": 30})
  got = bench.train(1, strength=0.0)
  assert_near(got.params, er.train(1).params)


def test_after_a_request_the_averages_are_the_parameters(bench):
  learner = bench.steps(bench.start(), 0, 3)
  gone = np.asarray(bench.rows(0, 0)[0])[:4]
  named = jnp.zeros(bench.spec.num_rows, bool).at[gone].set(True)
  left = jax.jit(bench.parts.scrub)(learner, named, jnp.zeros(4, bool))
  memory = left.method_state.replay.memory
  assert int(memory.count) == 12
  assert not set(np.asarray(memory.rows["id"])[:12].tolist()) & set(gone.tolist())
  x = bench.stream.dataset.test.x
  got = bench.parts.predict(left, jnp.asarray(x), jnp.int32(0))
  np.testing.assert_allclose(got, forward(left.params, x)[1], atol=1e-5)
  after = bench.step(left, *bench.arguments(0, 1))[0]
  assert_near(after.method_state.stable.params, after.params, 1e-6)
  equal = cls_er.better(jnp.ones((1, 2)), jnp.zeros((1, 2)), jnp.zeros(1, jnp.int32), None)
  np.testing.assert_array_equal(equal, jnp.ones((1, 2)))
