"""FOSTER against NumPy in float64: the boosted loss, the weights of classes, the compression."""

from __future__ import annotations

import grown_by_hand as hand
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bench import Bench, assert_same
from by_hand import RATE, batch_of, cross_entropy, leaves, log_softmax

from cljax import models, streams
from cljax.engine import recipe
from cljax.methods.replay import foster

HYPER = {
  "capacity": 12, "replay_batch": 12, "strength": 0.7, "temperature": 2.0, "beta": 0.9, "compression_beta": 0.8,
  "passes": 2, "rate": 0.05,
}  # fmt: skip


def weights_by_hand(counts, beta):
  w = np.ones(len(counts))
  some = counts > 0
  each = (1 - beta) / (1 - beta ** counts[some])
  w[some] = each / each.sum() * some.sum()
  return w


@pytest.fixture(scope="module")
def three(make_blobs):
  """Three tasks of two classes."""
  return streams.build(make_blobs(classes=6), "class", tasks=3, validation=0.0)


@pytest.fixture(scope="module")
def trained(three):
  """A bench whose batches are as large as all rows of a step and the memory; after one task; the second begun; a step
  on; and after it."""
  optimizer = recipe.make_optimizer("momentum", learning_rate=0.1, momentum=0.9)
  bench = Bench("foster", three, models.mlp((4, 4, 1), 6, hidden=(8,)), HYPER, rows=60, optimizer=optimizer)
  one = bench.train(2, (0,))
  begun = bench.boundary("start_task", one, 1)
  moved = bench.step(begun, *bench.arguments(1, 1))[0]
  return bench, one, begun, moved, bench.boundary("end_task", moved, 1)


def loss_and_slopes(params, head, x, y, w, old=2):
  """``CE([f_0 f_1] W / w) + CE(f_1 V) + 0.7 KL_2`` over the first ``old`` classes; slopes of what trains."""
  f = hand.features(params, x, 2)
  z, mine, said = hand.logits(params, f), hand.auxiliary(params, f[:, 1]), f[:, 0] @ head["kernel"] + head["bias"]
  each, d = hand.slope_of_cross_entropy(z / w, y)
  d = d / w
  more, e = hand.slope_of_cross_entropy(mine, y)
  q, p = log_softmax(said[:, :old] / 2), log_softmax(z[:, :old] / 2)
  each = each + more + 0.7 * (np.exp(q) * (q - p)).sum(-1)
  d[:, :old] += 0.7 * (np.exp(p) - np.exp(q)) / 2
  d, e = d / len(y), e / len(y)
  back = d @ leaves(params["classifier"])["kernel"][1].T + e @ leaves(params["auxiliary"])["kernel"].T
  return each.mean(), {
    "classifier/kernel": np.einsum("bsd,bc->sdc", f, d), "classifier/bias": d.sum(0),
    "auxiliary/kernel": f[:, 1].T @ e, "auxiliary/bias": e.sum(0), **hand.back_to_copy(params, 1, x, f[:, 1], back),
  }  # fmt: skip


def counts_of(bench, state, task):
  """Rows of each class: those of the task and the exemplars."""
  y = bench.stream.dataset.train.y
  both = np.r_[y[hand.stored(state)], y[np.asarray(bench.stream.train[task])]]
  return np.bincount(both, minlength=6).astype(float)


def test_foster_s_step_is_boosting_under_adjusted_logits(trained):
  """In the second task: frequent classes' logits enlarged, the old network still, its answers held."""
  bench, one, begun, *_ = trained
  # The new network must stand off the old one, and the old classifier off its copy, to tell the terms apart.
  shift = lambda a: a.at[1].add(0.1 * jnp.cos(jnp.arange(a[1].size, dtype=jnp.float32)).reshape(a[1].shape))
  params = {**begun.params, "network": jax.tree.map(shift, begun.params["network"])}
  params["classifier"] = jax.tree.map(lambda a: a * 1.3, params["classifier"])
  begun = begun._replace(params=params)
  after, _, loss = bench.step(begun, *bench.arguments(1, 0))
  split, kept = bench.stream.dataset.train, hand.stored(one.method_state.memory)
  w = weights_by_hand(counts_of(bench, one.method_state.memory, 1), 0.9)
  assert w[0] > 1.1 > 0.95 > w[2]
  head = {"kernel": leaves(one.params["classifier"])["kernel"][0], "bias": leaves(one.params["classifier"])["bias"]}
  share = len(kept) / (len(kept) + len(bench.stream.train[1]))
  new = loss_and_slopes(begun.params, head, *batch_of(bench, 1, 0), w)
  old = loss_and_slopes(begun.params, head, split.x[kept], split.y[kept], w)
  np.testing.assert_allclose(float(loss), (1 - share) * new[0] + share * old[0], rtol=1e-5)
  got = {n: (leaves(after.params)[n] - leaves(begun.params)[n]) / -RATE for n in leaves(begun.params)}
  for name in new[1]:
    want = (1 - share) * new[1][name] + share * old[1][name]
    have = got[f"network/{name}"][1] if name.startswith("hidden") else got[name]
    assert np.abs(want).max() > 1e-3
    np.testing.assert_allclose(have, want, atol=3e-6, rtol=2e-3, err_msg=name)
  assert all((got[f"network/hidden_0/{n}"][0] == 0).all() for n in ("kernel", "bias"))


def test_foster_is_compressed_into_one_network(trained):
  """Two passes of one batch of all rows and exemplars: SGD with momentum at rates 0.05 and 0.025 from the old network
  on ``-sum q log softmax(z / 2)``, q the tempered answers of both times w; lists are herded on both's features."""
  bench, one, _, moved, end = trained
  split, kept = bench.stream.dataset.train, hand.stored(one.method_state.memory)
  index = np.r_[np.asarray(bench.stream.train[1]), kept]
  x, n = split.x[index], len(index)
  assert n == 60
  w = weights_by_hand(counts_of(bench, one.method_state.memory, 1), 0.8)
  said = hand.logits(moved.params, hand.features(moved.params, x, 2))
  q = np.exp(log_softmax(said / 2)) * w
  q /= q.sum(-1, keepdims=True)
  p = hand.network(one.params, 0)
  head = leaves(one.params["classifier"])
  p |= {"kernel": head["kernel"][0], "bias": head["bias"]}
  velocity = {k: 0.0 for k in p}
  flat = np.asarray(x, np.float64).reshape(n, -1)
  for rate in (0.05, 0.025):
    f = hand.hidden(p, x)
    d = (np.exp(log_softmax((f @ p["kernel"] + p["bias"]) / 2)) - q) / 2 / n
    back = (d @ p["kernel"].T) * (f > 0)
    slope = {"kernel": f.T @ d, "bias": d.sum(0), "hidden_0/kernel": flat.T @ back, "hidden_0/bias": back.sum(0)}
    velocity = {k: 0.9 * velocity[k] + slope[k] for k in slope}
    p = {k: p[k] - rate * velocity[k] for k in slope}
  got = {**hand.network(end.params, 0), "kernel": leaves(end.params["classifier"])["kernel"][0]}
  got["bias"] = leaves(end.params["classifier"])["bias"]
  for name, value in p.items():
    assert (
      np.abs(value - (hand.network(one.params, 0) | {"kernel": head["kernel"][0], "bias": head["bias"]})[name]).max()
      > 1e-4
    )
    np.testing.assert_allclose(got[name], value, atol=3e-6, err_msg=name)
  lists = hand.stored(end.method_state.memory)
  unit = lambda a: a / np.linalg.norm(a, axis=-1, keepdims=True)
  rows = np.asarray(bench.stream.train[1])
  for c in (2, 3):
    own = rows[split.y[rows] == c]
    f = unit(hand.features(moved.params, split.x[own], 2).reshape(len(own), -1))
    assert own[(f @ f.mean(0)).argmax()] == lists[split.y[lists] == c][0]


def test_class_weights_are_of_counts_and_of_mean_one():
  """Counts of 500 and 20 at 0.96: 0.678 and 1.215; equal counts, or beta 0: 1; classes without rows: 1."""
  got = np.asarray(foster.class_weights(jnp.float32([500, 500, 20, 20, 20, 0]), 0.96))
  np.testing.assert_allclose(got, [0.678, 0.678, 1.215, 1.215, 1.215, 1], atol=5e-4)
  np.testing.assert_allclose(got[:5].mean(), 1, rtol=1e-6)
  np.testing.assert_allclose(got, weights_by_hand(np.array([500, 500, 20, 20, 20, 0.0]), 0.96), rtol=1e-5)
  for counts, beta in (([7, 7, 0, 7], 0.96), ([500, 3, 0, 1], 0.0)):
    np.testing.assert_allclose(foster.class_weights(jnp.float32(counts), beta), 1, rtol=1e-6)
  assert np.isfinite(foster.class_weights(jnp.zeros(4), 0.9)).all()


def test_foster_s_first_task_is_one_network_and_its_answers_are_plain(trained, three):
  """Plain cross-entropy, though counts differ in a batch; no answer is adjusted: of two networks, and of one."""
  bench, one, _, moved, end = trained
  start = bench.boundary("start_task", bench.start(), 0)
  after, _, loss = bench.step(start, *bench.arguments(0, 0))
  x, y = batch_of(bench, 0, 0)
  z = hand.logits(start.params, hand.features(start.params, x, 1))
  np.testing.assert_allclose(float(loss), cross_entropy(z, y).mean(), rtol=1e-5)
  assert_same(bench.boundary("end_task", after, 0).params, after.params)
  for a, b in zip(jax.tree.leaves(after.params["auxiliary"]), jax.tree.leaves(start.params["auxiliary"]), strict=True):
    np.testing.assert_array_equal(a, b)
  t = three.dataset.test.x
  for learner, count in ((one, 1), (moved, 2), (end, 1)):
    got = bench.parts.predict(learner, jnp.asarray(t), jnp.int32(0))
    np.testing.assert_allclose(got, hand.logits(learner.params, hand.features(learner.params, t, count)), atol=3e-5)


def test_foster_counts_the_rows_of_each_class(trained):
  """Of the task and of the exemplars, not a number for all: PyCIL's is 500; a request's rows are counted no longer."""
  bench, _, begun, _, end = trained
  np.testing.assert_array_equal(begun.method_state.counts, [6, 6, 24, 24, 0, 0])
  named = jnp.zeros(bench.spec.num_rows, bool).at[hand.stored(end.method_state.memory)[:2]].set(True)
  left = jax.jit(bench.parts.scrub)(end, named, jnp.zeros(6, bool))
  later = bench.boundary("start_task", left, 2)
  assert np.asarray(later.method_state.counts).tolist() == [1, 3, 3, 3, 24, 24]


def test_balanced_distillation_of_equal_classes_is_plain():
  """Cross-entropy with the tempered answers; weights move it to rare classes; masked classes count nowhere."""
  rng = np.random.default_rng(0)
  z, t = rng.normal(size=(2, 5, 4))
  q = np.exp(log_softmax(t / 3))
  want = -(q * log_softmax(z / 3)).sum(-1)
  given = [jnp.float32(a) for a in (z, t)]
  np.testing.assert_allclose(foster.balanced_distillation(*given, jnp.ones(4), 3.0), want, rtol=1e-5)
  w, inside = np.array([1.0, 2.0, 0.5, 9.0]), np.array([True, True, True, False])
  r = np.exp(log_softmax(t[:, :3] / 3)) * w[:3]
  want = -(r / r.sum(-1, keepdims=True) * log_softmax(z[:, :3] / 3)).sum(-1)
  got = foster.balanced_distillation(*given, jnp.float32(w), 3.0, jnp.asarray(inside))
  np.testing.assert_allclose(got, want, rtol=1e-5)


def test_foster_begins_each_network_without_moments_and_has_one_between_tasks(trained):
  """A new network begins as the compressed one, with a classifier of its own for each task."""
  bench, one, begun, _, end = trained
  assert not np.asarray(bench.start().method_state.counts).any()
  assert [int(l.model_state.count) for l in (one, begun, end)] == [1, 2, 1]
  moments = lambda learner: [np.abs(np.asarray(a)).max() for a in jax.tree.leaves(learner.opt_state.optimizer)]
  assert max(moments(end)) > 1e-3
  third = bench.boundary("start_task", end, 2)
  assert max(moments(third)) == 0
  for a in jax.tree.leaves(third.params["network"]):
    np.testing.assert_array_equal(a[0], a[1])
  kernel = lambda learner: learner.params["classifier"]["kernel"]
  np.testing.assert_array_equal(kernel(third)[0], kernel(end)[0])
  assert np.abs(kernel(third)[1] - kernel(end)[1]).max() > 1e-2
  np.testing.assert_array_equal(third.method_state.head["kernel"], kernel(end)[0])
