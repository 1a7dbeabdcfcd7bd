"""Adapting in front of each task against NumPy in float64."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bench import Bench, assert_same
from by_hand import forward, leaves, log_softmax

from cljax import methods, models
from cljax.core import rows as picking
from cljax.core.types import Outputs, UsageError, rows_from_arrays
from cljax.engine.setup import spec_of

RATE, TEMPERATURE = 0.05, 0.2
HYPER = {"learning_rate": RATE, "temperature": TEMPERATURE}


def rows_of(stream, task):
  at = np.asarray(stream.train[task])
  return stream.dataset.train.x[at], stream.dataset.train.y[at]


def slope(p, x, y, prototypes, labels):
  """The gradient of the hidden layer of ``mean CE(cos(f, p_c) / T)`` over the classes ``labels``."""
  flat = x.reshape(len(x), -1).astype(np.float64)
  f = np.maximum(flat @ p["hidden_0/kernel"] + p["hidden_0/bias"], 0)
  size = np.linalg.norm(f, axis=-1, keepdims=True)
  d = np.exp(log_softmax(f / size @ prototypes.T / TEMPERATURE)) - (np.asarray(labels)[None] == y[:, None])
  back = d @ prototypes / TEMPERATURE / len(y)
  unit = f / size
  back = (back - (back * unit).sum(-1, keepdims=True) * unit) / size * (f > 0)
  return {"hidden_0/kernel": flat.T @ back, "hidden_0/bias": back.sum(0)}


def moved(params, x, y, passes):
  """The hidden layer after so many steps of momentum and decay on all rows at once."""
  p, labels = leaves(params), np.unique(y)
  f = forward(params, x)[0]
  prototypes = np.stack([f[y == c].mean(0) for c in labels])
  prototypes /= np.linalg.norm(prototypes, axis=-1, keepdims=True)
  speed = {n: 0.0 for n in p}
  for _ in range(passes):
    for n, g in slope(p, x, y, prototypes, labels).items():
      speed[n] = 0.9 * speed[n] + g + 5e-4 * p[n]
      p[n] = p[n] - RATE * speed[n]
  return p


@pytest.fixture(scope="module")
def bench(class_stream, small_model):
  """Its batches hold all rows of a task."""
  return Bench("acl", class_stream, small_model, {**HYPER, "passes": 3, "batch_size": 64})


def test_acl_moves_the_network_as_by_hand(bench, class_stream):
  """By SGD from rest, to prototypes of the network as it was, among the task's classes; the classifier stands."""
  learner = bench.start()
  for task, met in ((0, ()), (1, (0,))):
    x, y = rows_of(class_stream, task)
    want = moved(learner.params, x, y, 3)
    before, learner = learner, bench.boundary("start_task", learner, task, met)
    got = leaves(learner.params)
    for name in ("hidden_0/kernel", "hidden_0/bias"):
      assert np.abs(got[name] - leaves(before.params)[name]).max() > 1e-3
      np.testing.assert_allclose(got[name], want[name], atol=2e-6, rtol=2e-5)
    assert_same(learner.params["head"], before.params["head"])


def test_a_pass_takes_each_row_once_in_batches(class_stream, small_model):
  """Small steps of small batches add up to what one batch of all rows moves, whatever their order."""
  tiny, count = 1e-3, len(class_stream.train[0])
  make = lambda size: Bench("acl", class_stream, small_model, {**HYPER, "learning_rate": tiny, "batch_size": size})
  whole, parts = make(64), make(1)
  start = whole.start()
  step = lambda b: b.boundary("start_task", start, 0, ()).params["hidden_0"]["bias"] - start.params["hidden_0"]["bias"]
  assert count == 42
  x, y = rows_of(class_stream, 0)
  p = leaves(start.params)
  f = forward(start.params, x)[0]
  prototypes = np.stack([f[y == c].mean(0) for c in (0, 1)])
  prototypes /= np.linalg.norm(prototypes, axis=-1, keepdims=True)
  g = slope(p, x, y, prototypes, (0, 1))["hidden_0/bias"]
  np.testing.assert_allclose(step(whole), -tiny * g, rtol=0.05, atol=1e-7)
  # Rows' slopes weigh more the earlier they come, by momentum: between 1 and 10 times.
  each = np.abs(step(parts)).sum() / (tiny * count * np.abs(g).sum())
  assert 1 < each < 10


def test_rows_are_shuffled():
  x = np.arange(6, dtype=np.float32)[:, None]
  rows = rows_from_arrays(x, np.arange(6), weight=np.array([1.0, 0, 1, 1, 0, 1]))
  found = {tuple(np.asarray(picking.shuffled(jax.random.key(i), rows).batch(0, 6).x[:, 0])) for i in range(8)}
  assert len(found) > 3
  for order in found:
    assert sorted(order[:4]) == [0, 2, 3, 5]
    assert order[4:] == (0, 0)
  drawn = picking.shuffled(jax.random.key(0), rows)
  assert drawn.count == 4
  np.testing.assert_array_equal(drawn.batch(0, 6).weight, [1, 1, 1, 1, 0, 0])


def test_without_passes_acl_is_its_base(class_stream, small_model):
  """To the bit; with passes the statistics of old classes are those of the network that was."""
  make = lambda name, **hyper: Bench(name, class_stream, small_model, hyper)
  base, none, some = make("simplecil", first_task="frozen"), make("acl", passes=0), make("acl", **HYPER)
  ends = [b.train(1) for b in (base, none, some)]
  assert_same(ends[1].params, ends[0].params)
  assert_same(ends[1].method_state.statistics, ends[0].method_state.statistics)
  x, y = rows_of(class_stream, 0)
  first = some.boundary("start_task", some.start(), 0, ())
  f = forward(first.params, x)[0]
  means = np.asarray(ends[2].method_state.statistics.means)
  for c in (0, 1):
    np.testing.assert_allclose(means[c], f[y == c].mean(0), atol=1e-5)
  last = forward(ends[2].params, x)[0]
  assert np.abs(last[y == 0].mean(0) - means[0]).max() > 1e-3


def test_a_task_that_comes_back_moves_nothing_under_acl(bench):
  learner = bench.train(1)
  assert_same(bench.boundary("start_task", learner, 0, (0, 1)).params, learner.params)


def test_steps_move_nothing_under_acl(class_stream, small_model):
  bench = Bench("acl", class_stream, small_model, HYPER)
  learner = bench.boundary("start_task", bench.start(), 0, ())
  assert_same(bench.steps(learner, 0, 2).params, learner.params)


@pytest.mark.parametrize("base", ["ranpac", "fecam"])
def test_acl_over_other_closed_forms(base, class_stream, small_model):
  """Each answers by its own rule on the network that acl moved."""
  bench = Bench("acl", class_stream, small_model, {**HYPER, "base": base})
  one = bench.train(1)
  plain = Bench(base, class_stream, small_model, {"first_task": "frozen", "requests": "elsewhere"})
  x = jnp.asarray(class_stream.dataset.test.x)
  said = bench.parts.predict(one, x, jnp.int32(0))
  assert np.isfinite(np.asarray(said)).all()
  np.testing.assert_array_equal(said, plain.parts.predict(one, x, jnp.int32(0)))


class WithStatistics(nn.Module):
  @nn.compact
  def __call__(self, x, train=False):
    x = nn.BatchNorm(use_running_average=not train)(nn.Dense(6)(x.reshape(x.shape[0], -1)))
    return Outputs(nn.Dense(4)(x), nn.relu(x))


def test_statistics_of_batches_move_while_acl_adapts(class_stream):
  """And stand in the steps."""
  bench = Bench("acl", class_stream, models.from_linen(WithStatistics(), (4, 4, 1)), HYPER)
  start = bench.start()
  one = bench.boundary("start_task", start, 0, ())
  gap = jax.tree.map(lambda a, b: np.abs(np.asarray(a) - np.asarray(b)).max(), one.model_state, start.model_state)
  assert min(jax.tree.leaves(gap)) > 1e-4
  assert_same(bench.steps(one, 0, 1).model_state, one.model_state)


def test_what_acl_refuses(class_stream, small_model):
  spec = spec_of(class_stream, 8)
  with pytest.raises(UsageError, match=r"method.base: got 'slda'; allowed: simplecil, ranpac, fecam"):
    methods.make("acl", small_model, spec, base="slda")
  bare = small_model._replace(
    apply=lambda *a, **k: (small_model.apply(*a, **k)[0]._replace(features=None), {})
  )  # fmt: skip
  with pytest.raises(UsageError, match="closed forms need a model that returns features"):
    Bench("acl", class_stream, bare, HYPER).start()
