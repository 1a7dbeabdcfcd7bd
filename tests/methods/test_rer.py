"""RER against NumPy in float64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bench import Bench, assert_near, assert_same
from by_hand import RATE, backward, batch_of, cross_entropy, forward, gradient, leaves, log_softmax, near
from normed import normed

from cljax import memory
from cljax.core import tree
from cljax.core.types import Batch
from cljax.methods.replay import rer

HYPER = {
  "capacity": 40, "beta": 0.6, "span": 1.5, "virtual_rate": 0.3, "meta_rate": 0.05, "meta_decay": 0.02, "hidden": 5,
  "warm_passes": 0,
}  # fmt: skip


def weights(net, each, norm):
  """What the network says of pairs ``[n, 2]``, and its hidden values."""
  p = jax.tree.map(lambda a: np.asarray(a, np.float64), net)
  inner = [x @ p[n]["kernel"] + p[n]["bias"] for n, x in (("losses", each), ("norms", norm))]
  h = np.maximum(inner[0], 0) + np.maximum(inner[1], 0)
  return 1 / (1 + np.exp(-(h @ p["out"]["kernel"] + p["out"]["bias"]))), inner, h


def pairs_of(params, new, old):
  """Losses and norms ``[n, 2]`` of rows beside one another."""
  z = [forward(params, x)[1] for x, _ in (new, old)]
  each = np.stack([cross_entropy(a, y) for a, (_, y) in zip(z, (new, old), strict=True)], -1)
  return each, np.stack([np.linalg.norm(a, axis=-1) for a in z], -1)


def slope_by_hand(params, net, new, old, others, h):
  """Through the step ``theta - rate (mean w g + beta mean v g')``, row by row, then through the network."""
  each, norm = pairs_of(params, new, old)
  s, inner, hidden = weights(net, each, norm)
  n = len(s)
  grads = [[gradient(params, x[i : i + 1], y[i : i + 1]) for i in range(n)] for x, y in (new, old)]
  share = np.array([1.0, h["beta"]]) * h["span"] / n
  step = {k: sum(share[j] * s[i, j] * grads[j][i][k] for i in range(n) for j in (0, 1)) for k in leaves(params)}
  behind = gradient(
    tree.map_named(lambda k, a: np.asarray(a, np.float64) - h["virtual_rate"] * step[k], params), *others
  )
  along = np.array([[sum((grads[j][i][k] * behind[k]).sum() for k in behind) for j in (0, 1)] for i in range(n)])
  d = -h["virtual_rate"] * share * along * s * (1 - s)
  p = jax.tree.map(lambda a: np.asarray(a, np.float64), net)
  back = d @ p["out"]["kernel"].T
  made = {"out": {"kernel": hidden.T @ d, "bias": d.sum(0)}}
  for name, x, a in (("losses", each, inner[0]), ("norms", norm, inner[1])):
    made[name] = {"kernel": x.T @ (back * (a > 0)), "bias": (back * (a > 0)).sum(0)}
  return made


def batch(bench, x, y, task, weight=None):
  number = jnp.full(len(y), task, jnp.int32)
  weight = jnp.ones(len(y)) if weight is None else jnp.asarray(weight, jnp.float32)
  made = Batch(jnp.asarray(x), jnp.asarray(y), weight, number, number, None, visit=bench.where(task).visit)
  return made._replace(fresh=weight)


@pytest.fixture(scope="module")
def trained(class_stream, small_model):
  """A bench and a learner that stores two batches of the first task and stands before its first step of the second."""
  bench = Bench("rer", class_stream, small_model, HYPER)
  one = bench.steps(bench.boundary("start_task", bench.start(), 0), 0, 2)
  return bench, bench.boundary("start_task", one, 1)


def test_the_net_s_slope_goes_through_a_weighted_step(class_stream, small_model):
  bench = Bench("rer", class_stream, small_model, HYPER)
  now, net = bench.start(), jax.jit(lambda key: rer.weighing_net(key, 5))(jax.random.key(1))
  assert now.method_state.net["out"]["kernel"].shape == net["out"]["kernel"].shape == (5, 2)
  new, old, others = (batch_of(bench, *at) for at in ((1, 0), (0, 0), (0, 1)))
  rows = [batch(bench, *r, t)._replace(visit=None) for r, t in ((new, 1), (old, 0), (others, 0))]
  made = jax.jit(
    lambda learner, rate, beta: rer.net_slope(
      small_model, bench.spec, learner, net, *rows, rate, beta, HYPER["span"], jax.random.key(0)
    )
  )
  got = made(now, 0.3, 0.6)
  want = slope_by_hand(now.params, net, new, old, others, HYPER)
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
    np.testing.assert_allclose(a, b, rtol=2e-3, atol=1e-7)
  assert max(np.abs(b).max() for b in jax.tree.leaves(want)) > 1e-4
  assert not any(np.asarray(a).any() for a in jax.tree.leaves(made(now, 0.0, 0.6)))  # through the step alone
  assert not np.asarray(made(now, 0.3, 0.0)["out"]["bias"])[1]


def test_rer_s_step_has_the_weights_of_the_net_behind_its_own(trained):
  """The network takes a step of Adam with L2 first; then loss and step are those of weighted rows, the weights being
  numbers."""
  bench, now = trained
  after, _, loss = bench.step(now, *bench.arguments(1, 0))
  key = tree.fold(jax.random.fold_in(now.key, now.step), "prepare")
  ready = batch(bench, *batch_of(bench, 1, 0), 1)
  prepared, shown = jax.jit(bench.parts.method.prepare)(key, now, ready)
  split, held = bench.stream.dataset.train, prepared.method_state.replay.memory
  sample = jax.jit(memory.reservoir(40).sample, static_argnums=2)
  drawn = [np.asarray(sample(tree.fold(key, n), held, 8)[0]["id"]) for n in ("pairs", "others", "sample")]
  np.testing.assert_array_equal(shown.id[8:], drawn[2])
  assert len({tuple(d) for d in drawn}) == 3
  new, (pairs, others, old) = batch_of(bench, 1, 0), [(split.x[d], split.y[d]) for d in drawn]
  slope = slope_by_hand(now.params, now.method_state.net, new, pairs, others, HYPER)
  pulled = jax.tree.map(lambda g, p: g + 0.02 * np.asarray(p, np.float64), slope, now.method_state.net)
  want = jax.tree.map(
    lambda p, g: np.asarray(p, np.float64) - 0.05 * g / (np.abs(g) + 1e-8), now.method_state.net, pulled
  )
  net = after.method_state.net
  assert_near(net, want, 1e-4)
  w = 1.5 * weights(net, *pairs_of(now.params, new, old))[0] * np.array([1, 0.6])
  z = [forward(now.params, x)[1] for x, _ in (new, old)]
  want = (w[:, 0] * cross_entropy(z[0], new[1])).mean() + (w[:, 1] * cross_entropy(z[1], old[1])).mean()
  np.testing.assert_allclose(float(loss), want, rtol=1e-5)
  d = [w[:, [j]] * (np.exp(log_softmax(z[j])) - np.eye(4)[y]) / 8 for j, (_, y) in enumerate((new, old))]
  grads = [backward(now.params, x, s) for (x, _), s in zip((new, old), d, strict=True)]
  moved = jax.tree.map(lambda a, b: a - b, after.params, now.params)
  near(moved, {n: -RATE * (grads[0][n] + grads[1][n]) for n in grads[0]})


def test_weights_are_of_losses_and_norms_of_pairs():
  """Rows without one beside them keep 1, or beta; others are below ``span``, and beta times that."""
  net = jax.jit(lambda key: rer.weighing_net(key, 6))(jax.random.key(0))
  bound = {"losses": 2**-0.5, "norms": 2**-0.5, "out": 6**-0.5}
  for name, most in bound.items():
    values = np.concatenate([np.ravel(a) for a in jax.tree.leaves(net[name])])
    assert 0.6 * most < np.abs(values).max() <= most
    assert values.min() < 0 < values.max()
  rng = np.random.default_rng(0)
  new, old = rng.uniform(0, 3, (2, 5)), rng.uniform(0, 3, (2, 3))
  there = jnp.asarray([1, 0, 1, 1, 1.0]), jnp.asarray([1, 1, 0.0])
  f32 = lambda *a: tuple(jnp.asarray(v, jnp.float32) for v in a)
  w, v = jax.jit(lambda a, b: rer.relation(net, a, b, *there, 0.5, 1.6))(f32(*new), f32(*old))
  s = weights(net, np.stack([new[0, :3], old[0]], -1), np.stack([new[1, :3], old[1]], -1))[0]
  np.testing.assert_allclose(w, [1.6 * s[0, 0], 1, 1, 1, 1], rtol=1e-5)
  np.testing.assert_allclose(v, [0.8 * s[0, 1], 0.5, 0.5], rtol=1e-5)
  assert ((s > 0) & (s < 1)).all()


def undecided(learner):
  state = learner.method_state
  net = {**state.net, "out": jax.tree.map(jnp.zeros_like, state.net["out"])}
  return learner._replace(method_state=state._replace(net=net))


def test_an_undecided_net_weighs_as_before(trained):
  """With span 2 an output of 0 is weight 1: where weights begin to count the loss keeps its size, and training is that
  of er with added means; with span 1, the released form, it is halved."""
  bench, now = trained
  still = {"meta_rate": 0.0, "span": 2.0}
  args = bench.arguments(1, 0)
  ace = Bench("er_ace", bench.stream, bench.parts.method.model, {"capacity": 40, "mask": "none", "beta": 0.6})
  other = now._replace(method_state=ace.start().method_state._replace(replay=now.method_state.replay))
  plain, _, want = ace.step(other, *args)
  got, _, loss = bench.step(undecided(now), *args, **still)
  np.testing.assert_allclose(float(loss), float(want), rtol=1e-6)
  assert_near(got.params, plain.params, 1e-6)
  half = bench.step(undecided(now), *args, meta_rate=0.0, span=1.0)[2]
  np.testing.assert_allclose(float(half), float(want) / 2, rtol=1e-5)


def test_the_first_task_and_the_warm_passes_have_no_weights(class_stream, small_model):
  """There RER is er with added means; weights count once all rows of the task were shown, and the network learns each
  second step from the second task on."""
  bench = Bench("rer", class_stream, small_model, {**HYPER, "warm_passes": 1, "interval": 2})
  start = bench.boundary("start_task", bench.start(), 0)
  one = bench.step(start, *bench.arguments(0, 0))[0]
  first, _, loss = bench.step(one, *bench.arguments(0, 1))
  (x, y), (old_x, old_y) = batch_of(bench, 0, 1), batch_of(bench, 0, 0)
  want = cross_entropy(forward(one.params, x)[1], y).mean()
  want += 0.6 * cross_entropy(forward(one.params, old_x)[1], old_y).mean()
  np.testing.assert_allclose(float(loss), want, rtol=1e-5)
  assert_same(first.method_state.net, start.method_state.net)
  learner = bench.boundary("start_task", first, 1)
  assert [int(v) for v in learner.method_state[3:]] == [len(class_stream.train[1]), 0, 0]
  moved = []
  for k in range(4):
    after = bench.step(learner, *bench.arguments(1, k))[0]
    moved.append(bool((after.method_state.net["out"]["bias"] != learner.method_state.net["out"]["bias"]).any()))
    learner = after
  assert moved == [False, True, False, True]
  assert [int(v) for v in learner.method_state[3:]] == [len(class_stream.train[1]), 32, 4]
  counts = jax.jit(lambda l, b: bench.parts.method.prepare(jax.random.key(0), l, b)[1].extra["relation"][2])
  rows = batch(bench, *batch_of(bench, 1, 0), 1)
  count = len(class_stream.train[1])
  at = lambda shown: learner._replace(method_state=learner.method_state._replace(shown=jnp.int32(shown)))
  assert not counts(at(count - 1), rows)
  assert counts(at(count), rows)
  assert not counts(at(count), rows._replace(visit=bench.where(0).visit))


def test_without_a_virtual_step_the_net_learns_nothing(trained):
  """What it learns comes through the step alone; the decay is its own."""
  bench, now = trained
  args = bench.arguments(1, 0)
  still = bench.step(now, *args, virtual_rate=0.0, meta_decay=0.0)[0]
  assert_same(still.method_state.net, now.method_state.net)
  shrunk = bench.step(now, *args, virtual_rate=0.0)[0].method_state.net["out"]["kernel"]
  assert (np.abs(shrunk) < np.abs(now.method_state.net["out"]["kernel"])).all()


def test_rer_forgets_rows_and_its_net_s_moments(trained, class_stream, small_model):
  bench, now = trained
  after = bench.step(now, *bench.arguments(1, 0))[0]
  state = after.method_state
  assert any(np.asarray(a).any() for a in jax.tree.leaves(state.moments))
  gone = np.asarray(state.replay.memory.rows["id"])[:3]
  named = jnp.zeros(bench.spec.num_rows, bool).at[gone].set(True)
  left = jax.jit(bench.parts.scrub)(after, named, jnp.zeros(4, bool)).method_state
  assert int(left.replay.memory.count) == 13
  assert not set(np.asarray(left.replay.memory.rows["id"])[:13]) & set(gone)
  assert not any(np.asarray(a).any() for a in jax.tree.leaves(left.moments))
  assert_same(left.net, state.net)
  small = Bench("rer", class_stream, small_model, {"capacity": 3})
  rows = batch(bench, *batch_of(bench, 1, 0), 1)
  more = jax.eval_shape(small.parts.method.prepare, jax.random.key(0), small.start(), rows)[1]
  assert more.weight.shape == (11,)
  np.testing.assert_array_equal(small.start().method_state.replay.pending["id"], -1)  # of no row


def test_the_net_s_step_leaves_batch_norm_alone(class_stream):
  """Second derivatives go through its batch statistics; its running ones count the step itself alone."""
  model = normed()
  bench = Bench("rer", class_stream, model, {**HYPER, "span": 2.0})
  ace = Bench("er_ace", class_stream, model, {"capacity": 40, "mask": "none", "beta": 0.6})
  one = bench.steps(bench.boundary("start_task", bench.start(), 0), 0, 2)
  now = bench.boundary("start_task", one, 1)
  after = bench.step(now, *bench.arguments(1, 0))[0]
  moved = [
    np.asarray(a - b)
    for a, b in zip(*map(jax.tree.leaves, (after.method_state.net, now.method_state.net)), strict=True)
  ]
  assert all(np.isfinite(m).all() for m in moved)
  assert max(np.abs(m).max() for m in moved) > 1e-3
  other = now._replace(method_state=ace.start().method_state._replace(replay=now.method_state.replay))
  assert_near(after.model_state, ace.step(other, *bench.arguments(1, 0))[0].model_state, 1e-6)
