"""Spectral and Wasserstein penalties and pulls in NumPy float64, by their formulas."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pulls_by_hand import RNG, jnp_tree, near

from cljax import UsageError
from cljax import regularizers as R
from cljax.core import tree


@pytest.mark.parametrize("power", [1.0, 2.0, 3.0])
def test_spectral_pull_after_one_power_iteration(power):
  """``2k s^(k-1) (s^k - 1) u v'``; ``2k |g|^(k-2) (|g|^k - 1) g`` for a scale; ``2k |b|^(2k-2) b`` for a bias."""
  params = {"conv": RNG.normal(size=(2, 2, 3)), "kernel": RNG.normal(size=(4, 3)), "scale": RNG.normal(size=3)}
  params |= {"bias": RNG.normal(size=4)}
  tx = R.spectral(0.7, power)
  state = tx.init(jnp_tree(params))
  for _ in range(2):
    grads, vectors = {}, {}
    for name in ("conv", "kernel"):
      w = params[name].reshape(-1, params[name].shape[-1])
      u = np.asarray(state.vectors[name], np.float64)
      v = w.T @ u / np.linalg.norm(w.T @ u)
      u = w @ v / np.linalg.norm(w @ v)
      s, vectors[name] = u @ w @ v, u
      grads[name] = (2 * power * s ** (power - 1) * (s**power - 1) * np.outer(u, v)).reshape(params[name].shape)
    g, b = params["scale"], params["bias"]
    grads["scale"] = 2 * power * np.abs(g) ** (power - 2) * (np.abs(g) ** power - 1) * g
    grads["bias"] = 2 * power * (b @ b) ** (power - 1) * b
    zeros = jax.tree.map(np.zeros_like, params)
    pull, state = tx.update(jnp_tree(zeros), state, jnp_tree(params))
    near(pull, jax.tree.map(lambda x: 0.7 * x, grads), 1e-4, 1e-4)
    near({n: state.vectors[n] for n in vectors}, vectors, 1e-4, 1e-4)
    params = {n: p + 0.3 * RNG.normal(size=p.shape) for n, p in params.items()}  # warm: the vectors go on
  still = {"kernel": jnp.zeros((4, 3))}  # no direction is the top one: no pull
  pull, after = tx.update(still, tx.init(still), still)
  near(pull, still, 0, 0)
  np.testing.assert_allclose(jnp.linalg.norm(after.vectors["kernel"]), 1, rtol=1e-5)


def test_spectral_starts_near_the_top_singular_vector():
  """Ten iterations on singular values 3 and 1 leave (1/3)^20 of the other."""
  u, _ = np.linalg.qr(RNG.normal(size=(3, 3)))
  v, _ = np.linalg.qr(RNG.normal(size=(3, 3)))
  w = u @ np.diag([3.0, 1.0, 0.5]) @ v.T
  state = R.spectral(1.0).init({"kernel": jnp.asarray(w), "scale": jnp.ones(2)})
  np.testing.assert_allclose(abs(state.vectors["kernel"] @ u[:, 0]), 1, atol=1e-6)
  assert state.vectors["scale"].shape == ()
  assert float(state.vectors["scale"]) == 0


def test_spectral_penalty_of_each_kind_of_leaf():
  conv, kernel, scale, bias = (RNG.normal(size=s) for s in ((2, 2, 3), (4, 3), (3,), (4,)))
  sigma = lambda m: np.linalg.svd(m, compute_uv=False)[0]
  for power in (1, 2, 3):
    of = lambda p, power=power: float(R.spectral_penalty(jnp_tree(p), 0.7, power))
    near([of({"kernel": kernel})], [0.7 * (sigma(kernel) ** power - 1) ** 2], 1e-4)
    near([of({"conv": conv})], [0.7 * (sigma(conv.reshape(4, 3)) ** power - 1) ** 2], 1e-4)
    near([of({"scale": scale})], [0.7 * ((np.abs(scale) ** power - 1) ** 2).sum()], 1e-4)
    near([of({"bias": bias})], [0.7 * (bias @ bias) ** power], 1e-4)
    near([of({"k": kernel, "b": bias})], [of({"k": kernel}) + of({"b": bias})], 1e-4)
  narrow = {"kernel": jnp.asarray(kernel, jnp.bfloat16), "scale": jnp.asarray(scale, jnp.bfloat16)}
  near([R.spectral_penalty(narrow)], [R.spectral_penalty(jax.tree.map(lambda x: x.astype(jnp.float32), narrow))])
  out_in = float(R.spectral_penalty({"conv": jnp.asarray(conv)}, layout="out_in"))
  near([out_in], [(sigma(conv.reshape(2, 6)) ** 2 - 1) ** 2], 1e-4)


def test_of_equinox_layers_only_convolutions_need_a_layout():
  conv = eqx.filter(eqx.nn.Conv2d(2, 3, 2, key=jax.random.key(0)), eqx.is_array)
  dense = eqx.filter(eqx.nn.Linear(2, 3, key=jax.random.key(0)), eqx.is_array)
  for refuses in (R.spectral(1.0).init, R.spectral_penalty):
    with pytest.raises(UsageError, match="say layout='out_in'"):
      refuses(conv)  # its bias beside the kernel
  sigma = np.linalg.svd(np.float64(dense.weight), compute_uv=False)[0]
  want = (sigma**2 - 1) ** 2 + (np.float64(dense.bias) ** 2).sum() ** 2
  near([R.spectral_penalty(dense)], [want], 1e-4)
  assert R.spectral(1.0).init(dense).vectors.weight.shape == (3,)


def test_wasserstein_pulls_each_rank_to_the_initial_value_of_that_rank():
  start = {"a": np.array([[4.0, -1.0], [0.5, 2.0]]), "b": np.array([1.0, -3.0])}
  theta = {"a": np.array([[0.1, 5.0], [-2.0, 0.2]]), "b": np.array([7.0, 6.0])}
  partner = {"a": np.array([[0.5, 4.0], [-1.0, 2.0]]), "b": np.array([1.0, -3.0])}
  tx = R.wasserstein(0.7)
  state = tx.init(jnp_tree(start))
  near(state.anchor, {"a": np.array([-1.0, 0.5, 2.0, 4.0]), "b": np.array([-3.0, 1.0])}, 0, 0)
  got, after = tx.update(jax.tree.map(jnp.zeros_like, jnp_tree(theta)), state, jnp_tree(theta))
  near(got, jax.tree.map(lambda t, p: 1.4 * (t - p), theta, partner))
  assert tree.digest(after) == tree.digest(state)
  want = sum(((theta[n] - partner[n]) ** 2).sum() for n in theta)
  near([R.wasserstein_penalty(jnp_tree(theta), jnp_tree(start), 0.7)], [0.7 * want])
  near([R.wasserstein_penalty(jnp_tree(theta), state.anchor, 0.7)], [0.7 * want])  # sorted and flat, as a state
  with pytest.raises(UsageError, match=r"wasserstein_penalty: anchor: leaf 'a' has shape \(3,\); expected \(2, 2\)"):
    R.wasserstein_penalty(jnp_tree(theta), {**state.anchor, "a": jnp.zeros(3)})


def test_wasserstein_of_equal_weights_meets_no_nan():
  """Two pairs of equal weights share the means of their partners; no 0/0 on the way."""
  start, theta = {"k": jnp.array([-3.0, -1.0, 0.5, 1.0, 4.0])}, {"k": jnp.array([2.0, -5.0, 2.0, 0.0, -5.0])}
  tx = R.wasserstein(0.5)
  with jax.debug_nans(True):
    got, _ = tx.update({"k": jnp.zeros(5)}, tx.init(start), theta)
  near(got, {"k": np.array([2.0, -5.0, 2.0, 0.0, -5.0]) - [2.5, -2.0, 2.5, 0.5, -2.0]})
