"""Exact forgetting by structure: shards and side networks, to the bit."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import records
from bench import BATCH, Bench, assert_near, assert_same

import cljax
from cljax import methods, models, streams, unlearning
from cljax.engine import recipe
from cljax.engine.setup import spec_of

MOMENTUM = recipe.make_optimizer("momentum", learning_rate=0.1, momentum=0.9, weight_decay=0.01)


def test_shards_are_even_and_the_same_for_numpy_and_jax():
  ids = np.arange(4000, dtype=np.int32)
  shard = unlearning.shard_of(ids, 5)
  np.testing.assert_array_equal(shard, unlearning.shard_of(jnp.asarray(ids), 5))
  np.testing.assert_array_equal(shard[7:9], unlearning.shard_of(ids[7:9], 5))
  assert abs(np.bincount(shard, minlength=5) / 4000 - 0.2).max() < 0.02
  with pytest.raises(cljax.UsageError, match="shards: got 0"):
    unlearning.shard_of(ids, 0)


def test_the_predicted_cost_counts_the_touched_shards():
  ids = np.arange(1000)
  shard = unlearning.shard_of(ids, 4)
  gone = np.zeros(1000, bool)
  assert unlearning.sisa_cost(ids, gone, 4) == 0
  gone[[3, 10]] = True
  touched = np.isin(shard, shard[[3, 10]])
  assert unlearning.sisa_cost(ids, gone, 4) == pytest.approx((touched.sum() - 2) / 998)
  gone[:] = np.arange(1000) % 3 == 0
  assert unlearning.sisa_cost(ids, gone, 4) == 1


@pytest.fixture(scope="module")
def sharded(class_stream, small_model):
  bench = Bench("sisa", class_stream, small_model, optimizer=MOMENTUM)

  def train(gone=()):
    learner = bench.start()
    for k in range(5):
      index = np.asarray(bench.rows(0, k)[0])
      learner = bench.step(learner, *bench.arguments(0, k, ~np.isin(index, gone)))[0]
    return learner

  train.bench = bench
  return train


def test_a_shard_without_deleted_rows_keeps_its_bits(sharded):
  bench = sharded.bench
  index = np.unique([np.asarray(bench.rows(0, k)[0]) for k in range(5)])
  of_first = index[unlearning.shard_of(index, 2) == 0][:3]
  whole, without = sharded(), sharded(of_first)
  member = lambda tree, i: jax.tree.map(lambda a: a[i], tree)
  assert_same(member(without.params, 1), member(whole.params, 1))
  differ = [
    np.abs(a[0] - b[0]).max() for a, b in zip(*map(jax.tree.leaves, (without.params, whole.params)), strict=True)
  ]
  assert max(differ) > 1e-4


def test_a_shard_is_a_model_trained_on_its_own_rows(sharded, class_stream, small_model):
  bench, split = sharded.bench, class_stream.dataset.train
  first, after = bench.start().params, sharded().params
  labels = np.asarray(class_stream.labels)[0]

  @jax.jit
  def step(params, state, x, y, weight):
    def loss(p):
      logits = small_model.apply(p, {}, x, train=True, key=jax.random.key(0), task=None, mask=None)[0].logits
      return optax.softmax_cross_entropy_with_integer_labels(logits, y) @ weight / jnp.maximum(weight.sum(), 1)

    updates, state = MOMENTUM.update(jax.grad(loss)(params), state, params, progress=0.0)
    return optax.apply_updates(params, updates), state

  params = jax.tree.map(lambda a: a[1], first)
  state = MOMENTUM.init(params)
  for k in range(5):
    index = np.asarray(bench.rows(0, k)[0])
    own = (unlearning.shard_of(index, 2) == 1).astype(np.float32)
    params, state = step(params, state, split.x[index], labels[split.y[index]], own)
  assert_near(params, jax.tree.map(lambda a: a[1], after), 1e-5)
  x = split.x[:6]
  each = [
    small_model.apply(jax.tree.map(lambda a, i=i: a[i], after), {}, x, train=False, key=None)[0].logits for i in (0, 1)
  ]
  vote = bench.parts.predict(sharded(), x, jnp.int32(0))
  np.testing.assert_allclose(jnp.exp(vote), sum(map(jax.nn.softmax, each)) / 2, atol=1e-6)


def test_sisa_needs_a_model_without_batch_statistics(class_stream):
  model = models.resnet18((4, 4, 1), 4, width=2)
  with pytest.raises(cljax.UsageError, match="sisa needs one without BatchNorm"):
    methods.make("sisa", model, spec_of(class_stream, BATCH))


@pytest.fixture(scope="module")
def private(make_blobs):
  """Three tasks, of which the middle one is temporary; momentum and weight decay would betray it."""
  stream = streams.build(make_blobs(6, 16, 4), "task", tasks=3)
  model = models.mlp((4, 4, 1), 6, hidden=(8,))
  options = {"temporary": (1,), "capacity": 8, "replay_batch": 8}
  return Bench("clpu_derpp", stream, model, options, optimizer=MOMENTUM)


def learn(bench, learner, task, steps=4):
  learner = bench.boundary("start_task", learner, task)
  for k in range(steps):
    learner = bench.step(learner, *bench.arguments(task, k))[0]
  return bench.boundary("end_task", learner, task)


def request(bench, task):
  """The arguments of ``forget`` for the first rows of a task."""
  gone = np.asarray(bench.stream.train[task], np.int32)[:3]
  data, where, forget, retain, *rest = bench.request(gone, np.zeros(0, np.int32))
  at = jnp.where(jnp.arange(len(forget[1])) < forget[2], task, 0)  # what stands behind the rows names no task
  return data, where, (forget[0], at, forget[2]), retain, *rest


@pytest.fixture(scope="module")
def story(private):
  start = learn(private, private.start(), 0)
  learned = learn(private, start, 1, steps=8)
  forgotten, permitted = private.call("forget", learned, *request(private, 1))
  assert permitted
  return start, learned, forgotten


def test_the_main_network_never_saw_a_temporary_task(private, story):
  start, learned, forgotten = story
  with_pair, without = learn(private, forgotten, 2), learn(private, start, 2)
  assert_same(with_pair.params["main"], without.params["main"])
  trace = lambda learner: learner.opt_state.optimizer[1].trace
  assert_same(trace(with_pair)["main"], trace(without)["main"])
  assert_same(with_pair.method_state.memory, without.method_state.memory)
  moved = [
    float(jnp.abs(a - b).max()) for a, b in zip(*map(jax.tree.leaves, (learned.params, start.params)), strict=True)
  ]
  assert max(moved) > 1e-2  # the side network did learn
  assert_same(learned.params["main"], start.params["main"])
  # and replay did act on the main one
  plain = learn(private, start._replace(method_state=private.start().method_state), 2)
  assert (
    max(float(jnp.abs(a - b).max()) for a, b in zip(*map(jax.tree.leaves, (plain.params, without.params)), strict=True))
    > 1e-4
  )


def test_forgetting_leaves_nothing_of_the_task(private, story):
  start, learned, forgotten = story
  later = learn(private, learned, 2)  # weight decay has put the side network into the moments
  side = lambda learner: jax.tree.leaves((learner.params["side"], learner.opt_state.optimizer[1].trace["side"]))
  assert all(np.asarray(a).any() for a in side(later))
  assert not any(np.asarray(a).any() for a in side(private.call("forget", later, *request(private, 1))[0]))
  x = private.data.x[np.asarray(private.stream.train[1])]
  predict = jax.jit(private.parts.predict)
  side, main = predict(learned, x, jnp.int32(1)), predict(forgotten, x, jnp.int32(1))
  y = np.asarray(private.stream.labels)[1][np.asarray(private.data.y)[np.asarray(private.stream.train[1])]]
  mask = np.asarray(private.spec.classes_of_task)[1]
  hits = lambda z: (np.argmax(np.where(mask, z, -np.inf), 1) == y).mean()
  assert hits(side) > 0.9
  np.testing.assert_array_equal(main, predict(start, x, jnp.int32(1)))  # as if it had never been learned
  ids = np.asarray(learned.method_state.memory.rows["id"])[np.asarray(learned.method_state.memory.count) > 0]
  assert not np.isin(ids, np.asarray(private.stream.train[1])).any()


def test_a_request_for_another_task_is_not_permitted(private, story):
  assert not private.call("forget", story[1], *request(private, 0))[1]


def test_a_dropped_task_is_learned_again_in_a_fresh_network(private, story):
  """Zeros would never learn: relu passes no gradient."""
  _, _, forgotten = story
  start = private.boundary("start_task", forgotten, 1, met=(0, 1))
  assert all(np.asarray(a).any() for a in jax.tree.leaves(start.params["side"]) if a.ndim > 2)
  moved = private.step(start, *private.arguments(1, met=(0, 1)))[0]
  assert (
    np.abs(np.asarray(moved.params["side"]["hidden_0"]["kernel"] - start.params["side"]["hidden_0"]["kernel"])).max()
    > 0
  )


@pytest.fixture(scope="module")
def undecided(make_blobs):
  """The middle one of three tasks is temporary, and may become permanent."""
  stream = streams.build(make_blobs(6, 16, 4), "task", tasks=3)
  options = {"temporary": (1,), "permanent": (1,), "capacity": 8, "replay_batch": 8}
  return Bench("clpu_derpp", stream, models.mlp((4, 4, 1), 6, hidden=(8,)), options, optimizer=MOMENTUM)


def test_a_task_that_may_become_permanent_is_forgotten_as_exactly(undecided):
  """Main network, its memories and its optimizer have the same bits with and without; its own memory is zeros."""
  start = learn(undecided, undecided.start(), 0)
  learned = learn(undecided, start, 1)
  assert np.asarray(learned.method_state.own.count).tolist() == [8]
  forgotten, permitted = undecided.call("forget", learned, *request(undecided, 1))
  assert permitted
  assert not any(np.asarray(a).any() for a in jax.tree.leaves((forgotten.params["side"], forgotten.method_state.own)))
  with_pair, without = learn(undecided, forgotten, 2), learn(undecided, start, 2)
  assert_same(with_pair.params["main"], without.params["main"])
  assert_same(with_pair.opt_state.optimizer[1].trace["main"], without.opt_state.optimizer[1].trace["main"])
  assert_same(with_pair.method_state.memory, without.method_state.memory)


def test_a_task_that_became_permanent_is_kept(undecided):
  """The main network knows it afterwards, a request for it is refused; a scrub takes rows out of its own memory too."""
  learned = learn(undecided, learn(undecided, undecided.start(), 0), 1, steps=8)
  rows = np.asarray(learned.method_state.own.rows["id"])[0]
  gone = jnp.zeros(undecided.spec.num_rows, bool).at[rows[:3]].set(True)
  scrubbed = undecided.parts.scrub(learned, gone, jnp.zeros(undecided.spec.num_classes, bool)).method_state.own
  assert np.asarray(scrubbed.count).tolist() == [5]
  again = undecided.boundary("start_task", learned, 1, met=(0, 1))
  for k in range(30):
    again = undecided.step(again, *undecided.arguments(1, k % 4, met=(0, 1)))[0]
  again = undecided.boundary("end_task", again, 1, met=(0, 1))
  assert not undecided.call("forget", again, *request(undecided, 1))[1]
  assert not any(np.asarray(a).any() for a in jax.tree.leaves(again.params["side"]))
  rows = np.asarray(undecided.stream.train[1])
  y, mask = (
    np.asarray(undecided.stream.labels)[1][np.asarray(undecided.data.y)[rows]],
    undecided.spec.classes_of_task[1],
  )
  predict = jax.jit(undecided.parts.predict)
  hits = lambda l: (np.argmax(np.where(mask, predict(l, undecided.data.x[rows], jnp.int32(1)), -np.inf), 1) == y).mean()
  assert hits(again) > 0.9
  # Forgotten first, it is learned from its rows: nothing is left to take it in from.
  forgotten = undecided.call("forget", learned, *request(undecided, 1))[0]
  fresh = undecided.boundary("start_task", forgotten, 1, met=(0, 1))
  assert not fresh.method_state.merging
  moved = undecided.step(fresh, *undecided.arguments(1, met=(0, 1)))[0]
  assert any(
    np.asarray(a != b).any()
    for a, b in zip(*map(jax.tree.leaves, (moved.params["main"], fresh.params["main"])), strict=True)
  )


def test_temporary_tasks_are_checked(private):
  make = lambda temporary: methods.make("clpu_derpp", models.mlp((4, 4, 1), 6), private.spec, temporary=temporary)
  for wrong in ((0,), (1, 1)):
    with pytest.raises(cljax.UsageError, match=r"permanent: got .*; expected different tasks among the temporary ones"):
      methods.make("clpu_derpp", models.mlp((4, 4, 1), 6), private.spec, temporary=(1,), permanent=wrong)
  for wrong in ((3,), (1, 1)):
    with pytest.raises(cljax.UsageError, match=r"temporary: got .*; expected different tasks from 0 to 2"):
      make(wrong)


def test_an_engine_run_forgets_a_temporary_task(make_blobs):
  """Learned, forgotten and learned on: the retained tasks' accuracies are those of a run without the request."""
  dataset, model = make_blobs(4, 16, 4), models.mlp((4, 4, 1), 4, hidden=(8,))
  stream = streams.build(dataset, "task", tasks=2, forget=[(2, cljax.Forget(tasks=(1,)))])
  options = records.arguments("clpu_derpp")
  result = cljax.run(stream, model, "clpu_derpp", options, training=cljax.Recipe(batch_size=BATCH, epochs=3))
  accuracy = result.accuracy[0]
  assert accuracy[2, 1] > 0.9
  assert accuracy[3, 1] < 0.9
  np.testing.assert_array_equal(accuracy[3, 0], accuracy[2, 0])
