"""MER against NumPy in float64: algorithm 1, a row at a time."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from bench import Bench, assert_same
from by_hand import RATE, batch_of, cross_entropy, forward, gradient, leaves

from cljax import methods
from cljax.core import tree
from cljax.core.types import Batch, UsageError
from cljax.engine.setup import spec_of
from cljax.methods.replay import mer

HYPER = {"capacity": 30, "replay_batch": 3, "draws": 2, "beta": 0.5, "gamma": 0.6}


def prepared(bench, learner, task, k, weight=None):
  """What the step of the bench's k-th batch draws: ``rows`` as its method appends them, and the memory behind it."""
  x, y = batch_of(bench, task, k)
  index, number, _ = bench.rows(task, k)
  there = jnp.ones(len(y)) if weight is None else jnp.asarray(weight, jnp.float32)
  batch = Batch(jnp.asarray(x), jnp.asarray(y), there, index, number, None, fresh=there, visit=bench.where(task).visit)
  key = tree.fold(jax.random.fold_in(learner.key, learner.step), "prepare")
  return jax.jit(bench.parts.method.prepare)(key, learner, batch)


def walked(params, x, y, weight, drawn, beta, gamma, rate=RATE):
  """Algorithm 1. ``drawn [B, S]``: lists of stored rows ``(x, y)``."""
  theta = leaves(params)
  sgd = lambda theta, x, y: {n: v - rate * gradient(theta, x, y)[n] for n, v in theta.items()}
  toward = lambda share, a, b: {n: a[n] + share * (b[n] - a[n]) for n in a}
  for i in range(len(y)):
    if not weight[i]:
      continue
    begin = theta
    for stored in drawn[i]:
      first = theta
      for row in [*stored, (x[i : i + 1], y[i : i + 1])]:
        theta = sgd(theta, *row)
      theta = toward(beta, first, theta)
    theta = toward(gamma, begin, theta)
  return theta


def test_mer_walks_row_by_row_and_steps_back_twice(class_stream, small_model):
  """A step of the second task on eight rows, of which one is absent, by algorithm 1 on the rows that were drawn."""
  bench = Bench("mer", class_stream, small_model, HYPER)
  learner = bench.steps(bench.start(), 0, 2)
  weight = np.array([1, 1, 1, 0, 1, 1, 1, 1])
  _, batch = prepared(bench, learner, 1, 0, weight)
  split = bench.stream.dataset.train
  ids, there = (np.asarray(a)[8:].reshape(8, 2, 3) for a in (batch.id, batch.weight))
  assert (there == 1).all()
  drawn = [[[(split.x[[r]], split.y[[r]]) for r in d] for d in row] for row in ids]
  x, y = batch_of(bench, 1, 0)
  want = walked(learner.params, x, y, weight, drawn, 0.5, 0.6)
  after, _, loss = bench.step(learner, *bench.arguments(1, 0, weight=jnp.asarray(weight, jnp.int32)))
  for n, v in leaves(after.params).items():
    np.testing.assert_allclose(v, want[n], atol=5e-6, err_msg=n)
    assert np.abs(v - leaves(learner.params)[n]).max() > 1e-3
  own = cross_entropy(forward(learner.params, x)[1], y)[weight > 0].mean()
  np.testing.assert_allclose(float(loss), own, rtol=1e-5)


def test_a_row_of_mer_is_stored_behind_its_own_steps(class_stream, small_model):
  """In the first batch the first row has nobody to be drawn, each later one those before it and no other."""
  bench = Bench("mer", class_stream, small_model, HYPER)
  start = bench.start()
  after, batch = prepared(bench, start, 0, 0)
  own = np.asarray(batch.id)[:8]
  ids, there = (np.asarray(a)[8:].reshape(8, 2, 3) for a in (batch.id, batch.weight))
  for i in range(8):
    np.testing.assert_array_equal(there[i].sum(-1), min(i, 3))
    for d in range(2):
      some = ids[i, d][there[i, d] > 0]
      assert set(some) <= set(own[:i])
      assert len(set(some)) == len(some)
  assert (ids[6, 0] != ids[6, 1]).any()
  np.testing.assert_array_equal(after.method_state.rows["id"][:8], own)
  assert int(after.method_state.count) == 8
  stepped = bench.step(start, *bench.arguments(0))[0]
  assert_same(stepped.method_state, after.method_state)
  again = bench.step(stepped, *bench.arguments(0, 0, weight=jnp.full(8, 2, jnp.int32)))[0]  # a second pass
  assert int(again.method_state.count) == 8


def test_a_worked_walk_of_one_number():
  """The slope is theta: three steps at 0.1 from 1 end at 0.729, half of the way is 0.8645; twice, and gamma."""
  flags = lambda *at: jnp.zeros(6, bool).at[jnp.array(at)].set(True)
  slope = lambda p, place, number: p
  one = mer.walk(slope, jnp.float32(1), jnp.arange(3), flags(2)[:3], flags(2)[:3], jnp.ones(3, bool), 0.1, 0.5, 1.0)
  np.testing.assert_allclose(one, 0.8645, rtol=1e-6)
  two = mer.walk(slope, jnp.float32(1), jnp.arange(6), flags(2, 5), flags(5), jnp.ones(6, bool), 0.1, 0.5, 0.3)
  np.testing.assert_allclose(two, 1 + 0.3 * (0.8645**2 - 1), rtol=1e-6)
  for beta, gamma in ((0.0, 1.0), (1.0, 0.0)):
    still = mer.walk(slope, jnp.float32(1), jnp.arange(6), flags(2, 5), flags(5), jnp.ones(6, bool), 0.1, beta, gamma)
    assert float(still) == 1
  plain = mer.walk(slope, jnp.float32(1), jnp.arange(6), flags(2, 5), flags(5), jnp.ones(6, bool), 0.1, 1.0, 1.0)
  np.testing.assert_allclose(plain, 0.9**6, rtol=1e-6)
  gone = mer.walk(slope, jnp.float32(1), jnp.arange(6), flags(2, 5), flags(2, 5), jnp.arange(6) < 3, 0.1, 1.0, 1.0)
  np.testing.assert_allclose(gone, 0.9**3, rtol=1e-6)


def test_without_stepping_back_mer_is_sgd_of_single_rows(class_stream, small_model):
  """One row a batch and none stored yet: finetune's step, to tolerance, at the rate of a schedule and its optimizer."""
  for beta, moves in ((1.0, True), (0.0, False)):
    mine = Bench(
      "mer", class_stream, small_model, {"capacity": 4, "beta": beta, "gamma": 1.0, "replay_batch": 1}, rows=1
    )
    plain = Bench("finetune", class_stream, small_model, rows=1)
    start = mine.start()
    after, other = (b.step(b.start(), *b.arguments(0))[0].params for b in (mine, plain))
    want = other if moves else start.params
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), after, want)


def test_mer_never_trains_on_statistics_of_one_row(class_stream, small_model):
  """Where one row alone is passed, it is in eval mode; the forward pass over all of them is in train mode."""
  seen = []

  def apply(params, state, x, *, train, key, task=None, mask=None):
    seen.append((x.shape[0], train))
    return small_model.apply(params, state, x, train=train, key=key, task=task, mask=mask)

  bench = Bench("mer", class_stream, small_model._replace(apply=apply), HYPER)
  jax.eval_shape(bench.parts.step, bench.start(), *bench.arguments(0))
  assert {t for n, t in seen if n == 1} == {False}
  assert {t for n, t in seen if n > 1} == {True}


def test_penalties_act_beside_the_walk_of_mer(class_stream, small_model):
  """Of a hybrid with l2 the step is the walk plus that of the penalty alone."""
  of = lambda strength: Bench({"mer": ("mer", HYPER), "l2": ("l2", {"strength": strength})}, class_stream, small_model)
  start = of(0.0).start()
  without, held = (b.step(b.start(), *b.arguments(0))[0].params for b in (of(0.0), of(0.2)))
  jax.tree.map(
    lambda a, b, p: np.testing.assert_allclose(b - a, -RATE * 2 * 0.2 * p, atol=1e-6), without, held, start.params
  )


def test_mer_needs_an_optimizer_of_known_rate(class_stream, small_model):
  with pytest.raises(UsageError, match="learning rate"):
    Bench("mer", class_stream, small_model, HYPER, optimizer=optax.sgd(0.1)).start()
  with pytest.raises(UsageError, match="draws: got 0; expected an integer of at least 1"):
    methods.make("mer", small_model, spec_of(class_stream, 8), draws=0)
  with pytest.raises(UsageError, match="replay_batch: got 0"):
    methods.make("mer", small_model, spec_of(class_stream, 8), replay_batch=0)


def test_mer_draws_no_more_than_it_stores(class_stream, small_model):
  """Two rows stored, nine asked for: the two, once each."""
  bench = Bench("mer", class_stream, small_model, {"capacity": 2, "replay_batch": 2})
  made = methods.make("mer", small_model, bench.spec, capacity=2)  # replay_batch 9
  x, y = batch_of(bench, 0, 0)
  index, number, _ = bench.rows(0, 0)
  batch = Batch(jnp.asarray(x), jnp.asarray(y), jnp.ones(8), index, number, None, fresh=jnp.ones(8))
  batch = batch._replace(visit=bench.where(0).visit)
  assert jax.eval_shape(made.prepare, jax.random.key(0), bench.start(), batch)[1].weight.shape == (8 + 8 * 2,)
