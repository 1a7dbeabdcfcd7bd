"""Deep generative replay against NumPy in float64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bench import Bench, assert_near, assert_same
from by_hand import RATE, batch_of, cross_entropy, forward, gradient, leaves, near
from normed import normed

from cljax import methods, models
from cljax.core import tree
from cljax.core.types import UsageError
from cljax.engine.setup import spec_of
from cljax.engine.step import state_between_tasks
from cljax.methods.generative import dgr

LATENT, WIDTH = 3, 5
HYPER = {"latent": LATENT, "width": WIDTH, "rate": 0.01, "likelihood": "gaussian"}


def layered(p, name, x):
  """Three dense layers with ReLU between."""
  for i in range(3):
    x = (np.maximum(x, 0) if i else x) @ p[f"{name}/layer_{i}/kernel"] + p[f"{name}/layer_{i}/bias"]
  return x


def codes(learner):
  """The codes of the step's made-up rows: one normal draw for each place of a row."""
  key = tree.fold(tree.fold(jax.random.fold_in(learner.key, learner.step), "dgr"), "code")
  return np.stack([np.asarray(jax.random.normal(jax.random.fold_in(key, i), (LATENT,)), np.float64) for i in range(8)])


def made_up(learner, likelihood="gaussian"):
  decoder = {f"decoder/{n}": v for n, v in leaves(learner.method_state.decoder).items()}
  x = layered(decoder, "decoder", codes(learner))
  return x if likelihood == "gaussian" else 1 / (1 + np.exp(-x))


def labels(learner, x, allowed):
  z = forward(learner.method_state.solver.params, x)[1]
  return np.where(allowed, z, -np.inf).argmax(1)


def elbo(p, x, noise, likelihood="gaussian"):
  """Mean over rows of the reconstruction's loss and of the code's divergence from a normal one."""
  code = layered(p, "encoder", x)
  m, log_v = code[:, :LATENT], code[:, LATENT:]
  r = layered(p, "decoder", m + np.exp(0.5 * log_v) * noise)
  if likelihood == "gaussian":
    far = ((r - x) ** 2).sum(1) / 2
  else:
    x = np.clip(x, 0, 1)
    far = -(x * np.log(1 / (1 + np.exp(-r))) + (1 - x) * np.log(1 / (1 + np.exp(r)))).sum(1)
  return (far - 0.5 * (1 + log_v - m**2 - np.exp(log_v)).sum(1)).mean()


def noise(learner, name):
  """That of the autoencoder's pass over ``name`` rows in a step, by place."""
  key = tree.fold(tree.fold(jax.random.fold_in(learner.key, learner.step), "observe"), name)
  key = tree.fold(key, "vae")
  return np.stack([np.asarray(jax.random.normal(jax.random.fold_in(key, i), (LATENT,)), np.float64) for i in range(8)])


def assert_slope(learner, after, loss):
  """The gradient that moved the generator, read from its moments, against differences of ``loss(params)``."""
  before, now = dgr.generator_of(learner.opt_state), dgr.generator_of(after.opt_state)
  got = {n: (v - 0.9 * leaves(before.moments[0].mu)[n]) / 0.1 for n, v in leaves(now.moments[0].mu).items()}
  p, rng = leaves(before.params), np.random.default_rng(0)
  for _ in range(3):
    way = {n: rng.normal(size=v.shape) for n, v in p.items()}
    at = lambda t, way=way: loss({n: v + t * way[n] for n, v in p.items()})
    slope = (at(1e-5) - at(-1e-5)) / 2e-5
    np.testing.assert_allclose(sum((got[n] * way[n]).sum() for n in p), slope, rtol=1e-3, atol=1e-4)


@pytest.fixture(scope="module")
def run(class_stream, small_model):
  """Behind the first task; at the start of the second; a step of it."""
  bench = Bench("dgr", class_stream, small_model, HYPER)
  one = bench.train(3, (0,))
  two = bench.boundary("start_task", one, 1, (0,))
  return bench, one, two, bench.step(two, *bench.arguments(1, 0, met=(0,)))


def test_the_solver_learns_half_of_new_rows_and_half_of_made_up_ones(run):
  """In the second task: labels by the solver of the boundary, of the first task's classes alone."""
  _, one, two, (after, _, loss) = run
  bench = run[0]
  x = made_up(two)
  y = labels(two, x, np.arange(4) < 2)
  new = batch_of(bench, 1, 0)
  want = 0.5 * cross_entropy(forward(two.params, new[0])[1], new[1]).mean()
  want += 0.5 * cross_entropy(forward(two.params, x)[1], y).mean()
  np.testing.assert_allclose(float(loss), want, rtol=1e-5)
  g, r = gradient(two.params, *new), gradient(two.params, x, y)
  near(after.params, {n: v - RATE * (0.5 * g[n] + 0.5 * r[n]) for n, v in leaves(two.params).items()})
  assert max(np.abs(v).max() for v in r.values()) > 1e-2
  assert_same(one.method_state.solver.params, one.params)


@pytest.mark.parametrize("likelihood", ["gaussian", "bernoulli"])
def test_the_generator_learns_the_same_rows_by_the_same_shares(likelihood, run, class_stream, small_model):
  """Its gradient in a step of the first task, of new rows alone, and of the second, of both. Under 'bernoulli' the
  inputs are cut to [0, 1], and what is made up lies there."""
  bench = run[0]
  if likelihood == "bernoulli":
    bench = Bench("dgr", class_stream, small_model, {**HYPER, "likelihood": likelihood})
  start = bench.boundary("start_task", bench.start(), 0)
  start = bench.step(start, *bench.arguments(0, 1))[0]  # off biases of 0, where ReLU has no slope
  first = bench.step(start, *bench.arguments(0, 0))[0]
  x = batch_of(bench, 0, 0)[0].reshape(8, -1)
  assert_slope(start, first, lambda p: elbo(p, x, noise(start, "own"), likelihood))
  two = bench.boundary("start_task", bench.boundary("end_task", first, 0), 1, (0,))
  x, old = batch_of(bench, 1, 0)[0].reshape(8, -1), made_up(two, likelihood)
  loss = lambda p: 0.5 * elbo(p, x, noise(two, "own"), likelihood) + 0.5 * elbo(p, old, noise(two, "made"), likelihood)
  assert_slope(two, bench.step(two, *bench.arguments(1, 0, met=(0,)))[0], loss)
  if likelihood == "bernoulli":
    y = labels(two, old, np.arange(4) < 2)
    both = [cross_entropy(forward(two.params, a)[1], b).mean() for a, b in (batch_of(bench, 1, 0), (old, y))]
    got = bench.step(two, *bench.arguments(1, 0, met=(0,)))[2]
    np.testing.assert_allclose(float(got), np.mean(both), rtol=1e-5)


def test_the_first_task_has_no_replay(class_stream, small_model, run):
  """Whatever the generator: the run is plain training. Shares add up to 1, and new rows' is 1 / t."""
  plain = Bench("finetune", class_stream, small_model).train(3, (0,))
  assert_near(run[1].params, plain.params)
  bench = run[0]
  visit = lambda task, met: bench.where(task, met).visit
  shares = [(0, (), True, 1), (0, (), False, 1), (1, (0,), True, 0.5), (1, (0,), False, 1), (0, (0, 1), True, 0.5)]
  for task, met, ready, want in [*shares, (0, (0,), True, 1)]:
    np.testing.assert_allclose(dgr.share_of(visit(task, met), jnp.asarray(ready)), want)


def test_generator_and_solver_of_before_stand_still_within_a_task(run):
  """What makes up and labels is of the boundary, while both learn on; at the next one they are copied anew."""
  bench, one, two, (after, _, _) = run
  assert_same(after.method_state, one.method_state)
  assert_same(two.opt_state.finalize, one.opt_state.finalize)  # a task that begins leaves it
  now = dgr.generator_of(after.opt_state).params
  for a, b in zip(jax.tree.leaves(now["decoder"]), jax.tree.leaves(after.method_state.decoder), strict=True):
    assert np.abs(np.asarray(a - b)).max() > 1e-4
  ended = bench.boundary("end_task", after, 1, (0,))
  assert_same(ended.method_state.decoder, now["decoder"])
  assert_same(ended.method_state.solver.params, after.params)


def test_generators_of_members_begin_apart_and_are_counted(run):
  """Each seed has its own; the bytes between tasks hold the generator, its moments, its decoder's copy, the solver."""
  bench, one, _, _ = run
  other = bench.boundary("start_task", bench.start(1), 0)
  mine = bench.boundary("start_task", bench.start(0), 0)
  first = lambda l: np.asarray(dgr.generator_of(l.opt_state).params["encoder"]["layer_0"]["kernel"])
  assert np.abs(first(other) - first(mine)).max() > 0.1
  weights = 16 * WIDTH + WIDTH + WIDTH * WIDTH + WIDTH
  encoder, decoder = weights + 2 * LATENT * (WIDTH + 1), weights + 16 + WIDTH * LATENT
  solver = tree.size(one.params)
  kept = sum(np.asarray(a).nbytes for a in jax.tree.leaves(state_between_tasks(one)))
  assert kept == 4 * (3 * (encoder + decoder) + decoder + solver) + 4 + 1  # Adam's count; whether it is ready


def test_where_tasks_have_softmaxes_of_their_own_one_labels_each_row(task_stream, small_model):
  """Task-incremental: a made-up row's label is the argmax among one earlier task's classes, and so is its loss."""
  bench = Bench("dgr", task_stream, small_model, HYPER)
  two = bench.boundary("start_task", bench.train(2, (0,)), 1, (0,))
  x, own = made_up(two), np.arange(4) < 2
  y, new = labels(two, x, own), batch_of(bench, 1, 0)
  _, _, loss = bench.step(two, *bench.arguments(1, 0, met=(0,)))
  cut = lambda params, x, own: np.where(own, forward(params, x)[1], -np.inf)
  want = cross_entropy(cut(two.params, x, own), y).mean()
  want += cross_entropy(cut(two.params, new[0], ~own), labels_of_task(bench, 1, 0)).mean()
  np.testing.assert_allclose(float(loss), want / 2, rtol=1e-5)


def labels_of_task(bench, task, k):
  """Those of the bench's k-th batch as the task gives them."""
  index = np.asarray(bench.rows(task, k)[0])
  return np.asarray(bench.stream.labels)[task, bench.stream.dataset.train.y[index]]


def test_made_up_rows_are_not_counted_by_batch_norm(class_stream):
  """Its running statistics are those of new rows; the loss is of both."""
  bench = Bench("dgr", class_stream, normed(), HYPER)
  two = bench.boundary("start_task", bench.train(2, (0,)), 1, (0,))
  after, _, loss = bench.step(two, *bench.arguments(1, 0, met=(0,)))
  bare = two._replace(method_state=two.method_state._replace(ready=jnp.zeros((), bool)))
  plain, _, other = bench.step(bare, *bench.arguments(1, 0, met=(0,)))
  assert_same(after.model_state, plain.model_state)
  assert abs(float(loss) - float(other)) > 1e-3


def normalised(p, x, statistics=None):
  """The logits of the network with BatchNorm, by the rows' own statistics where none are given."""
  h = np.asarray(x, np.float64).reshape(len(x), -1) @ p["in/kernel"] + p["in/bias"]
  mean, var = (h.mean(0), h.var(0)) if statistics is None else statistics
  h = (h - mean) / np.sqrt(var + 1e-5) * p["norm/scale"] + p["norm/bias"]
  return np.maximum(h, 0) @ p["head/kernel"] + p["head/bias"]


def test_made_up_rows_in_places_of_absent_ones_have_no_part(class_stream):
  """Neither in the mean nor in the batch statistics by which the others are judged; their labels are of the running
  statistics."""
  bench = Bench("dgr", class_stream, normed(), HYPER)
  two = bench.boundary("start_task", bench.train(2, (0,)), 1, (0,))
  there = np.array([1, 0, 1, 1, 0, 1, 1, 0], np.int32)
  loss = bench.step(two, *bench.arguments(1, 0, there, met=(0,)))[2]
  x, (new, y), p, at = made_up(two), batch_of(bench, 1, 0), leaves(two.params), there > 0
  before = two.method_state.solver
  statistics = [leaves(before.model_state)[f"batch_stats/norm/{n}"] for n in ("mean", "var")]
  said = np.where(np.arange(4) < 2, normalised(leaves(before.params), x, statistics), -np.inf).argmax(1)
  want = [cross_entropy(normalised(p, rows[at]), of[at]).mean() for rows, of in ((new, y), (x, said))]
  np.testing.assert_allclose(float(loss), np.mean(want), rtol=1e-4)
  others = cross_entropy(normalised(p, x), said)[at].mean()
  assert abs(others - want[1]) > 1e-2


def test_a_request_throws_the_generator_away(run):
  """Nothing of it is left, nothing is replayed until the next boundary, and it begins anew; a request that names no
  row leaves it. The solver of before follows an edit."""
  bench, one, two, _ = run
  none = jnp.zeros(bench.spec.num_rows, bool)
  same = bench.parts.scrub(one, none, jnp.zeros(4, bool))
  assert_same((same.method_state, same.opt_state), (one.method_state, one.opt_state))
  left = bench.parts.scrub(one, none.at[3].set(True), jnp.zeros(4, bool))
  assert not any(np.asarray(a).any() for a in jax.tree.leaves((left.opt_state.finalize, left.method_state.decoder)))
  left = bench.boundary("start_task", left, 1, (0,))
  fresh = bench.boundary("start_task", bench.start(), 0)
  assert_same(dgr.generator_of(left.opt_state), dgr.generator_of(fresh.opt_state))
  g, after = gradient(left.params, *batch_of(bench, 1, 0)), bench.step(left, *bench.arguments(1, 0, met=(0,)))[0]
  near(after.params, {n: v - RATE * g[n] for n, v in leaves(left.params).items()})
  edited = two._replace(params=jax.tree.map(lambda p: p + 1.0, two.params))
  followed = bench.parts.method.after_forget(edited, two.params).method_state.solver.params
  assert_near(followed, jax.tree.map(lambda p: p + 1.0, two.method_state.solver.params))


def test_dgr_refuses_inputs_that_no_generator_makes(class_stream, small_model):
  spec = spec_of(class_stream, 8)
  several, tokens = {"x": jax.ShapeDtypeStruct((5,), jnp.float32)}, jax.ShapeDtypeStruct((5,), jnp.int32)
  for shown, scale in ((several, 1.0), (tokens, None)):
    with pytest.raises(UsageError, match="'dgr' makes rows up; expected inputs that are one array of real numbers"):
      methods.make("dgr", models.mlp((5,), 4, hidden=(8,)), spec._replace(shown=shown, scale=scale))
  assert methods.make("dgr", small_model, spec._replace(scale=None)).terms
