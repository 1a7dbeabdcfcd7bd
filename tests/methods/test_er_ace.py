"""ER-ACE against NumPy in float64, and what its masks promise."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bench import Bench
from by_hand import RATE, backward, batch_of, cross_entropy, forward, near

from cljax import streams
from cljax.core.types import Batch
from cljax.engine.step import FRESH
from cljax.methods import replay
from cljax.methods.replay import er_ace

BETA = 0.7


def masked(z, y, mask):
  """Each row's cross-entropy over the classes of its mask, and its slope in the logits."""
  z = np.where(mask, z, -np.inf)
  d = np.exp(z - np.logaddexp.reduce(z, -1, keepdims=True))
  d[np.arange(len(y)), y] -= 1
  return cross_entropy(z, y).mean(), d / len(y)


@pytest.mark.parametrize(
  ("mask", "active", "of_one", "open_"),
  [
    ("present_or_unseen", "all", 1, [1, 1, 0, 0]),  # seen: 0, 2, 3. By number alone, class 3 would be "unseen", 1 not
    ("present", "all", 1, [1, 0, 0, 0]),
    ("none", "all", 1, [1, 1, 1, 1]),
    ("present_or_unseen", "task", 2, [1, 1, 0, 0]),
    ("present_or_unseen", "seen", 2, [1, 1, 0, 0]),
    ("present", "seen", 1, [1, 0, 0, 0]),
  ],
)
def test_er_ace_adds_two_means_under_two_masks(mask, active, of_one, open_, dataset, small_model):
  """Task 1 (classes 2 and 3) is learned first, then rows of task 0: of class 0 alone, or of both."""
  stream = streams.build(dataset, "class", tasks=2, validation=0.125, active=active, order=(1, 0))
  bench = Bench("er_ace", stream, small_model, {"capacity": 20, "replay_batch": 20, "beta": BETA, "mask": mask})
  start = bench.start()
  one, _, first = bench.step(start, *bench.arguments(1, 0, met=()))
  x, y = batch_of(bench, 0, 0)
  there = np.ones(8, bool) if of_one == 2 else y == 0
  assert 0 < there.sum() < 8 or of_one == 2
  after, _, loss = bench.step(one, *bench.arguments(0, 0, jnp.asarray(there * FRESH), met=(1,)))
  old_x, old_y = batch_of(bench, 1, 0)
  of = stream.classes_of_task
  given = {"all": (np.ones(4), np.ones(4)), "task": (of[0], of[1]), "seen": (np.ones(4), np.ones(4))}[active]
  # Nothing is stored yet: the first step is the cross-entropy over classes that are there or unseen.
  alone = {"all": np.ones(4), "task": of[1], "seen": of[1]}[active] * (1 if mask != "present" else of[1])
  np.testing.assert_allclose(float(first), masked(forward(start.params, old_x)[1], old_y, alone > 0)[0], rtol=1e-5)
  now = forward(one.params, x[there])[1], forward(one.params, old_x)[1]
  l, d = masked(now[0], y[there], (np.array(open_) * given[0]) > 0)
  m, e = masked(now[1], old_y, given[1] > 0)
  np.testing.assert_allclose(float(loss), l + BETA * m, rtol=1e-5)
  slopes = backward(one.params, x[there], d), backward(one.params, old_x, BETA * e)
  want = {p: -RATE * (slopes[0][p] + slopes[1][p]) for p in slopes[0]}
  near(jax.tree.map(lambda a, b: a - b, after.params, one.params), want)
  np.testing.assert_array_equal(after.method_state.seen, [True, of_one == 2, True, True])


def test_incoming_rows_do_not_move_logits_that_are_masked(class_stream, small_model):
  """Nothing is replayed (beta 0): the old classes' head stands still, while that of what is present or unseen moves."""
  bench = Bench("er_ace", class_stream, small_model, {"capacity": 20, "beta": 0.0})
  learner = bench.steps(bench.start(), 1, 2)
  after = bench.steps(learner, 0, 2, met=(1,))
  moved = np.abs(np.asarray(after.params["head"]["kernel"] - learner.params["head"]["kernel"])).max(0)
  assert (moved[[2, 3]] == 0).all()
  assert (moved[[0, 1]] > 1e-3).all()


def test_with_all_classes_present_er_ace_is_er_with_added_means(task_stream, small_model):
  """Each batch has both classes of its task, which alone are in the softmax: the mask closes nothing."""
  assert all(set(batch_of(Bench("er_ace", task_stream, small_model), t, k)[1]) == {2 * t, 2 * t + 1}
             for t in (0, 1) for k in range(2))  # fmt: skip
  made = [Bench("er_ace", task_stream, small_model, {"capacity": 20, "mask": m}).train(2) for m in ("none", "present")]
  for a, b in zip(*(jax.tree.leaves(m.params) for m in made), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-6)


def test_er_ace_forgets_rows_and_classes(class_stream, small_model):
  """Rows of a request are erased, stored and pending; a class that is gone whole is unseen again."""
  bench = Bench("er_ace", class_stream, small_model, {"capacity": 40})
  learner = bench.steps(bench.start(), 0, 2)
  gone = np.r_[bench.rows(0, 0)[0][:3], bench.rows(0, 1)[0][:2]]
  named = jnp.zeros(bench.spec.num_rows, bool).at[gone].set(True)
  assert learner.method_state.replay.memory.rows["id"].shape == (40,)
  state = jax.jit(bench.parts.scrub)(learner, named, jnp.arange(4) == 1).method_state
  assert sorted(np.asarray(state.replay.memory.rows["id"])[:5]) == sorted(np.asarray(bench.rows(0, 0)[0])[3:])
  assert (np.asarray(state.replay.memory.rows["x"])[5:] == 0).all()
  np.testing.assert_array_equal(state.replay.weight, np.r_[0, 0, np.ones(6)])
  np.testing.assert_array_equal(learner.method_state.seen, [True, True, False, False])
  np.testing.assert_array_equal(state.seen, [True, False, False, False])


def test_rows_with_and_without_masks_are_joined():
  """Behind rows with a mask, rows without one have all classes open, and the other way about."""
  zeros = lambda n: jnp.zeros(n, jnp.int32)
  rows = lambda n, mask: Batch(jnp.ones((n, 2)), zeros(n), jnp.ones(n), zeros(n), zeros(n), mask)
  narrow, ones = jnp.zeros((2, 3), bool).at[:, 0].set(True), np.ones((3, 3), bool)
  open_, closed = rows(3, None), rows(2, narrow)
  np.testing.assert_array_equal(replay.append(closed, open_).class_mask, np.r_[narrow, ones])
  np.testing.assert_array_equal(replay.append(open_, closed, scale=1.0).class_mask, np.r_[ones, narrow])
  assert replay.append(open_, open_).class_mask is None


def test_absent_rows_have_no_label():
  """A row of weight 0 has label 0, which is then not present."""
  got = er_ace.labels_of(jnp.array([2, 0, 1]), jnp.array([1.0, 0.0, 1.0]), 4)
  np.testing.assert_array_equal(got, [False, True, True, False])


def test_er_ace_beside_er(class_stream, small_model):
  """Both replay, in any order: er's rows have no mask of their own, er_ace's have."""
  parts = {"er": ("er", {}), "ace": ("er_ace", {})}
  trained = [
    Bench({n: parts[n] for n in names}, class_stream, small_model).train(2) for names in (("er", "ace"), ("ace", "er"))
  ]
  for a, b in zip(*(jax.tree.leaves(t.params) for t in trained), strict=True):
    np.testing.assert_allclose(a, b, atol=2e-5)
