"""MOS against NumPy in float64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special
from bench import Bench, assert_same
from by_hand import batch_of
from gaussians_by_hand import by_sgd
from prompts_by_hand import cross_entropy, moved, slopes_agree
from stacks_by_hand import base_of, f64, features, stands, unit

from cljax import streams
from cljax.core import tree
from cljax.methods.pretrained import gaussians, mos

HYPER = {"rank": 3, "strength": 0.3, "merge": 0.0, "head_rate": 0.5, "learning_rate": 0.05, "passes": 2, "samples": 6}
UP = "hidden_0/adapter/up"


@pytest.fixture(scope="module")
def stream(dataset):
  """Three tasks of two, one and one classes."""
  of = lambda split: [np.isin(split.y, c) for c in ((0, 1), (2,), (3,))]
  return streams.from_tasks(dataset, of(dataset.train), of(dataset.test))


@pytest.fixture(scope="module")
def trained(stream, small_model):
  """Before and behind the end of each of the three tasks."""
  bench = Bench("mos", stream, small_model, HYPER)
  found, learner = [], bench.start()
  for t in range(3):
    last = bench.steps(bench.boundary("start_task", learner, t), t, 4, met=range(t))
    learner = bench.boundary("end_task", last, t)
    found.append((last, learner))
  return bench, found


def predict(bench, learner, x):
  return np.asarray(bench.parts.predict(learner, jnp.asarray(x), jnp.int32(0)))


def linear(params, f):
  return f @ f64(params["linear"]["kernel"]) + f64(params["linear"]["bias"])


def spread(means, f):
  """A loop over the rows of M."""
  m = np.concatenate([means, f])
  near = m @ m.T / 0.8
  return np.mean([scipy.special.logsumexp(row) - row[i] for i, row in enumerate(near)])


def test_mos_s_step_by_hand(class_stream, small_model):
  """Both terms; the classifier at its share of the rate; other places and outputs stand."""
  bench = Bench("mos", class_stream, small_model, HYPER)
  first = bench.train(steps=3, tasks=(0,))
  one = bench.steps(bench.boundary("start_task", first, 1), 1, 2, met=(0,))
  two = bench.step(one, *bench.arguments(1, 2))[0]
  x, y = batch_of(bench, 1, 2)
  base, means = base_of(one), f64(one.method_state.gaussians.means[:2])

  def loss(p):
    f = features(base, p, 1, x)
    return cross_entropy(linear(p, f), y, np.array([False, False, True, True])).mean() + 0.3 * spread(means, f)

  got = moved(two.params, one.params)
  got["linear"] = {n: a / 0.5 for n, a in got["linear"].items()}
  slopes_agree(got, loss, one.params, rtol=5e-3)
  stands(first, two, 0)
  np.testing.assert_array_equal(two.params["linear"]["kernel"][:, :2], one.params["linear"]["kernel"][:, :2])


def test_the_term_is_of_rows_and_means_that_are_there():
  """In a first task of rows alone; rows of weight 0, whatever they hold, and classes without a mean are as if absent,
  in slopes too."""
  rng = np.random.default_rng(0)
  means, f = rng.normal(size=(3, 4)), rng.normal(size=(5, 4))
  weight = jnp.float32([1, 1, 1, 0, 0])
  there = np.array([True, False, True])
  none = gaussians.none(3, 4)
  known = lambda there: none._replace(means=jnp.float32(means), counts=jnp.float32(there))
  value = lambda there: lambda f: gaussians.apart(known(there), f, weight)
  got = value(there)(jnp.float32(f))
  np.testing.assert_allclose(got, spread(means[there], f[:3]), rtol=1e-5)
  np.testing.assert_allclose(value([False] * 3)(jnp.float32(f)), spread(means[:0], f[:3]), rtol=1e-5)
  slope = jax.grad(value(there))(jnp.float32(f))
  assert np.isfinite(slope).all()
  assert not np.asarray(slope[3:]).any()
  assert np.abs(np.asarray(slope[:3])).min() > 0


def test_merging_draws_to_the_mean_of_old_parts():
  """Of all old ones alike; the first place has none, and others stay."""
  a = np.random.default_rng(0).normal(size=(4, 2, 3)).astype(np.float32)
  for slot in range(4):
    got = mos.merged({"a": jnp.asarray(a)}, jnp.int32(slot), 0.25)["a"]
    want = a.copy()
    if slot:
      want[slot] = 0.75 * a[slot] + 0.25 * a[:slot].mean(0)
    np.testing.assert_allclose(got, want, rtol=1e-6)
    np.testing.assert_array_equal(np.delete(got, slot, 0), np.delete(a, slot, 0))


def test_parts_are_merged_once_a_step(class_stream, small_model):
  """Behind the step, and by nothing else: a forward pass of the released code merges again in every block."""
  bench = Bench("mos", class_stream, small_model, HYPER)
  first = bench.train(steps=3, tasks=(0,))
  assert_same(bench.train(steps=3, tasks=(0,), merge=0.3).params, first.params)
  begun = bench.boundary("start_task", first, 1)
  plain, merging = (bench.step(begun, *bench.arguments(1), merge=m)[0].params["stack"] for m in (0.0, 0.3))
  for name, leaf in plain.items():
    np.testing.assert_allclose(merging[name][1], 0.7 * f64(leaf[1]) + 0.3 * f64(leaf[0]), rtol=1e-5, atol=1e-7)


def test_to_answer_changes_nothing(trained):
  """Twice the same, in whatever batches; the learner is what it was."""
  bench, found = trained
  learner = jax.tree.map(jnp.array, found[-1][1])
  x = bench.stream.dataset.test.x
  one, two = predict(bench, learner, x), predict(bench, learner, x)
  np.testing.assert_array_equal(one, two)
  np.testing.assert_allclose(predict(bench, learner, x[3:5]), one[3:5], rtol=1e-4, atol=1e-5)
  assert_same(learner, found[-1][1])


def test_mos_measures_and_aligns_when_a_task_ends(trained):
  """Gaussians under a class's own parts, means under the first task's; then the classifier on draws of all classes."""
  bench, found = trained
  split = bench.stream.dataset.train
  (_, first), (last, ended) = found[0], found[1]
  state, base = ended.method_state, base_of(ended)
  assert state.own.tolist() == [0, 0, 1, -1]
  assert int(state.ended) == 2
  for c, slot in ((0, 0), (1, 0), (2, 1)):
    rows = bench.stream.train[slot]
    x = split.x[rows[split.y[rows] == c]]
    f = features(base, ended.params, slot, x)
    np.testing.assert_allclose(state.gaussians.means[c], f.mean(0), rtol=1e-3, atol=1e-4)
    root = f64(state.gaussians.roots[c])
    np.testing.assert_allclose(root @ root.T, np.cov(f.T) + 1e-4 * np.eye(8), rtol=1e-2, atol=1e-3)
    np.testing.assert_allclose(state.first[c], features(base, ended.params, 0, x).mean(0), rtol=1e-3, atol=1e-4)
  assert not np.asarray(state.first[3]).any()
  key = tree.fold(tree.fold(jax.random.fold_in(last.key, last.step), "end_task"), "align")
  want = by_sgd(key, last.params["linear"], state.gaussians, rate=0.05, passes=2, samples=6)
  for name, value in want.items():
    np.testing.assert_allclose(ended.params["linear"][name], value, rtol=1e-3, atol=1e-4)
  assert_same(ended.params["stack"], last.params["stack"])
  assert_same(first.params, found[0][0].params)


def test_five_batches_of_each_class_by_default(class_stream, small_model):
  given = {**HYPER, "passes": 1}
  one, two = (Bench("mos", class_stream, small_model, {**given, "samples": n}).train(1) for n in (0, 40))
  assert_same(one.params, two.params)


def by_rows(learner, own, x, ended):
  """Row by row and look by look."""
  base, state = base_of(learner), learner.method_state
  there = np.asarray(state.own) >= 0
  f = np.stack([features(base, learner.params, j, x) for j in range(ended)])
  near = np.where(there, unit(f[0]) @ unit(f64(state.first) + 1e-30).T, -np.inf)
  out, looks = [], []
  for b in range(len(x)):
    j = own[near[b].argmax()]
    for look in range(1, 5):
      z = np.where(there, linear(learner.params, f[j, b]), -np.inf)
      new = own[z.argmax()]
      if new == j or look == 4:
        break
      j = new
    looks.append(look)
    with np.errstate(divide="ignore"):
      out.append(np.log(scipy.special.softmax(z) / 2 + scipy.special.softmax(ended * near[b]) / 2))
  return np.array(out), looks


def test_mos_answers_where_a_row_stays(trained):
  """The classifier under the parts that a row finds, and the first task's means beside it."""
  bench, found = trained
  x = bench.stream.dataset.test.x
  for (_, learner), ended in zip(found, (1, 2, 3), strict=True):
    want, looks = by_rows(learner, np.array([0, 0, 1, 2]), x, ended)
    np.testing.assert_allclose(predict(bench, learner, x), want, rtol=2e-3, atol=2e-4)
  assert max(looks) > 1


def test_a_row_is_looked_for_four_times():
  """At rest, after two moves, and in a circle that the fourth look ends."""
  own = jnp.asarray([0, 1, 2])
  to = np.array([[1, 0, 1], [2, 0, 0], [2, 2, 2]])  # [place, row]: where it is sent
  logits = jnp.asarray(np.eye(3)[to])
  assert mos.retrieved(logits, own, jnp.asarray([0, 0, 0])).tolist() == [2, 0, 1]


def test_before_the_first_end_mos_s_classifier_answers(trained):
  bench, found = trained
  x = bench.stream.dataset.test.x[:9]
  last = found[0][0]
  want = linear(last.params, features(base_of(last), last.params, 0, x))
  np.testing.assert_allclose(predict(bench, last, x), want, rtol=1e-3, atol=1e-4)


def test_the_network_and_mos_s_old_parts_stand_to_the_bit(class_stream, small_model):
  """Under Adam with weight decay; a task that comes back changes nothing."""
  hyper = {**HYPER, "merge": 0.1}
  bench = Bench("mos", class_stream, small_model, hyper, optimizer=optax.adamw(0.05, weight_decay=0.5))
  start, one, two = bench.start(), bench.train(tasks=(0,)), bench.train(tasks=(0, 1))
  stands(start, two)
  stands(one, two, 0)
  assert np.abs(np.asarray(two.params["stack"][UP][1])).max() > 1e-2
  back = bench.train(tasks=(0, 1, 0))
  assert_same(back.params, two.params)
  assert_same(back.method_state, two.method_state)


def test_classes_that_go_whole_leave_mos(trained):
  bench, found = trained
  learner = found[-1][1]
  left = bench.parts.scrub(learner, jnp.zeros(bench.spec.num_rows, bool), jnp.arange(4) == 1)
  assert left.method_state.own.tolist() == [0, -1, 1, 2]
  assert not np.asarray(left.method_state.first[1]).any()
  assert not any(np.asarray(leaf)[1].any() for leaf in left.method_state.gaussians)
  assert_same(left.params, learner.params)
  x = bench.stream.dataset.test.x[:9]
  want, _ = by_rows(left, np.array([0, 0, 1, 2]), x, 3)
  got = predict(bench, left, x)
  assert np.isneginf(got[:, 1]).all()
  np.testing.assert_allclose(got[:, [0, 2, 3]], want[:, [0, 2, 3]], rtol=2e-3, atol=2e-4)
