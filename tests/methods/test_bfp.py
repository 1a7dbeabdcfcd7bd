"""BFP against NumPy in float64: the loss, the step, and the map's own steps."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bench import Bench, assert_near
from by_hand import RATE, batch_of, cross_entropy, forward, leaves

from cljax import methods, models
from cljax.core.types import UsageError
from cljax.engine.setup import spec_of
from cljax.methods.replay import bfp

HYPER = {"strength": 0.8, "alpha": 0.3, "beta": 0.4, "map_rate": 0.2, "map_momentum": 0.6, "capacity": 12,
         "replay_batch": 12, "insert": "once"}  # fmt: skip
WIDTH = 8


def by_hand_gap(weights, h, old):
  """The mean length of ``h A + b - h'`` over sqrt(d), and its slope in A and b."""
  rest = h @ weights["kernel"] + weights["bias"] - old
  length = np.linalg.norm(rest, axis=1)
  unit = rest / length[:, None] / len(h) / np.sqrt(h.shape[1])
  return length.mean() / np.sqrt(h.shape[1]), {"kernel": h.T @ unit, "bias": unit.sum(0)}


def still(learner):
  """Nothing pending, so that what is drawn is what the memory holds."""
  state = learner.method_state
  return learner._replace(method_state=state._replace(replay=state.replay._replace(weight=0 * state.replay.weight)))


def wide(weights):
  return {n: np.asarray(a, np.float64) for n, a in weights.items()}


@pytest.fixture(scope="module")
def met(class_stream, small_model):
  """A bench, and its learner at the start of the second task, whose parameters have moved off the first's."""
  bench = Bench("bfp", class_stream, small_model, HYPER)
  learner = bench.boundary("start_task", bench.train(4, (0,)), 1, (0,))
  moved = bench.step(learner, *bench.arguments(1, 2))[0].params
  return bench, still(learner._replace(params=moved))


def parts_of(bench, learner, k):
  x, y = batch_of(bench, 1, k)
  rows = jax.tree.map(np.asarray, learner.method_state.replay.memory.rows)
  return (x, y), (rows["x"], rows["y"], np.float64(rows["logits"]))


def loss_of(params, bench, learner, k):
  """Current rows by their cross-entropy, stored ones by their logits and by theirs; and features of all, once for each
  draw, through the map to the old network's."""
  (x, y), (stored, labels, logits) = parts_of(bench, learner, k)
  far = by_hand_gap(wide(learner.method_state.map.weights), *features_of(params, bench, learner, k))[0]
  z = forward(params, stored)[1]
  held = 0.3 * np.mean((z - logits) ** 2) + 0.4 * cross_entropy(z, labels).mean()
  return cross_entropy(forward(params, x)[1], y).mean() + held + 0.8 * far


def features_of(params, bench, learner, k):
  (x, _), (stored, *_) = parts_of(bench, learner, k)
  every = np.concatenate([x, stored, stored])
  return forward(params, every)[0], forward(learner.method_state.teacher.params, every)[0]


def test_bfp_s_loss_and_step(met):
  """The step by differences of the loss. Stored logits are held, not the old network's, which are others."""
  bench, learner = met
  _, (stored, _, logits) = parts_of(bench, learner, 0)
  assert len(np.unique(np.asarray(learner.method_state.replay.memory.rows["id"]))) == 12
  assert np.abs(forward(learner.method_state.teacher.params, stored)[1] - logits).max() > 0.05
  after, _, loss = bench.step(learner, *bench.arguments(1, 0))
  np.testing.assert_allclose(float(loss), loss_of(learner.params, bench, learner, 0), rtol=1e-5)
  now = jax.tree.map(lambda a: np.asarray(a, np.float64), learner.params)
  step = jax.tree.map(lambda a, b: (np.asarray(a, np.float64) - b) / -RATE, after.params, now)
  rng = np.random.default_rng(0)
  for _ in range(3):
    way = jax.tree.map(lambda a: rng.normal(size=a.shape), now)
    at = lambda t, way=way: loss_of(jax.tree.map(lambda p, d: p + t * d, now, way), bench, learner, 0)
    got = sum((a * b).sum() for a, b in zip(jax.tree.leaves(step), jax.tree.leaves(way), strict=True))
    np.testing.assert_allclose(got, (at(1e-6) - at(-1e-6)) / 2e-6, rtol=2e-3, atol=1e-5)


def test_the_map_takes_sgd_steps_of_its_own_with_momentum(met):
  """Each from the parameters before the step, as one step on both would."""
  bench, learner = met
  weights, velocity = wide(learner.method_state.map.weights), {"kernel": 0.0, "bias": 0.0}
  assert np.abs(weights["kernel"]).max() < 1 / np.sqrt(WIDTH)
  for k in (0, 1, 2):
    slope = by_hand_gap(weights, *features_of(learner.params, bench, learner, k))[1]
    velocity = {n: 0.6 * velocity[n] + 0.8 * slope[n] for n in slope}
    weights = {n: weights[n] - 0.2 * velocity[n] for n in slope}
    learner = still(bench.step(learner, *bench.arguments(1, k))[0])
    for n in weights:
      np.testing.assert_allclose(learner.method_state.map.weights[n], weights[n], atol=1e-5)
      np.testing.assert_allclose(learner.method_state.map.velocity[n], velocity[n], atol=1e-5)
  assert np.abs(velocity["kernel"]).max() > 1e-3


def test_a_linear_change_of_features_costs_nothing():
  """Where ``h = h' B``, B invertible, the map ``B^-1`` reaches 0; classes that w separates are separated by A w."""
  rng = np.random.default_rng(1)
  old, b = rng.normal(size=(10, 5)), rng.normal(size=(5, 5))
  new, a = old @ b, np.linalg.inv(b)
  there = jnp.asarray([1.0] * 8 + [0.0] * 2)
  with jax.enable_x64(True):
    value = lambda a, new=new: float(bfp.gap({"kernel": a, "bias": np.zeros(5)}, new, old, there.astype(jnp.float64)))
    assert value(a) < 1e-12
    want = np.linalg.norm(new[:8] - old[:8], axis=1).mean() / np.sqrt(5)
    assert value(np.eye(5)) == pytest.approx(want)
    assert value(np.eye(5), np.where(np.asarray(there)[:, None] > 0, new, 1e6)) == pytest.approx(want)
  w = rng.normal(size=5)
  np.testing.assert_array_equal(np.sign(old @ w), np.sign(new @ (a @ w)))


def test_without_a_map_it_is_0_where_features_are_as_they_were(class_stream, small_model):
  """Feature distillation at its own teacher: no loss, no slope; off it, both. The map stays the identity."""
  bench = Bench("bfp", class_stream, small_model, {"capacity": 12, "insert": "once", "projection": "identity"})
  learner = bench.boundary("start_task", bench.train(3, (0,)), 1, (0,))
  step = lambda learner, strength: bench.step(learner, *bench.arguments(1, 0), strength=strength)
  none, much = step(learner, 0.0), step(learner, 50.0)
  assert float(none[2]) == pytest.approx(float(much[2]), rel=1e-6)
  assert_near(none[0].params, much[0].params)
  assert all(np.isfinite(np.asarray(a)).all() for a in jax.tree.leaves(much[0].params))
  off = learner._replace(params=jax.tree.map(lambda a: 1.2 * a, learner.params))
  assert float(step(off, 50.0)[2]) > float(step(off, 0.0)[2]) + 1
  after = bench.steps(off, 1, 2, met=(0,)).method_state.map.weights
  np.testing.assert_array_equal(after["kernel"], np.eye(WIDTH))
  np.testing.assert_array_equal(after["bias"], 0)


def test_in_the_first_task_bfp_is_its_base(class_stream, small_model):
  """No term and a map that rests, however strong; and at strength 0 the base in all tasks."""
  shared = {"capacity": 20, "insert": "once"}
  both = {n: Bench("bfp", class_stream, small_model, {**shared, "base": n, "strength": 0.0}) for n in ("derpp", "er")}
  given = {"derpp": {"alpha": 0.2, "beta": 0.5}, "er": {}}
  for name, bench in both.items():
    base = Bench(name, class_stream, small_model, {**shared, **given[name]})
    start = bench.boundary("start_task", bench.start(), 0)
    one, strong = bench.steps(start, 0, 3), start
    for k in range(3):
      strong = bench.step(strong, *bench.arguments(0, k), strength=9.0)[0]
    assert_near(strong.params, one.params, 1e-7)
    for a, b in zip(jax.tree.leaves(strong.method_state.map), jax.tree.leaves(start.method_state.map), strict=True):
      np.testing.assert_array_equal(a, b)
    assert_near(bench.train(3).params, base.train(3).params)
    assert np.abs(leaves(bench.train(3).params)["head/kernel"]).max() > 0


def test_a_task_begins_with_a_map_of_its_own(met, class_stream, small_model):
  bench, learner = met
  moved = bench.step(learner, *bench.arguments(1, 0))[0]
  again = bench.boundary("start_task", bench.boundary("end_task", moved, 1, (0,)), 0, (0, 1))
  now, before = again.method_state.map, moved.method_state.map
  assert not any(np.asarray(a).any() for a in jax.tree.leaves(now.velocity))
  kernel = np.asarray(now.weights["kernel"])
  assert np.abs(kernel - np.asarray(before.weights["kernel"])).max() > 0.05
  assert 0.5 < np.abs(kernel).max() * np.sqrt(WIDTH) < 1
  assert kernel.min() < 0 < kernel.max()
  assert 0 < np.abs(np.asarray(now.weights["bias"])).max() * np.sqrt(WIDTH) < 1
  for a, b in zip(jax.tree.leaves(again.method_state.teacher.params), jax.tree.leaves(moved.params), strict=True):
    np.testing.assert_array_equal(a, b)
  plain = Bench("bfp", class_stream, small_model, {**HYPER, "map_start": "identity"})
  begun = plain.boundary("start_task", plain.train(1, (0,)), 1, (0,)).method_state.map.weights
  np.testing.assert_array_equal(begun["kernel"], np.eye(WIDTH))


def test_after_an_edit_bfp_s_old_network_follows_as_lwf_s_does(met, class_stream, small_model):
  _, learner = met
  spec = spec_of(class_stream, 8)
  mine, other = methods.make("bfp", small_model, spec, capacity=20), methods.make("lwf", small_model, spec)
  edited = learner._replace(params=jax.tree.map(lambda a: 0.5 * a, learner.params))
  got = mine.after_forget(edited, learner.params).method_state
  want = other.after_forget(edited._replace(method_state=learner.method_state.teacher), learner.params).method_state
  for a, b in zip(jax.tree.leaves(got.teacher.params), jax.tree.leaves(want.params), strict=True):
    np.testing.assert_array_equal(a, b)
  np.testing.assert_array_equal(got.map.weights["kernel"], learner.method_state.map.weights["kernel"])


def test_bfp_refuses_what_it_does_not_read(class_stream, small_model):
  spec = spec_of(class_stream, 8)
  blank = models.from_apply(lambda key: {"w": jnp.ones((16, 4))}, lambda p, x: x.reshape(len(x), -1) @ p["w"])
  with pytest.raises(UsageError, match="'bfp' needs a model that returns features"):
    methods.make("bfp", blank, spec)
  for options, told in (
    ({"base": "er", "alpha": 0.7}, r"method\.alpha: got 0\.7, which 'bfp' does not read with base='er'"),
    ({"projection": "identity", "map_start": "identity"}, r"method\.map_start: got 'identity', which 'bfp' does not"),
    ({"map_momentum": 1.5}, r"method\.map_momentum: got 1\.5"),
  ):
    with pytest.raises(UsageError, match=told):
      methods.make("bfp", small_model, spec, **options)
