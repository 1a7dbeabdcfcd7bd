"""Replay, prototypes, gradients from losses and the references, against NumPy in float64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bench import Bench
from by_hand import RATE, backward, batch_of, cross_entropy, forward, gradient, leaves

import cljax
from cljax import methods, streams
from cljax.core import tree
from cljax.core.types import Learner
from cljax.engine import schedule
from cljax.engine.setup import spec_of
from cljax.engine.step import AGAIN, FRESH
from cljax.optimizers._common import random_like

PRESENT = np.array([1, 1, 1, 0, 1, 1, 0, 1], bool)


def assert_moved(before, after, slope, atol=5e-6):
  theta = leaves(before)
  for path, value in leaves(after).items():
    np.testing.assert_allclose(value, theta[path] - RATE * slope[path], atol=atol, err_msg=path)


def masked(z, y, mask):
  """Each row's cross-entropy over the classes of its mask, and its slope in the logits."""
  z = np.where(mask, z, -np.inf)
  loss = cross_entropy(z, y)
  d = np.exp(z - np.logaddexp.reduce(z, -1, keepdims=True))
  d[np.arange(len(y)), y] -= 1
  return loss, d


def with_weights(bench, learner, task, k, weight, met=()):
  return bench.step(learner, *bench.arguments(task, k, weight=jnp.asarray(weight, jnp.int32), met=met))


CASES = [
  ("er", {"insert": "once"}, 8 - 2),
  ("er", {"insert": "every_pass"}, 16 - 2),
  ("derpp", {"alpha": 0.7, "beta": 0.3}, 16 - 2),
  ("derpp", {"alpha": 0.7, "beta": 0.3, "insert": "once"}, 8 - 2),
]


@pytest.mark.parametrize(("name", "hyper", "stored"), CASES)
def test_replay_of_an_earlier_task(name, hyper, stored, dataset, small_model):
  """More rows are drawn than there are: all of them, each under the mask of its own task; absent rows count nowhere.

  ER: the mean over current and stored rows. DER++: ``CE + alpha MSE(f(x1), z1) + beta CE(x2)``. The second batch is
  one that was offered before, which 'once' leaves out.
  """
  stream = streams.build(dataset, "class", tasks=2, validation=0.125, active="task")
  bench = Bench(name, stream, small_model, {"capacity": 40, "replay_batch": 20, **hyper})
  start = bench.start()
  one = with_weights(bench, start, 0, 0, PRESENT * FRESH)[0]
  two = with_weights(bench, one, 0, 1, np.full(8, AGAIN))[0]
  after, _, loss = with_weights(bench, two, 1, 0, PRESENT * FRESH, (0,))
  parts = [batch_of(bench, 0, 0), batch_of(bench, 0, 1)]
  parts[0] = tuple(a[PRESENT] for a in parts[0])
  targets = [forward(p.params, x)[1] for p, (x, _) in zip((start, one), parts, strict=True)]
  count = 1 if stored < 8 else 2
  old_x, old_y = (np.concatenate(a) for a in zip(*parts[:count], strict=True))
  target = np.concatenate(targets[:count])
  assert len(old_y) == stored
  x, y = (a[PRESENT] for a in batch_of(bench, 1, 0))
  (new, replayed), of = (forward(two.params, a)[1] for a in (x, old_x)), stream.classes_of_task
  (l, d), (m, e) = masked(new, y, of[1]), masked(replayed, old_y, of[0])
  if name == "er":
    share = 1 / (len(y) + stored)
    want, d, e = share * (l.sum() + m.sum()), share * d, share * e
  else:
    want = l.mean() + 0.7 * ((replayed - target) ** 2).mean() + 0.3 * m.mean()
    d, e = d / len(y), 0.3 * e / stored + 0.7 * 2 * (replayed - target) / target.size
  np.testing.assert_allclose(float(loss), want, rtol=1e-5)
  slopes = backward(two.params, x, d), backward(two.params, old_x, e)
  assert_moved(two.params, after.params, {p: slopes[0][p] + slopes[1][p] for p in slopes[0]})


@pytest.mark.parametrize("policy", ["ring", "class_balanced"])
def test_what_a_policy_keeps(policy, class_stream, small_model):
  """A ring has a portion for each task, a balanced memory a quota for each class; the last batch is still pending."""
  bench = Bench("er", class_stream, small_model, {"capacity": 6, "policy": policy})
  learner = bench.start()
  for task in (0, 1):
    for k in range(3):
      learner = bench.step(learner, *bench.arguments(task, k))[0]
  state = learner.method_state
  split, ids = class_stream.dataset.train, np.asarray(state.memory.rows["id"])
  y = np.asarray(state.memory.rows["y"])
  np.testing.assert_array_equal(split.y[ids], y)
  np.testing.assert_array_equal(np.asarray(state.memory.rows["x"]), split.x[ids])
  if policy == "ring":
    last = [bench.rows(task, k)[0] for task, k in ((0, 2), (1, 1))]
    np.testing.assert_array_equal(np.sort(ids[:3]), np.sort(last[0][-3:]))
    np.testing.assert_array_equal(np.sort(ids[3:]), np.sort(last[1][-3:]))
    np.testing.assert_array_equal(np.asarray(state.memory.rows["task"]), [0, 0, 0, 1, 1, 1])
  else:
    assert np.bincount(y, minlength=4).min() >= 1
  np.testing.assert_array_equal(np.asarray(state.pending["id"]), bench.rows(1, 2)[0])


@pytest.mark.parametrize("name", ["er", "derpp"])
def test_a_request_erases_stored_and_pending_rows(name, class_stream, small_model):
  bench = Bench(name, class_stream, small_model, {"capacity": 40})
  learner = bench.start()
  for k in (0, 1):
    learner = bench.step(learner, *bench.arguments(0, k))[0]
  gone = np.r_[bench.rows(0, 0)[0][:3], bench.rows(0, 1)[0][:2]]
  named = jnp.zeros(bench.spec.num_rows, bool).at[gone].set(True)
  before, state = learner.method_state, jax.jit(bench.parts.scrub)(learner, named, jnp.zeros(4, bool)).method_state
  assert int(state.memory.count) == 5
  left = set(np.asarray(state.memory.rows["id"])[:5].tolist())
  assert left == set(np.asarray(bench.rows(0, 0)[0])[3:].tolist())
  np.testing.assert_array_equal(state.weight, np.r_[0, 0, np.ones(6)])
  for key, value in state.pending.items():
    np.testing.assert_array_equal(np.asarray(value)[:2], -1 if key == "id" else 0)
    np.testing.assert_array_equal(np.asarray(value)[2:], np.asarray(before.pending[key])[2:])


def test_ncm_begins_with_the_logits_and_forgets_a_class(class_stream, small_model):
  bench = Bench("ncm", class_stream, small_model)
  start = bench.start()
  x = class_stream.dataset.test.x[:9]
  predict = jax.jit(lambda l: bench.parts.predict(l, jnp.asarray(x), jnp.int32(0)))
  np.testing.assert_allclose(predict(start), forward(start.params, x)[1], atol=1e-5)
  learner = bench.boundary("end_task", start, 0)
  rows = class_stream.train[0]
  split = class_stream.dataset.train
  h = forward(start.params, split.x[rows])[0]
  means = np.stack([h[split.y[rows] == c].mean(0) if c in (0, 1) else np.zeros(8) for c in range(4)])
  state = learner.method_state
  np.testing.assert_allclose(state.means, means, atol=1e-5)
  np.testing.assert_array_equal(state.counts, np.bincount(split.y[rows], minlength=4))
  distance = ((forward(start.params, x)[0][:, None] - means) ** 2).sum(-1)
  np.testing.assert_allclose(predict(learner), np.where([1, 1, 0, 0], -distance, -np.inf), atol=1e-4)
  again = bench.boundary("end_task", start, 0, (0,)).method_state  # a task that was met before adds no rows
  np.testing.assert_allclose(again.means, means, atol=1e-5)
  np.testing.assert_array_equal(again.counts, 0)
  left = jax.jit(bench.parts.scrub)(learner, jnp.zeros(bench.spec.num_rows, bool), jnp.arange(4) == 0).method_state
  np.testing.assert_array_equal(left.means, np.where((np.arange(4) == 0)[:, None], 0, state.means))
  np.testing.assert_array_equal(left.counts, np.where(np.arange(4) == 0, 0, state.counts))


# Gradients from losses alone: the points at which they look are recorded, and tell the directions.

SIZE = 24
C = np.random.default_rng(2).normal(size=(SIZE,))
THETA = np.float32(np.random.default_rng(3).normal(size=(SIZE,)))


def value_of(w):
  w = np.asarray(w, np.float64)
  return (C * np.sin(w)).sum() + 0.3 * (w**2).sum()


def estimated(name, options, key=0, step=0):
  """``(loss, gradient [SIZE], points)`` of a method's own gradient on :func:`value_of`, in the order of the looks."""
  points: list[np.ndarray] = []

  def loss_fn(params):
    jax.debug.callback(lambda w: points.append(np.asarray(w, np.float64)), params["w"], ordered=True)
    w = params["w"]
    return jnp.sum(jnp.asarray(C, jnp.float32) * jnp.sin(w)) + 0.3 * jnp.sum(w**2), ()

  method = methods.make(name, None, None, **options)
  learner = Learner(jnp.int32(step), jax.random.key(7), {"w": jnp.asarray(THETA)}, {}, (), ())
  (loss, _), g = method.gradient(jax.random.key(key), loss_fn, learner)
  jax.effects_barrier()
  return float(loss), np.asarray(g["w"], np.float64), points


def quotient(points, epsilon, one_sided):
  """``mean_q slope_q z_q`` and the last z, from the points: pairs, or the start and one point each."""
  found = []
  if one_sided:
    np.testing.assert_array_equal(points[0], THETA)
    for p in points[1:]:
      found.append(((value_of(p) - value_of(THETA)) / epsilon, (p - THETA) / epsilon))
  else:
    for p, m in zip(points[::2], points[1::2], strict=True):
      np.testing.assert_allclose(p + m, 2 * THETA, atol=1e-5)
      found.append(((value_of(p) - value_of(m)) / (2 * epsilon), (p - m) / (2 * epsilon)))
  return np.mean([s * z for s, z in found], 0), found[-1]


@pytest.mark.parametrize("shrink", [False, True])
@pytest.mark.parametrize("estimator", ["two_point", "one_sided"])
def test_zeroth_order_is_the_mean_quotient_along_its_directions(estimator, shrink):
  """``mean_q (L(t + e z) - L(t - e z)) / (2 e) z``, or ``(L(t + e z) - L(t)) / e z``; z standard normal, and new ones
  for each query. Shrunk by ``q / (q + d + 1)``: then its mean square is that of its mean."""
  epsilon, one_sided = 0.25, estimator == "one_sided"
  options = {"epsilon": epsilon, "queries": 3, "estimator": estimator, "shrink": shrink}
  loss, g, points = estimated("zeroth_order", options)
  assert len(points) == (4 if one_sided else 6)
  want, (_, z) = quotient(points, epsilon, one_sided)
  scale = 3 / (3 + SIZE + 1) if shrink else 1.0
  np.testing.assert_allclose(g, scale * want, rtol=1e-4, atol=1e-4)
  at = [value_of(THETA)] if one_sided else [value_of(p) for p in points]
  np.testing.assert_allclose(loss, np.mean(at), rtol=1e-5)
  assert 0.6 < z.std() < 1.4


@pytest.mark.parametrize("update", ["sign", "scalar_sign", "conserve"])
@pytest.mark.parametrize("key", [0, 1])
def test_zeroth_order_s_other_updates(update, key):
  """``sign(g)``; the sign of the quotient times z; the one of 0, g, -g whose step has the lowest loss."""
  options = {"epsilon": 0.25, "queries": 1 if update == "scalar_sign" else 2, "update": update, "shrink": bool(key)}
  rate = 5.0 if key else 0.02
  if update == "conserve":
    options["learning_rate"] = rate
  _, g, points = estimated("zeroth_order", options, key)
  want, (slope, z) = quotient(points[: 2 * options["queries"]], 0.25, False)
  if update == "sign":
    want = np.sign(want)
  elif update == "scalar_sign":
    want = np.sign(slope) * z
  else:
    want = want * (2 / (2 + SIZE + 1) if key else 1.0)
    tried = [0 * want, want, -want]
    best = int(np.argmin([value_of(THETA - rate * t) for t in tried]))
    assert best == (0 if key else 1)
    want = tried[best]
  np.testing.assert_allclose(g, want, rtol=1e-4, atol=1e-4)


def test_zeroth_order_takes_as_many_looks_as_it_says():
  """By default 20 pairs, and one direction where there can be no more; what does not move is no dimension."""
  assert len(estimated("zeroth_order", {})[2]) == 40
  assert len(estimated("zeroth_order", {"update": "scalar_sign"})[2]) == 2
  few = [estimated("zeroth_order", {"queries": 2, "sparsity": 50, "shrink": s})[1] for s in (False, True)]
  moved = few[0] != 0
  np.testing.assert_allclose(few[1][moved] / few[0][moved], 2 / (3 + SIZE / 2), rtol=1e-5)


def test_shrunk_estimates_are_as_safe_as_the_gradient():
  """SGD on a quadratic at a rate near its own limit: the loss falls; unshrunk, it grows beyond all bounds."""
  curvature, rate, size = 2.0, 0.5, 60
  start = jnp.ones(size)

  def end(shrink):
    method = methods.make("zeroth_order", None, None, queries=1, shrink=shrink)
    loss_fn = lambda params: (curvature / 2 * jnp.sum(params["w"] ** 2), ())

    def step(w, key):
      learner = Learner(jnp.int32(0), jax.random.key(7), {"w": w}, {}, (), ())
      return w - rate * method.gradient(key, loss_fn, learner)[1]["w"], None

    last = jax.lax.scan(step, start, jax.random.split(jax.random.key(0), 300))[0]
    return float(jnp.sum(last**2)) / size

  assert end(True) < 0.1
  assert not end(False) < 1e6


def test_sparse_directions_keep_their_mask():
  """About ``sparsity`` percent of the coordinates are looked along at no step, the same ones at each."""
  still = [np.stack(estimated("zeroth_order", {"sparsity": 60, "queries": 3}, k)[2]) == THETA for k in (0, 1)]
  np.testing.assert_array_equal(still[0].all(0), still[1].all(0))
  np.testing.assert_array_equal(still[0].all(0), still[0].any(0))
  assert 0.35 < still[0].all(0).mean() < 0.85


def test_a_forward_gradient_is_a_projection_on_one_direction():
  """``(grad L . v) v``: with the key held, linear in the gradient, by ``v v'``."""
  method = methods.make("zeroth_order", None, None, estimator="forward", shrink=False)
  learner = Learner(jnp.int32(0), jax.random.key(7), {"w": jnp.asarray(THETA[:5])}, {}, (), ())

  def along(a):
    loss_fn = lambda params: (jnp.vdot(a, params["w"]), ())
    return method.gradient(jax.random.key(1), loss_fn, learner)[1]["w"]

  matrix = np.asarray(jax.jit(jax.vmap(along))(jnp.eye(5)), np.float64)
  values, vectors = np.linalg.eigh(matrix)
  np.testing.assert_allclose(matrix, values[-1] * np.outer(vectors[:, -1], vectors[:, -1]), atol=1e-5)
  assert 0.5 < values[-1] < 20  # |v|^2 for five standard normal numbers
  a = np.float32(C[:5])
  np.testing.assert_allclose(along(jnp.asarray(a)), matrix @ a, rtol=1e-4, atol=1e-5)
  method = methods.make("zeroth_order", None, None, estimator="forward")
  np.testing.assert_allclose(along(jnp.asarray(a)), matrix @ a / (1 + 5 + 1), rtol=1e-4, atol=1e-5)


def test_a_hybrid_is_first_order_up_to_its_switch(class_stream, small_model):
  """Smoothed gradients ``h <- (1 - alpha) g + alpha h`` from h = g, two steps; then another direction."""
  hyper = {"switch_step": 2, "smoothing": "history", "alpha": 0.3, "queries": 2, "epsilon": 0.01, "shrink": False}
  bench = Bench("zeroth_order", class_stream, small_model, hyper)
  learner, h = bench.start(), None
  for k in range(2):
    before, g = learner.params, gradient(learner.params, *batch_of(bench, 0, k))
    h = g if h is None else {p: 0.7 * g[p] + 0.3 * h[p] for p in g}
    learner = bench.step(learner, *bench.arguments(0, k))[0]
    assert_moved(before, learner.params, h)
  after = bench.step(learner, *bench.arguments(0, 2))[0]
  g, theta = gradient(learner.params, *batch_of(bench, 0, 2)), leaves(learner.params)
  z = {p: ((theta[p] - v) / RATE - 0.3 * h[p]) / 0.7 for p, v in leaves(after.params).items()}
  product = lambda a, b: sum((a[p] * b[p]).sum() for p in a)
  assert abs(product(z, g)) < 0.9 * np.sqrt(product(z, z) * product(g, g))


@pytest.mark.parametrize("antithetic", [False, True])
def test_an_evolution_strategy_is_the_standardised_sum(antithetic):
  """``-(1/N) sum_i z_i e_i`` with ``z`` the standardised ``-L(t + sigma e_i)``; antithetic: e, -e, ..."""
  sigma, count = 0.5, 6
  options = {"sigma": sigma, "population": count, "antithetic": antithetic}
  loss, g, points = estimated("evolution_strategy", options)
  assert len(points) == count + 1
  np.testing.assert_array_equal(points[-1], THETA)
  e = (np.stack(points[:-1]) - THETA) / sigma
  reward = -np.array([value_of(p) for p in points[:-1]])
  score = (reward - reward.mean()) / reward.std()
  np.testing.assert_allclose(g, -(score[:, None] * e).sum(0) / count, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(loss, value_of(THETA), rtol=1e-5)
  np.testing.assert_allclose(e[1::2] + e[::2], 0, atol=1e-5) if antithetic else None
  assert 0.7 < e.std() < 1.3
  assert len(np.unique(np.round(e[:, 0], 4))) == count


def test_an_evolution_strategy_is_rewarded_for_right_answers(class_stream, small_model):
  """One step: the share of right answers of the batch at each ``theta + sigma e``, standardised, and no loss."""
  sigma, count = 2.0, 12
  hyper = {"sigma": sigma, "population": count, "reward": "answers"}
  bench = Bench("evolution_strategy", class_stream, small_model, hyper)
  learner = bench.start()
  key = tree.fold(jax.random.fold_in(learner.key, learner.step), "gradient")
  noise = [random_like(jax.random.fold_in(key, i), learner.params) for i in range(count)]
  x, y = batch_of(bench, 0, 0)
  right = lambda p: (forward(p, x)[1].argmax(1) == y).mean()
  reward = np.array([right(jax.tree.map(lambda p, n: p + sigma * n, learner.params, e)) for e in noise])
  assert len(set(reward.tolist())) > 2
  score = (reward - reward.mean()) / reward.std()
  after, _, loss = bench.step(learner, *bench.arguments(0, 0))
  np.testing.assert_allclose(float(loss), 1 - right(learner.params), atol=1e-6)
  theta, parts = leaves(learner.params), [leaves(e) for e in noise]
  for n, value in leaves(after.params).items():
    moved = RATE / count * sum(s * e[n] for s, e in zip(score, parts, strict=True))
    np.testing.assert_allclose(value, theta[n] + moved, rtol=1e-4, atol=1e-5)
  pixels = spec_of(class_stream, 8)._replace(objective=bench.spec.objective._replace(classes=False))
  with pytest.raises(cljax.UsageError, match=r"method\.reward: got 'answers', which needs classes"):
    methods.make("evolution_strategy", small_model, pixels, reward="answers")


def in_passes(stream, training):
  """The rows of each step of ``joint``: two steps an event, which together take every row once."""
  out = []
  for event in (0, 1):
    plan = schedule.schedule(stream, list(range(event)), event, event, "all", training)
    index, _, offered = schedule.rows(plan, 0, 0, plan.steps, plan.steps, np.zeros(len(plan.pairs.index), bool))
    steps = [i[o > 0] for i, o in zip(index, offered, strict=True)]
    np.testing.assert_array_equal(np.sort(np.concatenate(steps)), np.arange(32))
    out += steps
  assert len(out) == 4
  return out


@pytest.mark.parametrize("name", ["finetune", "joint", "cumulative"])
def test_what_a_reference_trains_on(name, make_blobs, small_model):
  """Plain steps on the rows of the task, of all tasks from the start, or of those met; two epochs of two tasks."""
  stream = streams.build(make_blobs(rows=8), "class", tasks=2, validation=0.0)
  first = jax.tree.map(lambda v: 0.5 * v, small_model.init(jax.random.key(5))[0])
  model = small_model._replace(init=lambda key: (first, {}))
  training = cljax.Recipe(batch_size=32, epochs=2)  # a task's rows are one batch, and so are all
  one, two = stream.train
  both = np.concatenate([one, two])
  steps = {"finetune": [one, one, two, two], "cumulative": [one, one, both, both]}.get(name)
  result = cljax.run(stream, model, name, training=training, optimizer="sgd", optimizer_options={"learning_rate": RATE})
  theta, split = leaves(first), stream.dataset.train
  for index in steps or in_passes(stream, training):
    g = gradient(nested(theta), split.x[index], split.y[index])
    theta = {p: v - RATE * g[p] for p, v in theta.items()}
  for path, value in leaves(jax.tree.map(lambda a: a[0], result.learner.params)).items():
    np.testing.assert_allclose(value, theta[path], atol=1e-5, err_msg=path)


def nested(by_path):
  out: dict = {}
  for path, value in by_path.items():
    layer, leaf = path.split("/")
    out.setdefault(layer, {})[leaf] = value
  return out
