"""Two tasks under a random orthogonal transform: the closed form, against draws learned by the exact solver."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cljax.theory import haar, learn, partial_rotation, rotation_draw, rotation_forgetting

SMALL, LARGE = 24, 48  # dimensions; every share below is a whole number of both
# (share turned, over-parameterisation): value of the formula, at the five reference pairs.
REFERENCE = {(1 / 2, 1 / 2): 0.2734, (1 / 4, 1 / 2): 0.0972, (3 / 4, 1 / 4): 0.9937, (1 / 2, 3 / 4): 0.1006,
             (5 / 6, 5 / 6): 0.1402}  # fmt: skip
SQUARE = [(a, b) for a in (1 / 6, 2 / 3, 1) for b in (0, 1 / 3, 11 / 12)]
PAIRS = np.asarray([*REFERENCE, *SQUARE, (0, 1 / 3)])


def draws(size, count, seed):
  """Mean and standard error of the forgetting of each pair, ``[len(PAIRS)]`` each."""
  keys = jax.random.split(jax.random.key(seed), (len(PAIRS), count))
  turned, rank = (jnp.asarray(np.rint(v * size), jnp.int32) for v in (PAIRS[:, 0], 1 - PAIRS[:, 1]))
  one = jax.vmap(lambda key, rank, turned: rotation_draw(key, size, rank, turned), (0, None, None))
  values = np.asarray(jax.jit(jax.vmap(one))(keys, rank, turned), np.float64)
  return values.mean(1), values.std(1, ddof=1) / np.sqrt(count)


@pytest.fixture(scope="module")
def measured():
  return draws(SMALL, 600, 0), draws(LARGE, 400, 1)


def test_reference_pairs_within_three_percent(measured):
  mean, error = measured[1]
  for i, (pair, value) in enumerate(REFERENCE.items()):
    assert abs(float(rotation_forgetting(*pair)) - value) < 1e-4, pair
    assert abs(mean[i] - value) < 0.03 * value, (pair, mean[i], error[i])


def test_closed_form_over_the_whole_square(measured):
  (small, e_small), (large, e_large) = measured
  limit = 2 * large - small  # the formula holds up to O(1/p): extrapolation to 1/p = 0 leaves O(1/p^2)
  error = np.sqrt(4 * e_large**2 + e_small**2)
  wanted = np.asarray(rotation_forgetting(*PAIRS.T))
  same = PAIRS[:, 0] == 0
  assert np.abs(large[same]).max() < 1e-9  # the same task twice
  z = (limit - wanted)[~same] / error[~same]
  assert np.abs(z).max() < 4, list(zip(PAIRS[~same], z, strict=True))
  assert (z**2).mean() < 1 + 4 * np.sqrt(2 / len(z))  # and no more spread than the errors say


def test_limits(measured):
  for mean, error in measured:  # without slack it is 2 a for every dimension
    full = (PAIRS[:, 1] == 0) & (PAIRS[:, 0] > 0)
    assert (np.abs(mean - 2 * PAIRS[:, 0]) < 4 * error)[full].all()
  a = np.linspace(0, 1, 101)
  np.testing.assert_allclose(rotation_forgetting(a, 0.0), 2 * a, atol=1e-12)
  np.testing.assert_allclose(rotation_forgetting(a, 1.0), a**2 * (1 - a) ** 2, atol=1e-12)
  assert a[np.argmax(rotation_forgetting(a, 1.0))] == 0.5


def test_draw_is_the_forgetting_of_minimum_norm_solutions():
  size, rank, turned = 10, 6, 4
  key = jax.random.key(3)
  both = jax.jit(lambda key: (partial_rotation(key, size, turned), rotation_draw(key, size, rank, turned)))
  O, drawn = (np.asarray(v, np.float64) for v in both(key))
  np.testing.assert_allclose(O @ O.T, np.eye(size), atol=1e-5)
  assert np.linalg.matrix_rank(O - np.eye(size), tol=1e-4) <= turned  # one less where the turn has determinant -1
  x1 = np.eye(size)[:rank]
  forgetting = []
  for teacher in np.eye(size):
    y = x1 @ teacher
    w1 = np.linalg.pinv(x1) @ y
    x2 = x1 @ O
    w2 = np.linalg.pinv(x2) @ y + (np.eye(size) - np.linalg.pinv(x2) @ x2) @ w1
    forgetting.append(((x1 @ w2 - y) ** 2).sum())
  np.testing.assert_allclose(drawn, np.sum(forgetting) / rank, rtol=1e-4)


def test_haar_moments():
  """E Q_11^2 = 1/n, E Q_11^4 = 3/(n(n+2)), E Q = 0 and E det = 0; a QR without the signs fails the last two."""
  n, count = 3, 20000
  q = np.asarray(jax.jit(haar)(jax.random.normal(jax.random.key(0), (count, n, n))), np.float64)
  for values, wanted in (
    (q[:, 0, 0], 0), (q[:, 1, 1], 0), (np.linalg.det(q), 0), (q[:, 0, 0] ** 2, 1 / n),
    (q[:, 2, 1] ** 4, 3 / (n * (n + 2))), (q[:, 0, 0] * q[:, 1, 1], 0),
  ):  # fmt: skip
    assert abs(values.mean() - wanted) < 4 * values.std() / np.sqrt(count)


def test_learn_is_minimum_norm_and_absent_rows_are_absent():
  rng = np.random.default_rng(0)
  w, x, y = rng.normal(size=(8, 2)), rng.normal(size=(5, 8)), rng.normal(size=(5, 2))
  wanted = w + np.linalg.pinv(x[:3]) @ (y[:3] - x[:3] @ w)
  np.testing.assert_allclose(learn(w, x[:3], y[:3]), wanted, atol=1e-5)
  np.testing.assert_allclose(learn(w, x, y, np.arange(5) < 3), wanted, atol=1e-5)
  np.testing.assert_allclose(learn(w[:, 0], x, y[:, 0], np.arange(5) < 3), wanted[:, 0], atol=1e-5)
