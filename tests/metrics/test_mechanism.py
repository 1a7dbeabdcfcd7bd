"""Drift, interference and sharpness against dense linear algebra and their invariances."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cljax import metrics
from cljax.core.types import UsageError


def test_forward_kl():
  rng = np.random.default_rng(0)
  base, new = rng.normal(size=(2, 5, 4))
  p, q = (np.exp(z) / np.exp(z).sum(-1, keepdims=True) for z in (base, new))
  each = np.array([sum(p[i, c] * np.log(p[i, c] / q[i, c]) for c in range(4)) for i in range(5)])
  assert metrics.forward_kl(base, new) == pytest.approx(each.mean())
  weight = np.array([1.0, 0.0, 2.0, 0.0, 0.5])
  assert metrics.forward_kl(base, new, weight) == pytest.approx((weight * each).sum() / weight.sum())
  assert metrics.forward_kl(base, base + 7) == pytest.approx(0, abs=1e-12)
  assert metrics.forward_kl(base, new) != pytest.approx(metrics.forward_kl(new, base))
  # What the base rules out costs nothing; what the new model rules out is infinite.
  masked = np.where(np.arange(4) == 1, -np.inf, base)
  assert np.isinf(metrics.forward_kl(base, masked))
  # KL(q* || base) of the base restricted to valid labels is -log of their probability.
  assert metrics.forward_kl(masked, base) == pytest.approx(-np.log(1 - p[:, 1]).mean())
  assert metrics.forward_kl(masked, masked) == 0
  with pytest.raises(UsageError, match="logits"):
    metrics.forward_kl(base, new[:, :3])
  with pytest.raises(UsageError, match="weight"):
    metrics.forward_kl(base, new, np.zeros(5))


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10**6), st.floats(0.1, 10))
def test_interference(seed, c):
  a, b = np.random.default_rng(seed).normal(size=(2, 7)).astype(np.float32)
  split = lambda v: {"w": jnp.asarray(v[:6]).reshape(2, 3), "b": jnp.asarray(v[6:])}
  got = metrics.gradient_interference(split(a), split(b))
  assert float(got.cosine) == pytest.approx(float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)), abs=1e-5)
  assert float(got.conflict) == pytest.approx(float((a * b < 0).mean()))
  scaled = metrics.gradient_interference(split(a), split(-c * a))
  assert float(scaled.cosine) == pytest.approx(-1, abs=1e-5)
  assert float(scaled.conflict) == 1


def test_interference_edges():
  zero = {"w": jnp.zeros(3)}
  got = jax.jit(metrics.gradient_interference)({"w": jnp.ones(3)}, zero)
  assert got.cosine == got.conflict == 0
  with pytest.raises(UsageError, match="new"):
    metrics.gradient_interference(zero, {"v": jnp.zeros(3)})


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10**6), st.floats(0.1, 10))
def test_cka(seed, c):
  rng = np.random.default_rng(seed)
  X, Y = rng.normal(size=(12, 4)), rng.normal(size=(12, 3))
  Q = np.linalg.qr(rng.normal(size=(4, 4)))[0]
  assert metrics.linear_cka(X, c * X @ Q + 5) == pytest.approx(1)
  assert metrics.cka_drift(X, X) == pytest.approx(0, abs=1e-12)
  got = metrics.linear_cka(X, Y)
  assert 0 <= got < 1
  assert got == pytest.approx(metrics.linear_cka(Y, X))
  # Through centred Gram matrices: HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)).
  H = np.eye(12) - 1 / 12
  K, L = H @ X @ X.T @ H, H @ Y @ Y.T @ H
  assert got == pytest.approx((K * L).sum() / np.sqrt((K * K).sum() * (L * L).sum()))
  assert metrics.linear_cka(X, X @ np.diag([100.0, 1, 1, 1])) < 0.99  # not invariant to a linear map


def test_cka_edges():
  assert np.isnan(metrics.linear_cka(np.ones((5, 2)), np.eye(5)))
  with pytest.raises(UsageError, match="Y"):
    metrics.linear_cka(np.ones((5, 2)), np.ones((4, 2)))


EIGENVALUES = {
  "convex": [0.1, 1.0, 2.0, 5.0],
  "indefinite": [-8.0, -1.0, 0.5, 3.0],  # plain power iteration answers -8
  "concave": [-4.0, -3.0, -2.0, -1.0],
}


@pytest.fixture(scope="module")
def quadratic():
  Q = np.linalg.qr(np.random.default_rng(0).normal(size=(4, 4)))[0]

  def measure(eigenvalues, key):
    H = jnp.asarray(Q, jnp.float32) @ jnp.diag(eigenvalues) @ jnp.asarray(Q, jnp.float32).T

    def loss(params):
      v = jnp.concatenate([params["a"], params["b"].ravel()])
      return 0.5 * v @ H @ v + v.sum()

    params = {"a": jnp.ones(2), "b": jnp.ones((1, 2))}
    return metrics.sharpness(loss, params, key, steps=100), metrics.mean_curvature(loss, params, key, samples=400)

  return jax.jit(measure)


@pytest.mark.parametrize("name", EIGENVALUES)
def test_sharpness(quadratic, name):
  values = np.array(EIGENVALUES[name])
  top, mean = quadratic(jnp.asarray(values, jnp.float32), jax.random.key(1))
  assert float(top) == pytest.approx(values.max(), rel=1e-3)
  # Hutchinson's variance is 2 sum_{i != j} H_ij^2 / samples, at most 2 ||H||_F^2 / samples.
  assert float(mean) == pytest.approx(values.mean(), abs=4.5 * np.sqrt(2 * (values**2).sum() / 400) / 4)


def test_the_share_of_weights_that_moved():
  """As bfloat16 has them: steps below half of its spacing are lost; in float32 every one is seen."""
  import ml_dtypes

  rng = np.random.default_rng(0)
  before = {"a": np.float32(rng.normal(size=(40, 5))), "b": np.float32(rng.normal(size=100))}
  step = lambda v, size: v * np.float32(1 + size)
  after = {"a": step(before["a"], 2.0**-9), "b": before["b"]}
  low = lambda v: v.astype(ml_dtypes.bfloat16)
  want = (low(before["a"]) != low(after["a"])).sum() / 300
  assert 0.1 < want < 0.6
  as_arrays = lambda tree_: jax.tree.map(jnp.asarray, tree_)
  np.testing.assert_allclose(metrics.moved_share(as_arrays(before), as_arrays(after)), want)
  np.testing.assert_allclose(metrics.moved_share(before, after, "float32"), 200 / 300)
  assert metrics.moved_share(before, before) == 0
  with pytest.raises(UsageError, match="after"):
    metrics.moved_share(before, {"a": before["a"]})
