"""CoPE against NumPy in float64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bench import Bench, assert_same
from by_hand import RATE, batch_of, forward

from cljax import methods
from cljax.core.types import Batch, UsageError
from cljax.engine.setup import spec_of
from cljax.methods.replay import cope

T = 0.3
HYPER = {"capacity": 20, "replay_batch": 20, "temperature": T, "width": 5, "momentum": 0.8}


def unit(a):
  return a / np.linalg.norm(a, axis=-1, keepdims=True)


def embedded(params, x):
  head = {k: np.asarray(v, np.float64) for k, v in params["embedding"].items()}
  return unit(forward(params["network"], x)[0] @ head["kernel"] + head["bias"])


def by_hand(z, fixed, p, y, allowed, temperature):
  """The sums as the formula writes them: of rows z, of pseudo-prototypes ``fixed`` (the same numbers), of classes."""
  each = []
  for i in range(len(y)):
    s = lambda u, i=i: np.exp(u @ z[i] / temperature)
    share = lambda u, c, s=s, there=allowed[i]: s(u) / (s(u) + sum(s(p[k]) for k in there if k != c))
    mates = [fixed[j] for j in range(len(y)) if j != i and y[j] == y[i]] + [p[y[i]]]
    attractor = -np.log(np.mean([share(u, y[i]) for u in mates]))
    others = [j for j in range(len(y)) if y[j] != y[i]]
    pairs = [(share(fixed[j], y[j]) + share(p[y[j]], y[j])) / 2 for j in others]
    each.append(attractor - sum(np.log(1 - np.array(pairs))))
  return np.array(each)


@pytest.fixture(scope="module")
def trained(class_stream, small_model):
  """A bench; its start, a step on, and then one of task 1; and their losses."""
  bench = Bench("cope", class_stream, small_model, HYPER)
  start = bench.start()
  one, _, first = bench.step(start, *bench.arguments(0, 0))
  two, _, second = bench.step(one, *bench.arguments(1, 1, met=(0,)))
  return bench, (start, one, two), (float(first), float(second))


def rows_of_step(bench):
  """Of the second step: its own and all that is stored."""
  parts = [batch_of(bench, *at) for at in ((1, 1), (0, 0))]
  return tuple(np.concatenate(a) for a in zip(*parts, strict=True))


def prototypes(learner):
  return np.asarray(learner.method_state.prototypes, np.float64)


def test_cope_s_loss_draws_to_prototypes_and_rows_and_away_from_others(trained):
  """Of the step's rows and of all that is stored; classes without a row yet are nowhere."""
  bench, (start, one, _), losses = trained
  for learner, (x, y), classes, loss in (
    (start, batch_of(bench, 0, 0), range(2), losses[0]),
    (one, rows_of_step(bench), range(4), losses[1]),
  ):
    z = embedded(learner.params, x)
    want = by_hand(z, z, prototypes(learner), y, [classes] * len(y), T).mean()
    np.testing.assert_allclose(loss, want, rtol=1e-5)


def test_cope_s_gradient_is_that_of_rows_alone(trained):
  """By differences of the loss by hand in which prototypes and pseudo-prototypes stand still."""
  bench, (_, one, two), _ = trained
  step = jax.tree.map(lambda a, b: (np.asarray(a, np.float64) - np.asarray(b)) / -RATE, two.params, one.params)
  assert_same(two.params["network"]["head"], one.params["network"]["head"])
  rng, (x, y) = np.random.default_rng(0), rows_of_step(bench)
  fixed = embedded(one.params, x)
  for _ in range(3):
    direction = jax.tree.map(lambda a: rng.normal(size=a.shape), step)

    def at(t, direction=direction):
      there = jax.tree.map(lambda p, d: np.asarray(p, np.float64) + t * d, one.params, direction)
      return by_hand(embedded(there, x), fixed, prototypes(one), y, [range(4)] * len(y), T).mean()

    slope = (at(1e-6) - at(-1e-6)) / 2e-6
    got = sum((a * b).sum() for a, b in zip(jax.tree.leaves(step), jax.tree.leaves(direction), strict=True))
    np.testing.assert_allclose(got, slope, rtol=2e-3)


def test_prototypes_are_running_means_on_the_sphere(trained):
  """Of the features of before the update, of stored rows too; those of classes that are not in the step stay."""
  bench, (start, one, two), _ = trained
  assert np.ptp(np.sign(prototypes(start))) == 2  # no orthant of their own
  for before, after, (x, y) in ((start, one, batch_of(bench, 0, 0)), (one, two, rows_of_step(bench))):
    z, want = embedded(before.params, x), prototypes(before).copy()
    for c in set(y.tolist()):
      want[c] = unit(0.8 * want[c] + 0.2 * z[y == c].mean(0))
    np.testing.assert_allclose(prototypes(after), want, atol=2e-6)
    np.testing.assert_allclose(np.linalg.norm(prototypes(after), axis=-1), 1, atol=1e-6)
  np.testing.assert_array_equal(prototypes(one)[2:], prototypes(start)[2:])


def test_cope_answers_by_the_nearest_prototype(trained):
  """Of classes that were seen; one that is forgotten whole is as at the start, and its stored rows are gone."""
  bench, (start, one, two), _ = trained
  split, x = bench.stream.dataset.train, bench.stream.dataset.test.x
  predict = jax.jit(lambda l: bench.parts.predict(l, jnp.asarray(x), jnp.int32(0)))
  for learner, open_ in ((start, [1, 1, 1, 1]), (one, [1, 1, 0, 0]), (two, [1, 1, 1, 1])):
    want = np.where(np.array(open_) > 0, embedded(learner.params, x) @ prototypes(learner).T / T, -np.inf)
    np.testing.assert_allclose(predict(learner), want, rtol=1e-4, atol=1e-5)
  named = jnp.zeros(bench.spec.num_rows, bool).at[np.flatnonzero(split.y == 1)].set(True)
  left = jax.jit(bench.parts.scrub)(two, named, jnp.arange(4) == 1)
  np.testing.assert_array_equal(left.method_state.seen, [True, False, True, True])
  np.testing.assert_allclose(prototypes(left)[1], prototypes(start)[1], atol=1e-7)
  np.testing.assert_array_equal(prototypes(left)[[0, 2, 3]], prototypes(two)[[0, 2, 3]])
  kept = left.method_state.replay.memory
  ids = np.asarray(kept.rows["id"])[: int(kept.count)]
  assert 0 < len(ids) < int(two.method_state.replay.memory.count)
  assert (split.y[ids] != 1).all()


def of(z, p, y, weight=None, allowed=None, temperature=T):
  weight = np.ones(len(y)) if weight is None else weight
  allowed = np.ones((len(y), len(p)), bool) if allowed is None else allowed
  as_array = lambda a, d: jnp.asarray(a, d)
  return np.asarray(
    cope.pseudo_prototypical(
      as_array(z, "float32"), as_array(p, "float32"), as_array(y, "int32"), as_array(weight, "float32"),
      as_array(allowed, bool), temperature,
    )
  )  # fmt: skip


@pytest.fixture(scope="module")
def cloud():
  rng = np.random.default_rng(3)
  return unit(rng.normal(size=(7, 4))), unit(rng.normal(size=(5, 4))), np.array([0, 3, 0, 1, 3, 3, 4])


def test_a_row_is_not_its_own_pseudo_prototype(cloud):
  """The term of a row alone in its class is that of the prototype; of rows of weight 0 nothing is left."""
  z, p, y = cloud
  np.testing.assert_allclose(of(z, p, y), by_hand(z, z, p, y, [range(5)] * 7, T), rtol=1e-4)
  weight = np.array([1.0, 1, 1, 1, 1, 1, 0])
  z = z.copy()
  z[6] = 0.0
  want = by_hand(z[:6], z[:6], p, y[:6], [range(5)] * 6, T)
  np.testing.assert_allclose(of(z, p, y, weight)[:6], want, rtol=1e-4)


def test_only_classes_that_are_there_for_a_row_take_part(cloud):
  z, p, y = cloud
  allowed = np.ones((7, 5), bool)
  allowed[:, 2] = allowed[0, 1] = allowed[3, 4] = False
  want = by_hand(z, z, p, y, [np.flatnonzero(a) for a in allowed], T)
  np.testing.assert_allclose(of(z, p, y, allowed=allowed), want, rtol=1e-4)


def test_cope_s_loss_knows_no_names_of_classes(cloud):
  z, p, y = cloud
  new = np.array([3, 0, 4, 1, 2])
  other = np.zeros_like(p)
  other[new] = p
  np.testing.assert_allclose(of(z, other, new[y]), of(z, p, y), rtol=1e-5)


def test_one_class_in_the_batch_is_drawn_and_nothing_pushed(cloud):
  """And where no other class was seen there is nothing to be told from: the loss is 0, and so is its gradient."""
  z, p, _ = cloud
  y = np.full(7, 2)
  attractor = []
  for i in range(7):
    s = lambda u, i=i: np.exp(u @ z[i] / T)
    rest = sum(s(p[k]) for k in (0, 1, 3, 4))
    attractor.append(-np.log(np.mean([s(u) / (s(u) + rest) for u in [*np.delete(z, i, 0), p[2]]])))
  np.testing.assert_allclose(of(z, p, y), attractor, rtol=1e-5)
  alone = np.broadcast_to(np.arange(5) == 2, (7, 5))
  np.testing.assert_array_equal(of(z, p, y, allowed=alone), 0)
  total = lambda z: cope.pseudo_prototypical(
    z, jnp.asarray(p, jnp.float32), jnp.asarray(y), jnp.ones(7), jnp.asarray(alone), T
  ).sum()
  np.testing.assert_array_equal(jax.grad(total)(jnp.asarray(z, jnp.float32)), 0)


def test_the_repellor_is_finite_where_a_row_lies_on_another_class(cloud):
  """At a low temperature ``1 - P`` underflows, its logarithm does not."""
  p = np.eye(4)[:2]
  got = of(p[[1, 1]], p, np.array([0, 1]), temperature=0.004)
  np.testing.assert_allclose(got, [250 + 250, -np.log(0.75)], rtol=1e-5)


def test_cope_s_memory_is_balanced_and_drawn_whole_where_small(class_stream, small_model):
  for capacity, asked, more in ((3, 0, 3), (40, 0, 8), (40, 5, 5)):
    bench = Bench("cope", class_stream, small_model, {"capacity": capacity, "replay_batch": asked})
    batch = Batch(*(jnp.asarray(a) for a in batch_of(bench, 0, 0)), jnp.ones(8), *(jnp.zeros(8, jnp.int32),) * 2)
    batch = batch._replace(visit=bench.where(0).visit, fresh=jnp.ones(8))
    state = jax.eval_shape(bench.parts.init, jax.random.key(0))
    made = jax.eval_shape(bench.parts.method.prepare, jax.random.key(0), state, batch)[1]
    assert made.weight.shape == (8 + more,)
    assert type(state.method_state.replay.memory).__name__ == "ClassBalancedState"
    assert state.method_state.replay.memory.rows["id"].shape == (capacity,)
    assert state.method_state.prototypes.shape == (4, 32)


def test_cope_needs_features(class_stream, small_model):
  bare = small_model._replace(apply=lambda *a, **k: (small_model.apply(*a, **k)[0]._replace(features=None), {}))
  with pytest.raises(UsageError, match="'cope' needs a model that returns features"):
    methods.make("cope", bare, spec_of(class_stream, 8))
  with pytest.raises(UsageError, match=r"method.temperature: got 0.0; expected a number above 0"):
    methods.make("cope", small_model, spec_of(class_stream, 8), temperature=0.0)
