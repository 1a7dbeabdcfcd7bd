"""Co2L and the classifier that is made on its features, against NumPy in float64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bench import Bench, assert_same
from by_hand import RATE, batch_of, forward, log_softmax

from cljax import methods, models
from cljax.core.tree import fold
from cljax.core.types import Task, UsageError, Visit, rows_from_arrays
from cljax.engine.setup import spec_of
from cljax.methods import views
from cljax.methods.replay import co2l, linear_head

FLOATS = {"temperature": 0.4, "distillation": 1.7, "relation_temperature": 0.5, "past_temperature": 0.2, "rate": 0.3}
HYPER = {**FLOATS, "capacity": 8, "replay_batch": 8, "width": 5, "passes": 3, "head_batch": 8}


def unit(f):
  return f / np.linalg.norm(f, axis=-1, keepdims=True)


def double(params):
  return jax.tree.map(lambda a: np.asarray(a, np.float64), params)


def features(params, x):
  return forward(params["network"]["network"], x)[0]


def seen_twice(params, x):
  """Both views, one behind the other, behind the small network."""
  head = double(params["projection"])
  f = np.concatenate([features(params, v) for v in (x, 2.0 * x[:, ::-1])])
  h = np.maximum(f @ head["hidden"]["kernel"] + head["hidden"]["bias"], 0)
  return unit(h @ head["out"]["kernel"] + head["out"]["bias"])


def parts_of(params, teacher, x, y, new):
  """The contrast of anchors, the first ``new`` rows, and the relations: view by view."""
  z, old, label, contrasts, relations = seen_twice(params, x), seen_twice(teacher, x), np.r_[y, y], [], []
  for i in range(len(z)):
    others = np.arange(len(z)) != i
    log_p = log_softmax((z @ z[i] / 0.4)[others])
    if i % len(x) < new:
      contrasts.append(-log_p[(label == label[i])[others]].mean())
    s, q = log_softmax((z @ z[i] / 0.5)[others]), log_softmax((old @ old[i] / 0.2)[others])
    relations.append((np.exp(q) * (q - s)).sum())
  return np.array([np.mean(contrasts), np.mean(relations)])


@pytest.fixture(scope="module", autouse=True)
def doubled_again():
  """Second views are doubled, mirrored pictures."""
  patch = pytest.MonkeyPatch()
  patch.setattr(views, "second_view", lambda key, x, *_, **__: 2.0 * x[:, ::-1])
  yield
  patch.undo()


@pytest.fixture(scope="module")
def trained(class_stream, small_model):
  """A bench, its learner after task 0, and after one step of task 1."""
  bench = Bench("co2l", class_stream, small_model, HYPER)
  one = bench.train(3, (0,))
  return bench, one, bench.step(one, *bench.arguments(1, 1))[0]


def with_stored(bench, learner):
  """The first batch of task 1 and all that is stored."""
  split, state = bench.stream.dataset.train, learner.method_state.memory
  ids = np.asarray(state.rows["id"])[: int(state.count)]
  assert len(ids) == 8
  x, y = batch_of(bench, 1, 0)
  return np.concatenate([x, split.x[ids]]), np.r_[y, split.y[ids]]


def test_co2l_s_loss_and_step_are_by_hand(trained):
  """Stored rows are contrasted with and are no anchors; the step by differences; the classifiers stand still."""
  bench, one, begun = trained
  x, y = with_stored(bench, begun)
  want = parts_of(begun.params, one.params, x, y, 8)
  after, _, loss = bench.step(begun, *bench.arguments(1, 0))
  assert want.min() > 1e-3
  weights = np.array([1.0, 1.7])
  np.testing.assert_allclose(float(loss), weights @ want, rtol=1e-5)
  for part in ("linear", "network"):
    held = lambda l, part=part: l.params["network"][part] if part == "linear" else l.params["network"][part]["head"]
    assert_same(held(after), held(begun))
  now, rng = double(begun.params), np.random.default_rng(0)
  step = jax.tree.map(lambda a, b: (np.asarray(a, np.float64) - b) / -RATE, after.params, now)
  for _ in range(3):
    d = jax.tree.map(lambda a: rng.normal(size=a.shape), now)
    d["network"]["linear"], d["network"]["network"]["head"] = jax.tree.map(
      np.zeros_like, (d["network"]["linear"], d["network"]["network"]["head"])
    )
    at = lambda t, d=d: weights @ parts_of(jax.tree.map(lambda p, v: p + t * v, now, d), one.params, x, y, 8)
    slope = (at(1e-6) - at(-1e-6)) / 2e-6
    got = sum((a * b).sum() for a, b in zip(jax.tree.leaves(step), jax.tree.leaves(d), strict=True))
    np.testing.assert_allclose(got, slope, rtol=2e-3, atol=2e-5)


def test_the_mean_is_over_anchors_whatever_is_stored(trained, class_stream, small_model):
  """The released code's mean is over all rows: half of it where half of the rows are stored."""
  bench, one, begun = trained
  other = Bench("co2l", class_stream, small_model, {**HYPER, "average": "rows"})
  loss = lambda b: float(b.step(begun, *b.arguments(1, 0), distillation=0.0)[2])
  x, y = with_stored(bench, begun)
  want = parts_of(begun.params, one.params, x, y, 8)[0]
  np.testing.assert_allclose([loss(bench), loss(other)], [want, want / 2], rtol=1e-5)


def test_the_first_task_of_co2l_is_the_contrast(trained):
  bench, *_ = trained
  start = bench.start()
  moved = start._replace(params=jax.tree.map(lambda a: 1.1 * a + 0.01, start.params))
  x, y = batch_of(bench, 0, 0)
  want = parts_of(moved.params, start.params, x, y, 8)[0]
  loss = [float(bench.step(moved, *bench.arguments(0), distillation=v)[2]) for v in (0.0, 9.0)]
  np.testing.assert_allclose(loss, want, rtol=1e-5)


def test_equal_relations_are_not_pulled():
  """At the old similarities and the same temperature 0 and flat; a sharper past pulls there too."""
  rng = np.random.default_rng(0)
  z = jnp.float32(unit(rng.normal(size=(6, 3))))
  s = co2l.similarities(z[:3], z[3:])
  np.testing.assert_allclose(s, np.asarray(z) @ np.asarray(z).T, atol=1e-6)
  loss = lambda now, past: co2l.instances_held(now, s, jnp.ones(6), 0.5, past)
  np.testing.assert_allclose(loss(s, 0.5), 0, atol=1e-6)
  np.testing.assert_allclose(jax.grad(loss)(s, 0.5), 0, atol=1e-6)
  assert np.abs(jax.grad(loss)(s, 0.1)).max() > 0.01
  assert not np.diag(jax.grad(loss)(s, 0.1)).any()
  assert not np.asarray(jax.grad(lambda then: co2l.instances_held(s, then, jnp.ones(6), 0.5, 0.1))(s)).any()


def test_absent_rows_are_related_to_none():
  rng = np.random.default_rng(1)
  now, then = (jnp.float32(rng.normal(size=(6, 6))) for _ in range(2))
  weight = jnp.float32([1, 0, 1, 1, 0, 1])
  at = np.flatnonzero(weight)
  want = co2l.instances_held(now[at][:, at], then[at][:, at], jnp.ones(4), 0.5, 0.2)
  np.testing.assert_allclose(co2l.instances_held(now, then, weight, 0.5, 0.2), want, rtol=1e-5)


def test_classes_are_drawn_alike_for_the_classifier():
  y, there = jnp.array([0, 0, 0, 2, 2, 1, 1]), jnp.array([True, True, True, True, False, False, False])
  chance = linear_head.chances(y, there, 4)
  np.testing.assert_allclose(chance, [1 / 6, 1 / 6, 1 / 6, 1 / 2, 0, 0, 0], rtol=1e-6)
  at = np.asarray(linear_head.drawn_by(jax.random.key(0), chance, 6000))
  np.testing.assert_allclose(np.bincount(at, minlength=7) / 6000, chance, atol=0.025)
  assert not np.asarray(linear_head.chances(y, there & False, 4)).any()


def test_the_linear_classifier_is_momentum_descent():
  """Step by step on the same draws; the rate is cut thrice; rows that are not there may hold anything."""
  rng = np.random.default_rng(2)
  f, y = rng.normal(size=(9, 3)), rng.integers(0, 3, 9)
  there = np.arange(9) < 7
  f[~there] = np.nan
  key, passes, size = jax.random.key(3), 4, 3
  got = linear_head.fitted(
    key, jnp.float32(f), jnp.asarray(y), jnp.asarray(there), 4, passes=passes, rate=0.5, size=size
  )
  chance = linear_head.chances(jnp.asarray(y), jnp.asarray(there), 4)
  w, b, vw, vb = np.zeros((3, 4)), np.zeros(4), np.zeros((3, 4)), np.zeros(4)
  for i in range(12):
    at = np.asarray(linear_head.drawn_by(jax.random.fold_in(key, i), chance, size))
    slope = np.exp(log_softmax(f[at] @ w + b))
    slope[np.arange(size), y[at]] -= 1
    vw, vb = 0.9 * vw + f[at].T @ slope / size, 0.9 * vb + slope.mean(0)
    rate = 0.5 * 0.2 ** sum(i >= m * 12 for m in (0.6, 0.75, 0.9))
    w, b = w - rate * vw, b - rate * vb
  np.testing.assert_allclose(got["kernel"], w, rtol=1e-3, atol=1e-5)
  np.testing.assert_allclose(got["bias"], b, rtol=1e-3, atol=1e-5)
  none = linear_head.fitted(key, jnp.float32(f), jnp.asarray(y), jnp.zeros(9, bool), 4, passes=2, rate=0.5, size=size)
  assert not np.asarray(none["kernel"]).any()


def test_the_classifier_is_of_the_task_and_what_is_stored_and_answers(trained, class_stream, small_model):
  """Made anew at a task's end on features of task and stored rows, from 0; nothing else moves."""
  bench, _, begun = trained
  method = methods.make("co2l", small_model, bench.spec, **HYPER)
  split = class_stream.dataset.train
  ids = np.asarray(class_stream.train[1])
  rows = rows_from_arrays(split.x[ids], split.y[ids], ids=ids, task=1)
  key, visit = jax.random.key(5), Visit.in_order(jnp.int32(1), 2)
  end = method.end_task(key, begun, Task(visit, rows, jnp.int32(len(ids))))
  kept = begun.method_state.memory.rows
  f = np.concatenate([features(begun.params, v) for v in (split.x[ids], np.asarray(kept["x"]))])
  y = jnp.asarray(np.r_[split.y[ids], np.asarray(kept["y"])])
  want = linear_head.fitted(fold(key, "head"), jnp.float32(f), y, jnp.ones(len(y), bool), 4, passes=3, rate=0.3, size=8)
  got = end.params["network"]["linear"]
  assert np.abs(got["kernel"]).max() > 0.01
  for name in ("kernel", "bias"):
    np.testing.assert_allclose(got[name], want[name], rtol=1e-3, atol=1e-4)
  assert_same(end.params["network"]["network"], begun.params["network"]["network"])
  assert_same(end.params["projection"], begun.params["projection"])
  assert_same(end.method_state.teacher.params, end.params)
  x = split.x[:5]
  said = bench.parts.predict(end, jnp.asarray(x), jnp.int32(0))
  np.testing.assert_allclose(said, features(end.params, x) @ double(got)["kernel"] + double(got)["bias"], atol=1e-4)
  assert not np.asarray(bench.parts.predict(bench.start(), jnp.asarray(x), jnp.int32(0))).any()
  stored = end.method_state.memory
  there = np.asarray(stored.group) >= 0
  assert np.bincount(np.asarray(stored.rows["y"])[there], minlength=4).tolist() == [2, 2, 2, 2]
  assert len(set(np.asarray(stored.rows["id"])[there].tolist())) == 8


def test_stored_lists_of_co2l_are_drawn_uniformly(trained, class_stream, small_model):
  """Other keys store other rows, and each row as often as another: no herding."""
  bench, *_ = trained
  method = methods.make("co2l", small_model, bench.spec, **{**HYPER, "passes": 0})
  split, ids = class_stream.dataset.train, np.asarray(class_stream.train[0])
  rows = rows_from_arrays(split.x[ids], split.y[ids], ids=ids)
  task = Task(Visit.in_order(jnp.int32(0), 2), rows, jnp.int32(len(ids)))
  start = bench.start()
  stored = jax.vmap(lambda k: method.end_task(k, start, task).method_state.memory.rows["id"])(
    jax.random.split(jax.random.key(0), 300)
  )
  often = np.bincount(np.asarray(stored).ravel(), minlength=split.y.size)[ids]
  assert often.sum() == 2400
  expected = 2400 / len(ids)
  assert often.min() > 0.6 * expected
  assert often.max() < 1.4 * expected


def test_co2l_s_teacher_is_in_eval_mode(class_stream):
  small, modes = models.mlp((4, 4, 1), 4, hidden=(8,)), []

  def apply(params, state, x, *, train, **told):
    modes.append(train)
    return small.apply(params, state, x, train=train, **told)

  bench = Bench("co2l", class_stream, small._replace(apply=apply), HYPER)
  learner = jax.eval_shape(bench.parts.init, jax.random.key(0))
  modes.clear()
  jax.eval_shape(bench.parts.step, learner, *bench.arguments(1))
  assert modes == [True, True, False, False]  # the rows, their second views, and both by the teacher


def test_co2l_draws_no_more_than_it_stores(class_stream, small_model):
  spec = spec_of(class_stream, 8)
  method = methods.make("co2l", small_model, spec, capacity=4)
  bench = Bench("co2l", class_stream, small_model, {"capacity": 4, "replay_batch": 0})
  batch = jax.eval_shape(lambda l: method.prepare(jax.random.key(0), l, rows_of_a_step(bench))[1], bench.start())
  assert batch.weight.shape == (12,)


def rows_of_a_step(bench):
  index, task, weight = bench.rows(0, 0)
  batch = rows_from_arrays(bench.data.x[index], bench.data.y[index], weight=weight).batch(0, 8)
  return batch._replace(task=task, visit=Visit.in_order(jnp.int32(0), 2), fresh=batch.weight)


def test_co2l_needs_pictures_features_and_room(class_stream, small_model):
  spec = spec_of(class_stream, 8)
  with pytest.raises(UsageError, match=r"'co2l' makes second views of pictures; expected inputs \[H, W, C\]"):
    methods.make("co2l", small_model, spec._replace(shown=jax.ShapeDtypeStruct((5,), jnp.float32)))
  bare = small_model._replace(apply=lambda *a, **k: (small_model.apply(*a, **k)[0]._replace(features=None), {}))
  with pytest.raises(UsageError, match="'co2l' needs a model that returns features"):
    methods.make("co2l", bare, spec)
  with pytest.raises(UsageError, match="capacity: got 3, below the 4 classes of all tasks"):
    methods.make("co2l", small_model, spec, capacity=3)
