"""LwF-MC and the distillations of the rehearsal-free study against NumPy in float64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bench import Bench, assert_near, assert_same
from by_hand import RATE, backward, batch_of, forward, leaves, near

from cljax import methods
from cljax.core.types import UsageError
from cljax.engine.setup import spec_of
from cljax.methods.distillation import lwf_mc

HYPER = {"strength": 0.7, "features": 0.3}


def sigmoid(z):
  return 1 / (1 + np.exp(-z))


def bce(z, t):
  return -(t * np.log(sigmoid(z)) + (1 - t) * np.log(sigmoid(-z)))


def parts(params, teacher, x, y, new, old, strength):
  """Of each row the loss of its sigmoids and their slope with the logits."""
  z, said = forward(params, x)[1], forward(teacher, x)[1]
  hot, soft, count = np.eye(4)[y], sigmoid(said), new.sum() + old.sum()
  loss = (bce(z, hot) * new).sum(1) + strength * ((bce(z, soft) - bce(said, soft)) * old).sum(1)
  slope = (sigmoid(z) - hot) * new + strength * (sigmoid(z) - soft) * old
  return loss / count, slope / count


@pytest.fixture(scope="module")
def run(class_stream, small_model):
  """Behind the first task; a step of the second; another, with three rows absent."""
  bench = Bench("lwf_mc", class_stream, small_model, HYPER)
  one = bench.train(3, (0,))
  two = bench.step(one, *bench.arguments(1, 0, met=(0,)))
  there = np.r_[np.ones(5), np.zeros(3)].astype(np.int32)
  return bench, one, two, bench.step(two[0], *bench.arguments(1, 1, there, met=(0,)))


def test_sigmoids_of_old_classes_are_held_to_the_old_network_s(run):
  """And features to its features: the loss of the second step of a task, and the first's gradient."""
  bench, one, (two, _, first), (_, _, loss) = run
  own = np.arange(4) > 1
  x, y = batch_of(bench, 1, 0)
  each, slope = parts(one.params, one.params, x, y, own, ~own, 0.7)
  np.testing.assert_allclose(float(first), each.mean(), rtol=1e-5)  # nothing has moved yet
  g = backward(one.params, x, slope / 8)
  near(two.params, {n: v - RATE * g[n] for n, v in leaves(one.params).items()})
  x, y = (a[:5] for a in batch_of(bench, 1, 1))
  each, _ = parts(two.params, one.params, x, y, own, ~own, 0.7)
  square = ((forward(two.params, x)[0] - forward(one.params, x)[0]) ** 2).sum(1)
  assert square.mean() > 1e-5
  np.testing.assert_allclose(float(loss), (each + 0.3 * square).mean(), rtol=1e-5)


def test_the_first_task_s_sigmoids_are_of_its_classes_alone(run):
  bench = run[0]
  start = bench.start()
  x, y = batch_of(bench, 0, 0)
  after, _, loss = bench.step(start, *bench.arguments(0, 0))
  each, slope = parts(start.params, start.params, x, y, np.arange(4) < 2, np.zeros(4, bool), 0.7)
  np.testing.assert_allclose(float(loss), each.mean(), rtol=1e-5)
  g = backward(start.params, x, slope / 8)
  near(after.params, {n: v - RATE * g[n] for n, v in leaves(start.params).items()})


def test_new_labels_do_not_push_old_classes_down(run):
  """At the old network the slope of old logits is 0 and so is that of the features; a softmax has one."""
  _, one, (two, _, _), _ = run
  rng = np.random.default_rng(0)
  z, y = jnp.asarray(rng.normal(size=(3, 4)), jnp.float32), jnp.array([2, 3, 2])
  own = jnp.broadcast_to(jnp.arange(4) > 1, (3, 4))
  slope = np.asarray(jax.grad(lambda z: lwf_mc.held(z, jax.lax.stop_gradient(z), y, own, ~own, 2.0).sum())(z))
  np.testing.assert_allclose(slope[:, :2], 0, atol=1e-7)
  assert (np.abs(slope[:, 2:]) > 1e-3).all()
  moved = lambda n: np.abs(np.asarray(two.params["head"][n] - one.params["head"][n]))
  assert moved("kernel")[:, :2].max() < 1e-6
  assert moved("kernel")[:, 2:].max() > 1e-4


def test_where_tasks_have_softmaxes_of_their_own_old_heads_are_held_all_the_same(task_stream, small_model):
  """Task-incremental: a row's mask has its own task's classes alone, and the old ones are distilled."""
  bench = Bench("lwf_mc", task_stream, small_model, HYPER)
  one = bench.train(2, (0,))
  two = bench.step(one, *bench.arguments(1, 0, met=(0,)))[0]
  _, _, loss = bench.step(two, *bench.arguments(1, 1, met=(0,)))
  x, y = batch_of(bench, 1, 1)
  own = np.arange(4) > 1
  each, _ = parts(two.params, one.params, x, np.asarray(task_stream.labels)[1][y], own, ~own, 0.7)
  square = ((forward(two.params, x)[0] - forward(one.params, x)[0]) ** 2).sum(1)
  np.testing.assert_allclose(float(loss), (each + 0.3 * square).mean(), rtol=1e-5)


def test_a_task_that_comes_back_is_learned_by_its_labels(run):
  """0, 1, 0: the classes of the first are new again, those of the second old."""
  bench, _, (two, _, _), _ = run
  ended = bench.boundary("end_task", two, 1, (0,))
  assert_same(ended.method_state.params, two.params)
  _, _, loss = bench.step(ended, *bench.arguments(0, 1, met=(0, 1)))
  x, y = batch_of(bench, 0, 1)
  own = np.arange(4) < 2
  np.testing.assert_allclose(float(loss), parts(two.params, two.params, x, y, own, ~own, 0.7)[0].mean(), rtol=1e-5)
  edited = ended._replace(params=jax.tree.map(lambda p: p + 1.0, ended.params))
  assert_near(bench.parts.method.after_forget(edited, ended.params).method_state.params, edited.params)
  assert_same(bench.start().method_state.params, bench.start().params)


def test_lwf_mc_needs_features(class_stream, small_model):
  bare = small_model._replace(apply=lambda *a, **k: (small_model.apply(*a, **k)[0]._replace(features=None), {}))
  with pytest.raises(UsageError, match="'lwf_mc' needs a model that returns features"):
    methods.make("lwf_mc", bare, spec_of(class_stream, 8))
