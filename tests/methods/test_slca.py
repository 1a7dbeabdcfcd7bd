"""SLCA against NumPy in float64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special
from bench import Bench, assert_same
from by_hand import RATE, batch_of, forward, leaves
from gaussians_by_hand import by_sgd

from cljax import streams
from cljax.core import tree
from cljax.methods.pretrained import gaussians, slca

HYPER = {"slow": 0.25, "learning_rate": 0.2, "temperature": 0.3, "passes": 2, "samples": 6}


@pytest.fixture(scope="module")
def trained(class_stream, small_model):
  """The first task's end, one and two steps into the second, and its end."""
  bench = Bench("slca", class_stream, small_model, HYPER)
  first = bench.train(steps=3, tasks=(0,))
  begun = bench.boundary("start_task", first, 1)
  one = bench.steps(begun, 1, 1, met=(0,))
  two = bench.step(one, *bench.arguments(1, 1))[0]
  return bench, first, one, two, bench.boundary("end_task", two, 1)


def logits(params, x):
  """Of the classifier on the hidden values."""
  h = forward(params["network"], x)[0]
  return h, h @ np.float64(params["linear"]["kernel"]) + np.float64(params["linear"]["bias"])


def test_slca_s_step_by_hand(trained):
  """Over the task's classes alone; the network moves by a share of the rate, other tasks' outputs not at all."""
  bench, _, one, two, _ = trained
  x, y = batch_of(bench, 1, 1)
  h, z = logits(one.params, x)
  d = scipy.special.softmax(np.where([False, False, True, True], z, -np.inf), -1)
  d[np.arange(len(y)), y] -= 1
  d /= len(y)
  back = (d @ np.float64(one.params["linear"]["kernel"]).T) * (h > 0)
  flat = np.float64(x).reshape(len(x), -1)
  want = {
    "linear/kernel": h.T @ d, "linear/bias": d.sum(0), "network/hidden_0/kernel": 0.25 * flat.T @ back,
    "network/hidden_0/bias": 0.25 * back.sum(0), "network/head/kernel": 0.0, "network/head/bias": 0.0,
  }  # fmt: skip
  new, old = leaves(two.params), leaves(one.params)
  assert set(new) == set(want)
  for name, slope in want.items():
    got = (new[name] - old[name]) / -RATE
    np.testing.assert_allclose(got, slope + 0 * got, rtol=2e-3, atol=2e-5, err_msg=name)
  assert np.abs(want["network/hidden_0/kernel"]).max() > 1e-3


def test_a_rate_for_each_group_whatever_the_optimizer(class_stream, small_model):
  """Adam with decay: the network's update is that share of what it would be; other tasks' outputs stand to the bit."""
  bench = Bench("slca", class_stream, small_model, HYPER, optimizer=optax.adamw(0.05, weight_decay=0.5))
  begun = bench.boundary("start_task", bench.train(steps=3, tasks=(0,)), 1)
  slow, fast = (bench.step(begun, *bench.arguments(1), slow=s)[0] for s in (0.25, 1.0))
  old, a, b = (leaves(l.params) for l in (begun, slow, fast))
  for name in old:
    share = 1.0 if name.startswith("linear/") else 0.25
    np.testing.assert_allclose(a[name] - old[name], share * (b[name] - old[name]), rtol=2e-3, atol=1e-6)
  still = bench.step(begun, *bench.arguments(1), slow=0.0)[0]
  assert_same(still.params["network"], begun.params["network"])
  for name in ("kernel", "bias"):
    np.testing.assert_array_equal(a[f"linear/{name}"][..., :2], old[f"linear/{name}"][..., :2])
  assert np.abs(a["linear/kernel"] - old["linear/kernel"])[:, 2:].max() > 1e-3


def test_slca_measures_and_aligns_when_a_task_ends(trained):
  """The Gaussians are of the network as it is; the classifier alone moves, by the levelled loss on draws whose old
  means are shrunk; not when the first task ends."""
  bench, first, _, two, ended = trained
  assert_same(ended.params["network"], two.params["network"])
  assert np.abs(np.asarray(ended.params["linear"]["kernel"] - two.params["linear"]["kernel"])).max() > 1e-2
  split = bench.stream.dataset.train
  found, order = ended.method_state.gaussians, [1, 1, 2, 2]
  assert found.order.tolist() == order
  for c, learner in ((0, first), (3, two)):
    at = bench.stream.train[order[c] - 1]
    at = at[split.y[at] == c]
    h = forward(learner.params["network"], split.x[at])[0]
    np.testing.assert_allclose(found.means[c], h.mean(0), rtol=1e-4, atol=1e-5)
    root = np.float64(found.roots[c])
    np.testing.assert_allclose(root @ root.T, np.cov(h.T) + 1e-4 * np.eye(h.shape[1]), rtol=1e-3, atol=1e-4)
  key = tree.fold(tree.fold(jax.random.fold_in(two.key, two.step), "end_task"), "align")
  moved = found._replace(means=found.means * jnp.float32([0.95, 0.95, 1, 1])[:, None])
  want = by_levelled_sgd(key, two.params["linear"], moved)
  for name, value in want.items():
    np.testing.assert_allclose(ended.params["linear"][name], value, rtol=2e-3, atol=2e-4)
  plain = by_sgd(key, two.params["linear"], moved, rate=0.2, passes=2, samples=6)
  assert np.abs(plain["kernel"] - want["kernel"]).max() > 1e-2


def by_levelled_sgd(key, head, state, groups=((0, 1), (2, 3)), tau=0.3, rate=0.2, passes=2, samples=6):
  """The loss by a loop over rows and tasks; its slopes by differences."""

  def loss(w, b, f, y):
    z = f @ w + b
    norms = np.mean([np.linalg.norm(z[:, list(g)], axis=-1) + 1e-7 for g in groups], axis=0)
    z = z / norms[:, None] / tau
    return (scipy.special.logsumexp(z, -1) - z[np.arange(len(y)), y]).mean()

  w, b = (np.float64(head[n]) for n in ("kernel", "bias"))
  theta = np.concatenate([w.ravel(), b])
  cut = lambda t: (t[: w.size].reshape(w.shape), t[w.size :])
  velocity = np.zeros_like(theta)
  label = np.repeat(np.arange(len(b)), samples)
  for p in range(passes):
    own = jax.random.fold_in(key, p)
    f = np.float64(gaussians.drawn(tree.fold(own, "features"), state, samples)).reshape(len(label), -1)
    order = np.argsort(np.asarray(jax.random.bits(tree.fold(own, "order"), label.shape, jnp.uint32)), kind="stable")
    now = rate * (1 + np.cos(np.pi * p / passes)) / 2
    for at in np.split(order, len(b)):
      value = lambda t, at=at, f=f: loss(*cut(t), f[at], label[at])
      slope = np.array([(value(theta + e) - value(theta - e)) / 2e-6 for e in 1e-6 * np.eye(len(theta))])
      velocity = 0.9 * velocity + slope + 5e-4 * theta
      theta = theta - now * velocity
  return dict(zip(("kernel", "bias"), cut(theta), strict=True))


def test_the_first_end_leaves_the_classifier(trained):
  bench, first, *_ = trained
  learner = bench.steps(bench.boundary("start_task", bench.start(), 0, ()), 0, 3)
  assert_same(first.params, learner.params)


def test_means_are_shrunk_by_the_place_of_their_task():
  """0.91 to 1 over ten tasks. The released code divides a class's number by the size of the task at hand: of tasks of
  2, 1 and 1 classes it takes those of the second for the third's."""
  state = gaussians.none(10, 2)._replace(means=jnp.ones((10, 2)), order=jnp.arange(1, 11))
  np.testing.assert_allclose(slca.shrunk(state, 10).means[:, 0], 0.9 + 0.01 * np.arange(1, 11), rtol=1e-6)
  uneven = gaussians.none(4, 2)._replace(means=jnp.ones((4, 2)), order=jnp.asarray([1, 1, 2, 3]))
  got = np.asarray(slca.shrunk(uneven, 3).means[:, 0])
  np.testing.assert_allclose(got, 0.9 + 0.1 * np.array([1, 1, 2, 3]) / 3, rtol=1e-6)
  assert not np.allclose(got, 0.9 + 0.1 * (np.arange(4) // 1 + 1) / 3)


def test_uneven_tasks_have_their_own_places(dataset, small_model):
  """Through a run's boundaries."""
  whole = dataset
  of = lambda split: [np.isin(split.y, c) for c in ((0, 1), (2,), (3,))]
  stream = streams.from_tasks(whole, of(whole.train), of(whole.test))
  bench = Bench("slca", stream, small_model, HYPER)
  learner = bench.start()
  for t in range(3):
    learner = bench.boundary("end_task", learner, t)
  assert learner.method_state.gaussians.order.tolist() == [1, 1, 2, 3]


def test_levelled_logits_have_a_mean_norm_of_tasks_that_are_there():
  """Of one row, task by task; a task without a class that is there takes no part; zeros have no NaN, nor a slope."""
  z = np.random.default_rng(0).normal(size=(5, 4))
  table = np.array([[True, True, False, False], [False, False, True, False], [False] * 4])
  norms = np.mean([np.linalg.norm(z[:, t], axis=-1) + 1e-7 for t in table[:2]], axis=0)
  got = slca.levelled(jnp.float32(z), jnp.asarray(table), 0.1)
  np.testing.assert_allclose(got, z / norms[:, None] / 0.1, rtol=1e-5)
  one = lambda z: slca.levelled(z, jnp.asarray(table), 0.1).sum()
  slope = jax.grad(one)(jnp.zeros((2, 4)))
  assert np.isfinite(slope).all()


def test_slca_answers_by_labels_that_rows_had(trained):
  """And a class that goes whole is none of these, nor has a Gaussian."""
  bench, first, *_, ended = trained
  x = bench.stream.dataset.test.x
  predict = lambda l: np.asarray(bench.parts.predict(l, jnp.asarray(x), jnp.int32(0)))
  np.testing.assert_allclose(predict(ended), logits(ended.params, x)[1], rtol=1e-4, atol=1e-4)
  got = predict(first)
  assert np.isneginf(got[:, 2:]).all()
  np.testing.assert_allclose(got[:, :2], logits(first.params, x)[1][:, :2], rtol=1e-4, atol=1e-4)
  assert np.isfinite(predict(bench.start())).all()
  gone = jnp.arange(4) == 1
  left = bench.parts.scrub(ended, jnp.zeros(bench.spec.num_rows, bool), gone)
  assert_same(left.params, ended.params)
  assert not any(np.asarray(leaf)[1].any() for leaf in left.method_state.gaussians)
  assert np.isneginf(predict(left)[:, 1]).all()
  assert np.isfinite(predict(left)[:, [0, 2, 3]]).all()


def test_a_task_that_comes_back_is_measured_as_the_newest(trained):
  bench, *_, ended = trained
  back = bench.boundary("end_task", ended, 0, met=(0, 1)).method_state.gaussians
  assert back.order.tolist() == [2, 2, 2, 2]
  np.testing.assert_array_equal(back.means[2:], ended.method_state.gaussians.means[2:])
