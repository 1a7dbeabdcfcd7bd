"""iCaRL and what methods of exemplar sets share, against NumPy in float64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bench import Bench
from by_hand import RATE, backward, batch_of, forward, near

from cljax import methods, models, streams
from cljax.core.types import UsageError
from cljax.engine.setup import spec_of
from cljax.engine.step import FRESH

CAPACITY = 10


def sigmoid(z):
  return 1 / (1 + np.exp(-z))


def normalised(f):
  return f / np.linalg.norm(f, axis=-1, keepdims=True)


def herded(f, depth):
  """The list of one class: ``argmax f.w`` among the rows left, ``w += mu - f``."""
  f = normalised(f)
  w, order = f.mean(0), []
  while len(order) < min(depth, len(f)):
    score = f @ w
    score[order] = -np.inf
    order.append(int(score.argmax()))
    w = w + f.mean(0) - f[order[-1]]
  return order


def ids_by_list(state):
  """``{(task, class): ids in their order}`` of what is stored."""
  found: dict = {}
  n = int(state.count)
  for task, y, i in zip(*(np.asarray(state.rows[k])[:n].tolist() for k in ("task", "y", "id")), strict=True):
    found.setdefault((task, y), []).append(i)
  return found


@pytest.fixture(scope="module")
def trained(class_stream, small_model):
  """A bench, the learner after the first task, one step into the second, and after that."""
  bench = Bench("icarl", class_stream, small_model, {"capacity": CAPACITY, "replay_batch": CAPACITY})
  one = bench.train(3, (0,))
  begun = bench.boundary("start_task", one, 1)
  moved = bench.step(begun, *bench.arguments(1, 0))[0]
  return bench, one, moved, bench.boundary("end_task", moved, 1)


def test_icarl_s_lists_are_herded_and_cut(trained):
  """Of two classes five each, under the network at the end of the first task; of four two each, the first of them."""
  bench, one, moved, two = trained
  split, rows = bench.stream.dataset.train, [np.asarray(r) for r in bench.stream.train]
  for learner, task, depth in ((one, 0, 5), (moved, 1, 2)):
    end = one if task == 0 else two
    got = ids_by_list(end.method_state.memory)
    for c in (2 * task, 2 * task + 1):
      own = rows[task][split.y[rows[task]] == c]
      order = herded(forward(learner.params, split.x[own])[0], depth)
      assert got[task, c] == own[order].tolist()
  first, later = (ids_by_list(l.method_state.memory) for l in (one, two))
  assert len(later) == 4
  assert all(later[k] == first[k][:2] for k in first)
  assert int(two.method_state.memory.count) == 8
  stored = two.method_state.memory.rows
  np.testing.assert_array_equal(stored["x"][:8], split.x[np.asarray(stored["id"])[:8]])


@pytest.mark.parametrize(
  ("hyper", "active"),
  [({}, "all"), ({"distillation": False}, "all"), ({"form": "released"}, "all"), ({}, "task"), ({}, "seen")],
)
def test_icarl_s_loss_is_that_of_sigmoids_with_the_teacher_s_at_old_classes(hyper, active, dataset, small_model):
  """``sum_g share_g mean mean_c BCE``: task 1 after task 0 with all ten exemplars drawn; some rows are absent. Outputs
  of three tasks: those of the last are unseen, and take part in the released form alone."""
  stream = streams.build(dataset, "class", tasks=2, validation=0.125, active=active)
  model = models.mlp((4, 4, 1), 4, hidden=(8,))
  bench = Bench("icarl", stream, model, {"capacity": CAPACITY, "replay_batch": CAPACITY, **hyper})
  one = bench.train(2, (0,))
  begun = bench.boundary("start_task", one, 1)
  begun = bench.step(begun, *bench.arguments(1, 1))[0]  # away from the teacher
  present = np.array([1, 1, 1, 0, 1, 1, 0, 1], bool)
  after, _, loss = bench.step(begun, *bench.arguments(1, 0, jnp.asarray(present * FRESH)))
  memory, split, rows = one.method_state.memory, stream.dataset.train, np.asarray(stream.train[1])
  count = int(memory.count)
  stored = np.asarray(memory.rows["id"])[:count]
  x, y = (a[present] for a in batch_of(bench, 1, 0))
  share = count / (count + len(rows))
  total, slopes = 0.0, []
  for part, xs, ys, task in ((1 - share, x, y, 1), (share, split.x[stored], split.y[stored], 0)):
    z, old = forward(begun.params, xs)[1], forward(one.params, xs)[1]
    t = np.eye(4)[ys]
    if hyper.get("distillation", True):
      t[:, :2] = sigmoid(old)[:, :2]
    inside = stream.classes_of_task[task] if active == "task" else np.ones(4, bool)
    each = np.where(inside, np.logaddexp(0, z) - t * z, 0).sum(-1) / inside.sum()
    total += part * each.mean()
    slopes.append(backward(begun.params, xs, part * np.where(inside, sigmoid(z) - t, 0) / inside.sum() / len(ys)))
  np.testing.assert_allclose(float(loss), total, rtol=1e-5)
  want = {p: -RATE * (slopes[0][p] + slopes[1][p]) for p in slopes[0]}
  near(jax.tree.map(lambda a, b: a - b, after.params, begun.params), want)


def test_unseen_outputs_take_part_in_the_released_form_alone(class_stream, small_model):
  """In the first task: the paper's network has no outputs of later ones, so their weights stand still."""
  moved = {}
  for form in ("paper", "released"):
    bench = Bench("icarl", class_stream, small_model, {"capacity": CAPACITY, "form": form})
    start = bench.boundary("start_task", bench.start(), 0)
    after, _, loss = bench.step(start, *bench.arguments(0, 0))
    moved[form] = np.abs(np.asarray(after.params["head"]["bias"] - start.params["head"]["bias"]))
    x, y = batch_of(bench, 0, 0)
    z = forward(start.params, x)[1]
    each = np.logaddexp(0, z) - np.eye(4)[y] * z
    np.testing.assert_allclose(float(loss), each[:, : 2 if form == "paper" else 4].mean(), rtol=1e-5)
  assert (moved["paper"][2:] == 0).all()
  assert (moved["paper"][:2] > 0).all()
  assert (moved["released"] > 0).all()


def test_at_its_own_teacher_the_distillation_has_no_gradient(class_stream, small_model):
  """The first step behind a boundary: old outputs' weights stand still."""
  bench = Bench("icarl", class_stream, small_model, {"capacity": CAPACITY})
  begun = bench.boundary("start_task", bench.train(2, (0,)), 1)
  after = bench.step(begun, *bench.arguments(1, 0))[0]
  moved = np.abs(np.asarray(after.params["head"]["kernel"] - begun.params["head"]["kernel"])).max(0)
  assert (moved[:2] < 1e-7).all()
  assert (moved[2:] > 1e-4).all()


def means_by_hand(params, state, split, flip=False, without=()):
  """``[C, D]``: normalised means of normalised features; NaN for classes without exemplars."""
  ids = np.asarray(state.rows["id"])[: int(state.count)]
  ids = ids[~np.isin(ids, without)]
  f = normalised(forward(params, split.x[ids])[0])
  if flip:
    f = (f + normalised(forward(params, split.x[ids][:, :, ::-1])[0])) / 2
  return np.stack(
    [normalised(f[split.y[ids] == c].mean(0)) if (split.y[ids] == c).any() else np.full(8, np.nan) for c in range(4)]
  )


def distances(params, x, means):
  f = normalised(forward(params, x)[0])
  d = -((f[:, None] - means) ** 2).sum(-1)
  return np.where(np.isnan(d), -np.inf, d)


def test_icarl_answers_by_the_nearest_mean_of_exemplars(trained):
  """Of the exemplars, not of all rows; under the network of now, whatever the scale of features; outputs at first.
  After a scrub the means are those without the row."""
  bench, one, moved, two = trained
  split, x = bench.stream.dataset.train, bench.stream.dataset.test.x
  predict = jax.jit(lambda l: bench.parts.predict(l, jnp.asarray(x), jnp.int32(0)))
  start = bench.start()
  np.testing.assert_allclose(predict(start), forward(start.params, x)[1], atol=1e-5)
  for learner in (one, moved, two):  # moved: the means of old exemplars under a network that went on
    means = means_by_hand(learner.params, learner.method_state.memory, split)
    np.testing.assert_allclose(predict(learner), distances(learner.params, x, means), atol=2e-5)
  everything = np.stack([normalised(forward(two.params, split.x[split.y == c])[0]).mean(0) for c in range(4)])
  assert np.abs(normalised(everything) - means_by_hand(two.params, two.method_state.memory, split)).max() > 1e-3
  larger = jax.tree.map(lambda a: a, two.params)
  larger["hidden_0"] = jax.tree.map(lambda a: 3.0 * a, larger["hidden_0"])
  np.testing.assert_allclose(predict(two._replace(params=larger)), predict(two), atol=2e-5)
  lists = ids_by_list(two.method_state.memory)
  gone = [lists[0, 0][0], *lists[1, 3]]
  named = jnp.zeros(bench.spec.num_rows, bool).at[jnp.asarray(gone)].set(True)
  left = jax.jit(bench.parts.scrub)(two, named, jnp.zeros(4, bool))
  want = means_by_hand(two.params, two.method_state.memory, split, without=gone)
  np.testing.assert_allclose(predict(left), distances(two.params, x, want), atol=2e-5)
  assert np.isneginf(np.asarray(predict(left))[:, 3]).all()
  assert not np.asarray(left.method_state.memory.rows["x"])[int(left.method_state.memory.count) :].any()
  # The task comes back: its lists are made anew from the rows there are, and others stand.
  rows = bench.boundary("end_task", left, 1, (0, 1)).method_state.memory
  assert {k: len(v) for k, v in ids_by_list(rows).items()} == {(0, 0): 1, (0, 1): 2, (1, 2): 2, (1, 3): 2}


def test_released_means_are_of_pictures_and_mirrored_ones(class_stream, small_model):
  bench = Bench("icarl", class_stream, small_model, {"capacity": CAPACITY, "form": "released"})
  learner = bench.boundary("end_task", bench.train(2, (0,)), 1, (0,))
  state, x = learner.method_state.memory, class_stream.dataset.test.x
  assert int(state.count) == 12  # ceil(10 / 4) of each
  got = bench.parts.predict(learner, jnp.asarray(x), jnp.int32(0))
  want = means_by_hand(learner.params, state, class_stream.dataset.train, flip=True)
  np.testing.assert_allclose(got, distances(learner.params, x, want), atol=2e-5)


def test_tasks_that_share_classes_have_lists_of_their_own(make_blobs, small_model):
  """Permuted tasks: a list for each class of each task, means over all lists of a class; rows as their task shows them.
  Where all classes are everybody's none is old: rows are learned from labels."""
  stream = streams.build(make_blobs(), "permuted", tasks=2, validation=0.0)
  bench = Bench("icarl", stream, small_model, {"capacity": 16, "replay_batch": 16})
  learner = bench.train(1, (0, 1))
  got = ids_by_list(learner.method_state.memory)
  assert {k: len(v) for k, v in got.items()} == {(t, c): 2 for t in (0, 1) for c in range(4)}
  state, split = learner.method_state.memory, stream.dataset.train
  ids, task = (np.asarray(state.rows[k]) for k in ("id", "task"))
  shown = np.asarray(stream.view.apply(stream.view.tables, split.x[ids], jnp.asarray(task)))
  f = normalised(forward(learner.params, shown)[0])
  means = np.stack([normalised(f[split.y[ids] == c].mean(0)) for c in range(4)])
  got = bench.parts.predict(learner, jnp.asarray(stream.dataset.test.x[:6]), jnp.int32(0))
  np.testing.assert_allclose(got, distances(learner.params, stream.dataset.test.x[:6], means), atol=2e-5)
  labels = Bench("icarl", stream, small_model, {"capacity": 16, "replay_batch": 16, "distillation": False})
  assert labels.step(learner, *bench.arguments(1, 1))[2] == bench.step(learner, *bench.arguments(1, 1))[2]


def test_exemplars_that_cannot_be_are_refused(class_stream, small_model):
  spec = spec_of(class_stream, 8)
  with pytest.raises(UsageError, match="capacity: got 3, below the 4 classes"):
    methods.make("icarl", small_model, spec, capacity=3)
  with pytest.raises(UsageError, match=r"method.form: got 'released', which mirrors pictures; expected inputs \[H"):
    methods.make("icarl", small_model, spec._replace(shown=jax.ShapeDtypeStruct((5,), jnp.float32)), form="released")


def log_softmax(z):
  return z - np.logaddexp.reduce(z, -1, keepdims=True)


def norms(params):
  return np.linalg.norm(np.asarray(params["head"]["kernel"], np.float64), axis=0)


def test_wa_s_loss_is_the_union_s_cross_entropy_and_distillation(class_stream, small_model):
  """``(1 - lam) CE + lam 4 KL`` over old classes, lam = 2 / 4, each the mean over the union of rows and exemplars."""
  bench = Bench("wa", class_stream, small_model, {"capacity": CAPACITY, "replay_batch": CAPACITY})
  one = bench.train(2, (0,))
  begun = bench.step(bench.boundary("start_task", one, 1), *bench.arguments(1, 1))[0]
  after, _, loss = bench.step(begun, *bench.arguments(1, 0))
  memory, split, rows = one.method_state.memory, class_stream.dataset.train, np.asarray(class_stream.train[1])
  stored = np.asarray(memory.rows["id"])[: int(memory.count)]
  assert len(stored) == CAPACITY
  share, total, slopes = CAPACITY / (CAPACITY + len(rows)), 0.0, []
  for part, (x, y) in ((1 - share, batch_of(bench, 1, 0)), (share, (split.x[stored], split.y[stored]))):
    z, old = forward(begun.params, x)[1], forward(one.params, x)[1]
    q, p = log_softmax(old[:, :2] / 2), log_softmax(z[:, :2] / 2)
    total += part * (
      0.5 * -log_softmax(z)[np.arange(len(y)), y].mean() + 0.5 * 4 * (np.exp(q) * (q - p)).sum(-1).mean()
    )
    d = 0.5 * (np.exp(log_softmax(z)) - np.eye(4)[y])
    d[:, :2] += 0.5 * 2 * (np.exp(p) - np.exp(q))
    slopes.append(backward(begun.params, x, part * d / len(y)))
  np.testing.assert_allclose(float(loss), total, rtol=1e-5)
  want = {p: -RATE * (slopes[0][p] + slopes[1][p]) for p in slopes[0]}
  near(jax.tree.map(lambda a, b: a - b, after.params, begun.params), want)


def test_wa_scales_new_weights_to_the_norm_of_old_ones_once(class_stream, small_model):
  """Means of norms are one, biases and old weights stand, the second time nothing moves; the teacher is the aligned
  model; the first task, and a task that comes back alone, are not aligned."""
  bench = Bench("wa", class_stream, small_model, {"capacity": CAPACITY})
  start = bench.steps(bench.start(), 0, 2)
  one = bench.boundary("end_task", start, 0)
  np.testing.assert_array_equal(one.params["head"]["kernel"], start.params["head"]["kernel"])
  before = bench.steps(bench.boundary("start_task", one, 1), 1, 3, met=(0,))
  two = bench.boundary("end_task", before, 1)
  n = norms(before.params)
  want = (
    np.asarray(before.params["head"]["kernel"], np.float64) * np.r_[1, 1, np.repeat(n[:2].mean() / n[2:].mean(), 2)]
  )
  assert abs(n[:2].mean() / n[2:].mean() - 1) > 1e-3
  np.testing.assert_allclose(two.params["head"]["kernel"], want, rtol=1e-5)
  np.testing.assert_allclose(norms(two.params)[:2].mean(), norms(two.params)[2:].mean(), rtol=1e-5)
  for name in ("head/bias", "hidden_0/kernel", "hidden_0/bias"):
    layer, leaf = name.split("/")
    np.testing.assert_array_equal(two.params[layer][leaf], before.params[layer][leaf])
  for a, b in zip(jax.tree.leaves(two.method_state.teacher.params), jax.tree.leaves(two.params), strict=True):
    np.testing.assert_array_equal(a, b)
  again = bench.boundary("end_task", two, 1)
  np.testing.assert_allclose(again.params["head"]["kernel"], two.params["head"]["kernel"], rtol=1e-6)
  # Features that see no bias: the order of the new classes among themselves stays.
  h = np.abs(np.random.default_rng(0).normal(size=(20, 8)))
  order = [np.argsort(h @ np.asarray(l.params["head"]["kernel"])[:, 2:], axis=-1) for l in (before, two)]
  np.testing.assert_array_equal(*order)
  back = bench.boundary("end_task", start, 0, (0,))
  np.testing.assert_array_equal(back.params["head"]["kernel"], start.params["head"]["kernel"])


def test_wa_needs_one_classifier(class_stream, small_model):
  spec, bare = spec_of(class_stream, 8), small_model._replace(capture=None, units=())
  init = lambda key: ({"w": jnp.ones((3, 3))}, {})
  with pytest.raises(UsageError, match="'wa' needs one classifier of shape"):
    methods.make("wa", bare._replace(init=init), spec)
