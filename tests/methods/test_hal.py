"""HAL against NumPy in float64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bench import Bench, assert_near, assert_same
from by_hand import RATE, backward, batch_of, cross_entropy, forward, gradient, leaves, log_softmax, near

from cljax import methods, models
from cljax.core import tree
from cljax.core.types import UsageError
from cljax.engine.setup import spec_of

MODEL = models.mlp((4, 4, 1), 4, hidden=(8,))
HYPER = {
  "capacity": 24, "replay_batch": 24, "policy": "reservoir", "strength": 0.3, "rate": 0.2, "decay": 0.5,
  "closeness": 0.05, "anchor_rate": 0.3, "anchor_steps": 2,
}  # fmt: skip


@pytest.fixture(scope="module")
def trained(class_stream, small_model):
  """A bench; the learner after two batches of the first task, at its end, and a step into the second."""
  bench = Bench("hal", class_stream, small_model, HYPER)
  learner = bench.steps(bench.boundary("start_task", bench.start(), 0), 0, 2)
  one = bench.boundary("end_task", learner, 0)
  begun = bench.step(bench.boundary("start_task", one, 1), *bench.arguments(1, 1))[0]
  return bench, learner, one, begun


def moved(params, slope, rate):
  return tree.map_named(lambda n, a: np.asarray(a, np.float64) - rate * slope[n], params)


def test_hal_s_step_may_not_change_anchors(trained):
  """The gap on both anchors between theta and theta behind a virtual step on all rows, which is not differentiated."""
  bench, _, one, begun = trained
  after, _, loss = bench.step(begun, *bench.arguments(1, 0))
  split, memory = bench.stream.dataset.train, after.method_state.replay.memory
  ids = np.asarray(memory.rows["id"])[: int(memory.count)]
  assert len(ids) == 24
  x, y = batch_of(bench, 1, 0)
  x, y = np.concatenate([x, split.x[ids]]), np.r_[y, split.y[ids]]
  slope = gradient(begun.params, x, y)
  anchors = np.asarray(one.method_state.anchors)[:2]
  here, target = (forward(p, anchors)[1] for p in (begun.params, moved(begun.params, slope, 0.2)))
  gap = here - target
  want = cross_entropy(forward(begun.params, x)[1], y).mean() + 0.3 * (gap**2).sum()
  np.testing.assert_allclose(float(loss), want, rtol=1e-5)
  more = backward(begun.params, anchors, 0.3 * 2 * gap)
  near(after.params, {n: p - RATE * (slope[n] + more[n]) for n, p in leaves(begun.params).items()})


def test_hal_s_mean_is_over_the_anchors_that_are_there_and_all_outputs(trained, class_stream, small_model):
  """Two of four anchors, four outputs: an eighth of the sum."""
  bench, _, _, begun = trained
  losses = [
    float(Bench("hal", class_stream, small_model, {**HYPER, **more}).step(begun, *bench.arguments(1, 0))[2])
    for more in ({"strength": 0.0}, {}, {"reduction": "mean"})
  ]
  np.testing.assert_allclose((losses[2] - losses[0]) * 8, losses[1] - losses[0], rtol=1e-3)


def height_slope(params, unlearned, e, y, mean, closeness):
  """The slope in the anchors of ``l(theta) - l(theta_M) + closeness |phi - mean|^2``."""
  total = 0.0
  for p, sign, near_ in ((params, 1, closeness), (unlearned, -1, 0.0)):
    w = leaves(p)
    h, z = forward(p, e)
    d = sign * (np.exp(log_softmax(z)) - np.eye(4)[y])
    back = (d @ w["head/kernel"].T + near_ * 2 * (h - mean)) * (h > 0)
    total = total + (back @ w["hidden_0/kernel"].T).reshape(e.shape)
  return total


def test_anchors_are_rows_that_the_memory_unlearns(trained):
  """Two steps of descent from the numbers they begin at; theta_M is one plain step on the stored batch, in which
  eight of the sixteen rows are (the others are pending); only the finished task's are there."""
  bench, learner, one, _ = trained
  split, memory = bench.stream.dataset.train, learner.method_state.replay.memory
  ids = np.asarray(memory.rows["id"])[: int(memory.count)]
  assert len(ids) == 8
  h = [forward(p, batch_of(bench, 0, k)[0])[0].mean(0) for k, p in enumerate(before_steps(bench))]
  mean = 0.5 * (0.5 * h[0]) + 0.5 * h[1]
  np.testing.assert_allclose(learner.method_state.mean, mean, rtol=1e-5, atol=1e-6)
  unlearned = moved(learner.params, gradient(learner.params, split.x[ids], split.y[ids]), 0.2)
  none = Bench("hal", bench.stream, MODEL, {**HYPER, "anchor_steps": 0})
  e = np.asarray(none.boundary("end_task", learner, 0).method_state.anchors, np.float64)[:2]
  assert 0.3 < e.std() < 2
  for _ in range(2):
    e = e - 0.3 * height_slope(learner.params, unlearned, e, np.arange(2), mean, 0.05)
  np.testing.assert_allclose(np.asarray(one.method_state.anchors)[:2], e, rtol=1e-4, atol=1e-5)
  np.testing.assert_array_equal(one.method_state.there, [True, True, False, False])
  np.testing.assert_array_equal(one.method_state.anchors[2:], 0)


def before_steps(bench):
  """The parameters with which the first two batches were passed over."""
  start = bench.boundary("start_task", bench.start(), 0)
  return start.params, bench.steps(start, 0, 1).params


def test_hal_without_strength_is_er_with_a_ring(class_stream):
  hyper = {"capacity": 20, "policy": "ring"}
  got = Bench("hal", class_stream, MODEL, {**hyper, "anchor_steps": 1}).train(2, strength=0.0)
  assert_near(got.params, Bench("er", class_stream, MODEL, hyper).train(2).params)
  assert methods.METHODS["hal"].options["policy"].default == "ring"


def test_later_tasks_leave_anchors_and_a_request_erases_a_class_s(trained):
  bench, _, one, begun = trained
  two = bench.boundary("end_task", begun, 1)
  assert two.method_state.there.all()
  np.testing.assert_array_equal(two.method_state.anchors[:2], one.method_state.anchors[:2])
  split = bench.stream.dataset.train
  named = jnp.asarray(split.y == 1)
  left = jax.jit(bench.parts.scrub)(two, named, jnp.arange(4) == 1).method_state
  np.testing.assert_array_equal(left.there, [True, False, True, True])
  np.testing.assert_array_equal(left.anchors[1], 0)
  np.testing.assert_array_equal(left.anchors[2:], two.method_state.anchors[2:])
  memory = left.replay.memory
  assert not (np.asarray(memory.rows["y"])[: int(memory.count)] == 1).any()
  restarted = bench.boundary("start_task", two, 0, (0, 1))
  np.testing.assert_array_equal(restarted.method_state.mean, 0)
  assert_same(restarted.params, two.params)


def test_hal_needs_numbers(class_stream):
  spec = spec_of(class_stream, 8)
  tokens = spec._replace(scale=None, shown=jax.ShapeDtypeStruct((5,), jnp.int32))
  with pytest.raises(UsageError, match="'hal' makes rows up by descent; expected inputs that are one array"):
    methods.make("hal", MODEL, tokens)
