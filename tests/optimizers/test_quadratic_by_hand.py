"""Estimated gradients and ascents on a quadratic against NumPy, in float64; draws are JAX's, by the documented keys."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cljax import optimizers as O
from cljax.optimizers._common import random_like


@pytest.fixture(autouse=True)
def double():
  with jax.enable_x64(True):
    yield


RNG = np.random.default_rng(3)
A = RNG.normal(size=(5, 5))
A = A @ A.T / 5 + np.eye(5)
THETA = RNG.normal(size=5)
flat = lambda t: np.concatenate([np.ravel(t["a"]), np.ravel(t["b"])])
loss_at = lambda v: 0.5 * v @ A @ v


def quadratic(p):
  v = jnp.concatenate([p["a"], p["b"][:, 0]])
  return 0.5 * v @ jnp.asarray(A) @ v, {"first": p["a"][0]}


def wide():
  """The parameters in float64: the module is read before x64 is on."""
  return {"a": jnp.asarray(THETA[:3]), "b": jnp.asarray(THETA[3:].reshape(2, 1))}


@functools.partial(jax.jit, static_argnames="draw")
def like(key, draw=jax.random.normal):
  return random_like(key, wide(), draw)


def direction(key, q=0):
  """The q-th direction that an estimator draws from ``key``."""
  return flat(like(jax.random.fold_in(key, q)))


@jax.jit
def sparse(key, mask):
  return [
    O.zo_sign(key, quadratic, wide(), sparsity=0.5, sparsity_key=mask, scalar_sign=scalar)[1]
    for scalar in (False, True)
  ]


@pytest.mark.parametrize("one_sided", [False, True])
def test_zo_sgd_on_a_quadratic(one_sided):
  """``(L(t + e z) - L(t - e z)) / 2e = <g, z>``; one-sided there is ``e/2 z A z`` more."""
  key, mask, e = jax.random.key(1), jax.random.key(2), 0.3
  for sparsity, queries in ((0.0, 1), (0.5, 3)):
    options = {"sparsity": sparsity, "sparsity_key": mask} if sparsity else {}
    program = jax.jit(
      lambda k, o, q=queries: O.zo_sgd(k, quadratic, wide(), epsilon=e, queries=q, one_sided=one_sided, **o)
    )
    (loss, aux), g = program(key, options)
    kept = flat(like(mask, draw=jax.random.uniform)) >= sparsity
    want, losses = 0, []
    for q in range(queries):
      z = direction(key, q) * kept
      slope = A @ THETA @ z + (0.5 * e * z @ A @ z if one_sided else 0)
      want = want + slope * z / queries
      losses.append(loss_at(THETA) + (0 if one_sided else 0.5 * e**2 * z @ A @ z))
    np.testing.assert_allclose(flat(g), want, rtol=1e-9)
    np.testing.assert_allclose(loss, np.mean(losses), rtol=1e-12)
    np.testing.assert_allclose(aux["first"], THETA[0] - (0 if one_sided else e * z[0]), rtol=1e-12)


def test_zo_sign_and_the_released_sign():
  mask, signs = jax.random.key(2), set()
  kept = flat(like(mask, draw=jax.random.uniform)) >= 0.5
  assert 0 < kept.sum() < 5
  for seed in range(4, 9):
    z = kept * direction(jax.random.key(seed))
    slope = A @ THETA @ z
    paper, released = sparse(jax.random.key(seed), mask)
    np.testing.assert_array_equal(flat(paper), np.sign(slope * z))
    np.testing.assert_allclose(flat(released), np.sign(slope) * z)
    signs.add(np.sign(slope))
  assert signs == {-1, 1}


def test_zo_conserve_takes_the_best_of_three():
  """Of a loss and of its negative; a negative rate makes ``-g`` the best."""
  program = jax.jit(
    lambda key, sign, rate: O.zo_conserve(
      key, lambda p: (sign * quadratic(p)[0], quadratic(p)[1]), wide(), rate, epsilon=0.2
    )
  )
  chosen = set()
  for seed, sign, rate in ((0, 1.0, 0.02), (1, -1.0, 0.05), (2, 1.0, 9.0), (3, 1.0, -0.02), (4, 1.0, 0.02)):
    key = jax.random.key(seed)
    z = direction(key)
    g = sign * (A @ THETA @ z) * z
    best = int(np.argmin([sign * loss_at(THETA - s * rate * g) for s in (0, 1, -1)]))
    chosen.add(best)
    (here, aux), got = program(key, sign, rate)
    np.testing.assert_allclose(flat(got), (0, 1, -1)[best] * g, rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose([here, aux["first"]], [sign * loss_at(THETA), THETA[0]], rtol=1e-12)
  assert chosen == {0, 1, 2}
  far = lambda p: (jnp.where(jnp.abs(p["a"][0] - THETA[0]) > 50, jnp.nan, quadratic(p)[0]), ())
  _, got = O.zo_conserve(jax.random.key(0), far, wide(), 1e4, epsilon=0.2)  # both ways lead to NaN
  np.testing.assert_array_equal(flat(got), 0)


def test_forward_gradient_is_the_slope_along_its_direction():
  key = jax.random.key(5)
  (loss, aux), g = O.forward_gradient(key, quadratic, wide())
  v = flat(like(key))
  np.testing.assert_allclose(flat(g), (A @ THETA @ v) * v, rtol=1e-10)
  np.testing.assert_allclose([loss, aux["first"]], [loss_at(THETA), THETA[0]])


def test_hybrid_is_exact_before_the_switch():
  key = jax.random.key(6)
  z = direction(key, 0)
  program = jax.jit(lambda step: O.hybrid(key, quadratic, wide(), step, 3))
  for step, want in ((2, A @ THETA), (3, (A @ THETA @ z) * z), (4, (A @ THETA @ z) * z)):
    (_, aux), g = program(step)
    np.testing.assert_allclose(flat(g), want, rtol=1e-6)
    assert aux["first"].shape == ()


def test_refresh_over_two_steps():
  """Ascent along ``F^-1`` with noise of deviation ``noise sqrt(2 step F^-1)``, anew each step; and as released."""
  key, fisher = jax.random.key(11), np.array([0.0, 1.0, 10.0, 2.0, 0.3])
  trees = {"a": jnp.asarray(fisher[:3]), "b": jnp.asarray(fisher[3:].reshape(2, 1))}
  theta = THETA.copy()
  for j in range(2):
    e, inverse = direction(key, j), 1 / (fisher + 0.2)
    theta = theta + 0.01 * inverse * (A @ theta) + 0.5 * np.sqrt(2 * 0.01 * inverse) * e
  step = jax.jit(lambda p, size: O.refresh(key, quadratic, p, trees, step_size=size, steps=2, damping=0.2, noise=0.5))
  still = {**wide(), "a": jnp.asarray([-0.0, 1.0, 0.0])}
  np.testing.assert_array_equal(np.signbit(step(still, 0.0)["a"]), [True, False, False])  # neutral to the bit
  got = step(wide(), 0.01)
  np.testing.assert_allclose(flat(got), theta, rtol=1e-9)
  theta = THETA.copy()
  for j in range(2):
    e, g = direction(key, j), 0.05 * A @ theta
    size = lambda v: np.repeat([np.linalg.norm(v[:3]), np.linalg.norm(v[3:])], [3, 2])
    theta = theta + 0.01 / (1 + 0.2 * fisher) * (size(theta) / size(g) * g + 0.5 * e)
  options = {"step_size": 0.01, "steps": 2, "damping": 0.2, "noise": 0.5, "inner_rate": 0.05}
  got = O.refresh(key, quadratic, wide(), trees, released=True, **options)
  np.testing.assert_allclose(flat(got), theta, rtol=1e-9)
