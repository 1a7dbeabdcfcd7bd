"""Losses that forget what a model says, against float64 NumPy: values, slopes by differences, limits and bounds."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from linear_by_hand import numeric, softmax

from cljax import losses
from cljax.core.types import UsageError

RNG = np.random.default_rng(4)
Z, T = RNG.normal(size=(2, 3, 6, 5)).astype(np.float32)
Y = np.array([[1, -1, 4, -1, 0, 2], [-1, -1, 3, -1, -1, -1], [0, 2, 2, 1, 4, 3]])  # 4, 1 and 6 tokens


def near(value, wanted, rtol=1e-4, atol=2e-6):
  np.testing.assert_allclose(value, wanted, rtol, atol)


def nll_of(z, y=Y):
  """``(NLL, n)`` of rows, in loops."""
  z = np.asarray(z, np.float64)
  total, count = np.zeros(len(y)), np.zeros(len(y))
  for b, labels in enumerate(y):
    for place, label in enumerate(labels):
      if label >= 0:
        total[b] -= np.log(softmax(z[b, place])[label])
        count[b] += 1
  return total, count


def log_sigmoid(x):
  return -np.log1p(np.exp(-x))


def test_the_likelihood_of_a_sequence_by_loops():
  nll, count = losses.sequence_nll(jnp.asarray(Z), jnp.asarray(Y))
  want, number = nll_of(Z)
  near(nll, want)
  near(count, number)
  weight = RNG.uniform(size=Y.shape).astype(np.float32)
  each = -np.log(np.take_along_axis(softmax(Z.astype(np.float64)), np.maximum(Y, 0)[..., None], -1)[..., 0])
  got = losses.sequence_nll(jnp.asarray(Z), jnp.asarray(Y), jnp.asarray(weight))
  near(got[0], (weight * (Y >= 0) * each).sum(1))
  near(got[1], (weight * (Y >= 0)).sum(1))
  mask = np.array([True, True, False, True, True])
  y = np.array([1, 4, -1])
  rows = losses.sequence_nll(jnp.asarray(Z[:, 0]), jnp.asarray(y), class_mask=jnp.asarray(mask))
  p = softmax(np.where(mask, Z[:, 0].astype(np.float64), -1e30))
  near(rows[0], [-np.log(p[0, 1]), -np.log(p[1, 4]), 0])
  near(rows[1], [1, 1, 0])
  with pytest.raises(UsageError, match=r"weight: has shape \(3,\); the labels have \(3, 6\)"):
    losses.sequence_nll(jnp.asarray(Z), jnp.asarray(Y), jnp.ones(3))


def test_padding_and_ignored_tokens_change_no_likelihood():
  """Five columns more, of NaN logits; and what stands at ignored places."""
  wide = np.concatenate([Z, np.full((3, 5, 5), np.nan, np.float32)], 1)
  labels = np.concatenate([Y, np.full((3, 5), -1)], 1)
  near(losses.sequence_nll(jnp.asarray(wide), jnp.asarray(labels))[0], nll_of(Z)[0])
  other = np.where((Y < 0)[..., None], 9.0, Z).astype(np.float32)
  near(losses.sequence_nll(jnp.asarray(other), jnp.asarray(Y))[0], nll_of(Z)[0])
  slope = jax.grad(lambda z: losses.sequence_nll(z, jnp.asarray(Y))[0].sum())(jnp.asarray(Z))
  assert (np.asarray(slope)[Y < 0] == 0).all()


@pytest.mark.parametrize("beta", [0.1, 1.0, 4.5])
def test_npo_by_numpy_and_its_slope(beta):
  nll, start = nll_of(Z)[0].astype(np.float32), nll_of(T)[0].astype(np.float32)
  value = lambda n: -2 / beta * log_sigmoid(beta * (n - start.astype(np.float64)))
  near(losses.npo(jnp.asarray(nll), jnp.asarray(start), beta), value(nll.astype(np.float64)))
  slope = jax.grad(lambda n: losses.npo(n, jnp.asarray(start), beta).sum())(jnp.asarray(nll))
  near(slope, numeric(lambda n: value(n).sum(), nll.astype(np.float64)), atol=1e-4)
  assert not np.asarray(jax.grad(lambda s: losses.npo(jnp.asarray(nll), s, beta).sum())(jnp.asarray(start))).any()


def test_npo_tends_to_ascent_and_comes_to_rest():
  """Slope -1 at the start and wherever beta is small; the table of the specification; never below 0, never NaN."""
  slope = jax.vmap(jax.grad(lambda n, beta: losses.npo(n, jnp.float32(0), beta)), (0, None))
  rise = jnp.asarray([0.0, 5.0, 20.0, 60.0, 200.0])
  near(slope(rise, 0.1), [-1, -0.755, -0.238, -0.0049, -4e-9], rtol=0.02, atol=1e-9)
  near(slope(rise[:3], 1e-4), -np.ones(3), rtol=1e-3)
  far = jnp.asarray([-1e4, 0.0, 1e4])
  value = losses.npo(far, jnp.zeros(3), 0.1)
  near(value, [2e4, 20 * np.log(2), 0])
  assert np.isfinite(slope(far, 4.5)).all()
  near(slope(far, 4.5), [-2, -1, 0])


@pytest.mark.parametrize(("beta", "delta"), [(4.5, 0.0), (1.0, 0.7)])
def test_simnpo_by_numpy_and_its_slope(beta, delta):
  nll, count = (a.astype(np.float32) for a in nll_of(Z))
  value = lambda n: -2 / beta * log_sigmoid(beta * (n / count - delta))
  near(losses.simnpo(jnp.asarray(nll), jnp.asarray(count), beta, delta), value(nll.astype(np.float64)))
  slope = jax.grad(lambda n: losses.simnpo(n, jnp.asarray(count), beta, delta).sum())(jnp.asarray(nll))
  near(slope, numeric(lambda n: value(n).sum(), nll.astype(np.float64)), atol=1e-5)


def test_simnpo_rests_where_a_token_is_unlikely():
  """The slopes of the specification; a row without a token is 0, without a slope."""
  slope = jax.vmap(jax.grad(lambda n: losses.simnpo(n, jnp.float32(1))))
  near(slope(jnp.asarray([0.1, 1.0, 3.0])), [-0.78, -0.022, -2.7e-6], rtol=0.02)
  value, back = jax.value_and_grad(lambda n: losses.simnpo(n, jnp.zeros(())))(jnp.zeros(()))
  assert (float(value), float(back)) == (0.0, 0.0)


def probability(z):
  p = softmax(np.asarray(z, np.float64))
  return p, np.take_along_axis(p, np.maximum(Y, 0)[..., None], -1)[..., 0]


HOT = np.where((Y >= 0)[..., None], np.eye(5)[np.maximum(Y, 0)], 0.0)
THERE = (Y >= 0).astype(float)[..., None]
DEMOTED = softmax(T.astype(np.float64) - 1.5 * HOT)


def others(z):
  p, own = probability(z)
  return np.where(HOT > 0, 0, p / (1 - own[..., None]))


def weighed(weight):
  """``-w log(1/p)`` and its slope in the logits, the weight held fixed."""

  def of(z):
    p, own = probability(z)
    return THERE[..., 0] * weight(own) * np.log(own), weight(own)[..., None] * (HOT - THERE * p)

  return of


# name: (the loss of logits, (value, slope) by NumPy).
TOKENS = {
  "wga": (lambda z: losses.wga(z, Y, 0.7), weighed(lambda p: p**0.7)),
  "satimp": (lambda z: losses.satimp(z, Y, 2.0, 0.5), weighed(lambda p: p**2 * (1 - p) ** 0.5)),
  "undial": (
    lambda z: losses.undial(z, jnp.asarray(T), jnp.asarray(Y), 1.5),
    lambda z: (
      THERE[..., 0] * np.sum(DEMOTED * np.log(DEMOTED / probability(z)[0]), -1), THERE * (probability(z)[0] - DEMOTED)
    ),
  ),
  "ceu": (
    lambda z: losses.ceu(z, jnp.asarray(Y)),
    lambda z: (-THERE[..., 0] * np.sum(others(z) * np.log(probability(z)[0]), -1),
               THERE * (probability(z)[0] - others(z))),
  ),
}  # fmt: skip


@pytest.mark.parametrize("name", TOKENS)
def test_losses_of_tokens_by_numpy_and_their_slopes(name):
  loss, by_hand = TOKENS[name]
  value, slope = by_hand(Z)
  near(loss(jnp.asarray(Z)), value)
  near(jax.grad(lambda z: loss(z).sum())(jnp.asarray(Z)), slope)


@pytest.mark.parametrize("name", TOKENS)
def test_losses_of_tokens_are_finite_at_the_ends(name):
  """Of a label as good as certain, and of one as good as impossible, value and slope; the slope's sum is at most 2."""
  z = np.zeros_like(Z)
  for sign in (20.0, -70.0):
    far = jnp.asarray(z + sign * HOT.astype(np.float32))
    value, slope = TOKENS[name][0](far), jax.grad(lambda z: TOKENS[name][0](z).sum())(far)
    assert np.isfinite(value).all()
    assert np.isfinite(slope).all()
    assert np.abs(slope).sum(-1).max() <= 2 + 1e-5


def test_losses_of_tokens_at_their_limits():
  z = jnp.asarray(Z)
  p = lambda z: jnp.exp(-losses.cross_entropy(z, np.maximum(Y, 0))) * THERE[..., 0].astype(np.float32)
  near(jax.grad(lambda z: losses.wga(z, Y).sum())(z), jax.grad(lambda z: p(z).sum())(z))
  near(losses.wga(z, Y, 0.0).sum(1), -nll_of(Z)[0])
  near(losses.satimp(z, Y, 1.0, 0.0), losses.wga(z, Y, 1.0))
  still = jax.grad(lambda z: losses.undial(z, jnp.asarray(Z), jnp.asarray(Y), 0.0).sum())(z)
  np.testing.assert_array_equal(still, np.zeros_like(Z))
  mask = np.array([True, True, False, True, True])
  y = jnp.asarray([1, 4, 2])  # the last one's label is outside
  for loss in (losses.wga, losses.satimp, losses.ceu):
    free = loss(z[:, 0, mask], jnp.asarray([1, 3, 0]))
    near(loss(z[:, 0], y, class_mask=jnp.asarray(mask))[:2], free[:2])
  assert float(losses.wga(z[:, 0], y, class_mask=jnp.asarray(mask))[2]) == 0.0


def test_dpo_by_numpy_and_its_slopes():
  four = RNG.uniform(2, 9, size=(4, 3)).astype(np.float32)
  value = lambda w, l: -2 / 0.3 * log_sigmoid(0.3 * ((l - four[3]) - (w - four[2])))
  near(losses.dpo(*map(jnp.asarray, four), beta=0.3), value(four[0].astype(np.float64), four[1].astype(np.float64)))
  slopes = jax.grad(lambda w, l, *held: losses.dpo(w, l, *held).sum(), (0, 1, 2, 3))(four[2], four[3], *four[2:])
  near(slopes, np.stack([np.ones(3), -np.ones(3), np.zeros(3), np.zeros(3)]))
  near(losses.dpo(four[0], four[1], four[0], four[1]), np.full(3, 20 * np.log(2)))


WRONG = {
  "dpo": (
    lambda: losses.dpo(jnp.ones(2), jnp.ones(3), jnp.ones(3), jnp.ones(3)),
    "preferred_nll: has shape (2,); nll has (3,)",
  ),
  "simnpo": (lambda: losses.simnpo(jnp.ones(3), jnp.ones(2)), "count: has shape (2,); nll has (3,)"),
  "npo": (lambda: losses.npo(jnp.ones(3), jnp.ones(2)), "reference_nll: has shape (2,); nll has (3,)"),
}


@pytest.mark.parametrize("name", WRONG)
def test_likelihoods_of_wrong_shapes_are_named(name):
  call, text = WRONG[name]
  with pytest.raises(UsageError, match=re.escape(text)):
    call()
