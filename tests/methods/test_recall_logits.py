"""RECALL against NumPy in float64: loss and step, what is divided by, what is left of a task's rows."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bench import Bench, assert_near, assert_same
from by_hand import RATE, backward, batch_of, cross_entropy, forward, gradient, leaves, log_softmax, near

from cljax import streams
from cljax.core import tree
from cljax.methods.distillation import recall_logits as recall

BENCHES: dict = {}
OLD, NEW = slice(0, 2), slice(2, 4)
CASES = {
  "plain": {}, "deviation": {"divide": "deviation"}, "variance": {"divide": "variance"},
  "combined": {"labels": "combined"}, "regression": {"target": "regression"},
  "both": {"target": "regression", "labels": "combined", "divide": "deviation"},
}  # fmt: skip


def bench_of(stream, model, **options):
  key = repr((stream.name, sorted(options.items())))
  if key not in BENCHES:
    BENCHES[key] = Bench("recall_logits", stream, model, options)
  return BENCHES[key]


def begun(bench):
  """The learner that has learned task 0 and begun task 1, two steps in."""
  learned = bench.train(4, (0,))
  inside = {"head/kernel": lambda p: 0.2 * p, "head/bias": lambda p: 0.0 * p + 0.5}  # outputs between 0 and 1
  params = tree.map_named(lambda n, p: inside.get(n, lambda p: p)(p), learned.params)
  learned = bench.boundary("end_task", learned._replace(params=params), 0)
  learner = bench.boundary("start_task", learned, 1, (0,))
  return learner, bench.steps(learner, 1, 2, met=(0,), strength=0.01)


def of_rows(bench, params, clipped):
  split, rows = bench.stream.dataset.train, bench.stream.train[1]
  z = forward(params, split.x[rows])[1]
  return np.clip(z, 0, 1) if clipped else z


def slope_of_ce(z, y, inside):
  """The loss of each row over the outputs ``inside``, and its slope in them."""
  part = z[:, inside]
  d = np.zeros_like(z)
  d[:, inside] = np.exp(log_softmax(part))
  d[np.arange(len(y)), y] -= 1
  return cross_entropy(part, y - inside.start), d


def slope_of_squares(z, y, inside):
  shown, wanted = np.clip(z, 0, 1), np.eye(4)[y]
  d = np.zeros_like(z)
  d[:, inside] = 2 * (shown - wanted)[:, inside] * ((z > 0) & (z < 1))[:, inside] / (inside.stop - inside.start)
  return np.square(shown - wanted)[:, inside].mean(1), d


@pytest.mark.parametrize("case", list(CASES))
def test_recall_s_loss_and_step_are_by_hand(case, class_stream, small_model):
  given = CASES[case]
  bench = bench_of(class_stream, small_model, **given)
  clipped = given.get("target") == "regression"
  start, learner = begun(bench)
  x, y = batch_of(bench, 1, 2)
  z, teacher = forward(learner.params, x)[1], of_rows(bench, start.params, clipped)
  before = forward(start.params, x)[1]
  shown = np.clip(z, 0, 1) if clipped else z
  before = np.clip(before, 0, 1) if clipped else before
  power = {"deviation": 0.5, "variance": 1.0}.get(given.get("divide", ""), 0.0)
  variance = teacher.var(0)[OLD]
  scale = np.where(variance > 0, variance, 1.0) ** power
  gap = (shown - before)[:, OLD] / scale
  moves = ((z > 0) & (z < 1))[:, OLD] if clipped else np.ones((8, 2))
  d = np.zeros((8, 4))
  d[:, OLD] = 1.5 * 2 * gap / scale * moves / 2
  want = 1.5 * np.square(gap).mean(1)
  side = slope_of_squares if clipped else slope_of_ce
  for inside in (NEW, slice(0, 4)) if given.get("labels") == "combined" else (NEW,):
    each, slope = side(z, y, inside)
    want, d = want + each, d + slope
  after, _, loss = bench.step(learner, *bench.arguments(1, 2, met=(0,)), strength=1.5)
  np.testing.assert_allclose(float(loss), want.mean(), rtol=2e-5)
  made = backward(learner.params, x, d / 8)
  near(after.params, {n: p - RATE * made[n] for n, p in leaves(learner.params).items()})
  assert np.abs(gap * moves).max() > 1e-4


def test_released_variance_is_squared_once_more():
  """((now - before) / var)^2, which weighs classes by 1 / var^2; by the deviation it is the Mahalanobis distance."""
  rng = np.random.default_rng(0)
  now, before, variance = rng.normal(size=(5, 3)), rng.normal(size=(5, 3)), rng.uniform(0.5, 2, 3)
  old = jnp.array([True, False, True])
  get = lambda scale: np.asarray(recall.recall_gap(jnp.float32(now), jnp.float32(before), old, jnp.float32(scale)))
  squares = np.square(now - before)
  np.testing.assert_allclose(get(variance), (squares / variance**2)[:, [0, 2]].mean(1), rtol=1e-5)
  np.testing.assert_allclose(get(np.sqrt(variance)), (squares / variance)[:, [0, 2]].mean(1), rtol=1e-5)
  assert not np.asarray(recall.recall_gap(jnp.float32(now), jnp.float32(before), ~old & old, jnp.ones(3))).any()


def test_variances_are_of_rows_that_are_there():
  z = np.random.default_rng(0).normal(size=(6, 3))
  z[:, 1] = 2.0
  got = recall.variance_of(jnp.float32(z), jnp.float32([1, 0, 1, 2, 0, 1]))
  np.testing.assert_allclose(got, [z[[0, 2, 3, 5], 0].var(), 1.0, z[[0, 2, 3, 5], 2].var()], rtol=1e-5)
  np.testing.assert_array_equal(recall.variance_of(jnp.float32(z), jnp.zeros(6)), np.ones(3))


def test_the_first_step_of_a_task_recalls_nothing_yet(class_stream, small_model):
  """The network is its own teacher: the loss is that of the new labels alone, whatever the strength."""
  bench = bench_of(class_stream, small_model)
  start, _ = begun(bench)
  x, y = batch_of(bench, 1, 0)
  some = [float(bench.step(start, *bench.arguments(1, 0, met=(0,)), strength=s)[2]) for s in (0.0, 50.0)]
  np.testing.assert_allclose(some[0], cross_entropy(forward(start.params, x)[1][:, NEW], y - 2).mean(), rtol=1e-5)
  np.testing.assert_allclose(some[1], some[0], rtol=1e-6)


def test_labels_of_new_classes_leave_old_outputs_alone(class_stream, small_model):
  """Without recall nothing pushes an old output down; with it its slope is of the gap alone."""
  bench = bench_of(class_stream, small_model)
  start = begun(bench)[0]
  learner = start
  for k in range(3):
    learner = bench.step(learner, *bench.arguments(1, k, met=(0,)), strength=0.0)[0]
  a, b = leaves(start.params), leaves(learner.params)
  np.testing.assert_array_equal(a["head/kernel"][:, OLD], b["head/kernel"][:, OLD])
  np.testing.assert_array_equal(a["head/bias"][OLD], b["head/bias"][OLD])
  assert (a["head/bias"][NEW] != b["head/bias"][NEW]).all()


def test_the_first_task_has_nothing_to_recall(class_stream, small_model):
  bench = bench_of(class_stream, small_model)
  start = bench.boundary("start_task", bench.start(), 0, ())
  one = bench.steps(start, 0, 1)
  x, y = batch_of(bench, 0, 1)
  after, _, loss = bench.step(one, *bench.arguments(0, 1), strength=9.0)
  each, slope = slope_of_ce(forward(one.params, x)[1], y, OLD)
  np.testing.assert_allclose(float(loss), each.mean(), rtol=1e-5)
  made = backward(one.params, x, slope / 8)
  near(after.params, {n: p - RATE * made[n] for n, p in leaves(one.params).items()})


def test_a_task_that_comes_back_recalls_the_others(class_stream, small_model):
  bench = bench_of(class_stream, small_model)
  learner = bench.train(2, (0, 1))
  moved = learner._replace(params=jax.tree.map(lambda p: p + 0.05, learner.params))
  x, y = batch_of(bench, 0, 0)
  z, before = forward(moved.params, x)[1], forward(learner.params, x)[1]
  got = float(bench.step(moved, *bench.arguments(0, 0, met=(0, 1)), strength=2.0)[2])
  want = cross_entropy(z[:, OLD], y) + 2 * np.square(z - before)[:, NEW].mean(1)
  np.testing.assert_allclose(got, want.mean(), rtol=1e-5)


def test_where_tasks_have_outputs_of_their_own_no_strength_is_plain_training(task_stream, small_model):
  """There the softmax is among the task's classes anyway."""
  mine, plain = bench_of(task_stream, small_model), Bench("finetune", task_stream, small_model)
  assert_near(mine.train(3, strength=0.0).params, plain.train(3).params)


def test_between_tasks_nothing_of_rows_is_kept(class_stream, small_model):
  """Variances are of the current task's rows, and gone when it ends; the teacher is the network then."""
  bench = bench_of(class_stream, small_model, divide="variance")
  start, learner = begun(bench)
  assert (np.asarray(start.method_state.variance) != 1).any()
  ended = bench.boundary("end_task", learner, 1, (0,))
  np.testing.assert_array_equal(ended.method_state.variance, np.ones(4))
  assert_same(ended.method_state.teacher.params, learner.params)


def test_the_teacher_follows_an_edit(class_stream, small_model):
  bench = bench_of(class_stream, small_model)
  learner = bench.train(2, (0,))
  edited = learner._replace(params=jax.tree.map(lambda p: p * 0.5, learner.params))
  after = bench.parts.method.after_forget(edited, learner.params)
  assert_same(after.method_state.teacher.params, edited.params)


def test_plain_training_is_another_thing_in_the_first_task(class_stream, small_model):
  """Outputs of classes that were not met take no part: the gradient is not that of the loss over all."""
  bench = bench_of(class_stream, small_model)
  one = bench.steps(bench.start(), 0, 1)
  assert np.abs(gradient(one.params, *batch_of(bench, 0, 1))["head/bias"][NEW]).min() > 1e-3
  after = bench.step(one, *bench.arguments(0, 1))[0]
  np.testing.assert_array_equal(leaves(after.params)["head/bias"][NEW], leaves(one.params)["head/bias"][NEW])


def test_stored_rows_of_another_method_keep_their_classes(class_stream, small_model):
  """Replayed rows stand beside the task's: their labels are old classes, which new ones alone would leave out."""
  bench = Bench({"er": ("er", {"capacity": 6}), "recall": ("recall_logits", {})}, class_stream, small_model)
  learner = bench.boundary("start_task", bench.train(3, (0,)), 1, (0,))
  after, _, loss = bench.step(learner, *bench.arguments(1, 0, met=(0,)))
  assert np.isfinite(float(loss))
  a, b = leaves(learner.params)["head/bias"], leaves(after.params)["head/bias"]
  assert (a[OLD] != b[OLD]).all()


@pytest.mark.parametrize("options", [{"labels": "combined"}, {"target": "regression"}], ids=["combined", "regression"])
def test_stored_rows_are_taught_alike_before_it_and_behind_it(options, class_stream, small_model):
  """Parts of a hybrid act in the order written: rows of one behind it come after what it noted of the step's rows."""
  parts = {"er": ("er", {"capacity": 6}), "recall": ("recall_logits", options)}
  one, other = (Bench({n: parts[n] for n in order}, class_stream, small_model) for order in (parts, list(parts)[::-1]))
  learned = one.train(3, (0,))
  inside = {"head/kernel": lambda p: 0.2 * p, "head/bias": lambda p: 0.0 * p + 0.5}  # outputs between 0 and 1
  params = tree.map_named(lambda n, p: inside.get(n, lambda p: p)(p), learned.params)
  learner = one.boundary("end_task", learned._replace(params=params), 0)
  learner = one.boundary("start_task", learner, 1, (0,))
  before, behind = (bench.step(learner, *bench.arguments(1, 0, met=(0,))) for bench in (one, other))
  np.testing.assert_allclose(float(before[2]), float(behind[2]), rtol=1e-6)
  assert_near(before[0].params, behind[0].params)
  assert (leaves(before[0].params)["head/bias"][OLD] != 0.5).all()  # as labels of stored rows say


def test_outputs_of_classes_yet_to_be_met_are_not_recalled(dataset, small_model):
  """Four tasks of one class each: in the second, one is old, and its own softmax is of one output, whose loss is 0."""
  stream = streams.build(dataset, "class", tasks=4)
  bench = Bench("recall_logits", stream, small_model)
  start = bench.boundary("start_task", bench.train(2, (0,)), 1, (0,))
  moved = start._replace(params=jax.tree.map(lambda p: p + 0.05, start.params))
  x, _ = batch_of(bench, 1, 0)
  gap = forward(moved.params, x)[1][:, 0] - forward(start.params, x)[1][:, 0]
  got = float(bench.step(moved, *bench.arguments(1, 0, met=(0,)), strength=2.0)[2])
  np.testing.assert_allclose(got, 2 * np.square(gap).mean(), rtol=1e-4)
