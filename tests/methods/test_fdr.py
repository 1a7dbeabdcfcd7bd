"""FDR against NumPy in float64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bench import Bench
from by_hand import RATE, backward, batch_of, cross_entropy, forward, log_softmax, near

from cljax import methods, models, streams
from cljax.core.types import UsageError
from cljax.engine.setup import spec_of
from cljax.methods.replay import fdr

HYPER = {"capacity": 12, "replay_batch": 12, "alpha": 0.7}


def softmax(z):
  return np.exp(log_softmax(z))


def stored(state):
  return np.asarray(state.rows["id"])[: int(state.count)]


@pytest.fixture(scope="module")
def three(make_blobs):
  """Three tasks of two classes."""
  return streams.build(make_blobs(classes=6), "class", tasks=3, validation=0.0)


@pytest.fixture(scope="module")
def trained(three):
  bench = Bench("fdr", three, models.mlp((4, 4, 1), 6, hidden=(8,)), HYPER)
  one = bench.train(2, (0,))
  begun = bench.step(one, *bench.arguments(1, 1))[0]
  two = bench.boundary("end_task", begun, 1)
  return bench, one, begun, two, bench.boundary("end_task", bench.steps(two, 2, 1, met=(0, 1)), 2)


def test_fdr_holds_probabilities_by_their_distance(trained):
  """The norm, not its square; labels of stored rows have no part."""
  bench, one, begun, *_ = trained
  after, _, loss = bench.step(begun, *bench.arguments(1, 0))
  split, ids = bench.stream.dataset.train, stored(one.method_state)
  x, y = batch_of(bench, 1, 0)
  z, old = forward(begun.params, x)[1], forward(begun.params, split.x[ids])[1]
  p, q = softmax(old), softmax(forward(one.params, split.x[ids])[1])
  gap = np.linalg.norm(p - q, axis=-1)
  np.testing.assert_allclose(float(loss), cross_entropy(z, y).mean() + 0.7 * gap.mean(), rtol=1e-5)
  u = (p - q) / gap[:, None]
  d = 0.7 / len(ids) * p * (u - (p * u).sum(-1, keepdims=True))
  parts = backward(begun.params, x, (softmax(z) - np.eye(6)[y]) / 8), backward(begun.params, split.x[ids], d)
  want = {n: -RATE * (parts[0][n] + parts[1][n]) for n in parts[0]}
  near(jax.tree.map(lambda a, b: a - b, after.params, begun.params), want)


def test_fdr_stores_what_a_task_s_own_network_said(trained):
  """Of each task as many: 12, 6 and 6, 4 of three. Logits are not refreshed."""
  bench, one, begun, two, three_ = trained
  split = bench.stream.dataset.train
  for learner, quota in ((one, 12), (two, 6), (three_, 4)):
    state = learner.method_state
    task = np.asarray(state.rows["task"])[: int(state.count)]
    assert np.bincount(task).tolist() == [quota] * (12 // quota)
    for t, then in ((0, one), (1, begun))[: 12 // quota]:
      rows = stored(state)[task == t]
      want = forward(then.params, split.x[rows])[1]
      np.testing.assert_allclose(np.asarray(state.rows["logits"])[: len(task)][task == t], want, atol=1e-5)
  gone = jnp.zeros(bench.spec.num_rows, bool).at[stored(two.method_state)[:5]].set(True)
  left = jax.jit(bench.parts.scrub)(two, gone, jnp.zeros(6, bool)).method_state
  np.testing.assert_array_equal(stored(left), stored(two.method_state)[5:])
  assert not np.asarray(left.rows["logits"])[7:].any()


def test_fdr_needs_a_row_for_each_task(three):
  with pytest.raises(UsageError, match=r"method.capacity: got 2; expected at least one row for each of 3 tasks"):
    methods.make("fdr", models.mlp((4, 4, 1), 6, hidden=(8,)), spec_of(three, 8), capacity=2)


def test_behind_a_boundary_the_distance_is_0_and_so_is_its_slope(trained):
  bench, one, *_ = trained
  some = [bench.step(one, *bench.arguments(1, 0), alpha=v) for v in (0.0, 0.7)]
  np.testing.assert_allclose(some[0][2], some[1][2], atol=1e-5)
  z = jnp.array([[1.0, -2.0, 0.5]])
  np.testing.assert_array_equal(jax.grad(lambda a: fdr.distance(a, z).sum())(z + jnp.array([[0.0, 3e-7, 0.0]])), 0)
  assert np.abs(jax.grad(lambda a: fdr.distance(a, z).sum())(z + jnp.array([[0.0, 1e-3, 0.0]]))).max() > 0.01
  np.testing.assert_array_equal(jax.grad(lambda a: fdr.distance(a, z).sum())(z), 0)
  mask = jnp.array([[True, True, False]])
  np.testing.assert_allclose(fdr.distance(z, z + jnp.array([[0.0, 0.0, 9.0]]), mask), 0)
