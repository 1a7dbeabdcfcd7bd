"""UER against NumPy in float64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bench import Bench, assert_same
from by_hand import RATE, batch_of, cross_entropy
from proxies_by_hand import cosines, features

from cljax import methods, streams
from cljax.core.types import Batch, UsageError
from cljax.engine.setup import spec_of

HYPER = {"capacity": 40, "replay_batch": 40, "beta": 0.7, "temperature": 0.3}


def products(params, x):
  return features(params, x) @ np.asarray(params["cosine"]["directions"], np.float64)[..., 0]


@pytest.fixture(scope="module")
def trained(class_stream, small_model):
  """A bench; its learners at the start, a step of the first task on, and one of the second; the losses."""
  bench = Bench("uer", class_stream, small_model, HYPER)
  start = bench.start()
  one, _, first = bench.step(start, *bench.arguments(0, 0))
  two, _, second = bench.step(one, *bench.arguments(1, 0))
  return bench, (start, one, two), (float(first), float(second))


def by_hand(bench, params):
  """The loss of the second step: new rows by their angles, stored ones by their products."""
  (x, y), (old_x, old_y) = batch_of(bench, 1, 0), batch_of(bench, 0, 0)
  new = cross_entropy(cosines(params, x) / 0.3, y).mean()
  return new + 0.7 * cross_entropy(products(params, old_x), old_y).mean()


def test_uer_s_loss_is_of_angles_and_of_whole_logits(trained):
  bench, (start, one, two), losses = trained
  x, y = batch_of(bench, 0, 0)
  np.testing.assert_allclose(losses[0], cross_entropy(cosines(start.params, x) / 0.3, y).mean(), rtol=1e-5)
  np.testing.assert_allclose(losses[1], by_hand(bench, one.params), rtol=1e-5)
  assert_same(two.params["network"]["head"], start.params["network"]["head"])


def test_uer_s_gradient_by_differences(trained):
  bench, (_, one, two), _ = trained
  step = jax.tree.map(lambda a, b: (np.asarray(a, np.float64) - np.asarray(b)) / -RATE, two.params, one.params)
  rng = np.random.default_rng(0)
  for _ in range(3):
    direction = jax.tree.map(lambda a: rng.normal(size=a.shape), step)
    moved = lambda t, direction=direction: jax.tree.map(
      lambda p, d: np.asarray(p, np.float64) + t * d, one.params, direction
    )
    slope = (by_hand(bench, moved(1e-6)) - by_hand(bench, moved(-1e-6))) / 2e-6
    got = sum((a * b).sum() for a, b in zip(jax.tree.leaves(step), jax.tree.leaves(direction), strict=True))
    np.testing.assert_allclose(got, slope, rtol=2e-3)


def test_new_rows_move_no_lengths_and_stored_ones_do(trained):
  """The first step's rows are all new: what it adds to a class stands at right angles to it; the second's does not,
  unless stored rows count nothing. The size of features does not matter to the first."""
  bench, (start, one, two), losses = trained

  def along(a, b):
    w, d = (np.asarray(v, np.float64) for v in (a.params["cosine"]["directions"], b.params["cosine"]["directions"]))
    d = d - w
    return (w * d).sum(0)[:, 0] / np.sqrt((w**2).sum(0) * (d**2).sum(0))[:, 0]

  assert np.abs(along(start, one)).max() < 1e-4
  assert np.abs(along(one, two)).max() > 1e-2
  free = bench.step(one, *bench.arguments(1, 0), beta=0.0)[0]
  assert np.abs(along(one, free)).max() < 1e-4
  hidden = jax.tree.map(lambda a: 4.0 * a, start.params["network"]["hidden_0"])
  larger = {**start.params, "network": {**start.params["network"], "hidden_0": hidden}}
  loss = bench.step(start._replace(params=larger), *bench.arguments(0, 0))[2]
  np.testing.assert_allclose(float(loss), losses[0], rtol=1e-5)


def test_uer_answers_by_products_and_forgets_rows(trained):
  bench, (_, _one, two), _ = trained
  x = bench.stream.dataset.test.x
  got = jax.jit(lambda l: bench.parts.predict(l, jnp.asarray(x), jnp.int32(0)))(two)
  np.testing.assert_allclose(got, products(two.params, x), rtol=1e-4, atol=1e-5)
  gone = np.r_[np.asarray(two.method_state.memory.rows["id"])[:3], np.asarray(two.method_state.pending["id"])[:2]]
  named = jnp.zeros(bench.spec.num_rows, bool).at[gone].set(True)
  left = jax.jit(bench.parts.scrub)(two, named, jnp.zeros(4, bool)).method_state
  assert int(left.memory.count) == 5
  assert not set(np.asarray(left.memory.rows["id"])[:5]) & set(gone)
  np.testing.assert_array_equal(left.weight, [0, 0, 1, 1, 1, 1, 1, 1])


def test_uer_s_new_rows_keep_their_mask_and_absent_ones_have_no_part(dataset, small_model):
  """Where a row's softmax is over its task's classes its angles' is too."""
  stream = streams.build(dataset, "class", tasks=2, validation=0.125, active="task")
  bench = Bench("uer", stream, small_model, HYPER)
  start, there = bench.start(), np.r_[np.ones(5), np.zeros(3)].astype(np.int32)
  loss = bench.step(start, *bench.arguments(1, 0, there, met=()))[2]
  x, y = (a[:5] for a in batch_of(bench, 1, 0))
  own = cosines(start.params, x)[:, 2:] / 0.3
  np.testing.assert_allclose(float(loss), cross_entropy(own, y - 2).mean(), rtol=1e-5)
  batch = Batch(*(jnp.asarray(a) for a in batch_of(bench, 0, 0)), jnp.ones(8), *(jnp.zeros(8, jnp.int32),) * 2)
  batch = batch._replace(visit=bench.where(0).visit, fresh=jnp.ones(8))
  np.testing.assert_array_equal(start.method_state.pending["id"], -1)  # of no row
  for capacity, asked, more in ((3, 0, 3), (40, 0, 8), (40, 5, 5)):
    small = Bench("uer", stream, small_model, {"capacity": capacity, "replay_batch": asked})
    made = jax.eval_shape(small.parts.method.prepare, jax.random.key(0), small.start(), batch)[1]
    assert made.weight.shape == (8 + more,)
  bare = small_model._replace(apply=lambda *a, **k: (small_model.apply(*a, **k)[0]._replace(features=None), {}))
  with pytest.raises(UsageError, match="'uer' needs a model that returns features"):
    methods.make("uer", bare, spec_of(stream, 8))
