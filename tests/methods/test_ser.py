"""SER against NumPy in float64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bench import Bench, assert_near, assert_same
from by_hand import RATE, backward, batch_of, cross_entropy, forward, log_softmax, near

from cljax.core.types import Batch

HYPER = {"capacity": 40, "replay_batch": 40, "alpha": 0.7, "beta": 0.4}


@pytest.fixture(scope="module")
def trained(class_stream, small_model):
  """A bench; its learners at the start, a step on, at the end of the first task, and before and behind the second step
  of the second one, whose loss stands last."""
  bench = Bench("ser", class_stream, small_model, HYPER)
  start = bench.start()
  one = bench.steps(start, 0, 1)
  end = bench.boundary("end_task", bench.step(one, *bench.arguments(0, 1))[0], 0)
  now = bench.step(end, *bench.arguments(1, 0))[0]
  after, _, loss = bench.step(now, *bench.arguments(1, 1))
  return bench, (start, one, end, now, after), float(loss)


def test_ser_s_loss_is_of_labels_and_of_both_old_answers(trained):
  """The mean over new rows and that over stored ones; these held to what was said of them when they came, those to what
  the network said at the end of the task before."""
  bench, (start, one, end, now, after), loss = trained
  x, y = batch_of(bench, 1, 1)
  parts = [(start, 0, 0), (one, 0, 1), (end, 1, 0)]  # whose parameters said what of which rows
  old = [batch_of(bench, *at) for _, *at in parts]
  old_x, old_y = (np.concatenate(a) for a in zip(*old, strict=True))
  z = np.concatenate([forward(l.params, rows[0])[1] for (l, *_), rows in zip(parts, old, strict=True)])
  new, again, taught = forward(now.params, x)[1], forward(now.params, old_x)[1], forward(end.params, x)[1]
  want = cross_entropy(new, y).mean() + cross_entropy(again, old_y).mean()
  want += 0.7 * ((again - z) ** 2).mean() + 0.4 * ((new - taught) ** 2).mean()
  np.testing.assert_allclose(loss, want, rtol=1e-5)
  slope = lambda z, y: (np.exp(log_softmax(z)) - np.eye(4)[y]) / len(y)
  grads = (
    backward(now.params, x, slope(new, y) + 0.4 * 2 * (new - taught) / new.size),
    backward(now.params, old_x, slope(again, old_y) + 0.7 * 2 * (again - z) / z.size),
  )
  near(
    jax.tree.map(lambda a, b: a - b, after.params, now.params),
    {n: -RATE * (grads[0][n] + grads[1][n]) for n in grads[0]},
  )


def test_the_first_task_of_ser_reads_no_stored_row(trained):
  """It trains as finetune, whatever is stored; its rows are stored all the same."""
  bench, (_, one, *_), _ = trained
  plain = Bench("finetune", bench.stream, bench.parts.method.model)
  assert_near(bench.train(3, (0,)).params, plain.train(3, (0,)).params, 1e-6)
  two = bench.step(one, *bench.arguments(0, 1))[0]
  replay = one.method_state.replay
  other = replay._replace(pending={**replay.pending, "x": replay.pending["x"] + 5.0})
  spoiled = one._replace(method_state=one.method_state._replace(replay=other))
  assert_same(bench.step(spoiled, *bench.arguments(0, 1))[0].params, two.params)
  assert int(two.method_state.replay.memory.count) == 8
  assert not bool(two.method_state.taught)


def test_behind_a_boundary_new_rows_are_not_pulled(trained):
  """There the teacher is the network itself: any strength gives the same step; a step on it does not."""
  bench, (_, _, end, now, _), _ = trained
  for learner, same in ((end, True), (now, False)):
    weak, strong = (bench.step(learner, *bench.arguments(1, 1), beta=v)[0].params for v in (0.0, 9.0))
    gap = max(jax.tree.leaves(jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), weak, strong)))
    assert (gap < 1e-6) == same


def test_one_draw_serves_both_terms_of_ser(class_stream, small_model):
  """The rows whose labels are learned are those whose predictions are held, row by row."""
  bench = Bench("ser", class_stream, small_model, {"capacity": 40, "replay_batch": 3})
  start = bench.start()
  end = bench.boundary("end_task", bench.steps(start, 0, 2), 0)
  batch = Batch(*(jnp.asarray(a) for a in batch_of(bench, 1, 0)), jnp.ones(8), *(jnp.ones(8, jnp.int32),) * 2)
  batch = batch._replace(visit=bench.where(1).visit)
  _, ready = jax.jit(lambda l, b: bench.parts.method.prepare(jax.random.key(3), l, b))(end, batch)
  z, rows, at = ready.extra["ser"]
  np.testing.assert_array_equal(at, [8, 9, 10])
  np.testing.assert_array_equal(ready.id[8:], rows.id)
  np.testing.assert_array_equal(ready.weight, np.ones(11))
  np.testing.assert_allclose(ready.scale, [1, 1])
  first = np.isin(np.asarray(rows.id), np.asarray(bench.rows(0, 0)[0]))
  x = class_stream.dataset.train.x[np.asarray(rows.id)]
  np.testing.assert_allclose(np.asarray(z)[first], forward(start.params, x[first])[1], atol=1e-5)
  small = Bench("ser", class_stream, small_model, {"capacity": 3, "replay_batch": 0})
  more = jax.eval_shape(small.parts.method.prepare, jax.random.key(0), small.start(), batch)[1]
  assert more.weight.shape == (11,)
  np.testing.assert_array_equal(start.method_state.replay.pending["id"], -1)  # of no row


def test_ser_forgets_rows_and_its_teacher_follows_edits(trained):
  bench, (_, _, end, now, _), _ = trained
  held = now.method_state.replay
  gone = np.r_[np.asarray(held.memory.rows["id"])[:3], np.asarray(held.pending["id"])[:2]]
  named = jnp.zeros(bench.spec.num_rows, bool).at[gone].set(True)
  left = jax.jit(bench.parts.scrub)(now, named, jnp.zeros(4, bool)).method_state
  assert int(left.replay.memory.count) == 13
  assert not set(np.asarray(left.replay.memory.rows["id"])[:13]) & set(gone)
  assert not np.asarray(left.replay.memory.rows["logits"])[13:].any()
  np.testing.assert_array_equal(left.replay.weight, [0, 0, 1, 1, 1, 1, 1, 1])
  np.testing.assert_array_equal(np.asarray(left.replay.pending["logits"])[:2], 0)
  assert bool(left.taught)
  edited = now._replace(params=jax.tree.map(lambda a: a + 0.5, now.params))
  teacher = bench.parts.method.after_forget(edited, now.params).method_state.teacher
  assert_near(teacher.params, jax.tree.map(lambda a: a + 0.5, end.params), 1e-6)
