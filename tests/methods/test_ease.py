"""EASE against NumPy in float64."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from bench import Bench, assert_same
from by_hand import batch_of
from prompts_by_hand import cross_entropy, moved, slopes_agree
from stacks_by_hand import base_of, f64, features, stands, unit

from cljax import streams
from cljax.methods.pretrained import ease

HYPER = {"rank": 3, "others": 0.4}
UP = "hidden_0/adapter/up"


@pytest.fixture(scope="module")
def uneven(dataset):
  """Three tasks of two, one and one classes."""
  of = lambda split: [np.isin(split.y, c) for c in ((0, 1), (2,), (3,))]
  return streams.from_tasks(dataset, of(dataset.train), of(dataset.test))


@pytest.fixture(scope="module")
def trained(uneven, small_model):
  """Behind each of the three tasks."""
  bench = Bench("ease", uneven, small_model, HYPER)
  found, learner = [], bench.start()
  for t in range(3):
    learner = bench.boundary("start_task", learner, t)
    learner = bench.boundary("end_task", bench.steps(learner, t, 4, met=range(t)), t)
    found.append(learner)
  return bench, found


def predict(bench, learner, x):
  return np.asarray(bench.parts.predict(learner, jnp.asarray(x), jnp.int32(0)))


def cosine_logits(base, params, slot, x):
  head = params["cosine"]
  return f64(head["scale"]) * unit(features(base, params, slot, x)) @ unit(f64(head["directions"]).T).T


def test_ease_s_step_by_hand(class_stream, small_model):
  """The parts of the task's place and the classifier, over the task's classes; other places stand to the bit."""
  bench = Bench("ease", class_stream, small_model, HYPER)
  first = bench.train(steps=3, tasks=(0,))
  one = bench.steps(bench.boundary("start_task", first, 1), 1, 2, met=(0,))
  two = bench.step(one, *bench.arguments(1, 2))[0]
  x, y = batch_of(bench, 1, 2)
  base, mask = base_of(one), np.array([False, False, True, True])
  loss_at = lambda p: cross_entropy(cosine_logits(base, p, 1, x), y, mask).mean()
  slopes_agree(moved(two.params, one.params), loss_at, one.params, rtol=5e-3)
  stands(first, two, 0)
  assert np.abs(np.asarray(two.params["stack"][UP] - one.params["stack"][UP])).max() > 1e-4


def prototypes(bench, learners):
  """``[C, T, D]`` by loops, from the parts of each place and the rows of each task, of whatever sizes; the place of
  each class."""
  split, last = bench.stream.dataset.train, learners[-1]
  base, own = base_of(last), np.array([0, 0, 1, 2])
  p = np.zeros((4, 3, 8))
  for t in range(3):
    rows = bench.stream.train[t]
    new = np.flatnonzero(own == t)
    for c in new:
      for j in range(t + 1):
        p[c, j] = features(base, last.params, j, split.x[rows[split.y[rows] == c]]).mean(0)
    for c in np.flatnonzero(own < t):
      near = np.array([unit(p[c, own[c]]) @ unit(p[n, own[c]]) for n in new])
      share = np.exp(near) / np.exp(near).sum()
      p[c, t] = share @ p[new, t]
  return p, own


def test_prototypes_of_all_classes_in_all_spaces(trained):
  """Measured, or made of the new ones."""
  bench, learners = trained
  want, own = prototypes(bench, learners)
  state = learners[-1].method_state
  assert state.own.tolist() == own.tolist()
  assert int(state.ended) == 3
  np.testing.assert_allclose(state.means, want, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("sizes", [(1, 2, 1), (1, 1, 2)])
def test_sizes_of_tasks_are_known_and_not_counted(dataset, small_model, sizes):
  """The released code has the i-th task's classes begin at ``init + inc (i - 1)``, which of tasks of 2, 1 and 1 classes
  is right, and of these is not: each class's own place is that of the task that had it."""
  ends = np.cumsum(sizes)
  classes = [range(e - s, e) for s, e in zip(sizes, ends, strict=True)]
  of = lambda split: [np.isin(split.y, list(c)) for c in classes]
  bench = Bench("ease", streams.from_tasks(dataset, of(dataset.train), of(dataset.test)), small_model, HYPER)
  state = bench.train(steps=1, tasks=(0, 1, 2)).method_state
  assert state.own.tolist() == np.repeat(np.arange(3), sizes).tolist()


def test_ease_answers_by_cosines_in_all_spaces(trained):
  """Its own space in full, the others by their share over t - 1; by loops."""
  bench, learners = trained
  p, own = prototypes(bench, learners)
  x = bench.stream.dataset.test.x[:20]
  f = np.stack([features(base_of(learners[-1]), learners[-1].params, j, x) for j in range(3)])
  want = np.zeros((20, 4))
  for b in range(20):
    for c in range(4):
      near = [unit(f[j, b]) @ unit(p[c, j]) for j in range(3)]
      want[b, c] = near[own[c]] + 0.4 / 2 * sum(near[j] for j in range(3) if j != own[c])
  np.testing.assert_allclose(predict(bench, learners[-1], x), want, rtol=1e-3, atol=1e-4)
  both = predict(bench, learners[1], x)
  assert np.isneginf(both[:, 3]).all()
  assert np.isfinite(both[:, :3]).all()


def test_with_one_task_it_is_the_cosine_to_means_of_tuned_features(trained):
  """APER's rule without the first network's half."""
  bench, learners = trained
  split, rows, x = bench.stream.dataset.train, bench.stream.train[0], bench.stream.dataset.test.x
  look = lambda x: features(base_of(learners[0]), learners[0].params, 0, x)
  means = np.stack([look(split.x[rows[split.y[rows] == c]]).mean(0) for c in range(2)])
  got = predict(bench, learners[0], x)
  np.testing.assert_allclose(got[:, :2], unit(look(x)) @ unit(means).T, rtol=1e-3, atol=1e-4)
  assert np.isneginf(got[:, 2:]).all()


def test_before_the_first_end_the_classifier_answers(trained):
  bench, _ = trained
  learner = bench.steps(bench.boundary("start_task", bench.start(), 0), 0, 3)
  x = bench.stream.dataset.test.x[:9]
  want = cosine_logits(base_of(learner), learner.params, 0, x)
  np.testing.assert_allclose(predict(bench, learner, x), want, rtol=1e-3, atol=1e-4)


def test_shares_of_new_classes_sum_to_one_and_are_nearly_equal():
  """Cosines between -1 and 1 under no temperature: no share is above e^2 times another, and a made prototype lies near
  the mean of the new ones."""
  rng = np.random.default_rng(0)
  means, own = rng.normal(size=(6, 2, 40)) + 1.0, np.array([0, 0, 0, 1, 1, 1])
  share = np.asarray(ease.likeness(jnp.float32(means), jnp.asarray(own), jnp.asarray(own == 1)))
  np.testing.assert_allclose(share.sum(-1), 1, rtol=1e-6)
  assert not share[:, :3].any()
  for c in range(3):
    near = np.array([unit(means[c, 0]) @ unit(means[n, 0]) for n in (3, 4, 5)])
    np.testing.assert_allclose(share[c, 3:], np.exp(near) / np.exp(near).sum(), rtol=1e-5)
  assert share[:3, 3:].max() / share[:3, 3:].min() < np.exp(2)
  assert np.abs(share[:3, 3:] - 1 / 3).max() < 0.1
  assert not np.asarray(ease.likeness(jnp.float32(means), jnp.asarray(own), jnp.zeros(6, bool))).any()


def test_the_network_and_old_parts_stand_to_the_bit(class_stream, small_model):
  """Under Adam with weight decay; a task that comes back moves the classifier alone, and changes no answer."""
  bench = Bench("ease", class_stream, small_model, HYPER, optimizer=optax.adamw(0.05, weight_decay=0.5))
  start, one, two = bench.start(), bench.train(tasks=(0,)), bench.train(tasks=(0, 1))
  stands(start, two)
  stands(one, two, 0)
  stands(start, one, 1)
  assert np.abs(np.asarray(two.params["stack"][UP][1])).max() > 1e-2
  back = bench.train(tasks=(0, 1, 0))
  assert_same(back.params["stack"], two.params["stack"])
  assert_same(back.method_state, two.method_state)
  x = class_stream.dataset.test.x
  np.testing.assert_array_equal(predict(bench, back, x), predict(bench, two, x))


def test_the_classifier_begins_anew_with_each_task(trained):
  bench, learners = trained
  heads = [bench.boundary("start_task", l, t).params["cosine"] for l, t in ((bench.start(), 0), (learners[0], 1))]
  for head in heads:
    assert float(head["scale"]) == 1.0
    assert 0.3 < np.abs(np.asarray(head["directions"])).max() <= 8**-0.5
  assert np.abs(np.asarray(heads[0]["directions"] - heads[1]["directions"])).max() > 0.1


def test_a_class_that_a_later_task_has_again_is_that_task_s(dataset, small_model):
  of = lambda split: [np.isin(split.y, c) for c in ((0, 1), (1, 2, 3))]
  bench = Bench("ease", streams.from_tasks(dataset, of(dataset.train), of(dataset.test)), small_model, HYPER)
  learner = bench.train()
  assert learner.method_state.own.tolist() == [0, 1, 1, 1]
  rows, split = bench.stream.train[1], bench.stream.dataset.train
  mine = split.x[rows[split.y[rows] == 1]]
  for slot in range(2):
    want = features(base_of(learner), learner.params, slot, mine).mean(0)
    np.testing.assert_allclose(learner.method_state.means[1, slot], want, rtol=1e-3, atol=1e-4)


def test_classes_that_go_whole_have_no_prototype(trained):
  bench, learners = trained
  gone = jnp.arange(4) == 1
  left = bench.parts.scrub(learners[-1], jnp.zeros(bench.spec.num_rows, bool), gone)
  assert not np.asarray(left.method_state.means[1]).any()
  assert left.method_state.own.tolist() == [0, -1, 1, 2]
  x = bench.stream.dataset.test.x[:9]
  got, was = predict(bench, left, x), predict(bench, learners[-1], x)
  assert np.isneginf(got[:, 1]).all()
  np.testing.assert_array_equal(np.delete(got, 1, 1), np.delete(was, 1, 1))
