"""La-MAML, its synchronous form and C-MAML against NumPy in float64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from bench import Bench, assert_near
from by_hand import RATE, batch_of, cross_entropy, forward, gradient, leaves

from cljax import methods
from cljax.core.types import UsageError
from cljax.engine.setup import spec_of
from cljax.methods.replay import la_maml

HYPER = {"capacity": 40, "clip": 0.0, "alpha_rate": 0.3}
RNG = np.random.default_rng(3)


def begun(bench, rates=True):
  """A learner whose next step replays the eight rows of the first batch, all of them; each weight at a rate of its own,
  some of them below 0."""
  learner = bench.step(bench.start(), *bench.arguments(0, 0))[0]
  if not rates:
    return learner
  drawn = jax.tree.map(lambda p: jnp.asarray(RNG.uniform(-0.1, 0.4, p.shape), jnp.float32), learner.params)
  return learner._replace(opt_state=learner.opt_state._replace(penalty=la_maml.Rates(drawn)))


def rows_of(bench):
  """The next batch, and it with what is replayed."""
  x, y = batch_of(bench, 1, 0)
  old = batch_of(bench, 0, 0)
  return x, y, np.concatenate([x, old[0]]), np.concatenate([y, old[1]])


def paths(theta, alpha, blocks):
  """``[(fast_j, sum of the slopes so far)]``."""
  fast, total, found = theta, {n: 0.0 for n in theta}, []
  for x, y in blocks:
    g = gradient(fast, x, y)
    fast = {n: v - np.maximum(alpha[n], 0) * g[n] for n, v in fast.items()}
    total = {n: v + g[n] for n, v in total.items()}
    found.append((fast, total))
  return found


def first_order(theta, alpha, blocks, xs, ys):
  """The slopes of L by theta and alpha where inner gradients are constants."""
  found = paths(theta, alpha, blocks)
  outer = [gradient(fast, xs, ys) for fast, _ in found]
  by_theta = {n: np.mean([g[n] for g in outer], 0) for n in theta}
  by_alpha = {
    n: -np.mean([t[n] * g[n] for g, (_, t) in zip(outer, found, strict=True)], 0) * (alpha[n] > 0) for n in theta
  }
  return by_theta, by_alpha


def meta_loss(theta, alpha, blocks, xs, ys):
  return np.mean([cross_entropy(forward(fast, xs)[1], ys).mean() for fast, _ in paths(theta, alpha, blocks)])


def single(x, y):
  return [(x[i : i + 1], y[i : i + 1]) for i in range(len(y))]


def close(got, want, atol=5e-6):
  for n, v in leaves(got).items():
    np.testing.assert_allclose(v, want[n], atol=atol, rtol=1e-4, err_msg=n)


@pytest.mark.parametrize("rule", la_maml.RULES)
def test_la_maml_learns_rates_first_and_moves_by_them(rule, class_stream, small_model):
  """Rates before weights, which move by the new ones (la_maml), or at the run's rate (sync, c_maml: rates stay)."""
  hyper = {**HYPER, "rule": rule, "second_order": False, "alpha": 0.2}
  if rule == "c_maml":
    del hyper["alpha_rate"]
  bench = Bench("la_maml", class_stream, small_model, hyper)
  learner = begun(bench, rule != "c_maml")
  x, y, xs, ys = rows_of(bench)
  theta = leaves(learner.params)
  alpha = {n: np.full_like(v, 0.2) for n, v in theta.items()}
  if rule != "c_maml":
    alpha = leaves(learner.opt_state.penalty.alpha)
  by_theta, by_alpha = first_order(theta, alpha, single(x, y), xs, ys)
  assert min(np.abs(v).max() for v in by_alpha.values()) > 1e-3
  after, _, loss = bench.step(learner, *bench.arguments(1, 0))
  if rule != "c_maml":
    alpha = {n: a - 0.3 * by_alpha[n] for n, a in alpha.items()}
    close(after.opt_state.penalty.alpha, alpha)
  rate = {n: np.maximum(a, 0) if rule == "la_maml" else RATE for n, a in alpha.items()}
  close(after.params, {n: v - rate[n] * by_theta[n] for n, v in theta.items()})
  np.testing.assert_allclose(float(loss), cross_entropy(forward(theta, xs)[1], ys).mean(), rtol=1e-5)


def test_the_second_order_by_differences(class_stream, small_model):
  """Both slopes, through the inner gradients, along random directions; they are not those of the first order."""
  bench = Bench("la_maml", class_stream, small_model, HYPER)
  learner = begun(bench)
  x, y, xs, ys = rows_of(bench)
  theta, alpha = leaves(learner.params), leaves(learner.opt_state.penalty.alpha)
  after = bench.step(learner, *bench.arguments(1, 0))[0]
  new = leaves(after.opt_state.penalty.alpha)
  by_alpha = {n: (alpha[n] - new[n]) / 0.3 for n in alpha}
  moves = {n: new[n] > 0.02 for n in new}
  share = {n: np.where(moves[n], new[n], 1) for n in new}
  by_theta = {n: moves[n] * (theta[n] - v) / share[n] for n, v in leaves(after.params).items()}
  flat = first_order(theta, alpha, single(x, y), xs, ys)
  assert max(np.abs((flat[0][n] - by_theta[n]) * moves[n]).max() for n in theta) > 1e-3
  assert max(np.abs(flat[1][n] - by_alpha[n]).max() for n in theta) > 1e-4
  at = lambda a, b: meta_loss(a, b, single(x, y), xs, ys)
  for _ in range(3):
    d = {n: RNG.normal(size=v.shape) * moves[n] for n, v in theta.items()}
    along = lambda s, base, d: {n: base[n] + s * d[n] for n in base}
    slope = (at(along(1e-5, theta, d), alpha) - at(along(-1e-5, theta, d), alpha)) / 2e-5
    np.testing.assert_allclose(sum((by_theta[n] * d[n]).sum() for n in d), slope, rtol=5e-3, atol=1e-3)
    d = {n: RNG.normal(size=v.shape) * (alpha[n] > 1e-3) for n, v in theta.items()}
    slope = (at(theta, along(1e-5, alpha, d)) - at(theta, along(-1e-5, alpha, d))) / 2e-5
    np.testing.assert_allclose(sum((by_alpha[n] * d[n]).sum() for n in d), slope, rtol=5e-3, atol=1e-3)


def test_a_rate_of_zero_or_below_holds_its_weight(class_stream, small_model):
  """Weights of negative rates keep their bits, and so do their rates; with alpha 0 all of them, for good."""
  bench = Bench("la_maml", class_stream, small_model, HYPER)
  learner = begun(bench)
  after = bench.step(learner, *bench.arguments(1, 0))[0]
  still = jax.tree.map(lambda a: np.asarray(a) <= 0, learner.opt_state.penalty.alpha)
  some = 0
  for held, *pairs in zip(
    *map(
      jax.tree.leaves,
      (still, learner.params, after.params, learner.opt_state.penalty.alpha, after.opt_state.penalty.alpha),
    ),
    strict=True,
  ):
    before, now, rate, new = (np.asarray(a) for a in pairs)
    np.testing.assert_array_equal(before[held], now[held])
    np.testing.assert_array_equal(rate[held], new[held])
    assert (before[~held] != now[~held]).mean() > 0.3
    some += held.sum()
  assert some > 10
  start = bench.start()
  zero = start._replace(
    opt_state=start.opt_state._replace(penalty=jax.tree.map(jnp.zeros_like, start.opt_state.penalty))
  )
  jax.tree.map(np.testing.assert_array_equal, bench.steps(zero, 0, 2).params, start.params)


def test_one_row_is_one_step_at_the_point_it_leads_to(class_stream, small_model):
  """C-MAML, one row, nothing stored, first order: plain SGD with the slope behind one inner step of alpha."""
  hyper = {"capacity": 4, "clip": 0.0, "rule": "c_maml", "alpha": 0.2, "second_order": False, "replay_batch": 1}
  bench = Bench("la_maml", class_stream, small_model, hyper, rows=1)
  start = bench.start()
  x, y = batch_of(bench, 0, 0)
  theta = leaves(start.params)
  inner = gradient(theta, x, y)
  outer = gradient({n: v - 0.2 * inner[n] for n, v in theta.items()}, x, y)
  close(bench.step(start, *bench.arguments(0))[0].params, {n: v - RATE * outer[n] for n, v in theta.items()})


def test_without_inner_steps_it_is_er(class_stream, small_model):
  hyper = {"capacity": 12, "clip": 0.0, "rule": "c_maml", "alpha": 0.0}
  one, other = (
    Bench("la_maml", class_stream, small_model, hyper),
    Bench("er", class_stream, small_model, {"capacity": 12}),
  )
  assert_near(one.train(3).params, other.train(3).params)


def test_blocks_of_rows_and_rows_that_are_absent(class_stream, small_model):
  """Three at a time, the last block shorter; a block of absent rows alone is no step and has no part in the mean."""
  hyper = {**HYPER, "second_order": False, "inner_batch": 3}
  bench = Bench("la_maml", class_stream, small_model, hyper)
  learner = begun(bench)
  x, y, xs, ys = rows_of(bench)
  there = np.array([1, 0, 1, 0, 0, 0, 1, 1], bool)
  after = bench.step(learner, *bench.arguments(1, 0, weight=jnp.asarray(there, jnp.int32)))[0]
  blocks = [(x[[0, 2]], y[[0, 2]]), (x[6:], y[6:])]
  keep = np.r_[there, np.ones(8, bool)]
  theta, alpha = leaves(learner.params), leaves(learner.opt_state.penalty.alpha)
  by_theta, by_alpha = first_order(theta, alpha, blocks, xs[keep], ys[keep])
  new = {n: a - 0.3 * by_alpha[n] for n, a in alpha.items()}
  close(after.opt_state.penalty.alpha, new)
  close(after.params, {n: v - np.maximum(new[n], 0) * by_theta[n] for n, v in theta.items()})


def test_the_meta_gradients_are_clipped_and_the_inner_ones_are_not(class_stream, small_model):
  bench = Bench("la_maml", class_stream, small_model, {**HYPER, "clip": 0.05, "second_order": False})
  learner = begun(bench)
  x, y, xs, ys = rows_of(bench)
  theta, alpha = leaves(learner.params), leaves(learner.opt_state.penalty.alpha)
  length = lambda t: np.sqrt(sum((v**2).sum() for v in t.values()))
  assert all(length(gradient(theta, *row)) > 0.2 for row in single(x, y))
  by_theta, by_alpha = first_order(theta, alpha, single(x, y), xs, ys)
  assert min(length(by_theta), length(by_alpha)) > 0.06
  by_theta, by_alpha = ({n: v * 0.05 / length(t) for n, v in t.items()} for t in (by_theta, by_alpha))
  after = bench.step(learner, *bench.arguments(1, 0))[0]
  new = {n: a - 0.3 * by_alpha[n] for n, a in alpha.items()}
  close(after.opt_state.penalty.alpha, new)
  close(after.params, {n: v - np.maximum(new[n], 0) * by_theta[n] for n, v in theta.items()})
  short = {"a": jnp.float32([3.0]), "b": jnp.float32([4.0])}
  for most, want in ((0.0, 3.0), (6.0, 3.0), (1.0, 0.6)):
    np.testing.assert_allclose(la_maml.clipped(short, most)["a"], want, rtol=1e-6)
  np.testing.assert_array_equal(la_maml.clipped({"a": jnp.zeros(2)}, 1.0)["a"], 0)


def test_la_maml_refuses_what_it_can_not_follow(class_stream, small_model):
  with pytest.raises(UsageError, match="learning rate"):
    Bench("la_maml", class_stream, small_model, HYPER, optimizer=optax.sgd(0.1)).start()
  spec = spec_of(class_stream, 8)
  with pytest.raises(UsageError, match=r"alpha_rate: got 0.5, which 'la_maml' does not read with rule='c_maml'"):
    methods.make("la_maml", small_model, spec, rule="c_maml", alpha_rate=0.5)
  with pytest.raises(UsageError, match="inner_batch: got 0"):
    methods.make("la_maml", small_model, spec, inner_batch=0)
  with pytest.raises(UsageError, match="rule: got 'async'; allowed: la_maml, sync, c_maml"):
    methods.make("la_maml", small_model, spec, rule="async")
