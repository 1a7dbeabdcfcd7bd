"""MIR against NumPy in float64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bench import Bench, assert_near, assert_same
from by_hand import RATE, batch_of, cross_entropy, forward, gradient, leaves, near

from cljax import memory, methods, models
from cljax.core import tree
from cljax.core.types import Batch
from cljax.engine.setup import spec_of
from cljax.methods.replay import mir, stored

MODEL = models.mlp((4, 4, 1), 4, hidden=(8,))
HYPER = {"capacity": 40, "replay_batch": 3, "candidates": 16, "beta": 0.6, "virtual_rate": 0.3}


def moved(params, slope, rate):
  """The parameters after a plain step."""
  return tree.map_named(lambda n, a: np.asarray(a, np.float64) - rate * slope[n], params)


def losses(params, split, rows):
  return cross_entropy(forward(params, split.x[rows])[1], split.y[rows])


@pytest.fixture(scope="module")
def trained(class_stream, small_model):
  """A bench, a learner that stores both batches of the first task, and a step of the second."""
  bench = Bench("mir", class_stream, small_model, HYPER)
  one = bench.steps(bench.start(), 0, 2)
  after, _, loss = bench.step(one, *bench.arguments(1, 0))
  return bench, one, after, float(loss)


def test_mir_replays_the_rows_that_the_coming_step_would_hurt(trained):
  """Of all 16 candidates the three of the largest rise; gradients at theta, not behind the virtual step."""
  bench, one, after, loss = trained
  split = bench.stream.dataset.train
  rows = np.concatenate([bench.rows(0, k)[0] for k in (0, 1)])
  x, y = batch_of(bench, 1, 0)
  slope = gradient(one.params, x, y)
  rise = losses(moved(one.params, slope, 0.3), split, rows) - losses(one.params, split, rows)
  order = np.argsort(-rise)
  assert rise[order[2]] - rise[order[3]] > 1e-5
  picked = rows[order[:3]]
  want = cross_entropy(forward(one.params, x)[1], y).mean() + 0.6 * losses(one.params, split, picked).mean()
  np.testing.assert_allclose(loss, want, rtol=1e-5)
  replayed = gradient(one.params, split.x[picked], split.y[picked])
  near(after.params, {n: p - RATE * (slope[n] + 0.6 * replayed[n]) for n, p in leaves(one.params).items()})


def test_rises_are_measured_and_the_learner_stays(trained):
  """A score is the loss of a row behind the virtual step minus that before, whatever stands beside it; with rate 0 all
  are 0. ``prepare`` leaves parameters, state and moments to the bit."""
  bench, one, *_ = trained
  method, split = bench.parts.method, bench.stream.dataset.train
  x, y = batch_of(bench, 1, 0)
  batch = _batch(bench, x, y, 1)
  prepared, ready = jax.jit(lambda l, b: method.prepare(jax.random.key(3), l, b))(one, batch)
  assert_same(prepared._replace(method_state=()), one._replace(method_state=()))
  assert ready.weight.shape == (11,)
  rows = np.asarray(bench.rows(0, 0)[0])
  some = _batch(bench, split.x[rows], split.y[rows], 0)
  before, rise = mir.interference(MODEL, bench.spec, one, batch, some, 0.3, jax.random.key(0))
  want = losses(moved(one.params, gradient(one.params, x, y), 0.3), split, rows)
  np.testing.assert_allclose(before, losses(one.params, split, rows), rtol=1e-5)
  np.testing.assert_allclose(rise, want, rtol=1e-5)
  before, rise = mir.interference(MODEL, bench.spec, one, batch, some, 0.0, jax.random.key(0))
  np.testing.assert_array_equal(before, rise)


def _batch(bench, x, y, task):
  number = jnp.full(len(y), task, jnp.int32)
  visit = bench.where(task).visit
  return Batch(jnp.asarray(x), jnp.asarray(y), jnp.ones(len(y)), number, number, None, visit=visit)


def test_mir_draws_candidates_of_earlier_tasks_or_of_all(class_stream, small_model):
  """In the first task nothing is replayed, unless from all; all candidates taken, that is uniform replay."""
  whole = {"capacity": 40, "replay_batch": 40, "candidates": 40, "beta": 1.0}
  of = lambda name, hyper: Bench(name, class_stream, small_model, hyper)
  plain = of("finetune", {}).train(2)
  one = of("mir", whole)
  assert_near(one.train(2, (0,)).params, of("finetune", {}).train(2, (0,)).params)
  every = of("mir", {**whole, "among": "all"}).train(2)
  added = of("er_ace", {"capacity": 40, "replay_batch": 40, "mask": "none"}).train(2)
  assert_near(every.params, added.params)
  assert np.abs(np.asarray(one.train(2).params["head"]["bias"] - plain.params["head"]["bias"])).max() > 1e-3
  assert np.abs(np.asarray(every.params["head"]["bias"] - plain.params["head"]["bias"])).max() > 1e-3


def test_candidates_are_drawn_alike_among_those_allowed():
  """Six of eight slots are stored, four allowed: of three drawn each allowed slot is there three times in four."""
  held = memory.reservoir(8)
  rows = {"y": jnp.arange(6), "best": jnp.arange(6.0)}
  state = held.add(jax.random.key(0), held.init(jax.tree.map(lambda a: a[0], rows)), rows, jnp.ones(6))
  draw = lambda key: stored.draw_among(key, held, state, 3, lambda rows: rows["y"] % 3 != 0)
  at, got, weight = jax.vmap(draw)(jax.random.split(jax.random.key(1), 2000))
  assert (weight == 1).all()
  np.testing.assert_array_equal(got["y"], at)
  np.testing.assert_allclose(
    np.bincount(np.ravel(at), minlength=8) / 2000, [0, 0.75, 0.75, 0, 0.75, 0.75, 0, 0], atol=0.04
  )
  at, _, weight = stored.draw_among(jax.random.key(0), held, state, 6, lambda rows: rows["y"] > 3)
  np.testing.assert_array_equal(weight, [1, 1, 0, 0, 0, 0])
  assert sorted(np.asarray(at)) == [4, 5, 8, 8, 8, 8]
  noted = stored.with_numbers(state, at, best=jnp.full(6, 9.0))
  np.testing.assert_array_equal(noted.rows["best"], [0, 1, 2, 3, 9, 9, 0, 0])


def test_against_the_best_loss_that_a_row_had(class_stream, small_model):
  """Beside a row stands the least of its loss when it came and as a candidate; scores are taken from that."""
  bench = Bench("mir", class_stream, small_model, {**HYPER, "against": "best"})
  start, split = bench.start(), class_stream.dataset.train
  one = bench.steps(start, 0, 1)
  rows = np.asarray(bench.rows(0, 0)[0])
  own = losses(start.params, split, rows)
  np.testing.assert_allclose(one.method_state.pending["best"], own, rtol=1e-5)
  # Without replay the loss rises again.
  two = bench.steps(one, 1, 4, beta=0.0)
  three, _, loss = bench.step(two, *bench.arguments(1, 1))
  now, best = losses(two.params, split, rows), np.asarray(two.method_state.memory.rows["best"])[:8]
  order = [list(np.asarray(two.method_state.memory.rows["id"])).index(i) for i in rows]
  best = np.minimum(best[order], own)
  assert (best < now).any()
  assert (best < own).any()
  state = three.method_state.memory
  order = [list(rows).index(i) for i in np.asarray(state.rows["id"])[:8]]
  np.testing.assert_allclose(state.rows["best"][:8], np.minimum(best, now)[order], rtol=1e-5)
  x, y = batch_of(bench, 1, 1)
  rise = losses(moved(two.params, gradient(two.params, x, y), 0.3), split, rows) - np.minimum(best, now)
  picked = rows[np.argsort(-rise)[:3]]
  want = cross_entropy(forward(two.params, x)[1], y).mean() + 0.6 * losses(two.params, split, picked).mean()
  np.testing.assert_allclose(float(loss), want, rtol=1e-5)
  gone = jnp.zeros(bench.spec.num_rows, bool).at[rows].set(True)
  left = jax.jit(bench.parts.scrub)(three, gone, jnp.zeros(4, bool)).method_state.memory
  assert int(left.count) == int(state.count) - 8
  assert not set(np.asarray(left.rows["id"])[: int(left.count)]) & set(rows)
  assert not np.asarray(left.rows["best"])[int(left.count) :].any()


def test_mir_draws_no_more_than_it_looks_at(class_stream, small_model):
  bench = Bench("mir", class_stream, small_model, {"capacity": 5, "policy": "ring"})  # of two tasks: four slots
  batch = _batch(bench, *batch_of(bench, 1, 0), 1)
  made = jax.eval_shape(bench.parts.method.prepare, jax.random.key(0), bench.start(), batch)[1]
  assert made.weight.shape == (12,)
  with pytest.raises(ValueError, match=r"method.replay_batch: got 9, above method.candidates, which is 8"):
    methods.make("mir", small_model, spec_of(class_stream, 8), replay_batch=9, candidates=8)
