"""Penalties on the parameters, through the engine's steps and boundaries, against NumPy in float64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bench import Bench
from by_hand import RATE, backward, batch_of, cross_entropy, forward, gradient, leaves, log_softmax

from cljax import methods, models, streams
from cljax.core.types import Learner, Task
from cljax.engine.setup import spec_of
from cljax.methods.penalties import anchors
from cljax.methods.replay import unified
from cljax.optimizers import MeanField

RNG = np.random.default_rng(5)


def rows_of(stream, task):
  split, index = stream.dataset.train, stream.train[task]
  return split.x[index], split.y[index]


def exact(params, x, y):
  """``mean_x sum_c p_c (grad log p_c)^2``, one row and one class at a time."""
  p = np.exp(log_softmax(forward(params, x)[1]))
  each = [(p[i, c] / len(x), gradient(params, x[[i]], np.array([c]))) for i in range(len(x)) for c in range(4)]
  return {k: sum(w * g[k] ** 2 for w, g in each) for k in each[0][1]}


def empirical(params, x, y):
  each = [gradient(params, x[[i]], y[[i]]) for i in range(len(x))]
  return {k: np.mean([g[k] ** 2 for g in each], 0) for k in each[0]}


def batched(params, x, y):
  """The squared mean gradient of ten rows at a time, in their order; the last ones are as many as are left."""
  each = [gradient(params, x[i : i + 10], y[i : i + 10]) for i in range(0, len(x), 10)]
  return {k: np.mean([g[k] ** 2 for g in each], 0) for k in each[0]}


def sensitivity(params, x, y):
  """``mean_x |d |f(x)|^2 / d theta|``, without labels."""
  del y
  each = [backward(params, x[[i]], 2 * forward(params, x[[i]])[1]) for i in range(len(x))]
  return {k: np.mean([np.abs(g[k]) for g in each], 0) for k in each[0]}


def assert_moved(before, after, slope, atol=5e-6):
  """A step of plain SGD along ``slope``."""
  theta = leaves(before.params)
  for path, value in leaves(after.params).items():
    np.testing.assert_allclose(value, theta[path] - RATE * slope[path], atol=atol, err_msg=path)


UNIFIED = {"output": "none", "parameter": "fisher", "alpha": 0.0, "beta": 3.0}


@pytest.mark.parametrize(
  ("name", "hyper", "measure"),
  [
    ("ewc", {"strength": 3.0}, exact),
    ("ewc", {"strength": 60.0, "fisher": "batched", "fisher_batch_size": 10}, batched),
    ("online_ewc", {"strength": 3.0, "decay": 0.6}, exact),
    ("online_ewc", {"strength": 3.0, "decay": 0.6, "fisher": "empirical"}, empirical),
    ("mas", {"strength": 0.2}, sensitivity),
    ("unified", UNIFIED, exact),
    ("unified", {**UNIFIED, "beta": 60.0, "fisher": "batched", "fisher_batch_size": 10}, batched),
  ],
)
def test_the_pull_after_two_tasks(name, hyper, measure, class_stream, small_model):
  """``strength sum_k F_k (theta - theta_k)`` for EWC; from the last anchor ``strength decay (decay F_0 + F_1)`` for
  online EWC, ``2 strength (Omega_0 + Omega_1)`` for MAS."""
  bench = Bench(name, class_stream, small_model, hyper)
  learner, anchors, found = bench.start(), [], []
  for task in (0, 1):
    for k in range(3):
      learner = bench.step(learner, *bench.arguments(task, k))[0]
    anchors.append(leaves(learner.params))
    found.append(measure(learner.params, *rows_of(class_stream, task)))
    learner = bench.boundary("end_task", learner, task)
  away = bench.step(learner, *bench.arguments(0, 3, met=(0, 1)))[0]
  after = bench.step(away, *bench.arguments(1, 3, met=(0, 1)))[0]
  theta, slope = leaves(away.params), gradient(away.params, *batch_of(bench, 1, 3))
  for p in slope:
    (first, last), (a, b) = (f[p] for f in found), (theta[p] - star[p] for star in anchors)
    strength = hyper.get("strength", hyper.get("beta"))
    if name == "online_ewc":
      pull = strength * 0.6 * (0.6 * first + last) * b
    elif name == "mas":
      pull = 2 * strength * (first + last) * b
    else:
      pull = strength * (first * a + last * b)
    assert np.abs(pull).max() > 1e-3
    slope[p] = slope[p] + pull
  assert_moved(away, after, slope)


def test_si_integrates_each_task_and_adds_them_up(class_stream, small_model):
  """``Omega = sum_k w_k / (moved_k^2 + damping)``, ``w_k = -sum g moved`` with the gradient of the loss alone."""
  strength, damping = 0.7, 0.05
  bench = Bench("si", class_stream, small_model, {"strength": strength, "damping": damping})
  learner = bench.start()
  omega, star = {p: np.zeros_like(v) for p, v in leaves(learner.params).items()}, None
  for task in (0, 1):
    begin, path = leaves(learner.params), {p: 0.0 for p in omega}
    for k in range(3):
      before, g = learner, gradient(learner.params, *batch_of(bench, task, k))
      slope = (
        g
        if star is None
        else {p: g[p] + 2 * strength * omega[p] * (v - star[p]) for p, v in leaves(before.params).items()}
      )
      learner = bench.step(learner, *bench.arguments(task, k))[0]
      assert_moved(before, learner, slope)
      moved = leaves(learner.params)
      path = {p: path[p] - g[p] * (moved[p] - v) for p, v in leaves(before.params).items()}
    star = leaves(learner.params)
    omega = {p: omega[p] + path[p] / ((star[p] - begin[p]) ** 2 + damping) for p in omega}
    learner = bench.boundary("end_task", learner, task)
  away = bench.step(learner, *bench.arguments(0, 4, met=(0, 1)))[0]
  after = bench.step(away, *bench.arguments(1, 4, met=(0, 1)))[0]
  g, theta = gradient(away.params, *batch_of(bench, 1, 4)), leaves(away.params)
  pull = {p: 2 * strength * omega[p] * (theta[p] - star[p]) for p in g}
  assert max(np.abs(v).max() for v in pull.values()) > 1e-2
  assert_moved(away, after, {p: g[p] + pull[p] for p in g})


def ranked(values, initial):
  """Each value's partner among the initial ones: that of the same rank."""
  out = np.empty(values.size)
  out[np.argsort(values, axis=None)] = np.sort(initial, axis=None)
  return out.reshape(values.shape)


def toward_one(v):
  """``d/dv`` of ``(sigma_1(v)^2 - 1)^2`` for a matrix and of ``|v|^4`` for a bias."""
  if v.ndim == 1:
    return 4 * (v**2).sum() * v
  u, s, w = np.linalg.svd(v)
  return 4 * s[0] * (s[0] ** 2 - 1) * np.outer(u[:, 0], w[0])


@pytest.mark.parametrize(
  ("name", "pull"),
  [
    ("l2", lambda v, first: 2 * v),
    ("l2_init", lambda v, first: 2 * (v - first)),
    ("wasserstein", lambda v, first: 2 * (v - ranked(v, first))),
    ("spectral", lambda v, first: toward_one(v)),
  ],
)
def test_a_penalty_without_tasks_acts_from_the_first_step(name, pull, class_stream, small_model):
  """Far from where it began, in the first task: ``theta - rate (g + strength pull)``, biases too."""
  bench = Bench(name, class_stream, small_model, {"strength": 0.03})
  start = bench.start()
  params = jax.tree.map(lambda v: v + jnp.asarray(RNG.normal(0, 0.5, v.shape), jnp.float32), start.params)
  away = start._replace(params=params)
  if name == "spectral":  # its vectors, once they have converged
    top = lambda v, w: w if v.ndim < 2 else jnp.asarray(np.linalg.svd(np.asarray(v, np.float64))[0][:, 0], jnp.float32)
    state = start.opt_state.penalty
    vectors = jax.tree.map(top, params, state.vectors)
    away = away._replace(opt_state=away.opt_state._replace(penalty=state._replace(vectors=vectors)))
  after = bench.step(away, *bench.arguments(0, 0))[0]
  g, first = gradient(params, *batch_of(bench, 0, 0)), leaves(start.params)
  pulls = {p: 0.03 * pull(v, first[p]) for p, v in leaves(params).items()}
  assert min(np.abs(v).max() for v in pulls.values()) > 1e-3
  assert_moved(away, after, {p: g[p] + pulls[p] for p in g})


def test_lwf_has_a_term_for_each_earlier_head(make_blobs):
  """Where each task has its own softmax: ``strength sum_k 4 KL`` over the classes of each earlier task, absent rows
  apart."""
  stream = streams.build(make_blobs(classes=6, rows=12), "task", tasks=3, validation=0.0)
  bench = Bench("lwf", stream, models.mlp((4, 4, 1), 6, hidden=(8,)), {"strength": 0.8, "temperature": 2.0})
  teacher = bench.train(steps=3, tasks=(0, 1))
  away = bench.step(teacher, *bench.arguments(2, 0))[0]
  present = np.array([1, 1, 1, 0, 1, 1, 0, 1], bool)
  loss = bench.step(away, *bench.arguments(2, 1, weight=jnp.asarray(present, jnp.int32)))[2]
  x, y = batch_of(bench, 2, 1)
  new, old = (forward(params, x[present])[1] for params in (away.params, teacher.params))
  each = []
  for task in (0, 1):
    own = np.flatnonzero(stream.classes_of_task[task])
    q, p = log_softmax(old[:, own] / 2), log_softmax(new[:, own] / 2)
    each.append(4 * (np.exp(q) * (q - p)).sum(-1))
  own = np.flatnonzero(stream.classes_of_task[2])
  labels = np.searchsorted(own, np.asarray(stream.labels)[2][y[present]])
  want = cross_entropy(new[:, own], labels).mean() + 0.8 * sum(each).mean()
  assert min(e.mean() for e in each) > 1e-4
  np.testing.assert_allclose(float(loss), want, rtol=1e-5)


def two_trees(count=2):
  return [
    {"b": RNG.normal(size=2).astype(np.float32), "w": RNG.normal(size=(3, 2)).astype(np.float32)} for _ in range(count)
  ]


def test_a_teacher_moves_with_an_edit(class_stream, small_model):
  """``teacher + (after - before)``, and its statistics stay."""
  kept, before, after = two_trees(3)
  kept["b"] = before["b"]  # where teacher and model were the same they are again
  method = methods.make("lwf", small_model, spec_of(class_stream, 8))
  state = method.init(None, Learner(0, None, kept, {"mean": jnp.ones(2)}, (), ()))
  learner = method.after_forget(Learner(0, None, after, {}, (), state), before)
  for k in kept:
    np.testing.assert_allclose(learner.method_state.params[k], kept[k] + after[k] - before[k], rtol=1e-5, atol=1e-6)
  np.testing.assert_array_equal(learner.method_state.model_state["mean"], 1)


@pytest.mark.parametrize("output", ["logits", "labels"])
def test_the_unified_output_term_on_stored_rows(output, class_stream, small_model):
  """``CE + alpha mean D(f(x1), z1)`` where the draw is the whole of one stored batch, of which two rows are absent."""
  hyper = {"output": output, "parameter": "none", "alpha": 0.7, "beta": 9.0, "capacity": 50}
  bench = Bench("unified", class_stream, small_model, hyper)
  present = np.array([1, 1, 0, 1, 1, 1, 0, 1], bool)
  first = bench.start()
  second = bench.step(first, *bench.arguments(0, 0, weight=jnp.asarray(present, jnp.int32)))[0]
  loss = bench.step(second, *bench.arguments(0, 1))[2]
  old_x, old_y = (a[present] for a in batch_of(bench, 0, 0))
  x, y = batch_of(bench, 0, 1)
  stored, replayed = forward(first.params, old_x)[1], forward(second.params, old_x)[1]
  term = ((replayed - stored) ** 2).mean() if output == "logits" else cross_entropy(replayed, old_y).mean()
  want = cross_entropy(forward(second.params, x)[1], y).mean() + 0.7 * term
  np.testing.assert_allclose(float(loss), want, rtol=1e-5)


def test_the_unified_memory_forgets(class_stream, small_model):
  """Stored and pending rows of a request are erased, the anchor stays."""
  bench = Bench("unified", class_stream, small_model, {"output": "logits", "parameter": "fisher", "capacity": 50})
  learner = bench.start()
  for k in (0, 1):
    learner = bench.step(learner, *bench.arguments(0, k))[0]
  gone = np.r_[np.asarray(bench.rows(0, 0)[0])[:3], np.asarray(bench.rows(0, 1)[0])[:2]]
  named = jnp.zeros(bench.spec.num_rows, bool).at[gone].set(True)
  state = jax.jit(bench.parts.scrub)(learner, named, jnp.zeros(4, bool)).method_state
  assert int(state.memory.memory.count) == 8 - 3
  assert not set(np.asarray(state.memory.memory.rows["id"][:5]).tolist()) & set(gone.tolist())
  np.testing.assert_array_equal(np.asarray(state.memory.weight), np.r_[0, 0, np.ones(6)])
  for a, b in zip(jax.tree.leaves(state.old), jax.tree.leaves(learner.method_state.old), strict=True):
    np.testing.assert_array_equal(a, b)


def gaussian_kl(q, p):
  """``KL(q || p)`` of diagonal Gaussians ``N(mean, softplus(spread)^2)``."""
  total = 0.0
  for k in q.mean:
    m, n = (np.asarray(a.mean[k], np.float64) for a in (q, p))
    s, t = (np.logaddexp(0, np.asarray(a.spread[k], np.float64)) for a in (q, p))
    total += (np.log(t / s) + (s**2 + (m - n) ** 2) / (2 * t**2) - 0.5).sum()
  return total


def test_the_unified_gaussian_case(class_stream, small_model):
  """``beta KL(q || q_old) / N``, the old posterior at a boundary and after an edit, the natural gradient's factors."""
  spec = spec_of(class_stream, 8)
  options = {"output": "none", "parameter": "gaussian", "alpha": 0.0, "deviation": 0.1, "prior_deviation": 0.5}
  method = methods.make("unified", small_model, spec, **options, beta=2.0, natural=True)
  q, p, other = (MeanField(*two_trees()) for _ in range(3))
  prior = method.init(None, Learner(0, None, q, {}, (), ())).old
  for k in q.mean:
    np.testing.assert_array_equal(prior.mean[k], 0)
    np.testing.assert_allclose(np.logaddexp(0, prior.spread[k]), 0.5, rtol=1e-5)
  assert set(method.terms) == {"parameter"}
  learner = Learner(0, None, q, {}, (), unified.Unified((), p, jnp.float32(13)))
  value = jax.jit(lambda q: method.terms["parameter"](None, q, learner, None, None))(q)
  np.testing.assert_allclose(value, 2.0 * gaussian_kl(q, p) / 13, rtol=1e-4)
  rows = lambda count: method.start_task(
    None, learner._replace(opt_state=method.transform.init(q)), Task(None, None, jnp.int32(count))
  )
  for count, want in ((7, 7), (0, 1)):
    assert float(rows(count).method_state.rows) == float(rows(count).opt_state.rows) == want
  ended = method.end_task(None, learner, None).method_state.old
  moved = method.after_forget(learner._replace(params=other), q).method_state.old
  for side in ("mean", "spread"):
    for k in q.mean:
      a, b, c, d = (getattr(v, side)[k] for v in (p, other, q, ended))
      np.testing.assert_array_equal(c, d)
      np.testing.assert_allclose(getattr(moved, side)[k], a + b - c, rtol=1e-5, atol=1e-6)
  updates = jax.jit(method.transform.update)(other, method.transform.init(q), q)[0]
  for k in q.mean:
    r = np.asarray(q.spread[k], np.float64)
    s, slope = np.logaddexp(0, r), 1 / (1 + np.exp(-r))
    np.testing.assert_allclose(updates.mean[k], spec.task_rows * s**2 * other.mean[k], rtol=1e-4)
    np.testing.assert_allclose(updates.spread[k], spec.task_rows * s**2 / (2 * slope**2) * other.spread[k], rtol=1e-4)
  weights = jax.jit(method.model.init)(jax.random.key(0))[0]
  x = class_stream.dataset.train.x[:3]
  apply = jax.jit(
    lambda key, train: method.model.apply(weights, {}, x, train=train, key=key)[0].logits, static_argnums=1
  )
  keys = jax.random.key(1), jax.random.key(2)
  means = forward(weights.mean, x)[1]
  np.testing.assert_allclose(apply(keys[0], False), means, atol=1e-5)
  drawn = [np.asarray(apply(k, True)) for k in keys]
  assert min(np.abs(a - b).max() for a, b in ((drawn[0], drawn[1]), (drawn[0], means), (drawn[1], means))) > 1e-3
  np.testing.assert_allclose(np.logaddexp(0, weights.spread["head"]["kernel"]), 0.1, rtol=1e-5)


def test_center_loss_holds_the_last_layer_of_the_logits_shape(make_blobs):
  """A hidden layer as wide as the logits goes on learning; centres keep to the rows that were there."""
  stream = streams.build(make_blobs(), "domain", tasks=2, validation=0.0)
  wide = spec_of(stream, 8).num_classes
  bench = Bench("center_loss", stream, models.mlp((4, 4, 1), wide, hidden=(wide,)), {"strength": 0.4, "rate": 0.3})
  present = np.array([1, 0, 1, 1, 0, 1, 1, 1], bool)
  start = bench.start()
  x, y = batch_of(bench, 0, 0)
  y = np.asarray(stream.labels)[0][y]
  present = present & (y != y[0])  # a class has no row yet
  learner = bench.step(start, *bench.arguments(0, 0, weight=jnp.asarray(present, jnp.int32)))[0]
  h = forward(start.params, x)[0]
  counts = np.bincount(y[present], minlength=wide)
  sums = np.stack([h[present & (y == c)].sum(0) for c in range(wide)])
  state = learner.method_state
  np.testing.assert_array_equal(state.rows, counts)
  np.testing.assert_allclose(state.centers, 0.3 * sums / (1 + counts)[:, None], atol=1e-6)
  h, z = forward(learner.params, x)
  distance = np.where(counts[y] > 0, 0.5 * ((h - np.asarray(state.centers)[y]) ** 2).sum(-1), 0.0)
  loss = bench.step(learner, *bench.arguments(0, 0))[2]
  np.testing.assert_allclose(float(loss), cross_entropy(z, y).mean() + 0.4 * distance.mean(), rtol=1e-5)
  ended = bench.boundary("end_task", learner, 0)
  after = bench.step(ended, *bench.arguments(1, 0))[0]
  moved = {p: bool((v != leaves(ended.params)[p]).any()) for p, v in leaves(after.params).items()}
  assert moved == {"hidden_0/kernel": True, "hidden_0/bias": True, "head/kernel": False, "head/bias": False}
  np.testing.assert_array_equal(after.method_state.centers, ended.method_state.centers)
  np.testing.assert_array_equal(after.method_state.rows, ended.method_state.rows)
  assert int(bench.boundary("end_task", after, 1).method_state.tasks) == 2


@pytest.mark.parametrize(("head", "held"), [("", set()), ("hidden", {"hidden_0/kernel"}), ("auto", {"head/kernel"})])
def test_center_loss_holds_what_it_is_told(head, held, make_blobs, small_model):
  """Bit for bit before the boundary, zero behind it; 'auto' the classifier where tasks share their classes."""
  stream = streams.build(make_blobs(), "permuted", tasks=2, validation=0.0)
  transform = methods.make("center_loss", small_model, spec_of(stream, 8), head=head).finalize
  updates = {"hidden_0": {"kernel": jnp.ones((2, 2))}, "head": {"kernel": jnp.ones(3)}}
  state = transform.init(updates)
  for leaf in jax.tree.leaves(transform.update(updates, state)[0]):
    np.testing.assert_array_equal(leaf, 1)
  moved = leaves(transform.update(updates, anchors.held(state))[0])
  assert {p for p, v in moved.items() if not v.any()} == held
