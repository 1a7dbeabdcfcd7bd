"""Gradients of flat minima: by hand on a quadratic and on a quartic, and where they are the plain one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cljax import UsageError
from cljax import optimizers as O

rng = np.random.default_rng(0)
MATRIX = rng.normal(size=(5, 5))
MATRIX = MATRIX @ MATRIX.T / 5 + np.eye(5)
START = rng.normal(size=5)


def tree_of(v):
  return {"a": jnp.asarray(v[:4].reshape(2, 2), jnp.float32), "b": jnp.asarray(v[4:], jnp.float32)}


def flat(t):
  return jnp.concatenate([t["a"].reshape(-1), t["b"]])


def loss(p):
  v = flat(p)
  return 0.5 * v @ jnp.asarray(MATRIX, jnp.float32) @ v + jnp.sum(v**4), {"seen": v[0]}


def slope(v):
  return MATRIX @ v + 4 * v**3


def by_hand(v, radius, strength):
  unit = lambda d: d / np.linalg.norm(d)
  g0 = slope(v)
  g1 = slope(v + radius * unit(g0))
  there = v + radius * unit(g1 - g0)
  g2 = slope(there)
  g3 = slope(there + radius * unit(g2))
  return g1, g1 + strength * (g3 - g2)


@pytest.mark.parametrize(("radius", "strength"), [(0.2, 0.2), (0.05, 1.5)])
def test_both_are_the_gradients_at_the_points_they_climb_to(radius, strength):
  steep, whole = by_hand(START, radius, strength)
  seen, found = jax.jit(lambda p: O.c_flat(loss, p, radius=radius, strength=strength))(tree_of(START))
  np.testing.assert_allclose(flat(found), whole, rtol=1e-4)
  np.testing.assert_allclose(seen[0], 0.5 * START @ MATRIX @ START + np.sum(START**4), rtol=1e-5)
  np.testing.assert_allclose(seen[1]["seen"], START[0], rtol=1e-6)
  np.testing.assert_allclose(flat(O.sam(loss, tree_of(START), radius=radius)[1]), steep, rtol=1e-4)


def test_without_strength_it_is_sam_and_without_radius_the_gradient():
  one = flat(O.c_flat(loss, tree_of(START), radius=0.3, strength=0.0)[1])
  np.testing.assert_array_equal(one, flat(O.sam(loss, tree_of(START), radius=0.3)[1]))
  plain = flat(jax.grad(lambda p: loss(p)[0])(tree_of(START)))
  np.testing.assert_array_equal(flat(O.c_flat(loss, tree_of(START), radius=0.0)[1]), plain)
  np.testing.assert_array_equal(flat(O.sam(loss, tree_of(START), radius=0.0)[1]), plain)


def test_where_the_gradient_is_zero_it_stays_finite():
  nowhere = tree_of(np.zeros(5))
  for found in (O.c_flat(loss, nowhere)[1], O.sam(loss, nowhere)[1]):
    np.testing.assert_array_equal(flat(found), 0.0)


@pytest.mark.parametrize(
  ("made", "message"),
  [
    (lambda: O.c_flat(loss, tree_of(START), radius=-1.0), "radius"),
    (lambda: O.c_flat(loss, tree_of(START), strength=-1.0), "strength"),
    (lambda: O.sam(loss, tree_of(START), radius=-0.1), "radius"),
  ],
)
def test_negative_numbers_are_refused(made, message):
  with pytest.raises(UsageError, match=message):
    made()
