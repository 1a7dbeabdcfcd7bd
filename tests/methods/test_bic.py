"""BiC against NumPy in float64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bench import Bench
from by_hand import RATE, backward, forward, near

from cljax import methods, streams
from cljax.core.types import UsageError
from cljax.engine.setup import spec_of
from cljax.methods.replay import bic

HYPER = {"capacity": 80, "replay_batch": 72, "bias_rate": 0.3, "bias_steps": 40}


def log_softmax(z):
  return z - np.logaddexp.reduce(z, -1, keepdims=True)


def stored(state):
  return np.asarray(state.rows["id"])[: int(state.count)]


def by_hand(z, y, newest, steps, rate):
  """Gradient descent on beta and gamma; the slope of the cross-entropy of the logits, which are no probabilities."""
  beta, gamma = 1.0, 0.0
  for _ in range(steps):
    d = np.exp(log_softmax(np.where(newest, beta * z + gamma, z))) - np.eye(z.shape[1])[y]
    beta, gamma = beta - rate * (d * z * newest).sum(-1).mean(), gamma - rate * (d * newest).sum(-1).mean()
  return np.array([beta, gamma])


@pytest.fixture(scope="module")
def three(make_blobs):
  """Three tasks of two classes."""
  return streams.build(make_blobs(classes=6), "class", tasks=3, validation=0.0)


@pytest.fixture(scope="module")
def model():
  from cljax import models

  return models.mlp((4, 4, 1), 6, hidden=(8,))


@pytest.fixture(scope="module")
def trained(three, model):
  """The learner after two tasks, in the third, a step later, its loss, and after the third."""
  bench = Bench("bic", three, model, HYPER)
  two = bench.train(3, (0, 1))
  begun = bench.boundary("start_task", two, 2)
  begun = bench.step(begun, *bench.arguments(2, 1))[0]
  after, _, loss = bench.step(begun, *bench.arguments(2, 0))
  return bench, two, begun, after, float(loss), bench.boundary("end_task", after, 2)


def test_bic_holds_out_as_many_rows_of_each_class_and_trains_on_none(trained):
  """Of 80 exemplars 8 are held out: 4, 2 and 1 of a class as 2, 4 and 6 are met; drawn before the task."""
  bench, two, begun, *_, three_ = trained
  split = bench.stream.dataset.train
  held = stored(begun.method_state.held)
  assert np.bincount(split.y[held], minlength=6).tolist() == [1] * 6
  assert np.bincount(split.y[stored(two.method_state.held)], minlength=6).tolist() == [2] * 4 + [0] * 2
  assert set(held[split.y[held] < 4]) < set(stored(two.method_state.held))
  one = bench.boundary("start_task", bench.start(), 0).method_state
  assert np.bincount(split.y[stored(one.held)], minlength=6).tolist() == [4, 4, 0, 0, 0, 0]  # a fifth of 24 at most
  assert float(one.taught.rows) == 40
  for state in (two.method_state, three_.method_state):
    lists = stored(state.taught.memory)
    assert not set(lists) & set(stored(state.held))
  assert np.bincount(split.y[stored(three_.method_state.taught.memory)]).tolist() == [12] * 6


def test_bic_holds_out_a_fifth_of_a_class_at_most(three, model):
  """A memory that could hold 20 rows of each of two classes gets 4 of 24."""
  bench = Bench("bic", three, model, {**HYPER, "capacity": 400})
  state = bench.boundary("start_task", bench.start(), 0).method_state
  assert np.bincount(three.dataset.train.y[stored(state.held)], minlength=6).tolist() == [4, 4, 0, 0, 0, 0]


def test_bic_s_loss_weighs_distillation_by_the_share_of_old_classes(trained):
  """lam = 4 / 6 in the third task, not 1 / 3; no T^2; the teacher's newest logits are corrected; held rows are out."""
  bench, two, begun, after, loss, _ = trained
  state, split = begun.method_state, bench.stream.dataset.train
  scale, index = np.asarray(two.method_state.scale, np.float64), np.asarray(bench.rows(2, 0)[0])
  assert np.abs(scale - [1, 0]).max() > 0.02
  own = index[~np.isin(index, stored(state.held))]
  kept, lam = stored(state.taught.memory), 4 / 6
  count = len(bench.stream.train[2]) - 2
  assert float(state.taught.rows) == count
  share, total, slopes = len(kept) / (len(kept) + count), 0.0, []
  for part, rows in ((1 - share, own), (share, kept)):
    x, y = split.x[rows], split.y[rows]
    z, old = forward(begun.params, x)[1], forward(two.params, x)[1]
    old[:, 2:4] = scale[0] * old[:, 2:4] + scale[1]
    q, p = log_softmax(old[:, :4] / 2), log_softmax(z[:, :4] / 2)
    each = (1 - lam) * -log_softmax(z)[np.arange(len(y)), y] + lam * (np.exp(q) * (q - p)).sum(-1)
    total += part * each.mean()
    d = (1 - lam) * (np.exp(log_softmax(z)) - np.eye(6)[y])
    d[:, :4] += lam / 2 * (np.exp(p) - np.exp(q))
    slopes.append(backward(begun.params, x, part * d / len(y)))
  assert len(kept) == 72
  np.testing.assert_allclose(loss, total, rtol=1e-5)
  want = {p: -RATE * (slopes[0][p] + slopes[1][p]) for p in slopes[0]}
  near(jax.tree.map(lambda a, b: a - b, after.params, begun.params), want)


def test_bic_corrects_the_newest_classes_alone(trained):
  """Beta and gamma by hand, of the logits of rows held out; old logits and the order of the new ones stay; the network
  is not moved by the fit. Of the pair of the task before nothing is left."""
  bench, two, _, after, _, end = trained
  split, x = bench.stream.dataset.train, bench.stream.dataset.test.x
  for before, done, newest in ((None, two, [0, 0, 1, 1, 0, 0]), (after, end, [0, 0, 0, 0, 1, 1])):
    rows = stored(done.method_state.held)
    want = by_hand(forward(done.params, split.x[rows])[1], split.y[rows], np.array(newest, bool), 40, 0.3)
    np.testing.assert_allclose(done.method_state.scale, want, rtol=1e-4)
    assert want[0] > 0
    z = forward(done.params, x)[1]
    got = np.asarray(bench.parts.predict(done, jnp.asarray(x), jnp.int32(0)))
    np.testing.assert_allclose(got, np.where(newest, want[0] * z + want[1], z), rtol=1e-4, atol=1e-5)
    new = np.flatnonzero(newest)
    np.testing.assert_array_equal(got[:, new].argsort(-1), z[:, new].argsort(-1))
    if before is not None:
      for a, b in zip(jax.tree.leaves(before.params), jax.tree.leaves(done.params), strict=True):
        np.testing.assert_array_equal(a, b)
  # The fit lowers the cross-entropy on the rows that it is made on.
  ce = lambda z: -log_softmax(z)[np.arange(len(rows)), split.y[rows]].mean()
  z = forward(end.params, split.x[rows])[1]
  assert ce(np.where(newest, want[0] * z + want[1], z)) < ce(z)


def test_bic_s_first_task_is_not_corrected(trained):
  bench = trained[0]
  end = bench.boundary("end_task", bench.boundary("start_task", bench.start(), 0), 0)
  np.testing.assert_array_equal(end.method_state.scale, [1.0, 0.0])


def test_bic_forgets_rows_of_both_memories(trained):
  bench, *_, end = trained
  state = end.method_state
  gone = np.r_[stored(state.held)[:2], stored(state.taught.memory)[[0, 5]]]
  named = jnp.zeros(bench.spec.num_rows, bool).at[gone].set(True)
  left = jax.jit(bench.parts.scrub)(end, named, jnp.zeros(6, bool)).method_state
  for before, after in ((state.held, left.held), (state.taught.memory, left.taught.memory)):
    assert stored(after).tolist() == [i for i in stored(before) if i not in gone]
    assert not np.asarray(after.rows["x"])[int(after.count) :].any()


def test_bic_needs_two_exemplars_for_each_class(three, model):
  """One that is trained on and one that is held out."""
  with pytest.raises(UsageError, match=r"method.capacity: got 11; expected at least 2 for each of the 6 classes"):
    methods.make("bic", model, spec_of(three, 8), capacity=11)
  state = jax.eval_shape(Bench("bic", three, model, {"capacity": 12}).parts.init, jax.random.key(0)).method_state
  assert [s.group.shape for s in (state.taught.memory, state.held)] == [(6,), (6,)]
  assert bic.PART == 10
