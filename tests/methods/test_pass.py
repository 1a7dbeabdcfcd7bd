"""PASS against NumPy: turned rows, distances of features, noisy means of old classes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bench import Bench
from by_hand import cross_entropy, leaves

from cljax import methods
from cljax.core.types import UsageError
from cljax.engine.setup import spec_of
from cljax.methods.prototypes import rotations

TEMPERATURE = 0.5
BENCHES: dict = {}


def bench_of(stream, model, form="paper"):
  """Its weights are arguments of its programs."""
  if form not in BENCHES:
    BENCHES[form] = Bench("pass", stream, model, {"form": form, "temperature": TEMPERATURE})
  return BENCHES[form]


def features(params, x):
  p = leaves(params)
  return np.maximum(x.reshape(len(x), -1) @ p["network/hidden_0/kernel"] + p["network/hidden_0/bias"], 0)


def outputs(params, f):
  p = leaves(params)
  return f @ p["turns/kernel"] + p["turns/bias"]


def turned(x, y):
  return np.concatenate([np.rot90(x, k, axes=(1, 2)) for k in range(4)]), np.concatenate([4 * y + k for k in range(4)])


def batch_of(bench, task, k):
  index = np.asarray(bench.rows(task, k)[0])
  split = bench.stream.dataset.train
  return np.float64(split.x[index]), split.y[index]


def among(z, seen):
  return np.where(np.repeat(seen, 4)[None], z, -1e30) / TEMPERATURE


def test_turned_rows_are_classes_of_their_own():
  x, y = np.random.default_rng(0).normal(size=(5, 4, 4, 2)), np.arange(5, dtype=np.int32)
  for a, b in zip(rotations.turned(jnp.float32(x), jnp.asarray(y)), turned(np.float32(x), y), strict=True):
    np.testing.assert_array_equal(a, b)


def test_the_radius_is_the_deviation_of_a_feature():
  """1.70 of N(0, 1.7^2), whatever the classes' sizes and means; classes without rows do not count."""
  rng = np.random.default_rng(0)
  y = np.r_[np.zeros(4000, int), np.ones(1000, int)]
  f = 1.7 * rng.normal(size=(5000, 20)) + 5 * y[:, None]
  squares = [((f[y == c] - f[y == c].mean(0)) ** 2).sum() if (y == c).any() else 0.0 for c in range(3)]
  got = rotations.radius_of(jnp.float32(squares), jnp.float32(np.bincount(y, minlength=3)), 20)
  assert abs(float(got) - 1.70) < 0.02


def test_old_classes_are_drawn_evenly_with_noise_of_the_radius():
  means = jnp.float32(np.random.default_rng(0).normal(size=(5, 6)))
  old = jnp.array([True, False, True, False, True])
  p, label = rotations.noisy_prototypes(jax.random.key(0), means, old, jnp.float32(1.7), 6000)
  counts = np.bincount(label, minlength=5)
  assert counts[[1, 3]].tolist() == [0, 0]
  assert np.abs(counts[[0, 2, 4]] / 2000 - 1).max() < 0.1
  noise = np.asarray(p - means[label])
  assert abs(noise.std() - 1.7) < 0.03
  assert abs(noise.mean()) < 0.03


def test_the_released_distance_grows_with_the_batch_and_the_paper_s_does_not():
  a = np.random.default_rng(0).normal(size=(6, 5))
  b = a + 1.0
  norm = lambda a, b, form: float(rotations.gap_norm(jnp.float32(a), jnp.float32(b), jnp.ones(len(a)), form))
  twice = np.r_[a, a], np.r_[b, b]
  np.testing.assert_allclose(norm(a, b, "paper"), np.linalg.norm(a - b, axis=1).mean(), rtol=1e-5)
  np.testing.assert_allclose(norm(*twice, "paper"), norm(a, b, "paper"), rtol=1e-5)
  np.testing.assert_allclose(norm(a, b, "released"), np.linalg.norm(a - b), rtol=1e-5)
  np.testing.assert_allclose(norm(*twice, "released"), np.sqrt(2) * norm(a, b, "released"), rtol=1e-5)
  slope = jax.grad(lambda a: rotations.gap_norm(a, jnp.float32(b), jnp.ones(6), "paper"))(jnp.float32(b))
  assert not np.asarray(slope).any()


def test_the_first_task_learns_turned_rows_of_its_classes(class_stream, small_model):
  bench = bench_of(class_stream, small_model)
  start = bench.start()
  x, y = turned(*batch_of(bench, 0, 0))
  want = cross_entropy(among(outputs(start.params, features(start.params, x)), np.arange(4) < 2), y).mean()
  np.testing.assert_allclose(float(bench.step(start, *bench.arguments(0))[2]), want, rtol=1e-5)
  test = class_stream.dataset.test.x
  said = jax.jit(lambda l: bench.parts.predict(l, jnp.asarray(test), jnp.int32(0)))(start)
  np.testing.assert_allclose(said, outputs(start.params, features(start.params, test))[:, ::4], atol=1e-5)


@pytest.mark.parametrize("form", ["paper", "released"])
def test_pass_s_loss_is_by_hand(form, class_stream, small_model):
  """With means that have no noise: whoever was drawn, the loss is that of so many of each old class."""
  bench = bench_of(class_stream, small_model, form)
  learner = bench.train(steps=3, tasks=(0,))
  state = learner.method_state
  learner = learner._replace(method_state=state._replace(radius=jnp.zeros_like(state.radius)))
  moved = jax.tree.map(lambda a: a + 0.01, learner.params)
  x, y = turned(*batch_of(bench, 1, 0))
  f, before = features(moved, x), features(state.teacher.params, x)
  everything = np.ones(4, bool)
  base = cross_entropy(among(outputs(moved, f), everything), y).mean()
  gap = np.linalg.norm(f - before, axis=1).mean() if form == "paper" else np.linalg.norm(f - before)
  each = cross_entropy(among(outputs(moved, np.asarray(state.means)[:2]), everything), np.array([0, 4]))
  loss = lambda **weights: float(
    bench.step(learner._replace(params=moved), *bench.arguments(1, met=(0,)), **weights)[2]
  )
  np.testing.assert_allclose(loss(distillation=0.0, prototypes=0.0), base, rtol=2e-5)
  np.testing.assert_allclose(loss(distillation=3.0, prototypes=0.0), base + 3 * gap, rtol=2e-5)
  drawn = [(n * each[0] + (8 - n) * each[1]) / 8 for n in range(9)]
  got = (loss(distillation=0.0, prototypes=2.0) - base) / 2
  assert np.abs(np.array(drawn) - got).min() < 1e-4 * max(each)


def test_at_its_own_teacher_the_distance_has_no_gradient(class_stream, small_model):
  bench = bench_of(class_stream, small_model)
  learner = bench.train(steps=2, tasks=(0,))
  step = lambda weight: bench.step(learner, *bench.arguments(1, met=(0,)), distillation=weight, prototypes=0.0)
  one, two = step(10.0), step(0.0)
  assert float(one[2]) == float(two[2])
  for a, b in zip(jax.tree.leaves(one[0].params), jax.tree.leaves(two[0].params), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-6)


def test_means_are_of_all_rows_and_the_radius_of_the_first_task(class_stream, small_model):
  """The last short batch counts; a request clears the mean of a class that goes whole."""
  bench = bench_of(class_stream, small_model)
  first = bench.train(steps=2, tasks=(0,))
  both = bench.boundary("end_task", bench.steps(first, 1, 2, met=(0,)), 1, (0,))
  split, state = class_stream.dataset.train, first.method_state
  rows = class_stream.train[0]
  f, y = features(first.params, np.float64(split.x[rows])), split.y[rows]
  for c in (0, 1):
    np.testing.assert_allclose(state.means[c], f[y == c].mean(0), rtol=1e-4, atol=1e-5)
    assert state.counts[c] == (y == c).sum()
  spread = np.mean([((f[y == c] - f[y == c].mean(0)) ** 2).mean() for c in (0, 1)])
  np.testing.assert_allclose(float(state.radius), np.sqrt(spread), rtol=1e-4)
  assert float(both.method_state.radius) == float(state.radius)
  np.testing.assert_array_equal(both.method_state.means[:2], state.means[:2])
  left = jax.jit(bench.parts.scrub)(both, jnp.zeros(bench.spec.num_rows, bool), jnp.arange(4) == 1).method_state
  assert not np.asarray(left.means)[1].any()
  assert np.asarray(left.counts > 0).tolist() == [True, False, True, True]


def test_pass_turns_square_pictures_alone(class_stream, small_model):
  spec = spec_of(class_stream, 8)
  with pytest.raises(UsageError, match="'pass' turns pictures; expected square inputs"):
    methods.make("pass", small_model, spec._replace(shown=jax.ShapeDtypeStruct((4, 5, 1), jnp.float32)))
