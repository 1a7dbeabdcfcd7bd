"""HPCR against NumPy in float64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bench import Bench, assert_near
from by_hand import RATE, batch_of
from proxies_by_hand import cosines, doubled, features, likeness, of_two_views, unit

from cljax.methods import views
from cljax.methods.replay import hpcr

T = 0.3
HYPER = {
  "capacity": 40, "replay_batch": 40, "temperature": T, "alpha": 0.7, "beta": 0.4, "least_scale": 0.5,
  "most_scale": 2.0, "period": 5,
}  # fmt: skip
TURNS = 0.5 + 0.75 * (1 - np.cos(2 * np.pi * np.arange(5) / 5))


@pytest.fixture(scope="module")
def trained(class_stream, small_model):
  """A bench whose second views are mirrored pictures of twice the size; its learners before each of four steps, two of
  each task, and behind the last; the losses of these."""
  patch = pytest.MonkeyPatch()
  patch.setattr(views, "second_view", doubled)
  bench = Bench("hpcr", class_stream, small_model, HYPER)
  learner, learners, losses = bench.start(), [], []
  for task, k in ((0, 0), (0, 1), (1, 0), (1, 1)):
    if k == 0:
      learner = bench.boundary("start_task", learner, task)
    learners.append(learner)
    learner, _, loss = bench.step(learner, *bench.arguments(task, k))
    losses.append(float(loss))
  patch.undo()
  return bench, (*learners, learner), losses


STEPS = ((0, 0), (0, 1), (1, 0), (1, 1))


def by_hand(bench, learners, step, params):
  """The loss of a step at other parameters: its own rows and those of all steps before, as they were answered then."""
  x, y = batch_of(bench, *STEPS[step])
  parts = [batch_of(bench, *at) for at in STEPS[:step]]
  old_x, old_y = (np.concatenate([p[i] for p in parts] or [a[:0]]) for i, a in enumerate((x, y)))
  every = np.concatenate([x, old_x]), np.r_[y, old_y]
  total = TURNS[STEPS[step][1]] * of_two_views(params, *every, T)
  if STEPS[step][0] == 0:
    return total
  then = [learners[i].params for i in range(step)]
  z = np.concatenate([cosines(p, part[0]) / T for p, part in zip(then, parts, strict=True)])
  f = np.concatenate([features(p, part[0]) for p, part in zip(then, parts, strict=True)])
  gap = (cosines(params, old_x) / T - z)[:, every[1]]  # a column for each row of the step
  return total + 0.7 * (gap**2).mean() + 0.4 * likeness(features(params, old_x), f, T)


def test_hpcr_s_loss_is_a_wave_of_pcr_s_and_what_is_held(trained):
  """In the first task the contrast alone, times the wave; from the second on stored outputs are held, in the view in
  which they were stored."""
  bench, learners, losses = trained
  for step in range(4):
    np.testing.assert_allclose(losses[step], by_hand(bench, learners, step, learners[step].params), rtol=2e-5)


def test_hpcr_s_gradient_by_differences(trained):
  bench, learners, _ = trained
  now, after = learners[3], learners[4]
  step = jax.tree.map(lambda a, b: (np.asarray(a, np.float64) - np.asarray(b)) / -RATE, after.params, now.params)
  rng = np.random.default_rng(0)
  for _ in range(2):
    direction = jax.tree.map(lambda a: rng.normal(size=a.shape), step)
    at = lambda t, direction=direction: by_hand(
      bench, learners, 3, jax.tree.map(lambda p, d: np.asarray(p, np.float64) + t * d, now.params, direction)
    )
    slope = (at(1e-6) - at(-1e-6)) / 2e-6
    got = sum((a * b).sum() for a, b in zip(jax.tree.leaves(step), jax.tree.leaves(direction), strict=True))
    np.testing.assert_allclose(got, slope, rtol=2e-3)


def test_the_wave_is_least_at_first_and_most_half_a_period_on():
  at = jnp.asarray([0, 125, 250, 375, 500, 750], jnp.int32)
  got = hpcr.wave(at, 0.5625, 1.8, 500)
  np.testing.assert_allclose(got, [0.5625, 1.18125, 1.8, 1.18125, 0.5625, 1.8], rtol=1e-5)


def test_structure_is_a_cross_entropy_of_likenesses():
  """By loops; least, the entropy, where the features are those of then up to their sizes; absent rows have no part."""
  rng = np.random.default_rng(0)
  f, old = rng.normal(size=(2, 6, 4))
  weight = jnp.asarray([1, 1, 1, 1, 0, 1.0])
  there = np.asarray(weight) > 0
  made = jax.jit(lambda f, old, weight: hpcr.structure(f, old, weight, T))
  of = lambda f, old, weight=weight: made(jnp.asarray(f, jnp.float32), old, weight)
  old32 = jnp.asarray(old, jnp.float32)
  np.testing.assert_allclose(np.asarray(of(f, old32))[there].mean(), likeness(f[there], old[there], T), rtol=1e-5)
  least = np.asarray(of(3.0 * old, old32))
  s = unit(old[there]) @ unit(old[there]).T / T
  np.fill_diagonal(s, -np.inf)
  p = np.exp(s) / np.exp(s).sum(1, keepdims=True)
  entropy = -np.sum(np.where(p > 0, p * np.log(np.where(p > 0, p, 1)), 0), 1)
  np.testing.assert_allclose(least[there], entropy, rtol=1e-5)
  assert (np.asarray(of(f, old32))[there] > entropy + 1e-3).all()
  slope = jax.jit(jax.grad(lambda f: jnp.sum(weight * hpcr.structure(f, old32, weight, T))))(old32)
  np.testing.assert_allclose(slope, 0, atol=1e-5)
  one = jnp.zeros(6).at[0].set(1.0)
  assert np.asarray(of(f, old32, one))[0] == 0
  gap = hpcr.proxy_gap(jnp.asarray(f), old32, jnp.asarray([2.0, 0, 1, 3]))
  np.testing.assert_allclose(gap, ((f - old) ** 2)[:, [0, 0, 2, 3, 3, 3]].mean(1), rtol=1e-5)


def test_stored_outputs_stand_beside_their_own_rows(class_stream, small_model):
  """Where the memory fills within a batch, and where rows are erased: those of the step in which the row came."""
  bench = Bench("hpcr", class_stream, small_model, {**HYPER, "capacity": 12, "replay_batch": 12, "views": False})
  learner, then = bench.start(), {}
  for k in range(3):
    for row in np.asarray(bench.rows(0, k)[0]):
      then.setdefault(int(row), []).append(learner.params)
    learner = bench.step(learner, *bench.arguments(0, k))[0]
  learner = bench.step(learner, *bench.arguments(0, 3, np.zeros(8, np.int32)))[0]  # the last rows go in
  split = class_stream.dataset.train
  gone = np.asarray(learner.method_state.replay.memory.rows["id"])[[0, 5]]
  named = jnp.zeros(bench.spec.num_rows, bool).at[gone].set(True)
  left = jax.jit(bench.parts.scrub)(learner, named, jnp.zeros(4, bool))
  for state, count in ((learner.method_state, 12), (left.method_state, 10)):
    rows = state.replay.memory.rows
    assert int(state.replay.memory.count) == count
    for i, row in enumerate(np.asarray(rows["id"])[:count].tolist()):
      x = split.x[[row]]
      close = [
        np.allclose(rows["logits"][i], cosines(p, x)[0] / T, atol=1e-4)
        and np.allclose(rows["features"][i], unit(features(p, x))[0], atol=1e-5)
        for p in then[row]
      ]
      assert any(close)
  assert not set(np.asarray(left.method_state.replay.memory.rows["id"])[:10]) & set(gone)
  for part in ("x", "logits", "features"):
    assert not np.asarray(left.method_state.replay.memory.rows[part])[10:].any()
  assert not np.asarray(learner.method_state.replay.pending["logits"]).any()  # of rows that are absent
  assert not np.asarray(learner.method_state.replay.pending["features"]).any()


def test_steps_are_counted_within_a_task(trained):
  bench, learners, _ = trained
  assert [int(l.method_state.at) for l in learners] == [0, 1, 0, 1, 2]
  assert int(bench.boundary("start_task", learners[4], 0, (0, 1)).method_state.at) == 0


def test_without_strengths_hpcr_is_pcr(class_stream, small_model):
  shared = {"capacity": 40, "replay_batch": 20, "temperature": T, "views": False}
  off = {"alpha": 0.0, "beta": 0.0, "least_scale": 1.0, "most_scale": 1.0}
  got = Bench("hpcr", class_stream, small_model, {**shared, **off}).train(2)
  want = Bench("pcr", class_stream, small_model, {**shared, "insert": "every_pass"}).train(2)
  assert_near(got.params, want.params, 1e-6)
  np.testing.assert_array_equal(got.method_state.seen, want.method_state.seen)
