"""Retraining, shards, side networks, class statistics and units: whole runs, steps and answers in float64 NumPy."""

from __future__ import annotations

import types as python

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bench import Bench
from by_hand import RATE, backward, batch_of, forward, gradient, leaves, log_softmax

import cljax
from cljax import methods, models, streams, unlearning
from cljax.core import types

KEY = jax.random.key(3)


def near(params, want, atol=2e-6, rtol=2e-4):
  got = leaves(params)
  assert set(got) == set(want)
  for name, value in want.items():
    np.testing.assert_allclose(got[name], value, rtol, atol, err_msg=name)


def test_retraining_is_descent_on_the_rows_that_are_left(make_blobs):
  """Whole tasks as batches, a known start: two tasks of two epochs without the class that is gone."""
  dataset, model = make_blobs(4, 6, 4), models.mlp((4, 4, 1), 4, hidden=(3,))
  start = model.init(KEY)
  known = model._replace(init=lambda key: start)
  stream = streams.build(dataset, "class", tasks=2, validation=0.0, forget=[(2, cljax.Forget(classes=(1,)))])
  given = {"optimizer": "sgd", "optimizer_options": {"learning_rate": 0.3}}
  training = cljax.Recipe(batch_size=12, epochs=2)
  after = cljax.run(stream, known, "finetune", forget="retrain", training=training, **given).learner.params
  p, split = leaves(start[0]), dataset.train
  for task in (0, 1):
    kept = [r for r in stream.train[task] if split.y[r] != 1]
    assert len(kept) == (6, 12)[task]
    for _ in range(2):
      g = gradient(p, split.x[kept], split.y[kept])
      p = {n: v - 0.3 * g[n] for n, v in p.items()}
  near(jax.tree.map(lambda a: a[0], after), p, 1e-5)


def test_shards_take_their_own_steps(class_stream, small_model):
  """Each shard's step is along the mean over its own rows of the batch; the vote is the mean of softmaxes."""
  bench = Bench("sisa", class_stream, small_model, {"shards": 3})
  learner = bench.start()
  p = [leaves(jax.tree.map(lambda a, i=i: a[i], learner.params)) for i in range(3)]
  assert all(np.abs(p[0][n] - p[1][n]).max() > 0.01 for n in ("hidden_0/kernel", "head/kernel"))
  alone = 0
  for k in range(3):
    x, y = batch_of(bench, 0, k)
    weight = np.r_[np.ones(7, np.int32), 0]  # the last row is absent
    shard = np.asarray(unlearning.shard_of(np.asarray(bench.rows(0, k)[0]), 3))
    for i in range(3):
      own = (shard == i) & (weight > 0)
      if own.any():
        g = gradient(p[i], x[own], y[own])
        p[i] = {n: v - RATE * g[n] for n, v in p[i].items()}
      alone += not own.any()
    want = -np.log(np.mean([np.exp(log_softmax(forward(v, x)[1])) for v in p], 0))
    learner = bench.step(learner, *bench.arguments(0, k, weight))[0]
    for i in range(3):
      near(jax.tree.map(lambda a, i=i: a[i], learner.params), p[i])
    got = jax.jit(bench.parts.predict)(learner, jnp.asarray(x), jnp.int32(0))
    np.testing.assert_allclose(-np.asarray(got), want, rtol=1e-4, atol=1e-5)


def test_clpu_replays_each_task_s_own_reservoir(make_blobs, small_model):
  """``CE + mean over earlier tasks of [alpha MSE over their classes + beta CE]``, all rows replayed; then dropped."""
  alpha, beta = 0.6, 0.3
  stream = streams.build(make_blobs(), "task", tasks=2)
  hyper = {"alpha": alpha, "beta": beta, "temporary": (), "capacity": 16, "replay_batch": 16}
  bench = Bench("clpu_derpp", stream, small_model, hyper)
  learner = bench.boundary("start_task", bench.start(), 0)
  p, stored = leaves(learner.params["main"]), []
  masks = np.asarray(stream.classes_of_task)

  def slope(p, x, y, own):
    """Of the mean cross-entropy over a task's own classes, in the logits."""
    z = np.where(own, forward(p, x)[1], -np.inf)
    d = np.exp(log_softmax(z))
    d[np.arange(len(y)), y] -= 1
    return d / len(y)

  labelled = lambda task, k: (batch_of(bench, task, k)[0], np.asarray(stream.labels)[task][batch_of(bench, task, k)[1]])
  for k in range(2):
    x, y = labelled(0, k)
    stored.append((x, y, forward(p, x)[1]))
    g = backward(p, x, slope(p, x, y, masks[0]))
    p = {n: v - RATE * g[n] for n, v in p.items()}
    learner = bench.step(learner, *bench.arguments(0, k))[0]
    near(learner.params["main"], p)
  learner = bench.boundary("start_task", bench.boundary("end_task", learner, 0), 1)
  old_x, old_y, old_z = (np.concatenate(v) for v in zip(*stored, strict=True))
  for k in range(2):
    x, y = labelled(1, k)
    g = backward(p, x, slope(p, x, y, masks[1]))
    off = np.where(masks[0], forward(p, old_x)[1] - old_z, 0) * 2 / masks[0].sum() / len(old_x)
    more = backward(p, old_x, alpha * off + beta * slope(p, old_x, old_y, masks[0]))
    p = {n: v - RATE * (g[n] + more[n]) for n, v in p.items()}
    learner = bench.step(learner, *bench.arguments(1, k))[0]
    near(learner.params["main"], p, 1e-5)
  memory = learner.method_state.memory
  np.testing.assert_array_equal(memory.count, [16, 16])
  ids = np.asarray(memory.rows["id"])
  assert set(ids[0]) <= set(np.asarray(stream.train[0]))
  gone = jnp.zeros(bench.spec.num_rows, bool).at[ids[0][:5]].set(True)
  scrubbed = bench.parts.scrub(learner, gone, jnp.zeros(bench.spec.num_classes, bool)).method_state.memory
  left = np.asarray(scrubbed.rows["id"])[np.asarray(scrubbed.count)[:, None] > np.arange(16)]
  assert sorted(left) == sorted([*ids[0][5:], *ids[1]])


def test_clpu_takes_a_temporary_task_in_from_its_memory_alone(make_blobs, small_model):
  """Two steps in a side network, then ``alpha MSE + beta CE`` of what it answered for its rows, beside the replay of
  the task before: on the main network, whatever the rows of the event are."""
  alpha, beta = 0.6, 0.3
  stream = streams.build(make_blobs(), "task", tasks=2)
  hyper = {"alpha": alpha, "beta": beta, "temporary": (1,), "permanent": (1,), "capacity": 16, "replay_batch": 16}
  bench = Bench("clpu_derpp", stream, small_model, hyper)
  learner = bench.boundary("start_task", bench.start(), 0)
  main, masks, stored = leaves(learner.params["main"]), np.asarray(stream.classes_of_task), ([], [])
  labelled = lambda task, k: (batch_of(bench, task, k)[0], np.asarray(stream.labels)[task][batch_of(bench, task, k)[1]])

  def slope(p, x, y, own):
    z = np.where(own, forward(p, x)[1], -np.inf)
    return (np.exp(log_softmax(z)) - np.eye(4)[y]) / len(y)

  for task in (0, 1):
    learner = learner if not task else bench.boundary("start_task", learner, 1)
    p = main if not task else leaves(jax.tree.map(lambda a: a[0], learner.params["side"]))
    for k in range(2):
      x, y = labelled(task, k)
      stored[task].append((x, y, forward(p, x)[1]))
      g = backward(p, x, slope(p, x, y, masks[task]))
      p = {n: v - RATE * g[n] for n, v in p.items()}
      learner = bench.step(learner, *bench.arguments(task, k))[0]
    main = main if task else p
    learner = bench.boundary("end_task", learner, task)
  near(learner.params["main"], main)
  np.testing.assert_array_equal(learner.method_state.memory.count, [16, 0])
  learner = bench.boundary("start_task", learner, 1, met=(0, 1))
  assert not any(np.asarray(a).any() for a in jax.tree.leaves((learner.params["side"], learner.method_state.own.rows)))
  np.testing.assert_array_equal(learner.method_state.memory.count, [16, 16])
  rows = [[np.concatenate(v) for v in zip(*of, strict=True)] for of in stored]
  for k in range(2):
    g = {n: 0 for n in main}
    for task, (x, y, z) in enumerate(rows):
      off = np.where(masks[task], forward(main, x)[1] - z, 0) * 2 / masks[task].sum() / len(x)
      more = backward(main, x, alpha * off + beta * slope(main, x, y, masks[task]))
      g = {n: v + more[n] for n, v in g.items()}
    main = {n: v - RATE * g[n] for n, v in main.items()}
    learner = bench.step(learner, *bench.arguments(1, k, met=(0, 1)))[0]
    near(learner.params["main"], main, 1e-5)
  learner = bench.boundary("end_task", learner, 1, met=(0, 1))
  x = labelled(1, 0)[0]
  np.testing.assert_allclose(
    jax.jit(bench.parts.predict)(learner, jnp.asarray(x), jnp.int32(1)), forward(main, x)[1], rtol=1e-4, atol=1e-4
  )
  # Met a third time it is a task as any other: its new rows are learned, and the memory counts them.
  later = bench.boundary("start_task", learner, 1, met=(0, 1))
  assert not later.method_state.merging
  np.testing.assert_array_equal(
    bench.step(later, *bench.arguments(1, 2, met=(0, 1)))[0].method_state.memory.seen[1], 24
  )


PAPER = {"contrast": 0.0, "search": 0}


@pytest.mark.parametrize("kernels", ["", "hidden_0/kernel"])
def test_units_of_highest_fidelity_are_cut_off_their_reader(class_stream, small_model, kernels):
  """``<Y, A_i>^2 / (E|A_i|^2 E|Y|^2)`` of each input's part of a layer, over the forget rows; the head by default."""
  bench = Bench("modhifi_u", class_stream, small_model, {"share": 0.25, "batch": 5, "kernels": kernels, **PAPER})
  before = bench.train(3, (0,))
  after, (gone, _) = bench.forget_class(before)
  p, name = leaves(before.params), kernels or "head/kernel"
  x = class_stream.dataset.train.x[gone]
  inputs = x.reshape(len(x), -1).astype(np.float64) if kernels else forward(p, x)[0]
  parts = inputs[:, :, None] * p[name][None]
  y = parts.sum(1)
  score = np.einsum("nc,nuc->u", y, parts) ** 2 / np.maximum((parts**2).sum((0, 2)) * (y**2).sum(), 1e-30)
  p[name][np.argsort(-score)[: len(score) // 4]] = 0
  near(after.params, p, 0, 0)


def streaming(model, **options):
  spec = python.SimpleNamespace(num_classes=4, input_shape=(4, 4, 1), input_dtype=jnp.float32)
  return methods.make("streaming", model, spec, batch=2, **options)


def test_streaming_forgets_by_the_statistics_of_what_was_learned(small_model):
  """Classes of one row each: what is left of the past is one point in feature space, replayed to the head."""
  steps, stay = 3, 0.7
  method = streaming(small_model, learning_rate=RATE, stay_weight=stay, steps=steps, part="all")
  draw = np.random.default_rng(5)
  x, y = draw.normal(size=(2, 4, 4, 1)).astype(np.float32), np.array([1, 2])
  both = types.rows_from_arrays(x, y, ids=jnp.arange(2))
  first = types.rows_from_arrays(x[:1], y[:1], ids=jnp.arange(1))
  params, state = small_model.init(KEY)
  learner = types.Learner(jnp.int32(0), KEY, params, state, (), ())

  @jax.jit
  def program(learner):
    learner = learner._replace(method_state=method.init(KEY, learner))
    visit = types.Visit.in_order(0, 2)
    learned = method.end_task(KEY, learner, types.Task(visit, both))
    again = method.end_task(KEY, learned, types.Task(visit._replace(met=jnp.array([True, True])), both))
    request = types.Request(first, None, None, None)
    tools = types.Tools(lambda learner: learner._replace(opt_state=jnp.ones(())))
    return learned.method_state, again.method_state, method.forget(KEY, learned, request, tools)

  learned, again, after = program(learner)
  p = leaves(params)
  h = forward(p, x)[0]
  np.testing.assert_array_equal(learned.count, [0, 1, 1, 0])
  np.testing.assert_allclose(learned.total[1:3], h, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(learned.outer[1:3], h[:, :, None] * h[:, None], rtol=1e-4, atol=1e-6)
  for a, b in zip(learned, again, strict=True):  # a task that comes back is counted once
    np.testing.assert_array_equal(a, b)
  assert after.opt_state == 1
  left = after.method_state
  np.testing.assert_array_equal(left.count, [0, 0, 1, 0])
  np.testing.assert_allclose(left.total, np.eye(4)[:, 2:3] * h[1], rtol=1e-5, atol=1e-6)
  at, old = h[1:], log_softmax(h[1:] @ p["head/kernel"] + p["head/bias"])
  for _ in range(steps):
    g = {n: -0.5 * v for n, v in gradient(p, x[:1], y[:1]).items()}  # half of the rows go
    now = np.exp(log_softmax(at @ p["head/kernel"] + p["head/bias"]))
    d = now - np.eye(4)[2] + stay * (now - np.exp(old))
    g["head/kernel"], g["head/bias"] = g["head/kernel"] + at.T @ d, g["head/bias"] + d[0]
    p = {n: v - RATE * g[n] for n, v in p.items()}
  near(after.params, p, 2e-4, 1e-3)  # a covariance of rounding errors has a root of a thousandth
