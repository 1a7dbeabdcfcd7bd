"""DVC against NumPy in float64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bench import Bench, assert_near, assert_same
from by_hand import RATE, batch_of, cross_entropy, forward, gradient, leaves, log_softmax, near
from normed import normed
from proxies_by_hand import doubled

from cljax import methods, models
from cljax.core.types import UsageError
from cljax.engine.setup import spec_of
from cljax.methods import views
from cljax.methods.replay import dvc

WEIGHTS = {"entropy": 0.7, "consistency": 1.5, "beta": 0.6}
HYPER = {"capacity": 40, "replay_batch": 3, "candidates": 16, "virtual_rate": 0.3, **WEIGHTS}


def entropies(p):
  m = p.mean(1)
  return -(m * np.log(m)).sum(-1)


def loss_of(params, x, y, own=None):
  """``L`` of rows and their doubled views; ``own [C]`` bool: the classes that compete."""
  x = np.asarray(x, np.float64)
  z, other = (forward(params["network"], a)[1] for a in (x, doubled(None, x)))
  p = leaves(params["both"])
  h = np.maximum(np.concatenate([z, other], 1) @ p["layer_0/kernel"] + p["layer_0/bias"], 0)
  every = [z, other, h @ p["layer_1/kernel"] + p["layer_1/bias"]]
  if own is not None:
    every = [np.where(own, a, -np.inf) for a in every]
  q = np.stack([np.exp(log_softmax(a)) for a in every])
  ce = (cross_entropy(every[0], y) + cross_entropy(every[1], y)).mean() / 2
  gap = (np.abs(q[2] - q[0]) + np.abs(q[2] - q[1])).mean() / 2
  some = q if own is None else q[..., own]
  return ce - WEIGHTS["entropy"] * entropies(some).mean() + WEIGHTS["consistency"] * gap


def sizes(params, x, y):
  """The L1 norm of each row's gradient in the head's kernel, made out in full."""
  f, z = forward(params, x)
  error = np.exp(log_softmax(z)) - np.eye(z.shape[1])[y]
  return np.abs(f[:, :, None] * error[:, None]).sum((1, 2))


def differences(params, loss):
  """The gradient of ``loss(params)`` in the network's leaves, entry by entry."""
  wide = jax.tree.map(lambda a: np.asarray(a, np.float64), params)
  found = jax.tree.map(np.zeros_like, wide["network"])
  for a, g in zip(jax.tree.leaves(wide["network"]), jax.tree.leaves(found), strict=True):
    for i in np.ndindex(a.shape):
      kept = a[i]
      ends = []
      for t in (1e-6, -1e-6):
        a[i] = kept + t
        ends.append(loss(wide))
      a[i], g[i] = kept, (ends[0] - ends[1]) / 2e-6
  return found


@pytest.fixture(scope="module")
def trained(class_stream, small_model):
  """A bench of doubled second views; a learner that stores both batches of the first task; a step of the second."""
  patch = pytest.MonkeyPatch()
  patch.setattr(views, "second_view", doubled)
  bench = Bench("dvc", class_stream, small_model, HYPER)
  one = bench.steps(bench.start(), 0, 2)
  after, _, loss = bench.step(one, *bench.arguments(1, 0))
  patch.undo()
  return bench, one, after, float(loss)


@pytest.fixture(scope="module")
def picked(trained):
  """The stored rows that are replayed: of all 16 the three whose gradients grow most behind the virtual step."""
  bench, one, *_ = trained
  split = bench.stream.dataset.train
  rows = np.concatenate([bench.rows(0, k)[0] for k in (0, 1)])
  slope = differences(one.params, lambda p: loss_of(p, *batch_of(bench, 1, 0)))
  moved = jax.tree.map(lambda p, g: np.asarray(p, np.float64) - 0.3 * g, one.params["network"], slope)
  growth = sizes(moved, split.x[rows], split.y[rows]) - sizes(one.params["network"], split.x[rows], split.y[rows])
  order = np.argsort(-growth)
  assert growth[order[2]] - growth[order[3]] > 1e-5
  return rows[order[:3]]


def test_dvc_replays_the_rows_whose_gradients_grow_most(trained, picked):
  """``L(new) + beta L(picked)``, each with entropies of its own rows."""
  bench, one, _, loss = trained
  split = bench.stream.dataset.train
  want = loss_of(one.params, *batch_of(bench, 1, 0)) + 0.6 * loss_of(one.params, split.x[picked], split.y[picked])
  np.testing.assert_allclose(loss, want, rtol=1e-5)


def test_dvc_s_gradient_by_differences(trained, picked):
  """At theta, not behind the virtual step; the network that reads both views learns too."""
  bench, one, after, _ = trained
  split, now = bench.stream.dataset.train, jax.tree.map(lambda a: np.asarray(a, np.float64), one.params)
  step = jax.tree.map(lambda a, b: (np.asarray(a, np.float64) - b) / -RATE, after.params, now)
  rng = np.random.default_rng(0)
  total = lambda p: loss_of(p, *batch_of(bench, 1, 0)) + 0.6 * loss_of(p, split.x[picked], split.y[picked])
  for _ in range(3):
    way = jax.tree.map(lambda a: rng.normal(size=a.shape), now)
    at = lambda t, way=way: total(jax.tree.map(lambda p, d: p + t * d, now, way))
    slope = (at(1e-6) - at(-1e-6)) / 2e-6
    got = sum((a * b).sum() for a, b in zip(jax.tree.leaves(step), jax.tree.leaves(way), strict=True))
    np.testing.assert_allclose(got, slope, rtol=2e-3, atol=1e-4)
  assert np.abs(step["both"]["layer_0"]["kernel"]).max() > 1e-4


def test_where_tasks_have_softmaxes_of_their_own_views_agree_within_them(task_stream, small_model):
  """Outputs of other tasks take no part, nor in the means; the first step has its own rows alone."""
  patch = pytest.MonkeyPatch()
  patch.setattr(views, "second_view", doubled)
  bench = Bench("dvc", task_stream, small_model, HYPER)
  start = bench.start()
  loss = bench.step(start, *bench.arguments(0, 0))[2]
  patch.undo()
  x, y = batch_of(bench, 0, 0)
  own = np.asarray(task_stream.classes_of_task[0])
  z = [np.where(own, forward(start.params["network"], a)[1], -np.inf) for a in (x, doubled(None, x))]
  assert np.isfinite(cross_entropy(z[0], y)).all()
  all_of = loss_of(start.params, x, y, own)
  # mean_c is over all C outputs, of which those of other tasks agree at 0
  np.testing.assert_allclose(float(loss), all_of, rtol=1e-5)


def test_one_view_that_says_all_classes_alike_is_the_least(trained):
  """Bounds of :func:`agreement`: -log C and 0 there; entropy 0 where one class is always said; 0 without rows."""
  even = jnp.broadcast_to(jnp.eye(4)[jnp.arange(8) % 4], (3, 8, 4))
  one = jnp.broadcast_to(jnp.eye(4)[jnp.zeros(8, jnp.int32)], (3, 8, 4))
  ones = jnp.ones(8)
  np.testing.assert_allclose(dvc.agreement(even, ones), (-np.log(4), 0), atol=1e-6)
  np.testing.assert_allclose(dvc.agreement(one, ones), (0, 0), atol=1e-6)
  np.testing.assert_array_equal(dvc.agreement(even, jnp.zeros(8)), (0, 0))
  rng = np.random.default_rng(0)
  p = rng.dirichlet(np.ones(4), size=(3, 8))
  weight = np.array([1, 1, 0, 1, 1, 0, 1, 1.0])
  given = np.where(weight[:, None] > 0, p, np.nan)
  got = dvc.agreement(jnp.asarray(given, jnp.float32), jnp.asarray(weight, jnp.float32))
  kept = p[:, weight > 0]
  gap = (np.abs(kept[2] - kept[0]) + np.abs(kept[2] - kept[1])).mean() / 2
  np.testing.assert_allclose(got, (-entropies(kept).mean(), gap), rtol=1e-5)
  slope = jax.grad(lambda p: sum(dvc.agreement(p, jnp.asarray(weight, jnp.float32))))(jnp.asarray(given, jnp.float32))
  assert np.isfinite(np.asarray(slope)).all()
  assert not np.asarray(slope)[:, weight == 0].any()


def test_a_row_s_size_is_the_norm_of_its_gradient(trained):
  bench, one, *_ = trained
  x, y = batch_of(bench, 1, 0)
  f, z = forward(one.params["network"], x)
  given = (jnp.asarray(z, jnp.float32), jnp.asarray(f, jnp.float32), jnp.asarray(y))
  np.testing.assert_allclose(dvc.gradient_size(*given), sizes(one.params["network"], x, y), rtol=1e-5)
  own = np.arange(4) > 1
  error = np.exp(log_softmax(np.where(own, z, -np.inf))) - np.eye(4)[y]
  want = np.abs(f[:, :, None] * error[:, None]).sum((1, 2))
  np.testing.assert_allclose(dvc.gradient_size(*given, jnp.asarray(own)[None].repeat(8, 0)), want, rtol=1e-5)


def test_without_views_dvc_is_retrieval_for_replay(class_stream, small_model):
  """The loss is of rows alone, the model is the one given; rows drawn uniformly and all of them, that is replay whose
  means are added. ``prepare`` leaves parameters, state and moments to the bit."""
  whole = {"capacity": 40, "replay_batch": 40, "beta": 1.0}
  of = lambda name, hyper: Bench(name, class_stream, small_model, hyper)
  bare = {**whole, "views": False}
  uniform, all_of = of("dvc", {**bare, "retrieval": "uniform", "candidates": 50}), of("dvc", {**bare, "candidates": 40})
  added = of("er_ace", {"capacity": 40, "replay_batch": 40, "mask": "none"}).train(2)
  assert_near(uniform.train(2).params, added.params)
  assert_near(all_of.train(2).params, added.params)
  few = of("dvc", {**HYPER, "entropy": 1.0, "consistency": 2.0, "views": False})
  one = few.steps(few.start(), 0, 2)
  after, _, loss = few.step(one, *few.arguments(1, 0))
  split, (x, y) = class_stream.dataset.train, batch_of(few, 1, 0)
  rows, slope = np.concatenate([few.rows(0, k)[0] for k in (0, 1)]), gradient(one.params, x, y)
  moved = {n: p - 0.3 * slope[n] for n, p in leaves(one.params).items()}
  behind = jax.tree.unflatten(jax.tree.structure(one.params), [moved[n] for n in leaves(one.params)])
  growth = sizes(behind, split.x[rows], split.y[rows]) - sizes(one.params, split.x[rows], split.y[rows])
  kept = rows[np.argsort(-growth)[:3]]
  replayed = gradient(one.params, split.x[kept], split.y[kept])
  want = [cross_entropy(forward(one.params, a)[1], b).mean() for a, b in ((x, y), (split.x[kept], split.y[kept]))]
  np.testing.assert_allclose(float(loss), want[0] + 0.6 * want[1], rtol=1e-5)
  near(after.params, {n: p - RATE * (slope[n] + 0.6 * replayed[n]) for n, p in leaves(one.params).items()})


def test_the_virtual_step_leaves_running_statistics(class_stream):
  """With BatchNorm they are those of the step's own first views, whatever is retrieved; nothing is stored at first."""
  made = {}
  for retrieval in ("interference", "uniform"):
    bench = Bench(
      "dvc", class_stream, normed(), {**HYPER, "candidates": 50, "virtual_rate": 0.1, "retrieval": retrieval}
    )
    made[retrieval] = bench.steps(bench.start(), 0, 1)
  assert_same(made["interference"].model_state, made["uniform"].model_state)
  assert_same(made["interference"].params, made["uniform"].params)


def test_dvc_forgets_rows(trained):
  bench, _, after, _ = trained
  gone = np.asarray(bench.rows(0, 0)[0])
  named = jnp.zeros(bench.spec.num_rows, bool).at[gone].set(True)
  state = jax.jit(bench.parts.scrub)(after, named, jnp.zeros(4, bool)).method_state
  before = after.method_state.memory
  assert int(state.memory.count) == int(before.count) - 8
  assert not set(np.asarray(state.memory.rows["id"])[: int(state.memory.count)].tolist()) & set(gone.tolist())
  assert not np.asarray(state.memory.rows["x"])[int(state.memory.count) :].any()


def test_dvc_refuses_what_it_cannot_do(class_stream, small_model):
  spec = spec_of(class_stream, 8)
  flat = spec._replace(shown=jax.ShapeDtypeStruct((5,), jnp.float32))
  with pytest.raises(UsageError, match=r"'dvc' makes second views of pictures; .*, or method.views=False"):
    methods.make("dvc", models.mlp((5,), 4, hidden=(8,)), flat)
  assert methods.make("dvc", models.mlp((5,), 4, hidden=(8,)), flat, views=False).model is None
  with pytest.raises(UsageError, match=r"method.replay_batch: got 9, above method.candidates, which is 8"):
    methods.make("dvc", small_model, spec, replay_batch=9, candidates=8)
  more = rf"method.replay_batch: got 0 \(train.batch_size, {spec.batch_size}\), above method.candidates"
  with pytest.raises(UsageError, match=more):
    methods.make("dvc", small_model, spec, replay_batch=0, candidates=spec.batch_size - 1)
  assert methods.make("dvc", small_model, spec, replay_batch=60, retrieval="uniform").terms
  bench = Bench("dvc", class_stream, small_model, {"capacity": 5, "policy": "ring"})  # of two tasks: four slots
  assert bench.steps(bench.start(), 0, 2).method_state.memory is not None
