"""What one number of a mechanism must be: drift through Gram matrices, curvature where it is exact, transfer that is
above 0."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cljax import metrics


def test_drift_by_gram_matrices():
  X, Y = np.random.default_rng(0).normal(size=(2, 9, 3))
  H = np.eye(9) - 1 / 9
  K, L = H @ X @ X.T @ H, H @ Y @ Y.T @ H
  want = 1 - (K * L).sum() / np.sqrt((K * K).sum() * (L * L).sum())
  assert 0.1 < want < 1
  assert metrics.cka_drift(X, Y) == pytest.approx(want)
  assert metrics.cka_drift(X, 3 * X[:, ::-1] + 1) == pytest.approx(0, abs=1e-12)


def test_mean_curvature_is_exact_on_a_diagonal():
  """Signs squared are 1: of a diagonal Hessian every sample is the trace itself."""
  values = {"a": np.array([1.0, -3.0, 6.0]), "b": np.array([[2.0], [10.0]])}

  def loss(params):
    parts = jax.tree.map(lambda h, v: jnp.sum(0.5 * h * v**2 + 7 * v), values, params)
    return parts["a"] + parts["b"]

  params = jax.tree.map(lambda v: jnp.ones(v.shape, jnp.float32), values)
  got = jax.jit(lambda k: metrics.mean_curvature(loss, params, k, samples=3))(jax.random.key(0))
  assert float(got) == pytest.approx(16 / 5, rel=1e-6)


def test_positive_transfer_by_hand():
  R = np.array([[0.5, 0.1, 0.1], [0.9, 0.6, 0.2], [0.4, 0.8, 0.7]])
  assert metrics.positive_backward_transfer(R) == pytest.approx((0.4 - 0.1 + 0.2) / 3)
  assert metrics.positive_backward_transfer(R - np.tri(3, k=-1)) == 0
  assert metrics.remembering(R) == 1
  assert metrics.remembering(R - np.tri(3, k=-1)) == pytest.approx(1 - (1 - 0.5 / 3))
