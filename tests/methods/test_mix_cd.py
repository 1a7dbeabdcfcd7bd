"""Mix-CD against NumPy in float64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bench import Bench
from by_hand import RATE, batch_of, cross_entropy, forward, gradient, leaves, near

from cljax import memory, methods, streams
from cljax.core.types import Batch, UsageError
from cljax.engine.setup import spec_of
from cljax.engine.step import AGAIN, FRESH
from cljax.methods.replay import mix_cd, stored

HYPER = {"capacity": 48, "replay_batch": 48, "beta": 0.7, "speed": 0.3, "bins": 3}


def contents(learner):
  """The stored rows of a learner, in the order of their slots."""
  state = learner.method_state.replay.memory
  return {k: np.asarray(v)[: int(state.count)] for k, v in state.rows.items()}


def judged(params, rows, bins):
  """Losses, whether rows are right, and their bins: of those that are, in the order of their losses."""
  z = forward(params, rows["x"])[1]
  loss, right = cross_entropy(z, rows["y"]), z.argmax(-1) == rows["y"]
  bin_of = np.zeros(len(loss), int)
  order = [i for i in np.argsort(loss, kind="stable") if right[i]]
  for rank, i in enumerate(order):
    bin_of[i] = min(rank * bins // len(order), bins - 1)
  return loss, right, bin_of


@pytest.fixture(scope="module")
def trained(class_stream, small_model):
  """A bench, and a learner at the beginning of the second task."""
  bench = Bench("mix_cd", class_stream, small_model, HYPER)
  one = bench.train(3, (0,))
  return bench, one, bench.boundary("start_task", one, 1)


def test_where_a_task_begins_stored_rows_are_judged(trained):
  """Right and wrong ones, and a third of the right ones in each bin, by their losses under the network of then."""
  bench, one, begun = trained
  np.testing.assert_array_equal(bench.start().method_state.rates, np.ones(3))
  rows = contents(begun)
  assert len(rows["y"]) == 24  # the last step's too
  _, right, bin_of = judged(one.params, rows, 3)
  assert 0 < right.sum() < 24
  np.testing.assert_array_equal(rows["right"], right)
  np.testing.assert_array_equal(rows["bin"], np.where(right, bin_of, 0))
  assert np.ptp(np.bincount(bin_of[right], minlength=3)) <= 1
  np.testing.assert_array_equal(begun.method_state.rates, 1)
  assert not contents(one)["right"].any()


def test_mix_cd_s_step_is_of_new_rows_and_of_those_that_were_right(trained):
  """Where all of them are drawn: both means, and their gradients."""
  bench, _, begun = trained
  after, _, loss = bench.step(begun, *bench.arguments(1))
  x, y = batch_of(bench, 1, 0)
  rows = contents(begun)
  old = rows["x"][rows["right"]], rows["y"][rows["right"]]
  own = lambda x, y: cross_entropy(forward(begun.params, x)[1], y).mean()
  np.testing.assert_allclose(float(loss), own(x, y) + 0.7 * own(*old), rtol=1e-5)
  slope, replayed = gradient(begun.params, x, y), gradient(begun.params, *old)
  near(after.params, {n: p - RATE * (slope[n] + 0.7 * replayed[n]) for n, p in leaves(begun.params).items()})


def test_rates_follow_the_damage_that_the_step_s_pass_sees(trained):
  """Rows that were right and are wrong, bin by bin; rows of the current task have no part, nor have rows that were
  wrong before."""
  bench, _, learner = trained
  head = learner.params["head"]
  learner = learner._replace(params={**learner.params, "head": {**head, "bias": head["bias"].at[2].add(1.5)}})
  rates, most = np.ones(3), 0
  for k in range(6):
    rows = contents(learner)
    own = rows["right"]
    assert set(rows["task"][own]) == {0}
    wrong = forward(learner.params, rows["x"])[1].argmax(-1) != rows["y"]
    share = np.array([wrong[own & (rows["bin"] == b)].mean() for b in range(3)])
    rates, most = 0.7 * rates + 0.3 * share, max(most, share.max())
    learner = bench.step(learner, *bench.arguments(1, k, np.full(8, AGAIN if k else FRESH)), beta=0.0)[0]
    np.testing.assert_allclose(learner.method_state.rates, rates, rtol=1e-5)
  assert most > 0.2
  assert (contents(learner)["task"] == 1).any()
  begun = bench.boundary("start_task", learner, 0, (0, 1))  # the first comes back
  np.testing.assert_array_equal(begun.method_state.rates, 1)
  assert {0, 1} == set(contents(begun)["task"][contents(begun)["right"]])


def test_no_pass_beyond_the_training_s_own(class_stream, small_model):
  """A step applies the model once, on its rows and those mixed in."""
  seen = []

  def apply(params, state, x, **told):
    seen.append(x.shape[0])
    return small_model.apply(params, state, x, **told)

  bench = Bench("mix_cd", class_stream, small_model._replace(apply=apply), {**HYPER, "replay_batch": 5})
  jax.eval_shape(lambda l: bench.parts.step(l, *bench.arguments(1)), bench.start())
  assert seen == [13]


def test_a_rate_is_an_unbiased_one_where_the_network_stands_still():
  """From 1: ``E r_n = (1 - s)^n + (1 - (1 - s)^n) p``; within [0, 1]; a bin that is not drawn stands."""
  p, s, n = np.array([0.1, 0.6, 0.9]), 0.2, 12
  some = jnp.array([0, 0, 1, 1, 1, 0, 3, 1], jnp.int32)
  weight = jnp.array([1.0, 1, 1, 1, 1, 1, 1, 0])

  def one(rates, key):
    wrong = jax.random.uniform(key, (8,)) < jnp.append(jnp.asarray(p), 0.5)[some]
    return mix_cd.moved_rates(rates, some, wrong, weight, s), ()

  walk = lambda key: jax.lax.scan(one, jnp.ones(4), jax.random.split(key, n))[0]
  got = np.asarray(jax.jit(jax.vmap(walk))(jax.random.split(jax.random.key(0), 3000)))
  assert (got >= 0).all()
  assert (got <= 1).all()
  left = (1 - s) ** n
  np.testing.assert_allclose(got.mean(0)[[0, 1]], left + (1 - left) * p[:2], atol=0.01)
  assert (got[:, 2] == 1).all()
  np.testing.assert_allclose(got.std(0)[0], np.sqrt(0.09 / 3 * s / (2 - s)), rtol=0.1)


def _batch(bench, x, y, task):
  number = jnp.full(len(y), task, jnp.int32)
  return Batch(jnp.asarray(x), jnp.asarray(y), jnp.ones(len(y)), number, number, visit=bench.where(task).visit)


@pytest.mark.parametrize(("chance", "by"), [("rows", "both"), ("bins", "class")])
def test_bins_are_drawn_by_their_damage(chance, by, class_stream, small_model):
  """By ``r_k N_k`` or ``r_k``, and within a bin all rows alike; bins by class, or by class and loss."""
  given = {"capacity": 48, "replay_batch": 1, "chance": chance, "by": by, "bins": 2 if by == "both" else 10}
  bench = Bench("mix_cd", class_stream, small_model, given)
  begun = bench.boundary("start_task", bench.train(5 if by == "both" else 2, (0,)), 1)
  rows = contents(begun)
  _, right, by_loss = judged(begun.params, rows, 2)
  bin_of = rows["y"] if by == "class" else 2 * rows["y"] + by_loss
  np.testing.assert_array_equal(rows["bin"][right], bin_of[right])
  count = 4 if by == "class" else 8
  assert begun.method_state.rates.shape == (count,)
  rates = np.linspace(0.9, 0.1, count)
  if by == "both":
    rates[1] = 0
  begun = begun._replace(method_state=begun.method_state._replace(rates=jnp.asarray(rates, jnp.float32)))
  batch = _batch(bench, *batch_of(bench, 1, 0), 1)
  draw = lambda key: bench.parts.method.prepare(key, begun, batch)[1].id[8:]
  ids = np.ravel(jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(0), 6000)))
  size = np.bincount(bin_of[right], minlength=count)
  assert len(set(size[size > 0])) > 1
  each = np.maximum(rates, 1e-3)[bin_of] * right / (size[bin_of] if chance == "bins" else 1)
  got = np.array([(ids == i).mean() for i in rows["id"]])
  np.testing.assert_allclose(got, each / each.sum(), atol=0.02)
  assert got[right].sum() == pytest.approx(1)


def test_one_bin_is_uniform_replay_of_rows_that_were_right(class_stream, small_model):
  """Whatever its rate."""
  bench = Bench("mix_cd", class_stream, small_model, {"capacity": 48, "replay_batch": 4, "bins": 1})
  begun = bench.boundary("start_task", bench.train(4, (0,)), 1)
  rows, batch = contents(begun), _batch(bench, *batch_of(bench, 1, 0), 1)

  def draw(key, rate):
    state = begun.method_state._replace(rates=jnp.full(1, rate))
    return bench.parts.method.prepare(key, begun._replace(method_state=state), batch)[1].id[8:]

  keys = jax.random.split(jax.random.key(0), 4000)
  for rate in (1.0, 0.05, 0.0):
    ids = np.asarray(jax.jit(jax.vmap(lambda k, rate=rate: draw(k, rate)))(keys))
    assert all(len(set(i)) == 4 for i in ids[:50])
    got = np.array([(ids == i).sum() / 4000 for i in rows["id"]])
    np.testing.assert_allclose(got, 4 * rows["right"] / rows["right"].sum(), atol=0.03)


def test_rows_are_drawn_by_weight_without_replacement():
  """The first as its weight is to all, the second as its weight is to what is left; none of weight 0."""
  held = memory.reservoir(5)
  rows = {"y": jnp.arange(4), "w": jnp.array([0.5, 0.3, 0.0, 0.2])}
  state = held.add(jax.random.key(0), held.init(jax.tree.map(lambda a: a[0], rows)), rows, jnp.ones(4))
  draw = lambda key: stored.draw_by_weight(key, held, state, 2, lambda rows: rows["w"] + 0.0)
  at, got, weight = jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(1), 8000))
  assert (weight == 1).all()
  np.testing.assert_array_equal(got["y"], at)
  p = np.array([0.5, 0.3, 0.0, 0.2])
  pairs = np.outer(p, p) / (1 - p[:, None])
  np.fill_diagonal(pairs, 0)
  found = np.histogram2d(*np.asarray(at).T, bins=(np.arange(5), np.arange(5)))[0] / 8000
  np.testing.assert_allclose(found, pairs, atol=0.015)
  at, got, weight = stored.draw_by_weight(jax.random.key(0), held, state, 9, lambda rows: 1.0 * (rows["w"] > 0.25))
  np.testing.assert_array_equal(weight, [1, 1, 0, 0, 0])
  assert sorted(np.asarray(at)) == [0, 1, 5, 5, 5]
  # A slot that holds nothing is not drawn, whatever stands there.
  assert float(stored.draw_by_weight(jax.random.key(0), held, state, 5, lambda rows: jnp.ones(5))[2].sum()) == 4


def test_rows_are_right_among_the_classes_that_take_part(dataset, small_model):
  """Where a task begins among those met; in its steps its own take part too, and do the damage."""
  stream = streams.build(dataset, "class", tasks=2, validation=0.125, active="seen")
  bench = Bench("mix_cd", stream, small_model, HYPER)
  one = bench.train(3, (0,))
  params = {**one.params, "head": {**one.params["head"], "bias": one.params["head"]["bias"].at[3].set(50.0)}}
  begun = bench.boundary("start_task", one._replace(params=params), 1)
  rows = contents(begun)
  right = forward(params, rows["x"])[1][:, :2].argmax(-1) == rows["y"]
  np.testing.assert_array_equal(rows["right"], right)
  assert right.sum() > 3
  after = bench.step(begun, *bench.arguments(1))[0]
  np.testing.assert_allclose(after.method_state.rates, 1)  # all of them wrong


def test_mix_cd_forgets_rows_and_draws_what_is_left(trained):
  bench, _, begun = trained
  rows = contents(begun)
  out = rows["id"][rows["right"]][::2]
  gone = jnp.zeros(bench.spec.num_rows, bool).at[out].set(True)
  left = jax.jit(bench.parts.scrub)(begun, gone, jnp.zeros(4, bool))
  state = left.method_state.replay.memory
  kept = contents(left)
  assert set(kept["id"]) == set(rows["id"]) - set(out)
  assert not np.asarray(state.rows["right"])[len(kept["id"]) :].any()
  loss = bench.step(left, *bench.arguments(1))[2]
  x, y = batch_of(bench, 1, 0)
  own = lambda x, y: cross_entropy(forward(begun.params, x)[1], y).mean()
  want = own(x, y) + 0.7 * own(kept["x"][kept["right"]], kept["y"][kept["right"]])
  np.testing.assert_allclose(float(loss), want, rtol=1e-5)


def test_mix_cd_refuses_what_it_does_not_read(class_stream, small_model):
  spec = spec_of(class_stream, 8)
  with pytest.raises(UsageError, match=r"method\.bins: got 4, which 'mix_cd' does not read with by='class'"):
    methods.make("mix_cd", small_model, spec, by="class", bins=4)
  # More rows than a memory holds are not drawn, and no more than are asked for.
  for given, more in (({"capacity": 3}, 3), ({"capacity": 40}, 8), ({"capacity": 40, "replay_batch": 5}, 5)):
    bench = Bench("mix_cd", class_stream, small_model, given)
    batch = _batch(bench, *batch_of(bench, 0, 0), 0)._replace(fresh=jnp.ones(8))
    made = jax.eval_shape(bench.parts.method.prepare, jax.random.key(0), bench.start(), batch)[1]
    assert made.weight.shape == (8 + more,)
