"""Flattening, its multiplier, and the preference of another answer, against NumPy and finite differences."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cljax import losses
from cljax.core.types import UsageError

RNG = np.random.default_rng(3)
Z = RNG.normal(size=(3, 4, 6)).astype(np.float32)
Y = RNG.integers(0, 6, (3, 4))
Y[0, :2] = -1
Y[1] = -1
WEIGHT = RNG.uniform(0.5, 2, Y.shape).astype(np.float32)


def flatness(z):
  return np.where(Y >= 0, (z.max(-1) - z.mean(-1)) ** 2, 0.0)


def test_flatness_by_numpy_and_its_slope():
  np.testing.assert_allclose(losses.pdu(jnp.asarray(Z), jnp.asarray(Y)), flatness(Z.astype(np.float64)), rtol=1e-5)
  slope = np.asarray(jax.grad(lambda z: losses.pdu(z, jnp.asarray(Y)).sum())(jnp.asarray(Z)))
  z = Z.astype(np.float64)
  gap = z.max(-1) - z.mean(-1)
  wanted = 2 * gap[..., None] * (np.eye(6)[z.argmax(-1)] - 1 / 6) * (Y >= 0)[..., None]
  np.testing.assert_allclose(slope, wanted, atol=1e-5)
  np.testing.assert_allclose(slope.sum(-1), 0, atol=1e-5)
  assert (losses.pdu(jnp.full((2, 6), 7.0), jnp.zeros(2, int)) == 0).all()


def test_flatness_among_the_classes_of_a_mask():
  mask = jnp.asarray([True, True, False, True, False, True])
  free = losses.pdu(jnp.asarray(Z)[..., np.asarray(mask)], jnp.asarray(Y))
  np.testing.assert_allclose(losses.pdu(jnp.asarray(Z), jnp.asarray(Y), mask), free, rtol=1e-6)
  none = jnp.zeros(6, bool)
  value, slope = jax.value_and_grad(lambda z: losses.pdu(z, jnp.asarray(Y), none).sum())(jnp.asarray(Z))
  assert float(value) == 0
  assert not np.asarray(slope).any()


def test_the_multiplier_by_hand():
  """It grows above the limit and falls below it, never under 0, and takes no gradient."""
  assert float(losses.dual_step(2.0, 0.8, 0.3, 5.0)) == pytest.approx(4.5)
  assert float(losses.dual_step(2.0, 0.1, 0.3, 5.0)) == pytest.approx(1.0)
  assert float(losses.dual_step(0.5, 0.1, 0.3, 5.0)) == 0.0
  assert float(losses.dual_step(3.0, 0.3, 0.3, 5.0)) == 3.0
  assert float(jax.grad(lambda loss: losses.dual_step(2.0, loss, 0.3, 5.0))(0.8)) == 0.0
  path = [jnp.float32(1.0)]
  for _ in range(4):
    path.append(losses.dual_step(path[-1], 0.5, jnp.inf, 1.0))
  assert [float(p) for p in path[1:]] == [0.0] * 4, "without a limit nothing is held"


def softmax(z):
  e = np.exp(z - z.max(-1, keepdims=True))
  return e / e.sum(-1, keepdims=True)


@pytest.mark.parametrize("weighed", [False, True])
def test_mean_probabilities_by_loops(weighed):
  weight = WEIGHT if weighed else np.ones_like(WEIGHT)
  given = jnp.asarray(WEIGHT) if weighed else None
  mean, geometric = (losses.mean_probability(jnp.asarray(Z), jnp.asarray(Y), given, g) for g in (False, True))
  p = softmax(Z.astype(np.float64))
  for i in range(3):
    own = [(p[i, t, Y[i, t]], weight[i, t]) for t in range(4) if Y[i, t] >= 0]
    total = sum(w for _, w in own)
    wanted = [sum(v * w for v, w in own) / total, np.exp(sum(np.log(v) * w for v, w in own) / total)] if own else [0, 0]
    np.testing.assert_allclose([mean[i], geometric[i]], wanted, rtol=1e-5)
  for g in (False, True):
    slope = jax.grad(lambda z, g=g: losses.mean_probability(z, jnp.asarray(Y), given, g).sum())(jnp.asarray(Z))
    assert np.isfinite(slope).all()
    assert not np.asarray(slope)[Y < 0].any()


def test_preference_by_numpy_and_its_slopes():
  a, b = (RNG.random(5).astype(np.float32) for _ in range(2))
  np.testing.assert_allclose(losses.flat(jnp.asarray(a), jnp.asarray(b)), (np.tanh(b) - np.tanh(a)) / 2, rtol=1e-5)
  np.testing.assert_array_equal(losses.flat(jnp.asarray(a), jnp.asarray(a)), 0)
  slope = jax.vmap(jax.grad(losses.flat, (0, 1)))
  left, right = slope(jnp.asarray(a), jnp.asarray(b))
  np.testing.assert_allclose(left, -0.5 / np.cosh(a) ** 2, rtol=1e-5)
  np.testing.assert_allclose(right, 0.5 / np.cosh(b) ** 2, rtol=1e-5)
  # The slopes of the specification, at 1, one half and 0.
  np.testing.assert_allclose(slope(jnp.zeros(3), jnp.asarray([1.0, 0.5, 0.0]))[1], [0.21, 0.39, 0.5], atol=5e-3)
  with pytest.raises(UsageError, match=r"preferred: has shape \(2,\); p has \(3,\)"):
    losses.flat(jnp.zeros(2), jnp.zeros(3))
