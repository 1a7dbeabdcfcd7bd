"""DualMix against NumPy in float64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bench import Bench, assert_near, assert_same
from by_hand import backward, cross_entropy, forward, leaves, log_softmax, near
from normed import normed

from cljax import methods, models
from cljax.core.tree import fold
from cljax.core.types import Batch, UsageError
from cljax.engine.setup import spec_of
from cljax.methods import views
from cljax.methods.replay import dual_mix

KEY = jax.random.key(5)
HYPER = {"capacity": 20, "views": False, "concentration": 0.7, "beta": 0.8}
# Rows of a step of 8 current ones, one of them absent, and 4 stored, one absent; classes 2 and 3 are new.
Y = np.array([2, 2, 3, 2, 2, 2, 3, 2, 0, 1, 0, 2])
THERE = np.array([1, 1, 1, 1, 1, 1, 1, 0, 1, 1, 1, 0.0])


def batch_of(x, mask=None):
  number = jnp.asarray(np.where(np.arange(12) < 8, 1, 0), jnp.int32)
  return Batch(jnp.asarray(x), jnp.asarray(Y), jnp.asarray(THERE, jnp.float32), number, number, mask)


def shares(lam, other, ratio, shift):
  """Label weights by the counts of the rows that are there, pair by pair."""
  count = {c: sum(THERE[i] for i in range(12) if Y[i] == c) for c in range(4)}
  new, out = {2, 3}, lam.copy()
  for i, j in enumerate(other):
    a, b = Y[i], Y[j]
    if a in new and b not in new and count[a] / count[b] >= ratio:
      out[i] = max(0, lam[i] - shift * (1 - count[b] / count[a]))
    if b in new and a not in new and count[b] / count[a] >= ratio:
      out[i] = 1 - max(0, 1 - lam[i] - shift * (1 - count[a] / count[b]))
  return out


def drawn(concentration=0.7):
  other = np.asarray(dual_mix.partners(fold(KEY, "other"), jnp.asarray(THERE > 0)))
  return np.asarray(jax.random.beta(fold(KEY, "lam"), concentration, concentration, (12,)), np.float64), other


@pytest.fixture(scope="module")
def bench(class_stream, small_model):
  return Bench("dual_mix", class_stream, small_model, HYPER)


def term(bench, params, batch):
  learner = bench.start()._replace(params=params)
  return bench.parts.method.terms["mixtures"](KEY, params, learner, batch, None)


@pytest.mark.parametrize("labels", ["adaptive", "plain"])
def test_mixtures_teach_both_labels(labels, class_stream, small_model):
  """The loss and its gradient, of mixtures of two rows and of their labels; absent rows have no part."""
  given = {**HYPER, "labels": labels, **({"ratio": 1.6, "shift": 0.4} if labels == "adaptive" else {})}
  bench = Bench("dual_mix", class_stream, small_model, given)
  x = np.random.default_rng(0).normal(size=(12, 4, 4, 1)).astype(np.float32)
  params, (lam, other) = bench.start().params, drawn()
  got, slope = jax.jit(jax.value_and_grad(lambda p: term(bench, p, batch_of(x))))(params)
  share = shares(lam, other, 1.6, 0.4) if labels == "adaptive" else lam
  assert (np.abs(share - lam)[THERE > 0] > 0.01).any() == (labels == "adaptive")
  mixed = lam[:, None, None, None] * x + (1 - lam)[:, None, None, None] * x[other]
  z, at = forward(params, mixed)[1], THERE > 0
  each = share * cross_entropy(z, Y) + (1 - share) * cross_entropy(z, Y[other])
  np.testing.assert_allclose(float(got), 0.8 * each[at].mean(), rtol=1e-5)
  d = np.exp(log_softmax(z))
  d[np.arange(12), Y] -= share
  d[np.arange(12), Y[other]] -= 1 - share
  near(slope, backward(params, mixed, 0.8 * d * at[:, None] / at.sum()))


def test_labels_lean_to_the_class_of_fewer_rows():
  """Between old and new alone, from the ratio on, and not below 0; where both have as many rows, l is lam. The label
  mass of old classes is at least that of plain mixtures."""
  lam = np.linspace(0, 1, 11)

  def of(n, m, new, other_new, ratio=1.0, shift=0.5):
    given = jnp.asarray(lam, jnp.float32), float(n), float(m), jnp.asarray(new), jnp.asarray(other_new)
    return np.asarray(dual_mix.label_share(*given, ratio, shift))

  near_ = lambda got, want: np.testing.assert_allclose(got, want, atol=1e-6)
  near_(of(6, 2, True, False), np.maximum(lam - 0.5 * (1 - 2 / 6), 0))
  near_(of(2, 6, False, True), 1 - np.maximum(1 - lam - 0.5 * (1 - 2 / 6), 0))
  near_(of(6, 2, True, False, ratio=3.0), np.maximum(lam - 0.5 * (1 - 2 / 6), 0))
  for same in (
    of(6, 2, True, True), of(6, 2, False, False), of(4, 4, True, False), of(4, 4, False, True),
    of(2, 6, True, False), of(6, 2, False, True), of(6, 2, True, False, ratio=3.1), of(6, 2, True, False, shift=0.0),
  ):  # fmt: skip
    near_(same, lam)
  rng = np.random.default_rng(0)
  for n, m in rng.integers(1, 9, size=(20, 2)):
    assert (of(n, m, True, False) <= lam + 1e-6).all()
    assert (of(n, m, False, True) >= lam - 1e-6).all()
    assert ((of(n, m, True, False) >= 0) & (of(n, m, False, True) <= 1)).all()


def test_each_row_has_another_for_a_partner():
  """All that are there in one circle; others alike; who is alone, or absent, has itself."""
  there = jnp.array([1, 0, 1, 1, 0, 1, 1], bool)
  at = np.flatnonzero(there)
  got = np.asarray(jax.vmap(lambda k: dual_mix.partners(k, there))(jax.random.split(KEY, 2000)))
  assert (got[:, [1, 4]] == [1, 4]).all()
  assert (np.sort(got[:, at], 1) == at).all()
  assert (got[:, at] != at).all()
  chance = np.array([[(got[:, i] == j).mean() for j in at] for i in at])
  np.testing.assert_allclose(chance, 0.25 * (1 - np.eye(5)), atol=0.04)
  np.testing.assert_array_equal(dual_mix.partners(KEY, jnp.array([0, 1, 0], bool)), [0, 1, 2])
  np.testing.assert_array_equal(dual_mix.partners(KEY, jnp.zeros(3, bool)), [0, 1, 2])
  # Absent rows behind do not change who meets whom.
  more = jnp.append(jnp.ones(5, bool), jnp.zeros(4, bool))
  np.testing.assert_array_equal(dual_mix.partners(KEY, more)[:5], dual_mix.partners(KEY, jnp.ones(5, bool)))


def test_both_rows_of_a_mixture_are_seen_in_a_view(class_stream, small_model, monkeypatch):
  """Two views of all rows, drawn apart, by the options given."""
  told = []

  def view(key, x, **how):
    told.append((jax.random.key_data(key), how))
    return x * 2 if len(told) == 1 else x * 3

  monkeypatch.setattr(views, "second_view", view)
  given = {"least_area": 0.7, "jitter": 0.1, "grey": 0.3, "flip": False}
  bench = Bench("dual_mix", class_stream, small_model, {**HYPER, "views": True, "labels": "plain", **given})
  x = np.random.default_rng(0).normal(size=(12, 4, 4, 1)).astype(np.float32)
  params, (lam, other) = bench.start().params, drawn()
  got = term(bench, params, batch_of(x))
  assert len(told) == 2
  assert (told[0][0] != told[1][0]).any()
  for _, how in told:
    assert {k: float(v) for k, v in how.items()} == pytest.approx(
      {"least": 0.7, "jitter": 0.1, "grey_share": 0.3, "flip": 0}
    )
  mixed = 2 * lam[:, None, None, None] * x + 3 * (1 - lam)[:, None, None, None] * x[other]
  z = forward(params, mixed)[1]
  each = lam * cross_entropy(z, Y) + (1 - lam) * cross_entropy(z, Y[other])
  np.testing.assert_allclose(float(got), 0.8 * each[THERE > 0].mean(), rtol=1e-5)


def test_mixtures_without_strength_are_experience_replay(bench, class_stream, small_model):
  plain = Bench("er", class_stream, small_model, {"capacity": 20}).train(2)
  mixed = bench.train(2, beta=0.0)
  assert_near(mixed.params, plain.params)
  assert_same(mixed.method_state, plain.method_state)
  assert np.abs(leaves(bench.train(2).params)["head/bias"] - leaves(plain.params)["head/bias"]).max() > 1e-3
  for capacity, asked, more in ((3, 0, 3), (40, 0, 8), (40, 5, 5)):
    small = Bench("dual_mix", class_stream, small_model, {**HYPER, "capacity": capacity, "replay_batch": asked})
    batch = Batch(jnp.zeros((8, 4, 4, 1)), *(jnp.zeros(8, jnp.int32),) * 4, visit=small.where(0).visit)
    batch = batch._replace(weight=jnp.ones(8), fresh=jnp.ones(8))
    made = jax.eval_shape(small.parts.method.prepare, KEY, small.start(), batch)[1]
    assert made.weight.shape == (8 + more,)


def test_mixtures_are_not_counted_by_batch_norm(class_stream):
  """Its running statistics are those of the rows themselves."""
  bench = Bench("dual_mix", class_stream, normed(), HYPER)
  start = bench.start()
  twice, _, a = bench.step(start, *bench.arguments(0, 0))
  once, _, b = bench.step(start, *bench.arguments(0, 0), beta=0.0)
  assert_same(twice.model_state, once.model_state)
  assert float(a) > float(b) + 1e-3


def test_mixtures_of_two_tasks_have_the_classes_of_both(bench):
  """The softmax of a mixture is over the classes of either row."""
  x = np.random.default_rng(0).normal(size=(12, 4, 4, 1)).astype(np.float32)
  mask = np.where((Y >= 2)[:, None], [0, 0, 1, 1], [1, 1, 0, 0]).astype(bool)
  params, (lam, other) = bench.start().params, drawn()
  got = term(bench, params, batch_of(x, jnp.asarray(mask)))
  mixed = lam[:, None, None, None] * x + (1 - lam)[:, None, None, None] * x[other]
  z = np.where(mask | mask[other], forward(params, mixed)[1], -1e9)
  share = shares(lam, other, 1.0, 0.5)
  each = share * cross_entropy(z, Y) + (1 - share) * cross_entropy(z, Y[other])
  assert ((mask != mask[other]).any(1) & (THERE > 0)).any()
  np.testing.assert_allclose(float(got), 0.8 * each[THERE > 0].mean(), rtol=1e-5)


def test_dual_mix_refuses_what_it_cannot_mix(class_stream, small_model):
  spec = spec_of(class_stream, 8)
  flat = spec._replace(shown=jax.ShapeDtypeStruct((5,), jnp.float32))
  with pytest.raises(UsageError, match=r"'dual_mix' makes second views of pictures; expected inputs \[H, W, C\], or"):
    methods.make("dual_mix", small_model, flat)
  plain = models.mlp((5,), 4, hidden=(8,))
  assert methods.make("dual_mix", plain, flat, views=False).terms
  tokens = flat._replace(shown=jax.ShapeDtypeStruct((5,), jnp.int32), scale=None)
  for other in (tokens, flat._replace(shown={"a": flat.shown})):
    with pytest.raises(UsageError, match="'dual_mix' mixes inputs; expected one array of numbers, not tokens"):
      methods.make("dual_mix", plain, other, views=False)
  with pytest.raises(UsageError, match=r"method\.shift: got 0\.2, which 'dual_mix' does not read with labels='plain'"):
    methods.make("dual_mix", small_model, spec, labels="plain", shift=0.2)
