"""View-batches against NumPy in float64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bench import Bench
from by_hand import RATE, backward, cross_entropy, forward, leaves, log_softmax, near

from cljax import methods
from cljax.core.method import Method
from cljax.core.types import Batch
from cljax.engine import recipe
from cljax.engine.setup import spec_of
from cljax.methods.replay import view_batch

HYPER = {"views": 4, "alpha": 0.6}
SHIFT = 0.3 * np.random.default_rng(0).normal(size=(64, 4, 4, 1)).astype(np.float32)  # of each place of a batch


@pytest.fixture(scope="module")
def made(class_stream, small_model):
  """A bench whose augmentation adds other numbers at each place of a batch, and a learner as its first task begins."""
  patch = pytest.MonkeyPatch()
  patch.setattr(recipe, "make_augment", lambda kind: lambda key, x: x + SHIFT[: x.shape[0]])
  bench = Bench("view_batch", class_stream, small_model, HYPER)
  patch.undo()
  return bench, bench.boundary("start_task", bench.start(), 0), jax.jit(bench.parts.method.prepare)


def _batch(bench, task=0, there=8, met=None):
  """The engine's own rows, of which ``there`` are present: what they are has no part."""
  weight = jnp.asarray(np.arange(8) < there, jnp.float32)
  x = jnp.zeros((8, *bench.stream.dataset.train.x.shape[1:]))
  number = jnp.full(8, task, jnp.int32)
  visit = bench.where(task, met).visit
  return Batch(x, jnp.zeros(8, jnp.int32), weight, number - 5, number, fresh=weight, visit=visit)


def sizes(rows, passes):
  """How many rows each step of so many passes has."""
  return ([8] * (rows // 8) + ([rows % 8] if rows % 8 else [])) * passes


def shown(made, passes, task=0, met=None, learner=None):
  """``(ids, fresh)`` of all rows of so many passes over a task, one behind the other."""
  bench, start, prepare = made
  learner = start if learner is None else learner
  ids, fresh = [], []
  for there in sizes(len(bench.stream.train[task]), passes):
    learner, batch = prepare(jax.random.key(0), learner, _batch(bench, task, there, met))
    here = np.asarray(batch.weight) > 0
    assert here.sum() == there
    ids.append(np.asarray(batch.id)[here])
    fresh.append(np.asarray(batch.fresh)[here])
    assert (np.asarray(batch.task)[here] == task).all()
  return np.concatenate(ids), np.concatenate(fresh), learner


def test_in_v_passes_each_row_comes_v_times_in_a_run(made):
  """All rows of the task, the last of a pass too; in the next V passes in another order. A row is new once."""
  bench, *_ = made
  rows = np.sort(np.asarray(bench.stream.train[0]))
  assert len(rows) % 8
  ids, fresh, learner = shown(made, 4)
  assert len(ids) == 4 * len(rows)
  runs = ids.reshape(-1, 4)
  assert (runs == runs[:, :1]).all()
  np.testing.assert_array_equal(np.sort(runs[:, 0]), rows)
  np.testing.assert_array_equal(fresh.reshape(-1, 4), np.tile([1, 0, 0, 0], (len(rows), 1)))
  again, fresh, _ = shown(made, 4, learner=learner)
  others = again.reshape(-1, 4)
  assert (others == others[:, :1]).all()
  np.testing.assert_array_equal(np.sort(others[:, 0]), rows)
  assert (others != runs).any()
  assert not fresh.any()
  # A row rests for V passes on average: by its places in both orders.
  gaps = np.argsort(others[:, 0]) + len(rows) - np.argsort(runs[:, 0])
  assert gaps.mean() == len(rows)


def test_presentations_are_the_list_that_is_cut_by_passes():
  """``repeat(order, V)``, of which pass e has the (e mod V)-th part, as the released sampler has it."""
  order = np.random.default_rng(0).permutation(10)
  whole = np.repeat(order, 3)
  for e in range(3):
    row, run = view_batch.presentations(jnp.asarray(order), jnp.arange(10 * e, 10 * (e + 1)), 10, 3)
    np.testing.assert_array_equal(row, whole[10 * e : 10 * (e + 1)])
    np.testing.assert_array_equal(run, np.repeat(np.arange(10), 3)[10 * e : 10 * (e + 1)])
  row, run = view_batch.presentations(jnp.asarray(order), jnp.arange(28, 33), 10, 3)  # past the end it begins again
  np.testing.assert_array_equal(row, order[[9, 9, 0, 0, 0]])
  np.testing.assert_array_equal(run, [9, 9, 0, 0, 0])
  drawn = view_batch.order_of(jax.random.key(0), jnp.int32(7), 10)
  np.testing.assert_array_equal(np.sort(drawn[:7]), np.arange(7))
  assert (np.asarray(drawn[:7]) != np.arange(7)).any()


def by_hand(params, split, ids, alpha):
  """The loss of a step's presentations and its slope in the logits."""
  x, y = split.x[ids] + SHIFT[: len(ids)], split.y[ids]
  z = forward(params, x)[1]
  log_p = log_softmax(z)
  first = np.array([list(ids).index(i) for i in ids])
  later = first < np.arange(len(ids))
  kl = (np.exp(log_p[first]) * (log_p[first] - log_p)).sum(-1)
  d = np.exp(log_p)
  d[np.arange(len(y)), y] -= 1
  d = d / len(y) + alpha * later[:, None] * (np.exp(log_p) - np.exp(log_p[first])) / max(later.sum(), 1)
  return cross_entropy(z, y).mean() + alpha * kl[later].mean(), backward(params, x, d), later.sum()


def test_view_batch_s_step_is_of_views_and_of_their_gap(made):
  """The mean cross-entropy of all views, and the KL of each from the first of its row; its gradient, none to firsts."""
  bench, learner, prepare = made
  for k in range(3):
    ids = np.asarray(prepare(jax.random.key(0), learner, _batch(bench))[1].id)
    loss, slope, later = by_hand(learner.params, bench.stream.dataset.train, ids, 0.6)
    assert later == 6
    after, _, got = bench.step(learner, *bench.arguments(0, k))
    np.testing.assert_allclose(float(got), loss, rtol=1e-5)
    near(after.params, {n: p - RATE * slope[n] for n, p in leaves(learner.params).items()})
    learner = after


def test_neighbours_of_one_label_are_no_views():
  """Views are known by their row; absent ones have no part, and gradients go to later ones alone."""
  rng = np.random.default_rng(1)
  z = rng.normal(size=(7, 5))
  run, weight = jnp.array([2, 2, 4, 4, 4, 1, 2]), jnp.array([1.0, 1, 0, 1, 1, 1, 1])
  each, later = view_batch.against_first(jnp.asarray(z, jnp.float32), run, weight, None)
  np.testing.assert_array_equal(later, [0, 1, 0, 0, 1, 0, 1])
  log_p = log_softmax(z)
  want = lambda a, b: (np.exp(log_p[a]) * (log_p[a] - log_p[b])).sum()
  np.testing.assert_allclose(np.asarray(each)[[1, 4, 6]], [want(0, 1), want(3, 4), want(0, 6)], rtol=1e-5)
  mask = jnp.ones((7, 5), bool).at[1, 3].set(False)
  masked = np.asarray(view_batch.against_first(jnp.asarray(z, jnp.float32), run, weight, mask)[0])
  few = log_softmax(z[[0, 1]][:, [0, 1, 2, 4]])
  np.testing.assert_allclose(masked[1], (np.exp(few[0]) * (few[0] - few[1])).sum(), rtol=1e-5)
  total = lambda z: jnp.sum(jnp.where(later, view_batch.against_first(z, run, weight, None)[0], 0.0))
  slope = np.asarray(jax.grad(total)(jnp.asarray(z, jnp.float32)))
  assert (slope[[0, 2, 3, 5]] == 0).all()
  np.testing.assert_allclose(slope[4], np.exp(log_p[4]) - np.exp(log_p[3]), atol=1e-6)


def test_the_gap_counts_behind_so_many_passes(class_stream, small_model):
  """In the first pass the loss is that of the rows alone; from the second on alpha has a part."""
  bench = Bench("view_batch", class_stream, small_model, {"views": 2, "after": 1, "alpha": 5.0})
  state = bench.boundary("start_task", bench.start(), 0)
  count = len(class_stream.train[0])
  method = bench.parts.method

  def gap(learner):
    told, batch = method.prepare(jax.random.key(0), learner, _batch(bench))
    outputs = small_model.apply(learner.params, {}, batch.x + SHIFT[:8], train=False, key=None)[0]
    return float(method.terms["views"](None, learner.params, told, batch, outputs))

  at = lambda n: gap(state._replace(method_state=state.method_state._replace(shown=jnp.int32(n))))
  assert at(count - 2) == 0
  assert at(count) > 1e-3


def test_a_task_that_comes_back_has_no_new_rows(made):
  bench, _, _ = made
  learner = bench.boundary("start_task", bench.start()._replace(step=jnp.int32(7)), 1, (1, 0))
  ids, fresh, _ = shown(made, 1, 1, (1, 0), learner)
  assert not fresh.any()
  assert set(ids) <= set(np.asarray(bench.stream.train[1]))
  first = shown(made, 1, 1, (0,), bench.boundary("start_task", bench.start()._replace(step=jnp.int32(8)), 1))
  assert first[1].any()
  assert (first[0] != ids).any()  # another beginning, another order


def test_deleted_rows_are_absent_where_they_would_come(made):
  bench, learner, _ = made
  ids, *_ = shown(made, 4)
  gone = ids[[0, 12, 20]]
  named = jnp.zeros(bench.spec.num_rows, bool).at[gone].set(True)
  left = jax.jit(bench.parts.scrub)(learner, named, jnp.zeros(4, bool))
  state = left.method_state
  where = np.isin(np.asarray(learner.method_state.rows["id"]), gone)
  assert not np.asarray(state.rows["x"])[where].any()
  np.testing.assert_array_equal(np.asarray(state.rows["id"])[where], -1)
  _, batch = jax.jit(bench.parts.method.prepare)(jax.random.key(0), left, _batch(bench))
  here = ~np.isin(ids[:8], gone)
  assert here.sum() == 4
  np.testing.assert_array_equal(np.asarray(batch.weight), here)
  np.testing.assert_array_equal(np.asarray(batch.id), np.where(here, ids[:8], -1))


def test_beside_replay_the_memory_takes_what_was_shown(class_stream, small_model):
  """Each row once, though it came in several views; absent places stay absent."""
  bench = Bench({"view_batch": ("view_batch", HYPER), "er": ("er", {"capacity": 30})}, class_stream, small_model)
  learner = bench.boundary("start_task", bench.start(), 0)
  start = learner
  learner = bench.step(learner, *bench.arguments(0, 0))[0]
  learner = bench.step(learner, *bench.arguments(0, 1, np.r_[np.ones(5), np.zeros(3)].astype(np.int32)))[0]
  learner = bench.step(learner, *bench.arguments(0, 2))[0]
  memory = learner.method_state["er"].memory
  rows = start.method_state["view_batch"]
  key = jax.random.fold_in(jax.random.fold_in(start.key, rows.since), 0)
  order = np.asarray(view_batch.order_of(key, rows.count, bench.spec.task_rows))
  want = np.asarray(rows.rows["id"])[order[:4]]  # 13 presentations: three rows four times, and one
  np.testing.assert_array_equal(np.asarray(memory.rows["id"])[: int(memory.count)], want)
  assert int(learner.method_state["view_batch"].shown) == 21


def test_one_view_is_plain_training(class_stream, small_model):
  made = methods.make("view_batch", small_model, spec_of(class_stream, 8), views=1)
  assert made._replace(access=Method().access, scrub=None) == Method()
  learner = object()
  assert made.scrub(learner, None) is learner
