"""The dual program against exhaustive enumeration of active sets, and its stated KKT residual."""

import itertools

import jax
import numpy as np
import pytest

from cljax.projectors import _qp

solve = jax.jit(_qp.bounded)


def enumerate_sets(p, q, lower):
  """The minimiser of ``v p v / 2 + q v`` over ``v >= lower``: every free set is tried, in float64."""
  best, where = np.inf, None
  k = len(q)
  for bits in itertools.product([False, True], repeat=k):
    free = np.asarray(bits)
    v = np.full(k, lower)
    if free.any():
      rhs = -(q + p[:, ~free] @ v[~free])[free]
      v[free] = np.linalg.lstsq(p[np.ix_(free, free)], rhs, rcond=None)[0]
    if (v >= lower - 1e-9).all() and 0.5 * v @ p @ v + q @ v < best - 1e-12:
      best, where = 0.5 * v @ p @ v + q @ v, v
  return where, best


@pytest.mark.parametrize("lower", [0.0, 0.5])
@pytest.mark.parametrize("kind", ["general", "dependent", "repeated", "scaled"])
def test_matches_enumeration(kind, lower):
  rng = np.random.default_rng(0)
  for _ in range(20):
    a = rng.normal(size=(6, 9))
    if kind == "dependent":
      a = rng.normal(size=(6, 3)) @ rng.normal(size=(3, 9))
    if kind == "repeated":
      a[3:] = a[:3]
    if kind == "scaled":
      a *= 10.0 ** rng.uniform(-2, 2, size=(6, 1))
    p, q = a @ a.T, a @ rng.normal(size=9)
    _, best = enumerate_sets(p, q, lower)
    got = solve(p.astype(np.float32), q.astype(np.float32), np.ones(6, bool), lower)
    v = np.asarray(got.x, np.float64)
    value = 0.5 * v @ p @ v + q @ v
    # Dependent rows have many multipliers but one projection: compare the objective, and feasibility.
    assert value <= best + 1e-3 * (abs(best) + 1)
    assert (v >= lower - 1e-6 * (1 + abs(v).max())).all()
    assert float(got.kkt) < 1e-4


def test_fifty_constraints_converge_well_inside_the_bound():
  rng = np.random.default_rng(1)
  for n in (30, 60, 1000):  # fewer and more dimensions than constraints
    a = rng.normal(size=(50, n)) + rng.normal(size=n)  # all share a direction: many are active at once
    g = -a.mean(0) + 0.5 * rng.normal(size=n)
    got = solve((a @ a.T).astype(np.float32), (a @ g).astype(np.float32), np.ones(50, bool))
    assert float(got.kkt) < 1e-3
    assert int(got.iterations) < 60
    x = g + a.T @ np.asarray(got.x, np.float64)
    assert (a @ x / np.linalg.norm(a, axis=1)).min() > -1e-4 * np.linalg.norm(g)


def test_inactive_rows_get_nothing():
  p, q = np.diag([1.0, 0.0, 2.0]).astype(np.float32), np.asarray([-1.0, 0.0, -1.0], np.float32)
  got = solve(p, q, np.asarray([True, False, True]), 0.5)
  np.testing.assert_allclose(got.x, [1.0, 0.0, 0.5], rtol=1e-5)


def test_equality_with_repeated_rows():
  rng = np.random.default_rng(2)
  a = rng.normal(size=(3, 8))
  a = np.concatenate([a, a[:1], np.zeros((1, 8))])
  d = rng.normal(size=8)
  got = jax.jit(_qp.equality)(
    (a @ a.T).astype(np.float32), (-a @ d).astype(np.float32), np.asarray([True] * 4 + [False])
  )
  assert np.abs(a @ (d - a.T @ np.asarray(got.x))).max() < 1e-4
