"""MVP against NumPy in float64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special
from bench import assert_same
from prompts_by_hand import (
  batch_of,
  cosines,
  cross_entropy,
  f64,
  made,
  moved,
  network,
  query,
  slopes_agree,
  trained,
)
from vit_by_hand import zoo

from cljax import compose, methods, streams
from cljax.core.types import UsageError
from cljax.engine.setup import spec_of
from cljax.methods.prompts import mvp
from cljax.methods.prompts.tuning import Asked

HYPER = {
  "pool": 3, "length": 2, "general_length": 3, "general_blocks": 1, "expert_blocks": 1, "strength": 0.7,
  "margin": 0.4, "focus": 0.3, "power": 1.5,
}  # fmt: skip
SIZES = {"patch": 2, "heads": 2, "depth": 2}
FIRST, BOTH = np.array([True, True, False, False]), np.ones(4, bool)


def places(params, q, counts):
  """Of each query the place of the least distance, as often again as rows have taken it."""
  gap = 1 - cosines(q, params["prompts"]["own"]["match"])
  return (gap * (np.asarray(counts) + 1)).argmin(-1)


def parts(params, state, x):
  """``(features, logits, masks, places, queries)`` of rows, each with the prefixes of its own place."""
  q = query(state, x)
  general, own = (params["prompts"][n] for n in ("general", "own"))
  at = places(params, q, state["kept"])
  first = tuple(np.stack([f64(general[p][0])] * len(x)) for p in ("keys", "values"))
  second = tuple(np.stack([f64(own[p][k][0]) for k in at]) for p in ("keys", "values"))
  f = zoo(state["frozen"], x, **SIZES, prefixes={0: first, 1: second})[1]
  mask = 2 * scipy.special.expit(f64(own["mask"]))[at]
  head = params["linear"]
  return f, (f @ f64(head["kernel"]) + f64(head["bias"])) * mask, mask, at, q


def cosine(a, b):
  return a @ b / (np.linalg.norm(a) * np.linalg.norm(b))


def row_weights(params, state, x, y, seen):
  """``(c, g)`` of each row, its gradient and the batch's written out one by one."""
  f, z, mask, _, _ = parts(params, state, x)
  p = scipy.special.softmax(np.where(seen, z, -np.inf), -1)
  one = np.zeros((len(x), *np.shape(params["linear"]["kernel"])))
  for i in range(len(x)):
    for c in np.flatnonzero(seen):
      one[i, :, c] = (p[i, c] - (c == y[i])) * mask[i, c] * f[i]
  whole = one.mean(0)
  g = np.array([1 - cosine(one[i, :, y[i]], whole[:, y[i]]) for i in range(len(x))])
  w = f64(params["linear"]["kernel"])
  c = np.array([1 - cosine(w[:, y[i]], f[i]) + 0.4 for i in range(len(x))])
  return c, g


def key_part(params, state, x):
  keys, counts = f64(params["prompts"]["own"]["match"]), np.asarray(state["kept"])
  q = query(state, x)
  at = places(params, q, counts)
  own = np.mean([np.exp((1 - cosine(q[i], keys[k])) / (counts[k] + 1)) for i, k in enumerate(at)])
  every = np.mean([np.mean([np.exp((1 - cosine(keys[k], j)) / (counts[k] + 1)) for j in keys]) for k in at])
  return -np.log(every / (own + every) + 1e-6)


def loss_of(params, state, x, y, seen, weights=None):
  """``weights (c, g)``: those of the parameters at which a slope is taken, for they have none themselves."""
  c, g = row_weights(params, state, x, y, seen) if weights is None else weights
  f, _, mask, _, _ = parts(params, state, x)
  head = params["linear"]
  z = (f / c[:, None] @ f64(head["kernel"]) + f64(head["bias"])) * mask
  each = (1 - 0.3 + 0.3 * g**1.5) * cross_entropy(z, y, seen)
  return each.mean() + 0.7 * key_part(params, state, x)


@pytest.fixture(scope="module")
def bench(class_stream):
  return made("mvp", class_stream, HYPER)


@pytest.fixture(scope="module")
def second(bench):
  """After the first task; a step into the second, keys and counts by which rows differ; what another step gives."""
  first = trained(bench)
  one = bench.step(first, *bench.arguments(1, 0))[0]
  q = query(one.model_state, batch_of(bench, 1, 1)[0])
  far = np.argmin(cosines(q[:1], q)[0])
  own = {**one.params["prompts"]["own"], "match": jnp.float32([q[0] + 0.1, q[far] - 0.1, -q.mean(0)])}
  own["mask"] = jnp.float32(2 * np.random.default_rng(1).normal(size=(3, 4)))
  prompts = {**one.params["prompts"], "own": own}
  state = {**one.model_state, "kept": jnp.int32([1, 2, 40])}
  one = one._replace(params={**one.params, "prompts": prompts}, model_state=state)
  return first, one, bench.step(one, *bench.arguments(1, 1))


def test_mvp_s_loss_by_hand(bench, second):
  """Rows weighed by their gradients, features by their labels' weights, masks and keys; over labels that rows had."""
  _, one, (_, _, loss) = second
  rows = batch_of(bench, 1, 1)
  at = places(one.params, query(one.model_state, rows[0]), one.model_state["kept"])
  assert len(set(at)) > 1
  np.testing.assert_allclose(float(loss), loss_of(one.params, one.model_state, *rows, BOTH), rtol=1e-4)


def test_mvp_s_gradient_by_differences(bench, second):
  """The weights of rows and features are numbers: they have no slope."""
  _, one, (two, _, _) = second
  rows = batch_of(bench, 1, 1)
  weights = row_weights(one.params, one.model_state, *rows, BOTH)
  at = lambda p: loss_of(p, one.model_state, *rows, BOTH, weights)
  slopes_agree(moved(two.params, one.params), at, one.params, rtol=5e-3)


def test_prompts_and_masks_that_no_row_takes_stand(bench, second):
  """Those that are taken move; keys push each other, so that all of them do."""
  _, one, (two, _, _) = second
  x, _ = batch_of(bench, 1, 1)
  taken = np.isin(np.arange(3), places(one.params, query(one.model_state, x), one.model_state["kept"]))
  assert 0 < taken.sum() < 3
  step = moved(two.params, one.params)["prompts"]["own"]
  for name in ("keys", "values", "mask"):
    np.testing.assert_array_equal(np.abs(step[name].reshape(3, -1)).max(-1) > 0, taken)
  assert np.abs(step["match"]).max(-1).min() > 0


def test_rows_that_are_there_are_counted(bench):
  """Each for the place that it took, by the counts and keys in front of the step."""
  learner = bench.start()
  there = np.array([1, 0, 1, 1, 0, 0, 1, 0], np.int32)
  want = np.zeros(3, int)
  for k in range(3):
    at = places(learner.params, query(learner.model_state, batch_of(bench, 0, k)[0]), want)
    learner = bench.step(learner, *bench.arguments(0, k, there))[0]
    want = want + np.bincount(at[there > 0], minlength=3)
    np.testing.assert_array_equal(learner.model_state["kept"], want)
  assert want.sum() == 12


def test_a_place_that_was_taken_often_is_further_away():
  asked = Asked(jnp.array([[1.0, 0.0]]), None, None, None, True, jnp.array([3, 0], jnp.int32))
  keys = jnp.array([[1.0, 0.5], [1.0, -1.0]])  # distances of 0.106 and 0.293
  assert mvp.nearest(keys, asked)[0] == 1
  assert mvp.nearest(keys, asked._replace(kept=jnp.array([1, 0], jnp.int32)))[0] == 0


def test_answers_of_mvp_are_masked_row_by_row(bench, second):
  """Whatever rows stand beside a row; -inf for labels that no row has had; asking counts nothing."""
  first, one, _ = second
  x = bench.stream.dataset.test.x[:6]
  predict = jax.jit(lambda l, x: bench.parts.predict(l, x, jnp.int32(0)))
  for learner, seen in ((first, FIRST), (one, BOTH)):
    _, z, *_ = parts(learner.params, learner.model_state, x)
    np.testing.assert_allclose(predict(learner, x), np.where(seen, z, -np.inf), rtol=1e-4, atol=1e-4)
  np.testing.assert_allclose(predict(one, x)[:1], predict(one, x[:1]), rtol=1e-5, atol=1e-5)
  left = bench.parts.scrub(one, jnp.zeros(bench.spec.num_rows, bool), jnp.arange(4) == 1)
  assert np.isneginf(np.asarray(predict(left, x))[:, 1]).all()
  assert np.isfinite(np.asarray(predict(left, x))[:, [0, 2, 3]]).all()
  assert np.isfinite(np.asarray(predict(bench.start(), x))).all()


def test_masks_begin_at_one_number(bench):
  own = bench.start().params["prompts"]["own"]
  np.testing.assert_allclose(2 * jax.nn.sigmoid(own["mask"]), 0.538, atol=1e-3)
  assert own["mask"].shape == (3, 4)
  assert own["keys"].shape == own["values"].shape == (3, 1, 2, 8)


def test_labels_of_absent_rows_are_not_seen_by_mvp(bench):
  there = (np.arange(8) == 3).astype(np.int32)
  one, _, loss = bench.step(bench.start(), *bench.arguments(1, 0, there))
  np.testing.assert_array_equal(one.method_state, np.arange(4) == batch_of(bench, 1, 0)[1][3])
  # Of one label alone the classifier's loss is 0.
  np.testing.assert_allclose(
    float(loss), 0.7 * key_part(bench.start().params, bench.start().model_state, batch_of(bench, 1, 0)[0][3:4]),
    rtol=1e-4,
  )  # fmt: skip
  none, _, loss = bench.step(bench.start(), *bench.arguments(1, 0, 0 * there))
  np.testing.assert_allclose(float(loss), -0.7 * np.log(1e-6), rtol=1e-5)
  assert_same(none.params, bench.start().params)


def test_a_stream_s_own_mask_holds_for_mvp(dataset):
  """Labels that the stream closes stay closed, though rows have had them."""
  stream = streams.build(dataset, "task", tasks=2, validation=0.125)
  bench = made("mvp", stream, HYPER)
  one = bench.step(trained(bench), *bench.arguments(1, 0))[0]
  assert np.asarray(one.method_state).all()
  loss = bench.step(one, *bench.arguments(1, 1))[2]
  np.testing.assert_allclose(
    float(loss), loss_of(one.params, one.model_state, *batch_of(bench, 1, 1), ~FIRST), rtol=1e-4
  )


def test_without_its_parts_mvp_s_loss_is_the_network_s(class_stream):
  """With focus 0 all rows weigh alike; the features' share is what margin leaves of it."""
  bench = made("mvp", class_stream, {**HYPER, "focus": 0.0, "strength": 0.0})
  one = trained(bench)
  x, y = batch_of(bench, 0, 2)
  _, z, mask, *_ = parts(one.params, one.model_state, x)
  c, _ = row_weights(one.params, one.model_state, x, y, FIRST)
  shown = (z / mask - f64(one.params["linear"]["bias"])) / c[:, None] + f64(one.params["linear"]["bias"])
  want = cross_entropy(shown * mask, y, FIRST).mean()
  np.testing.assert_allclose(float(bench.step(one, *bench.arguments(0, 2))[2]), want, rtol=1e-4)


def test_gaps_of_gradients():
  """0 for a row that is its batch, 2 for one against all others of its label."""
  f = np.array([[1.0, 2.0], [1.0, 2.0], [-1.0, -2.0]], np.float32)
  slopes = np.array([[-0.5, 0.5], [-0.5, 0.5], [-0.1, 0.1]], np.float32)
  np.testing.assert_allclose(mvp.gaps(jnp.asarray(f), jnp.asarray(slopes), jnp.zeros(3, int)), [0, 0, 2], atol=1e-6)
  f = np.random.default_rng(0).normal(size=(200, 5)).astype(np.float32)
  alone = [mvp.gaps(jnp.asarray(r[None]), -jnp.ones((1, 2)), jnp.zeros(1, int))[0] for r in f]
  assert min(alone) >= 0
  assert max(alone) < 1e-6


def test_the_network_stands_under_mvp(class_stream):
  """To the bit, with momentum and weight decay; and nothing else is trained."""
  bench = made("mvp", class_stream, HYPER, optax.adamw(0.05, weight_decay=0.5))
  start = bench.start()
  end = bench.train(2)
  assert_same(end.model_state["frozen"], start.model_state["frozen"])
  assert_same(end.model_state["inner"], start.model_state["inner"])
  assert set(start.params) == {"prompts", "linear"}
  assert np.abs(np.asarray(end.params["linear"]["kernel"])).min() > 1e-6


def test_mvp_beside_replay(class_stream):
  """Stored rows are rows as others are: they take places, are counted, and have their own weights."""
  spec = spec_of(class_stream, 8)
  both = compose(mvp=methods.make("mvp", network(), spec, pool=2, general_blocks=1), er=methods.make("er", None, spec))
  assert set(both.terms) == {"mvp/scaled", "mvp/keys"}


def test_blocks_of_mvp(class_stream, small_model):
  spec = spec_of(class_stream, 8)
  with pytest.raises(UsageError, match=r"method.general_blocks: got 2; the network has 2 blocks, of which at least 1"):
    methods.make("mvp", network(), spec, general_blocks=2)
  with pytest.raises(UsageError, match="model: takes no prompts, which 'mvp' needs; those that do: vit, pretrained"):
    methods.make("mvp", small_model, spec)
