"""DESIRE against NumPy in float64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bench import Bench
from by_hand import RATE, batch_of

from cljax import models
from cljax.core import tree
from cljax.core.types import UsageError
from cljax.methods.adapters import desire
from cljax.methods.replay.linear_head import fitted

NAME = "hidden_0/kernel"
A, B = f"{NAME}/lora_a", f"{NAME}/lora_b"
HYPER = {"capacity": 24, "rank": 2, "steps": 1, "rate": 0.1, "shrinkage": 0.2, "samples": 6, "passes": 2}


def wide(leaves):
  return {n: np.asarray(v, np.float64) for n, v in leaves.items()}


class Hand:
  """The network in NumPy."""

  def __init__(self, learner):
    frozen = learner.model_state["frozen"]
    self.base, self.p = wide(frozen["base"]), wide(tree.by_path(learner.params))
    self.old, self.shares = np.asarray(frozen["old"][NAME], np.float64), np.asarray(frozen["shares"][NAME])
    self.pair = self.p[A] @ self.p[B]

  def features(self, x, a, b):
    flat = np.asarray(x, np.float64).reshape(len(x), -1)
    return np.maximum(flat @ (self.base[NAME] + a * self.old + b * self.pair) + self.base["hidden_0/bias"], 0)


def likelihood(means, covariances, f, classes):
  each = []
  for c in np.flatnonzero(classes):
    s = covariances[c] + (0.2 * np.trace(covariances[c]) / len(f.T) + 1e-6) * np.eye(len(f.T))
    d = f - means[c]
    each.append(-0.5 * ((d @ np.linalg.inv(s)) * d).sum(-1) - 0.5 * np.linalg.slogdet(s)[1])
  return np.max(each, 0)


def moments_of(f, y, classes=4):
  means, covariances = np.zeros((classes, f.shape[1])), np.zeros((classes, f.shape[1], f.shape[1]))
  for c in set(y.tolist()):
    means[c], covariances[c] = f[y == c].mean(0), np.cov(f[y == c].T, bias=True)
  return means, covariances


@pytest.fixture(scope="module")
def bench(class_stream, small_model):
  return Bench("desire", class_stream, small_model, HYPER)


def new_rows(stream):
  rows = np.asarray(stream.train[1])
  return stream.dataset.train.x[rows], stream.dataset.train.y[rows], np.asarray(stream.classes_of_task[1])


@pytest.fixture(scope="module")
def trained(bench):
  """After a first task, at the start of a second, after its steps, and its end."""
  first = bench.boundary("end_task", bench.steps(bench.boundary("start_task", bench.start(), 0), 0, 4), 0)
  begun = bench.boundary("start_task", first, 1)
  learned = bench.steps(begun, 1, 4, None, (0,))
  return first, begun, learned, bench.boundary("end_task", learned, 1)


def test_desire_s_step_by_hand(bench, trained, class_stream):
  """A pair beside the network alone, under a softmax of the task's own classes; what was merged has no part."""
  learner = bench.step(trained[1], *bench.arguments(1, 0))[0]
  after, _, loss = bench.step(learner, *bench.arguments(1, 1))
  hand, (x, y) = Hand(learner), batch_of(bench, 1, 1)
  np.testing.assert_array_equal(hand.shares, [0, 1])
  h = hand.features(x, 0.0, 1.0)
  z = np.where(class_stream.classes_of_task[1], h @ hand.p["head/kernel"] + hand.p["head/bias"], -np.inf)
  chance = np.exp(z - np.logaddexp.reduce(z, -1, keepdims=True))
  np.testing.assert_allclose(float(loss), -np.log(chance[np.arange(8), y]).mean(), rtol=1e-4)
  d = (chance - np.eye(4)[y]) / 8
  kernel = x.reshape(8, -1).T @ ((d @ hand.p["head/kernel"].T) * (h > 0))
  slopes = {A: kernel @ hand.p[B].T, B: hand.p[A].T @ kernel, "head/kernel": h.T @ d, "head/bias": d.sum(0)}
  for n, v in wide(tree.by_path(after.params)).items():
    np.testing.assert_allclose((v - hand.p[n]) / -RATE, slopes[n], rtol=2e-3, atol=3e-5, err_msg=n)


def test_shares_by_hand(trained, class_stream):
  """Each row is attributed to an expert; Adam's first step is the rate along the slope's sign."""
  first, _, learned, ended = trained
  hand, memory, was = Hand(learned), ended.method_state.replay.memory, first.method_state.moments
  count = int(memory.count)
  x = np.asarray(memory.rows["x"])[:count]
  assert set(np.asarray(memory.rows["task"])[:count].tolist()) == {0, 1}
  f_old, f_new = hand.features(x, 1.0, 0.0), hand.features(x, 0.0, 1.0)
  rows, y, classes = new_rows(class_stream)
  of_old = np.asarray(was.means), np.asarray(was.scatter) / np.maximum(np.asarray(was.counts), 1)[:, None, None]
  before = likelihood(*of_old, f_old, np.asarray(was.counts) > 0)
  now = likelihood(*moments_of(hand.features(rows, 0.0, 1.0), y), f_new, classes)
  assert 0 < (before > now).sum() < count
  target = np.where((before > now)[:, None], f_old, f_new)
  loss = lambda a, b: ((hand.features(x, a, b) - target) ** 2).mean()
  slope = [(loss(0.5 + e, 0.5 + d) - loss(0.5 - e, 0.5 - d)) / 2e-5 for e, d in ((1e-5, 0), (0, 1e-5))]
  assert np.abs(slope).min() > 5e-6
  a, b = 0.5 - 0.1 * np.sign(slope)
  np.testing.assert_allclose(
    ended.model_state["frozen"]["old"][NAME], a * hand.old + b * hand.pair, rtol=1e-3, atol=1e-5
  )
  np.testing.assert_array_equal(ended.model_state["frozen"]["shares"][NAME], [1, 0])


def test_moments_are_of_what_was_merged(trained, class_stream):
  """Of new classes under the merged network; those of old ones stay as they were."""
  first, _, _, ended = trained
  rows, y, classes = new_rows(class_stream)
  hand, moments, was = Hand(ended), ended.method_state.moments, first.method_state.moments
  means, covariances = moments_of(hand.features(rows, 1.0, 0.0), y)
  for c in range(4):
    if classes[c]:
      np.testing.assert_allclose(moments.means[c], means[c], rtol=1e-3, atol=1e-4)
      np.testing.assert_allclose(moments.scatter[c] / moments.counts[c], covariances[c], rtol=1e-3, atol=1e-4)
    else:
      np.testing.assert_array_equal(moments.means[c], was.means[c])
      np.testing.assert_array_equal(moments.scatter[c], was.scatter[c])


def test_the_first_task_is_merged_as_it_is(bench, trained):
  """M is the pair, the classifier stays, and the network computes what it did; with shares (1, 0) a new task's too."""
  start = bench.boundary("start_task", bench.start(), 0)
  learned = bench.steps(start, 0, 4)
  first, begun = trained[:2]
  x = jnp.asarray(bench.stream.dataset.test.x)
  predict = jax.jit(bench.parts.predict)
  np.testing.assert_allclose(predict(learned, x, jnp.int32(0)), predict(first, x, jnp.int32(0)), rtol=1e-5, atol=1e-5)
  np.testing.assert_array_equal(learned.params["head"]["kernel"], first.params["head"]["kernel"])
  again = predict(desire.with_shares(begun, desire.OLD), x, jnp.int32(0))
  np.testing.assert_array_equal(again, predict(first, x, jnp.int32(0)))
  a, b = (np.asarray(tree.leaf(begun.params, n)) for n in (A, B))
  assert not b.any()
  assert 0.2 < np.abs(a).max() <= 0.25
  assert np.abs(a - np.asarray(tree.leaf(first.params, A))).max() > 0.01


def test_the_classifier_is_refitted_on_draws_alone(bench, trained, class_stream):
  _, _, learned, ended = trained
  key = tree.fold(jax.random.fold_in(learned.key, learned.step), "end_task")
  moments = ended.method_state.moments
  f, y, some = desire.pseudo_features(tree.fold(key, "draws"), moments, 0.2, 6)
  want = fitted(tree.fold(key, "refit"), f, y, some, 4, passes=2, rate=0.1, size=8)
  for n in ("kernel", "bias"):
    np.testing.assert_allclose(ended.params["head"][n], want[n], rtol=1e-3, atol=1e-4)
  named = np.asarray(class_stream.dataset.test.y)
  said = np.asarray(jax.jit(bench.parts.predict)(ended, jnp.asarray(class_stream.dataset.test.x), jnp.int32(0)))
  assert (said.argmax(-1) == named).mean() > 0.5


def test_draws_have_the_moments_of_their_classes():
  rng = np.random.default_rng(0)
  mix = rng.normal(size=(3, 3, 3))
  f, y = (
    np.einsum("cne,cde->cnd", rng.normal(size=(3, 40, 3)), mix) + rng.normal(size=(3, 1, 3)),
    np.repeat(range(3), 40),
  )
  means, covariances = moments_of(f.reshape(-1, 3), y, 3)
  counts = np.array([40.0, 0.0, 40.0])
  moments = desire.class_moments("class").start(3, 3)._replace(
    counts=jnp.asarray(counts, jnp.float32), means=jnp.asarray(means, jnp.float32),
    scatter=jnp.asarray(40 * covariances, jnp.float32),
  )  # fmt: skip
  drawn, label, there = (np.asarray(v) for v in desire.pseudo_features(jax.random.key(0), moments, 0.2, 20000))
  assert drawn.shape == (60000, 3)
  np.testing.assert_array_equal(there, counts[label] > 0)
  for c in (0, 2):
    np.testing.assert_allclose(drawn[label == c].mean(0), means[c], atol=0.1)
    want = covariances[c] + 0.2 * np.trace(covariances[c]) / 3 * np.eye(3)
    np.testing.assert_allclose(np.cov(drawn[label == c].T), want, atol=0.08 * np.abs(want).max())
  some = np.array([True, False, True])
  got = desire.likelihood(moments, 0.2, jnp.asarray(f[1], jnp.float32), jnp.asarray(some))
  np.testing.assert_allclose(got, likelihood(means, covariances, f[1], some), rtol=1e-3, atol=1e-3)


def test_the_base_stands_and_there_are_two_sets(bench, small_model, make_blobs):
  from cljax import streams

  learner = bench.train(tasks=(0, 1, 0))
  frozen = lambda l: tree.digest(l.model_state["frozen"]["base"])
  assert frozen(learner) == frozen(bench.start())
  more = streams.build(make_blobs(), "class", tasks=4, validation=0.125)
  shapes = lambda l: [a.shape for a in jax.tree.leaves((l.params, l.model_state))]
  assert shapes(Bench("desire", more, small_model, HYPER).start()) == shapes(learner)
  assert learner.params["hidden_0"]["kernel"]["lora_a"].shape == (16, 2)


def test_a_request_leaves_no_row_and_no_moments_of_a_class(bench, trained):
  ended = trained[3]
  ids = np.asarray(ended.method_state.replay.memory.rows["id"])[:2]
  named = jnp.zeros(bench.spec.num_rows, bool).at[ids].set(True)
  left = jax.jit(bench.parts.scrub)(ended, named, jnp.arange(4) == 1)
  memory = left.method_state.replay.memory
  count = int(memory.count)
  assert count == int(ended.method_state.replay.memory.count) - 2
  assert not set(ids.tolist()) & set(np.asarray(memory.rows["id"])[:count].tolist())
  np.testing.assert_array_equal(np.asarray(left.method_state.moments.counts) > 0, [True, False, True, True])


@pytest.mark.parametrize(
  ("options", "said"),
  [
    ({"layers": "conv"}, r"method\.layers: 'conv' finds no frozen leaf"),
    ({"trained": "tail"}, r"method\.trained: 'tail' finds no"),
    ({"trained": "head/bias"}, "'desire' makes the classifier anew: one linear layer of 8 features"),
  ],
)
def test_what_desire_refuses(options, said, class_stream, small_model):
  with pytest.raises(UsageError, match=said):
    Bench("desire", class_stream, small_model, {**HYPER, **options})


def test_convolutions_are_merged_too(class_stream):
  bench = Bench("desire", class_stream, models.cnn((4, 4, 1), 4, widths=(3,)), HYPER)
  learner = bench.train(steps=1)
  assert learner.model_state["frozen"]["old"]["conv_0/kernel"].shape == (9, 3)
  assert np.abs(np.asarray(learner.model_state["frozen"]["old"]["conv_0/kernel"])).max() > 0
