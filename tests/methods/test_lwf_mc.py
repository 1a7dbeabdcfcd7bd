"""LwF.MC against NumPy in float64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bench import Bench, assert_near, assert_same
from by_hand import RATE, backward, batch_of, forward, near

from cljax import streams
from cljax.engine.step import FRESH
from cljax.methods.distillation import lwf_mc


def sigmoid(z):
  return 1 / (1 + np.exp(-z))


@pytest.fixture(scope="module")
def trained(class_stream, small_model):
  """Behind the first task; at its teacher in the second; a step away from it."""
  bench = Bench("lwf_mc", class_stream, small_model)
  one = bench.train(3, (0,))
  return bench, one, bench.step(one, *bench.arguments(1, 1))[0]


def by_hand(params, teacher, x, y, old, inside):
  """The loss and its gradient; ``old`` and ``inside [C]``."""
  z = forward(params, x)[1]
  t = np.where(old, sigmoid(forward(teacher, x)[1]), np.eye(4)[y])
  each = np.where(inside, np.logaddexp(0, z) - t * z, 0).sum(-1) / inside.sum()
  return each.mean(), backward(params, x, np.where(inside, sigmoid(z) - t, 0) / inside.sum() / len(y))


@pytest.mark.parametrize("active", ["all", "seen", "task"])
def test_lwf_mc_s_loss_has_the_teacher_s_sigmoids_at_old_classes(active, dataset, small_model):
  """Labels at new ones, the mean over outputs that compete; absent rows are not there."""
  stream = streams.build(dataset, "class", tasks=2, validation=0.125, active=active)
  bench = Bench("lwf_mc", stream, small_model)
  one = bench.train(3, (0,))
  begun = bench.step(one, *bench.arguments(1, 1))[0]
  present = np.array([1, 1, 1, 0, 1, 1, 0, 1], bool)
  after, _, loss = bench.step(begun, *bench.arguments(1, 0, jnp.asarray(present * FRESH)))
  x, y = (a[present] for a in batch_of(bench, 1, 0))
  inside = stream.classes_of_task[1] if active == "task" else np.ones(4, bool)
  want, slope = by_hand(begun.params, one.params, x, y, np.arange(4) < 2, inside)
  np.testing.assert_allclose(float(loss), want, rtol=1e-5)
  near(jax.tree.map(lambda a, b: a - b, after.params, begun.params), {n: -RATE * g for n, g in slope.items()})


def test_the_first_task_of_lwf_mc_is_of_labels_and_its_own_outputs(trained):
  """Outputs of later classes stand still, to the bit."""
  bench, *_ = trained
  start = bench.start()
  after, _, loss = bench.step(start, *bench.arguments(0, 0))
  x, y = batch_of(bench, 0, 0)
  want, slope = by_hand(start.params, start.params, x, y, np.zeros(4, bool), np.arange(4) < 2)
  np.testing.assert_allclose(float(loss), want, rtol=1e-5)
  near(jax.tree.map(lambda a, b: a - b, after.params, start.params), {n: -RATE * g for n, g in slope.items()})
  for leaf in ("kernel", "bias"):
    moved = np.asarray(after.params["head"][leaf]) != np.asarray(start.params["head"][leaf])
    assert not moved[..., 2:].any()
    assert moved[..., :2].any()


def test_at_its_own_teacher_lwf_mc_pulls_no_old_output(trained):
  """The gradient there is that of new classes' labels alone; new rows' labels say nothing of old outputs."""
  bench, one, begun = trained

  def moved(learner):
    after = bench.step(learner, *bench.arguments(1, 0))[0]
    return np.abs(np.asarray(after.params["head"]["kernel"] - learner.params["head"]["kernel"])).max(0)

  assert (moved(one)[:2] < 1e-7).all()
  assert (moved(one)[2:] > 1e-4).all()
  assert (moved(begun)[:2] > 1e-6).all()


def test_lwf_mc_s_teacher_is_of_the_boundary_and_follows_edits(trained):
  bench, one, begun = trained
  assert_same(begun.method_state.params, one.params)
  ended = bench.boundary("end_task", begun, 1, (0,))
  assert_same(ended.method_state.params, begun.params)
  edited = begun._replace(params=jax.tree.map(lambda p: p + 1.0, begun.params))
  followed = bench.parts.method.after_forget(edited, begun.params).method_state.params
  assert_near(followed, jax.tree.map(lambda p: p + 1.0, one.params))


def test_where_no_class_is_old_lwf_mc_learns_labels(make_blobs, small_model, trained):
  """A task that comes back, and tasks that share their classes: the teacher has no part."""
  other = lambda state: state._replace(params=jax.tree.map(lambda p: p + 0.5, state.params))
  shared = Bench("lwf_mc", streams.build(make_blobs(), "permuted", tasks=2, validation=0.0), small_model)
  back = trained[0]
  cases = ((shared, shared.train(1, (0,)), 1, (0,), None), (back, back.train(2, (0,)), 0, (0,), 2))
  for bench, learner, task, met, classes in cases:
    moved = learner._replace(method_state=other(learner.method_state))
    steps = [bench.step(l, *bench.arguments(task, 1, met=met)) for l in (learner, moved)]
    assert_same(steps[0][0].params, steps[1][0].params)
    if classes:
      x, y = batch_of(bench, task, 1)
      want = by_hand(learner.params, learner.params, x, y, np.zeros(4, bool), np.arange(4) < classes)[0]
      np.testing.assert_allclose(float(steps[0][2]), want, rtol=1e-5)


def test_sigmoids_are_held_row_by_row():
  """Without a teacher by labels everywhere; a row of which no output competes has loss 0."""
  rng = np.random.default_rng(0)
  z, said, y = rng.normal(size=(3, 4)), rng.normal(size=(3, 4)), np.array([0, 3, 1])
  old = np.array([1, 1, 0, 0], bool)
  inside = np.array([[1, 1, 1, 1], [1, 0, 0, 1], [0, 0, 0, 0]], bool)
  given = [jnp.asarray(a, jnp.float32) if a.dtype == float else jnp.asarray(a) for a in (z, y, said, old, inside)]
  for teacher in (True, False):
    t = np.where(old, sigmoid(said), np.eye(4)[y]) if teacher else np.eye(4)[y]
    each = np.where(inside, np.logaddexp(0, z) - t * z, 0).sum(-1) / np.maximum(inside.sum(-1), 1)
    got = lwf_mc.held_sigmoids(*given[:2], given[2] if teacher else None, *given[3:])
    np.testing.assert_allclose(got, each, rtol=1e-5, atol=1e-7)
