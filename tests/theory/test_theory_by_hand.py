"""One draw of each experiment, learned anew in NumPy by pseudo-inverses from the same random numbers."""

import jax
import numpy as np

from cljax.core import tree
from cljax.theory import draw_errors, haar, partial_rotation, rotation_forgetting


def test_errors_of_one_draw():
  teachers = np.random.default_rng(0).normal(size=(3, 9))
  key, rows, noise, capacity = jax.random.key(4), 4, 0.3, 6
  x = np.asarray(jax.random.normal(tree.fold(key, "inputs"), (3, capacity, 9)), np.float64)[:, :rows]
  z = noise * np.asarray(jax.random.normal(tree.fold(key, "noise"), (3, capacity)), np.float64)[:, :rows]
  w, after = np.zeros(9), []
  for t in range(3):
    w = w + np.linalg.pinv(x[t]) @ (x[t] @ teachers[t] + z[t] - x[t] @ w)
    after.append(w)
  loss = lambda i, w: np.sum((w - teachers[i]) ** 2)
  forgetting = sum(loss(i, w) - loss(i, after[i]) for i in range(3)) / 2
  got = jax.jit(draw_errors, static_argnums=4)(key, teachers, rows, noise, capacity)
  np.testing.assert_allclose(got, [forgetting, np.mean([loss(i, w) for i in range(3)])], rtol=1e-4)


def test_haar_makes_the_diagonal_of_r_positive():
  normal = np.random.default_rng(0).normal(size=(4, 3, 3))
  q = np.asarray(haar(normal), np.float64)
  r = np.swapaxes(q, 1, 2) @ normal
  np.testing.assert_allclose(q @ np.swapaxes(q, 1, 2), np.tile(np.eye(3), (4, 1, 1)), atol=1e-5)
  assert (np.diagonal(r, axis1=1, axis2=2) > 0).all()
  np.testing.assert_allclose(np.tril(r, -1), 0, atol=1e-5)


def test_a_subspace_of_the_asked_dimension_is_turned():
  """``Q diag(Q_m, I) Q^T`` from the two drawn matrices."""
  key, size, turned = jax.random.key(2), 5, 3
  normal = np.asarray(jax.random.normal(key, (2, size, size)), np.float64)
  block = np.eye(size)
  block[:turned, :turned] = normal[1, :turned, :turned]
  basis, turn = (np.linalg.qr(m) for m in (normal[0], block))
  basis, turn = (q * np.sign(np.diag(r)) for q, r in (basis, turn))
  np.testing.assert_allclose(partial_rotation(key, size, turned), basis @ turn @ basis.T, atol=1e-5)


def test_forgetting_under_rotation_at_the_reference_pairs():
  """Values of the specification, to their four digits."""
  pairs = {(0.5, 0.5): 0.2734, (0.25, 0.5): 0.0972, (0.75, 0.25): 0.9937, (0.5, 0.75): 0.1006, (5 / 6, 5 / 6): 0.1402}
  for pair, value in pairs.items():
    assert abs(float(rotation_forgetting(*pair)) - value) < 6e-5
  a = np.linspace(0, 1, 11)
  np.testing.assert_allclose(rotation_forgetting(a, 0.0), 2 * a, atol=1e-12)
  np.testing.assert_allclose(rotation_forgetting(a, 1.0), a**2 * (1 - a) ** 2, atol=1e-12)
