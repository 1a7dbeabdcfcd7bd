"""What methods do with tasks that come back, against what is right by hand."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from bench import Bench

from cljax import projectors, streams
from cljax.core.types import Visit


def test_a_visit_counts_the_other_tasks_met():
  of = lambda *tasks: jnp.zeros(4, bool).at[jnp.asarray(tasks, jnp.int32)].set(True)
  first, again = Visit(jnp.int32(3), of(0, 1), of(0, 1, 3)), Visit(jnp.int32(0), of(0, 1), of(0, 1))
  assert bool(first.first)
  assert not bool(again.first)
  assert (int(first.others), int(again.others)) == (2, 1)
  np.testing.assert_array_equal(again.seen, of(0, 1))


@pytest.mark.parametrize("name", ["freeze", "classp", "lines"])
def test_what_begins_after_a_task_does_not_end_when_it_comes_back(name, class_stream, small_model):
  """Met after another task, task 0 is treated as any later one."""
  bench = Bench(name, class_stream, small_model, {"alpha": 0.0} if name == "lines" else None)
  start = bench.train(steps=2, tasks=(0, 1))
  back, fresh = (
    bench.boundary("end_task", bench.step(start, *bench.arguments(0, 0, met=met))[0], 0, met) for met in ((0, 1), ())
  )
  kernel = lambda learner: np.asarray(learner.params["hidden_0"]["kernel"])
  if name == "freeze":
    np.testing.assert_array_equal(kernel(back), kernel(start))
    assert np.abs(kernel(fresh) - kernel(start)).max() > 0
  elif name == "lines":  # with alpha 0 the first layer ends where it began
    np.testing.assert_allclose(kernel(back), kernel(start), atol=1e-6)
    assert np.abs(kernel(fresh) - kernel(start)).max() > 1e-4
  else:  # divided by what it accumulated, the step is another one
    assert np.abs(kernel(back) - kernel(fresh)).max() > 1e-4


def test_gpm_s_threshold_goes_on_from_the_tasks_met(class_stream, small_model):
  """``threshold`` 0 and a step of 1: the first task adds one direction at most, any later visit all of its rows."""
  bench = Bench("gpm", class_stream, small_model, {"threshold": 0.0, "threshold_step": 1.0, "samples": 4})
  start = bench.boundary("end_task", bench.train(steps=2, tasks=(0,)), 1, (0,))
  ranks = lambda learner: int(learner.opt_state.finalize.ranks["hidden_0/kernel"])
  assert ranks(bench.train(steps=2, tasks=(0,))) <= 1
  assert ranks(bench.boundary("end_task", start, 0, (0, 1))) >= ranks(start) + 3 >= 7


def test_cuber_and_tag_write_a_returning_task_where_it_was(class_stream, small_model):
  cuber, tag = (Bench(n, class_stream, small_model) for n in ("cuber", "tag"))
  state = lambda bench, order: bench.train(steps=2, tasks=order).opt_state.transform
  once, again = state(cuber, (0, 1)), state(cuber, (0, 1, 0))
  name = "hidden_0/kernel"
  np.testing.assert_array_equal(again.kernels[name].gradients[1], once.kernels[name].gradients[1])
  assert np.abs(np.asarray(again.kernels[name].gradients[0] - once.kernels[name].gradients[0])).max() > 0
  assert (int(once.tasks), int(again.tasks)) == (2, 2)
  once, again = state(tag, (0, 1))[0], state(tag, (0, 1, 0))[0]
  second = lambda s, slot: np.asarray(s.seconds["hidden_0"]["kernel"][slot])
  np.testing.assert_array_equal(second(again, 1), second(once, 1))
  assert np.abs(second(again, 0) - second(once, 0)).max() > 0


def test_an_orthogonal_basis_has_room_for_each_task_once(class_stream, small_model):
  bench = Bench("ogd", class_stream, small_model, {"samples": 4})
  once, again = (bench.train(steps=2, tasks=order).opt_state.finalize for order in ((0, 1), (0, 1, 0)))
  assert isinstance(again, projectors.OGDState)
  assert int(again.rank) == int(once.rank) == 8
  assert int(again.dropped) == 0


def test_ncm_counts_a_returning_task_s_rows_once(class_stream, small_model):
  """The means of a task that comes back are those under the features of now; counts are rows."""
  bench = Bench("ncm", class_stream, small_model)
  learner = bench.train(steps=2, tasks=(0, 1, 0))
  rows = np.asarray(class_stream.train[0])
  y = class_stream.dataset.train.y
  features = np.asarray(small_model.apply(learner.params, {}, bench.data.x[rows], train=False, key=None)[0].features)
  for c in range(4):
    assert learner.method_state.counts[c] == (y[np.concatenate(class_stream.train)] == c).sum()
  for c in (0, 1):
    np.testing.assert_allclose(learner.method_state.means[c], features[y[rows] == c].mean(0), rtol=1e-4, atol=1e-5)


def test_an_episode_of_a_returning_task_replaces_its_own(class_stream, small_model):
  bench = Bench("agem", class_stream, small_model)
  once, again = (bench.train(steps=2, tasks=order).method_state for order in ((0, 1), (0, 1, 0)))
  tasks = lambda state: np.asarray(state.memory.rows["task"])
  np.testing.assert_array_equal(tasks(again), np.repeat([0, 1], 10))
  np.testing.assert_array_equal(again.memory.rows["id"][10:], once.memory.rows["id"][10:])
  # Two classes, ten rows: five of each, whatever the order in which the rows lie.
  assert np.bincount(np.asarray(again.memory.rows["y"])).tolist() == [5, 5, 5, 5]


def test_lwf_distils_the_tasks_met_and_no_other(class_stream, small_model):
  """Met in the order 1, 0: the first visit to task 0 distils task 1's classes; a stranger's numbers say nothing."""
  bench = Bench("lwf", class_stream, small_model)
  start = bench.train(steps=2, tasks=(1,))
  loss = lambda met: float(bench.step(start, *bench.arguments(0, 0, met=met))[2])
  x, y = (np.asarray(a)[np.asarray(bench.rows(0, 0)[0])] for a in (bench.data.x, bench.data.y))
  logits = lambda params: np.asarray(small_model.apply(params, {}, x, train=False, key=None)[0].logits, np.float64)

  def log_softmax(z):
    return z - np.logaddexp.reduce(z, -1, keepdims=True)

  now, old = logits(start.params), logits(start.method_state.params)
  plain = -log_softmax(now)[np.arange(len(y)), y].mean()
  ours, theirs = (log_softmax(z[:, 2:] / 2) for z in (now, old))
  distilled = 4 * (np.exp(theirs) * (theirs - ours)).sum(-1).mean()
  np.testing.assert_allclose(loss((1,)), plain + distilled, rtol=1e-4)
  np.testing.assert_allclose(loss(()), plain, rtol=1e-4)


def test_unmet_classes_stay_under_references(make_blobs, small_model):
  """Under 'seen' the head of classes never met does not move, projected or not: references have the loss's mask."""
  stream = streams.build(make_blobs(), "class", tasks=2, active="seen")
  for name, hyper in (("gem", {"margin": 0.5}), ("er_agem", {})):
    bench = Bench(name, stream, small_model, {"capacity": 20, **hyper})
    learner = bench.train(steps=3, tasks=(0, 0))
    moved = np.asarray(learner.params["head"]["kernel"]) - np.asarray(bench.start().params["head"]["kernel"])
    assert np.abs(moved[:, :2]).max() > 0.01
    assert np.abs(moved[:, 2:]).max() == 0
