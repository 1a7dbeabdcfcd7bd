"""REMIND against NumPy in float64: codes of what a layer that stands gives, and a classifier that learns from them."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bench import Bench, assert_same
from by_hand import RATE, batch_of, cross_entropy, gradient, leaves, log_softmax, near

from cljax import methods, models
from cljax.core.types import Batch, Learner, UsageError, Visit
from cljax.engine import recipe
from cljax.engine.setup import spec_of
from cljax.estimators import quantisers
from cljax.methods import views
from cljax.methods.replay import remind

HYPER = {"capacity": 80, "replay_batch": 80, "mixup": False, "parts": 3, "centroids": 6, "first_task": "train"}


@pytest.fixture(scope="module")
def trained(class_stream, small_model):
  """A bench whose optimizer has decay; after the first task; a step of the second on; and another."""
  optimizer = recipe.make_optimizer("momentum", learning_rate=0.1, momentum=0.0, weight_decay=0.02)
  bench = Bench("remind", class_stream, small_model, HYPER, optimizer=optimizer)
  one = bench.train(3, (0,))
  two, _, loss = bench.step(one, *bench.arguments(1, 0, met=(0,)))
  there = np.r_[np.ones(5), np.zeros(3)].astype(np.int32)
  three, _, last = bench.step(two, *bench.arguments(1, 1, there, met=(0,)))
  return bench, (one, two, three), (float(loss), float(last))


def values(params, x):
  p = leaves(params)
  return np.maximum(np.asarray(x, np.float64).reshape(len(x), -1) @ p["hidden_0/kernel"] + p["hidden_0/bias"], 0)


def codes_of(centres, h):
  parts, _, size = centres.shape
  padded = np.pad(h, ((0, 0), (0, parts * size - h.shape[1]))).reshape(len(h), parts, size)
  return ((padded[:, :, None] - centres[None]) ** 2).sum(-1).argmin(-1)


def shown(centres, codes, width):
  return np.concatenate([centres[s][codes[:, s]] for s in range(len(centres))], 1)[:, :width]


def answers(learner, x):
  """Logits of the values that codes give back, and these."""
  p, centres = leaves(learner.params), np.asarray(learner.model_state.centres, np.float64)
  h = shown(centres, codes_of(centres, values(learner.params, x)), 8)
  return h @ p["head/kernel"] + p["head/bias"], h


def stepped(learner, x, y):
  """The mean cross-entropy, and the head after a step with decay."""
  z, h = answers(learner, x)
  d = np.exp(log_softmax(z))
  d[np.arange(len(y)), y] -= 1
  p, d = leaves(learner.params), d / len(y)
  moved = {n: p[n] - RATE * (g + 0.02 * p[n]) for n, g in (("head/kernel", h.T @ d), ("head/bias", d.sum(0)))}
  return cross_entropy(z, y).mean(), moved


def test_remind_s_step_is_of_reconstructions_of_new_and_stored_rows(trained):
  """The new rows too are learned as their codes give them back, not as they are; G stands, decay or not."""
  bench, (one, two, three), (loss, last) = trained
  split, base = bench.stream.dataset.train, np.asarray(bench.stream.train[0])
  x, y = batch_of(bench, 1, 0)
  x, y = np.concatenate([x, split.x[base]]), np.concatenate([y, split.y[base]])
  want, head = stepped(one, x, y)
  np.testing.assert_allclose(loss, want, rtol=1e-5)
  for name, value in head.items():
    np.testing.assert_allclose(leaves(two.params)[name], value, rtol=1e-4, atol=1e-6)
  raw = values(one.params, x) @ leaves(one.params)["head/kernel"] + leaves(one.params)["head/bias"]
  assert abs(cross_entropy(raw, y).mean() - want) > 1e-3
  x2, y2 = (a[:5] for a in batch_of(bench, 1, 1))
  np.testing.assert_allclose(last, stepped(two, np.concatenate([x2, x]), np.concatenate([y2, y]))[0], rtol=1e-5)
  for learner in (two, three):
    assert_same(learner.params["hidden_0"], one.params["hidden_0"])
    assert_same(learner.model_state.centres, one.model_state.centres)


def test_remind_stores_codes_and_forgets_rows(trained):
  """A byte for each part; of the first task's rows when it ends, of others once each; scrubbed to the last byte."""
  bench, (one, _two, three), _ = trained
  split, base = bench.stream.dataset.train, np.asarray(bench.stream.train[0])
  new = np.asarray(bench.rows(1, 0)[0])
  centres = np.asarray(one.model_state.centres, np.float64)
  state = three.method_state
  assert int(one.method_state.memory.count) == len(base)
  assert int(state.memory.count) == len(base) + 8
  rows = jax.tree.map(np.asarray, state.memory.rows)
  assert rows["x"].dtype == np.uint8
  assert rows["x"].nbytes == 80 * 3
  stored = len(base) + 8
  at = rows["id"][:stored]
  np.testing.assert_array_equal(np.sort(at), np.sort(np.r_[base, new]))
  np.testing.assert_array_equal(rows["x"][:stored], codes_of(centres, values(one.params, split.x[at])))
  np.testing.assert_array_equal(rows["y"][:stored], split.y[at])
  np.testing.assert_array_equal(rows["task"][:stored], np.isin(at, new))
  pending, weight = state.pending, np.asarray(state.weight)
  np.testing.assert_array_equal(weight, [1] * 5 + [0] * 3)
  np.testing.assert_array_equal(pending["id"][:5], np.asarray(bench.rows(1, 1)[0])[:5])
  again = bench.step(three, *bench.arguments(1, 0, np.full(8, 2, np.int32), met=(0,)))[0]
  assert not np.asarray(again.method_state.weight).any()
  gone = np.isin(np.arange(bench.spec.num_rows), np.r_[base[::2], np.asarray(pending["id"])[1]])
  left = jax.jit(bench.parts.scrub)(three, jnp.asarray(gone), jnp.zeros(4, bool)).method_state
  kept = int(left.memory.count)
  assert kept == stored - len(base[::2])
  assert not gone[np.asarray(left.memory.rows["id"])[:kept]].any()
  assert not any(np.asarray(a)[kept:].any() for a in jax.tree.leaves(left.memory.rows))
  np.testing.assert_array_equal(left.weight, [1, 0, 1, 1, 1, 0, 0, 0])
  assert not np.asarray(left.pending["x"])[1].any()


def test_remind_answers_by_what_codes_give_back(trained):
  """At test too; before the first end plainly, and learns as any network."""
  bench, (one, _, three), _ = trained
  x = bench.stream.dataset.test.x
  predict = jax.jit(lambda l: bench.parts.predict(l, jnp.asarray(x), jnp.int32(0)))
  np.testing.assert_allclose(predict(three), answers(three, x)[0], rtol=1e-4, atol=1e-5)
  start = bench.start()
  p = leaves(start.params)
  np.testing.assert_allclose(
    predict(start), values(start.params, x) @ p["head/kernel"] + p["head/bias"], rtol=1e-4, atol=1e-5
  )
  assert np.abs(np.asarray(one.params["hidden_0"]["kernel"]) - p["hidden_0/kernel"]).max() > 1e-3
  assert not bool(start.model_state.fitted)
  first = bench.step(start, *bench.arguments(0, 0))[0]
  grads = gradient(start.params, *batch_of(bench, 0, 0))
  near(first.params, {n: p[n] - RATE * (g + 0.02 * p[n]) for n, g in grads.items()})
  assert not np.asarray(first.method_state.weight).any()
  assert float(bench.step(start, *bench.arguments(0, 0, np.zeros(8, np.int32)))[2]) == 0  # of no rows
  assert bool(one.model_state.fitted)


def test_a_full_memory_takes_from_the_largest_class(class_stream, small_model):
  """As long as it is full no largest class grows; the first task's rows fill it, and more than it holds do not."""
  bench = Bench("remind", class_stream, small_model, {**HYPER, "capacity": 10, "replay_batch": 3})
  learner = bench.train(1, (0,))

  def counts(learner):
    memory = learner.method_state.memory
    return np.bincount(np.asarray(memory.rows["y"])[: int(memory.count)], minlength=4)

  seen = [counts(learner)]
  np.testing.assert_array_equal(seen[0], [5, 5, 0, 0])
  for k in range(4):
    learner = bench.step(learner, *bench.arguments(1, k, met=(0,)))[0]
    seen.append(counts(learner))
  for before, after in itertools.pairwise(seen):
    assert after.sum() == 10
    largest = before == before.max()
    assert (after[largest] <= before[largest]).all() or before.max() <= 3
  np.testing.assert_array_equal(np.sort(seen[-1]), [2, 2, 3, 3])


def test_pairs_are_mixed_with_one_share(monkeypatch):
  """Each pair's logits are of the mixed values, its loss of both labels under each row's own mask; without a second row
  of the first alone; absent pairs have no part."""
  rng = np.random.default_rng(0)
  centres, kernel = rng.normal(size=(2, 5, 3)), rng.normal(size=(6, 4))
  monkeypatch.setattr(jax.random, "beta", lambda key, a, b: jnp.float32(0.3) * a / b)

  def rows(weight, mask=None):
    n = len(weight)
    return Batch(
      jnp.asarray(rng.integers(0, 5, (n, 2)), jnp.uint8), jnp.asarray(rng.integers(0, 2, n), jnp.int32),
      jnp.asarray(weight, jnp.float32), jnp.arange(n), jnp.zeros(n, jnp.int32), mask,
    )  # fmt: skip

  half = np.array([[True, True, False, True]] * 5)
  a, b = rows([1, 1, 1, 1, 0], jnp.asarray(half)), rows([1, 1, 0, 1, 0], jnp.ones((5, 4), bool))
  b = b._replace(class_mask=b.class_mask.at[2, b.y[2]].set(False))  # as of a slot that holds no row
  upper = lambda value, rows: value @ jnp.asarray(kernel, jnp.float32)
  given = jnp.asarray(centres, jnp.float32)
  total, count = remind.mixed_loss(upper, jax.random.key(0), a, b, given, 6, 0.5, 0.4)
  va, vb = (shown(centres, np.asarray(r.x).astype(int), 6) for r in (a, b))
  want = 0.0
  for i in range(4):
    m = 0.3 if i != 2 else 1.0
    z = (m * va[i] + (1 - m) * vb[i]) @ kernel
    masked = np.where(half[i], z, -np.inf)
    first = np.logaddexp.reduce(masked) - z[int(a.y[i])]
    want += m * first + (1 - m) * (np.logaddexp.reduce(z) - z[int(b.y[i])])
  np.testing.assert_allclose(total, want, rtol=1e-5)
  assert float(count) == 4
  alone, count = remind.mixed_loss(upper, jax.random.key(0), a, b, given, 6, None, 0.4)
  z = np.where(half[:4], va[:4] @ kernel, -np.inf)
  np.testing.assert_allclose(alone, (np.logaddexp.reduce(z, 1) - z[np.arange(4), np.asarray(a.y)[:4]]).sum(), rtol=1e-5)
  assert float(count) == 4


def test_pairs_are_of_distinct_rows(class_stream, small_model):
  """Twice as many rows as pairs are drawn, none twice; of a small memory at most half as many pairs as it holds; what
  is there of both counts in the step's mean."""
  spec = spec_of(class_stream, 8)
  for capacity, asked, pairs, there in ((80, 5, 5, 5), (80, 9, 9, 8), (7, 7, 3, 3), (1, 1, 1, 1)):
    method = methods.make("remind", small_model, spec, capacity=capacity, replay_batch=asked, centroids=4)
    state = method.init(None, None)
    np.testing.assert_array_equal(state.pending["id"], -1)
    pending = {**state.pending, "id": jnp.arange(8), "y": jnp.arange(8) % 4, "x": state.pending["x"] + 1}
    learner = Learner(None, None, None, None, None, state._replace(pending=pending, weight=jnp.ones(8)))
    batch = Batch(jnp.zeros((8, 4, 4, 1)), jnp.zeros(8, jnp.int32), jnp.ones(8), *(jnp.ones(8, jnp.int32),) * 2)
    batch = batch._replace(visit=Visit.in_order(1, 2), weight=jnp.ones(8).at[7].set(0))
    ready = jax.jit(method.prepare)(jax.random.key(0), learner, batch)[1]
    a, b = ready.extra["codes"]
    assert a.weight.shape == b.weight.shape == (pairs,)
    assert float(a.weight.sum()) == there
    ids = np.r_[np.asarray(a.id)[np.asarray(a.weight) > 0], np.asarray(b.id)[np.asarray(b.weight) > 0]]
    assert capacity == 1 or len(np.unique(ids)) == len(ids) == min(2 * pairs, capacity, 8)
    np.testing.assert_allclose(ready.scale, 7 / (7 + there), rtol=1e-6)


def test_maps_are_coded_place_by_place_and_cut(class_stream, monkeypatch):
  """Of a convolution's maps each place has its codes; stored maps are cut to an area, each by itself."""
  seen = []

  def halved(key, x, least):
    seen.append((x.shape, least))
    return 0.5 * x + jax.random.uniform(key)

  monkeypatch.setattr(views, "cut_out", halved)
  spec, model = spec_of(class_stream, 8), models.cnn((4, 4, 1), 4, widths=(3, 4))
  method = methods.make("remind", model, spec, capacity=12, parts=2, centroids=4)
  params, state = jax.eval_shape(method.model.init, jax.random.key(0))
  assert state.centres.shape == (2, 4, 2)
  told = {"train": True, "key": jax.random.key(0), "task": None, "mask": jnp.ones(8)}
  x = jnp.zeros((8, 4, 4, 1))
  out = jax.eval_shape(lambda p, s: method.model.apply(p, s, x, **told)[0], params, state)
  assert (out.hidden[0].shape, out.hidden[0].dtype) == ((8, 4, 4, 2), jnp.uint8)
  codes = jnp.asarray(np.random.default_rng(0).integers(0, 4, (3, 4, 4, 2)), jnp.uint8)
  rows = Batch(codes, jnp.zeros(3, jnp.int32), jnp.ones(3), jnp.arange(3), jnp.zeros(3, jnp.int32))
  centres = jnp.asarray(np.random.default_rng(1).normal(size=(2, 4, 2)), jnp.float32)
  given = []
  upper = lambda value, rows: given.append(value) or value.mean((1, 2))
  remind.mixed_loss(upper, jax.random.key(0), rows, rows, centres, 3, None, 0.4)
  assert seen == [((4, 4, 3), 0.4)]
  moved = np.asarray(given[0]) - 0.5 * np.asarray(quantisers.decoded(centres, codes, 3))
  np.testing.assert_allclose(moved, np.broadcast_to(moved[:, :1, :1, :1], moved.shape), atol=1e-6)
  assert len(np.unique(moved[:, 0, 0, 0].round(4))) == 3


def test_remind_on_lower_layers_that_never_moved(class_stream, small_model):
  """With first_task='frozen' the classifier alone learns in the first task, on what G gives, not on codes yet; a
  task without rows makes no centres, and the next does."""
  bench = Bench("remind", class_stream, small_model, {**HYPER, "first_task": "frozen"})
  start = bench.start()
  one, _, loss = bench.step(start, *bench.arguments(0, 0))
  assert_same(one.params["hidden_0"], start.params["hidden_0"])
  assert np.abs(np.asarray(one.params["head"]["kernel"] - start.params["head"]["kernel"])).max() > 1e-4
  x, y = batch_of(bench, 0, 0)
  p = leaves(start.params)
  z = values(start.params, x) @ p["head/kernel"] + p["head/bias"]
  np.testing.assert_allclose(float(loss), cross_entropy(z, y).mean(), rtol=1e-5)
  none = (jnp.zeros(bench.spec.task_rows, jnp.int32),) * 2
  nothing = bench.call("end_task", one, jnp.asarray(True), bench.data, bench.where(0), *none, jnp.int32(0))
  assert not bool(nothing.model_state.fitted)
  assert int(nothing.method_state.memory.count) == 0
  ended = bench.boundary("end_task", nothing, 0)
  assert bool(ended.model_state.fitted)
  again = bench.boundary("end_task", ended, 1, met=(0,))
  assert_same(again.model_state, ended.model_state)
  assert_same(again.method_state, ended.method_state)


def test_what_remind_refuses(class_stream, small_model):
  spec = spec_of(class_stream, 8)
  with pytest.raises(UsageError, match=r"method.centroids: got 257; expected an integer of at most 256"):
    methods.make("remind", small_model, spec, centroids=257)
  with pytest.raises(UsageError, match=r"method.layer: got 'x'; allowed: 'auto', hidden_0, head"):
    methods.make("remind", small_model, spec, layer="x")
  with pytest.raises(UsageError, match=r"method.strength: got 0.5, which 'remind' does not read with mixup=False"):
    methods.make("remind", small_model, spec, strength=0.5, mixup=False)
