"""Slow and fast weights against NumPy: the pull, the consolidation, and means under the slow weights."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bench import Bench, assert_near, assert_same
from by_hand import RATE, batch_of, cross_entropy, forward, gradient, leaves, near

from cljax import methods
from cljax.core.types import UsageError
from cljax.engine.setup import spec_of
from cljax.methods.prototypes import slow_fast


@pytest.fixture(scope="module")
def trained(class_stream, small_model):
  """The bench, the learner after the first task, and two steps into the second."""
  bench = Bench("slow_fast", class_stream, small_model, {"strength": 0.5, "consolidation": 0.2})
  one = bench.train(3, (0,))
  return bench, one, bench.steps(one, 1, 2, met=(0,))


def means_of(stream, params, task):
  rows = stream.train[task]
  x, y = stream.dataset.train.x[rows], stream.dataset.train.y[rows]
  h = forward(params, x)[0]
  return {c: h[y == c].mean(0) for c in np.unique(y)}


def said_by(bench, learner):
  x = bench.stream.dataset.test.x
  return np.asarray(jax.jit(lambda l: bench.parts.predict(l, jnp.asarray(x), jnp.int32(0)))(learner)), x


def test_the_step_pulls_fast_weights_to_slow_ones(trained):
  bench, one, learner = trained
  x, y = batch_of(bench, 1, 2)
  after, _, loss = bench.step(learner, *bench.arguments(1, 2, met=(0,)))
  now, slow = leaves(learner.params), leaves(one.params)
  far = sum(np.square(now[n] - slow[n]).sum() for n in now)
  assert far > 1e-4
  np.testing.assert_allclose(
    float(loss), cross_entropy(forward(learner.params, x)[1], y).mean() + 0.25 * far, rtol=1e-5
  )
  made = gradient(learner.params, x, y)
  near(after.params, {n: p - RATE * (made[n] + 0.5 * (p - slow[n])) for n, p in now.items()})


def test_the_first_task_is_learned_plainly_and_gives_the_slow_weights(trained, class_stream, small_model):
  one = trained[1]
  plain = Bench("finetune", class_stream, small_model)
  assert_near(one.params, plain.train(3, (0,)).params)
  assert_same(one.method_state.slow[0], one.params)


def test_slow_weights_take_a_share_of_the_fast_ones(trained):
  bench, one, learner = trained
  ended = bench.boundary("end_task", learner, 1, (0,))
  slow, fast = leaves(one.params), leaves(learner.params)
  near(ended.params, {n: slow[n] + 0.2 * (fast[n] - slow[n]) for n in slow}, rtol=1e-5)
  assert_same(ended.method_state.slow[0], ended.params)
  stands = bench.boundary("end_task", learner, 1, (0,), consolidation=0.0)
  assert_same(stands.params, one.params)
  assert_same(bench.boundary("end_task", learner, 1, (0,), consolidation=1.0).params, learner.params)


def test_counts_are_not_mixed():
  slow, fast = {"a": jnp.ones(2), "n": jnp.int32(3)}, {"a": 3 * jnp.ones(2), "n": jnp.int32(8)}
  got = slow_fast.toward(slow, fast, 0.25)
  np.testing.assert_array_equal(got["a"], [1.5, 1.5])
  assert int(got["n"]) == 8


def test_means_are_of_the_slow_weights_and_old_ones_stay(trained, class_stream):
  """Where slow weights stand, old means are exact; those under the fast weights are others."""
  bench, one, learner = trained
  for share in (0.2, 0.0):
    ended = bench.boundary("end_task", learner, 1, (0,), consolidation=share)
    means = np.asarray(ended.method_state.prototypes.means)
    for task, params in ((0, one.params), (1, ended.params)):
      for c, mean in means_of(class_stream, params, task).items():
        np.testing.assert_allclose(means[c], mean, rtol=1e-4, atol=1e-5)
  for c, mean in means_of(class_stream, ended.params, 0).items():
    np.testing.assert_allclose(means[c], mean, rtol=1e-4, atol=1e-5)
  assert any(np.abs(means[c] - m).max() > 1e-3 for c, m in means_of(class_stream, learner.params, 1).items())


def test_answers_are_nearest_means_under_the_slow_weights(trained):
  """Also within a task; before the first end the model's own, as it is."""
  bench, one, learner = trained
  begun = bench.steps(bench.start(), 0, 2)
  got, x = said_by(bench, begun)
  np.testing.assert_allclose(got, forward(begun.params, x)[1], rtol=1e-4, atol=1e-5)
  got, _ = said_by(bench, learner)
  h, means = forward(one.params, x)[0], np.float64(one.method_state.prototypes.means)
  want = -np.square(h[:, None] - means[None]).sum(-1)
  np.testing.assert_allclose(got[:, :2], want[:, :2], rtol=1e-4, atol=1e-4)
  assert np.isneginf(got[:, 2:]).all()


def test_means_of_classes_that_go_whole_are_cleared_and_slow_weights_follow(trained):
  bench, one, _ = trained
  left = jax.jit(bench.parts.scrub)(one, jnp.zeros(bench.spec.num_rows, bool), jnp.arange(4) == 1).method_state
  assert np.asarray(left.prototypes.counts > 0).tolist() == [True, False, False, False]
  assert not np.asarray(left.prototypes.means)[1].any()
  edited = one._replace(params=jax.tree.map(lambda p: 0.5 * p, one.params))
  after = bench.parts.method.after_forget(edited, one.params)
  assert_same(after.method_state.slow[0], edited.params)


def test_slow_fast_is_named_where_a_model_gives_no_features(class_stream, small_model):
  bare = small_model._replace(apply=lambda *a, **k: (small_model.apply(*a, **k)[0]._replace(features=None), {}))
  with pytest.raises(UsageError, match="'slow_fast' needs a model that returns features"):
    methods.make("slow_fast", bare, spec_of(class_stream, 8))
