"""FeTrIL's moved features and its layer against NumPy."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from bench import Bench
from by_hand import forward, log_softmax

from cljax.methods.prototypes import fetril

HYPER = {"first_task": "frozen", "passes": 2, "batch_size": 48, "learning_rate": 0.1}


def rows(seed=0, n=50, width=6, first=2, classes=4):
  """Of the classes ``first ..``; and means of all classes."""
  rng = np.random.default_rng(seed)
  y = rng.integers(first, classes, n).astype(np.int32)
  f = 3 * rng.normal(size=(classes, width))[y] + rng.normal(size=(n, width))
  means = np.stack([f[y == c].mean(0) if c >= first else 3 * rng.normal(size=width) for c in range(classes)])
  return f, y, means, np.arange(classes) >= first


def cosine(a, b):
  return a @ b / np.linalg.norm(a) / np.linalg.norm(b)


def donor_of(means, new, c):
  return max(np.flatnonzero(new), key=lambda n: cosine(means[n], means[c]))


def test_fetril_s_moved_features_have_the_old_mean_and_the_donor_s_covariance():
  """To rounding of float64; the donor is the new class nearest by the cosine, not by distance; rows stay of their own
  class as they are, and stand for no other new one."""
  f, y, means, new = rows()
  means[0] = 0.1 * means[2] + 0.01  # near class 2 by its direction
  with jax.enable_x64(True):
    args = (*map(jnp.asarray, (f, y, means, new)), jnp.asarray(~new))
    moved, there = map(np.asarray, fetril.translated(*args))
  for c in range(4):
    if new[c]:
      np.testing.assert_array_equal(there[:, c], y == c)
      np.testing.assert_array_equal(moved[there[:, c], c], f[y == c])
      continue
    donor = donor_of(means, new, c)
    np.testing.assert_array_equal(there[:, c], y == donor)
    pseudo = moved[there[:, c], c]
    np.testing.assert_allclose(pseudo.mean(0), means[c], atol=1e-13)
    np.testing.assert_allclose(np.cov(pseudo.T), np.cov(f[y == donor].T), atol=1e-12)
  assert donor_of(means, new, 0) == 2


def test_with_one_new_class_all_old_ones_borrow_its_shape():
  *_, means, new = rows(first=3)
  found = np.asarray(fetril.donors(jnp.asarray(np.float32(means)), jnp.asarray(new)))
  assert found.tolist() == [3] * 4


def by_sgd(f, y, means, new, passes, rate):
  """All rows in each batch, so that no draw decides."""
  classes, width = means.shape
  items, labels = [], []
  for z, c in zip(f, y, strict=True):
    items.append(z)
    labels.append(c)
    for o in np.flatnonzero(~new):
      if donor_of(means, new, o) == c:
        items.append(z - means[c] + means[o])
        labels.append(o)
  items, target = np.stack(items), np.eye(classes)[labels]
  w, b = np.zeros((classes, width)), np.zeros(classes)
  v, u = np.zeros_like(w), np.zeros_like(b)
  for p in range(passes):
    d = (np.exp(log_softmax(items @ w.T + b)) - target) / len(items)
    v, u = 0.9 * v + d.T @ items + 5e-4 * w, 0.9 * u + d.sum(0) + 5e-4 * b
    now = rate * (1 + np.cos(np.pi * p / passes)) / 2
    w, b = w - now * v, b - now * u
  return w, b


def test_fetril_s_layer_is_sgd_on_real_and_moved_features():
  f, y, means, new = rows()
  with jax.enable_x64(True):
    args = (jnp.asarray(f), jnp.asarray(y), jnp.ones(50), jnp.asarray(means), jnp.asarray(new), jnp.asarray(~new))
    got = fetril.fitted_head(jax.random.key(0), *args, learning_rate=0.1, passes=9, batch_size=64)
  for a, b in zip(got, by_sgd(f, y, means, new, 9, 0.1), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-9)


def test_rows_that_are_not_there_and_classes_to_come_move_no_weight():
  f, y, means, new = rows()
  weight = np.r_[np.ones(40), np.zeros(10)].astype(np.float32)
  old = np.array([True, False, False, False])
  fit = lambda f, y, w: fetril.fitted_head(
    jax.random.key(0), jnp.float32(f), jnp.asarray(y), w, jnp.float32(means), jnp.asarray(new), jnp.asarray(old),
    learning_rate=0.1, passes=3, batch_size=40,
  )  # fmt: skip
  one, two = fit(f, y, weight), fit(f[:40], y[:40], weight[:40])
  for a, b in zip(one, two, strict=True):
    np.testing.assert_allclose(a, b, atol=1e-5)
    assert not np.asarray(a)[1].any()
    assert np.asarray(a)[0].any()


def learned(stream, model, tasks=(0, 1)):
  bench = Bench("fetril", stream, model, HYPER)
  learner = bench.start()
  for i, task in enumerate(tasks):
    learner = bench.boundary("end_task", learner, task, tasks[:i])
  return bench, learner


def test_fetril_answers_by_its_layer(class_stream, small_model):
  """That of the last task's rows and the means of all."""
  bench, learner = learned(class_stream, small_model)
  split = class_stream.dataset.train
  feature = lambda x: forward(learner.params, x)[0]
  at = np.concatenate(class_stream.train)
  f, y = feature(split.x[at]), split.y[at]
  means = np.stack([f[y == c].mean(0) for c in range(4)])
  mine = class_stream.train[1]
  w, b = by_sgd(feature(split.x[mine]), split.y[mine], means, np.arange(4) >= 2, 2, 0.1)
  test = class_stream.dataset.test.x
  got = jax.jit(lambda l: bench.parts.predict(l, jnp.asarray(test), jnp.int32(0)))(learner)
  np.testing.assert_allclose(got, feature(test) @ w.T + b, atol=2e-4)


def test_fetril_keeps_means_and_a_layer_that_requests_clear(class_stream, small_model):
  """Nothing else grows with classes; a class that goes whole leaves neither mean nor weights."""
  bench, learner = learned(class_stream, small_model)
  sizes = sorted(np.asarray(a).size for a in jax.tree.leaves(learner.method_state))
  assert sizes == sorted([4, 4 * 8, 4 * 8, 4, 2])  # counts, means, the layer, tasks
  left = jax.jit(bench.parts.scrub)(learner, jnp.zeros(bench.spec.num_rows, bool), jnp.arange(4) == 1).method_state
  for a, b in zip(jax.tree.leaves((left.statistics, left.hint)), jax.tree.leaves((learner.method_state.statistics,
                  learner.method_state.hint)), strict=True):  # fmt: skip
    a, b = np.asarray(a), np.asarray(b)
    assert not a[1].any()
    np.testing.assert_array_equal(np.delete(a, 1, 0), np.delete(b, 1, 0))
