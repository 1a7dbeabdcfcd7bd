"""Spectral and Wasserstein regularizers against NumPy's SVD and sort."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cljax import UsageError
from cljax import regularizers as R


def tensors(seed):
  rng = np.random.default_rng(seed)
  draw = lambda *s: jnp.array(rng.normal(size=s), jnp.float32)
  return {
    "conv": {"kernel": draw(2, 2, 3, 4), "bias": draw(4)},
    "dense": {"kernel": draw(5, 3), "bias": draw(3)},
    "norm": {"scale": draw(4), "bias": draw(4)},
  }


def numpy_penalty(params, power):
  total = 0.0
  for module, leaves in params.items():
    for name, leaf in leaves.items():
      x = np.asarray(leaf, np.float64)
      if name == "kernel":
        total += (np.linalg.svd(x.reshape(-1, x.shape[-1]), compute_uv=False)[0] ** power - 1) ** 2
      elif module == "norm" and name == "scale":
        total += np.sum((np.abs(x) ** power - 1) ** 2)
      else:
        total += (np.sqrt(np.sum(x**2)) ** power) ** 2
  return total


@pytest.mark.parametrize("power", [1, 2])
def test_spectral_penalty_and_its_gradient(power):
  params = tensors(0)
  penalty = lambda p: R.spectral_penalty(p, 0.3, power)
  np.testing.assert_allclose(penalty(params), 0.3 * numpy_penalty(params, power), rtol=1e-4)
  tx = R.spectral(0.3, power)
  state = tx.init(params)
  zeros = jax.tree.map(jnp.zeros_like, params)
  update = jax.jit(tx.update)
  for _ in range(60):  # frozen weights: power iteration converges to the top singular value
    got, state = update(zeros, state, params)
  want = jax.jit(jax.grad(penalty))(params)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-3), got, want)


@settings(deadline=None, max_examples=5)
@given(st.integers(0, 1000))
def test_spectral_penalty_is_zero_at_orthogonal_weights_and_invariant_to_rotations(seed):
  rng = np.random.default_rng(seed)
  q = np.linalg.qr(rng.normal(size=(4, 4)))[0]
  np.testing.assert_allclose(R.spectral_penalty({"kernel": jnp.array(q[:, :3]), "bias": jnp.zeros(3)}), 0, atol=1e-6)
  w = rng.normal(size=(4, 4))
  one, two = (
    R.spectral_penalty({"kernel": jnp.array(m)}) for m in (w, q @ w @ np.linalg.qr(rng.normal(size=(4, 4)))[0])
  )
  np.testing.assert_allclose(one, two, rtol=1e-3, atol=1e-5)


def test_spectral_survives_zero_matrices_and_pulls_small_layers_up():
  params = {"zero": jnp.zeros((3, 2)), "small": 0.1 * jnp.eye(3), "large": 3.0 * jnp.eye(3)}
  tx = R.spectral(1.0)
  got, state = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
  assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves((got, state)))
  assert np.trace(got["small"]) < 0 < np.trace(got["large"])  # a descent step subtracts it
  assert float(jnp.linalg.norm(state.vectors["zero"])) > 0.9  # the estimate stays alive
  grown = params | {"zero": jnp.ones((3, 2))}
  got, _ = tx.update(jax.tree.map(jnp.zeros_like, params), state, grown)
  assert np.all(np.asarray(got["zero"]) != 0)


@settings(deadline=None, max_examples=8)
@given(st.integers(0, 1000))
def test_wasserstein_matches_sorted_values(seed):
  rng = np.random.default_rng(seed)
  start = {"k": jnp.array(rng.normal(size=(3, 4)), jnp.float32), "b": jnp.array(rng.normal(size=5), jnp.float32)}
  theta = {"k": jnp.array(rng.normal(size=(3, 4)), jnp.float32), "b": jnp.array(rng.normal(size=5), jnp.float32)}
  want, grad = 0.0, {}
  for key in start:
    t, s = np.float64(theta[key]).ravel(), np.sort(np.float64(start[key]).ravel())
    order = np.argsort(t)
    want += np.sum((t[order] - s) ** 2)
    g = np.empty_like(t)
    g[order] = 2 * (t[order] - s)
    grad[key] = g.reshape(theta[key].shape)
  np.testing.assert_allclose(R.wasserstein_penalty(theta, start), want, rtol=1e-4)
  assert float(R.wasserstein_penalty(theta, start)) <= float(R.l2_penalty(theta, start)) * (1 + 1e-5)
  tx = R.wasserstein(0.5)
  got, _ = tx.update(jax.tree.map(jnp.zeros_like, theta), tx.init(start), theta)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, 0.5 * b, rtol=1e-4, atol=1e-5), got, grad)
  shuffled = jax.tree.map(lambda x: jnp.array(rng.permutation(np.asarray(x).ravel()).reshape(x.shape)), start)
  assert float(R.wasserstein_penalty(shuffled, start)) == 0
  pull, _ = tx.update(jax.tree.map(jnp.zeros_like, theta), tx.init(start), shuffled)
  assert all(np.all(np.asarray(x) == 0) for x in jax.tree.leaves(pull))


def test_wasserstein_treats_equal_weights_alike():
  """Ties share the mean of their partners: the sum over a tie is that of any assignment, negative values included."""
  start = {"k": jnp.array([-3.0, -1.0, 0.5, 1.0, 4.0])}
  theta = {"k": jnp.array([2.0, -5.0, 2.0, 0.0, -5.0])}
  tx = R.wasserstein(0.5)
  pull, _ = tx.update(jax.tree.map(jnp.zeros_like, theta), tx.init(start), theta)
  partners = np.array([2.5, -2.0, 2.5, 0.5, -2.0])
  np.testing.assert_allclose(pull["k"], np.asarray(theta["k"]) - partners, rtol=1e-6)


def test_wasserstein_keeps_its_pairs_between_refreshes():
  """Seven updates with a sort at each third, and after an edit that it was told of; the first as if it always did."""
  rng = np.random.default_rng(3)
  draw = lambda: {"k": jnp.array(rng.normal(size=(4, 5)), jnp.float32), "b": jnp.array(rng.normal(size=6), jnp.float32)}
  start, tx = draw(), R.wasserstein(0.5, refresh=3)
  update, state, paired = jax.jit(tx.update), tx.init(start), {}
  zero = jax.tree.map(jnp.zeros_like, start)
  age = 0
  for step in range(7):
    theta = draw()
    if step == 4:  # an update later than the last sort
      state, age = R.follow_edit(state, theta, theta), 0
    got, state = update(zero, state, theta)
    for leaf, t in theta.items():
      t = np.float64(t)
      if age % 3 == 0:
        paired[leaf] = np.sort(np.float64(start[leaf]).ravel())[np.argsort(np.argsort(t.ravel()))].reshape(t.shape)
      np.testing.assert_allclose(got[leaf], t - paired[leaf], rtol=1e-5, atol=1e-6)
    if step == 0:
      each = R.wasserstein(0.5)
      np.testing.assert_array_equal(got["k"], each.update(zero, each.init(start), theta)[0]["k"])
    age += 1
  with pytest.raises(UsageError, match="wasserstein: refresh"):
    R.wasserstein(0.5, refresh=0)
