"""Closed forms of edits of facts against NumPy in float64: constrained least squares, MEMIT's form, their limits."""

from __future__ import annotations

import numpy as np
import pytest

from cljax import UsageError, edits

RNG = np.random.default_rng(5)
M, D = 9, 4  # numbers of a key, of a value


def drawn(count):
  """``(C, K [count, M], R [count, D])``, C well away from the identity."""
  half = RNG.normal(size=(3 * M, M)) * np.linspace(0.3, 3, M)
  return half.T @ half / len(half), RNG.normal(size=(count, M)), RNG.normal(size=(count, D))


def constrained(moment, keys, residuals):
  """The least ``tr(D^T C D)`` with ``K D = R``, by the whole system of its multipliers."""
  b = len(keys)
  whole = np.block([[2 * moment, keys.T], [keys, np.zeros((b, b))]])
  return np.linalg.solve(whole, np.concatenate([np.zeros((M, residuals.shape[1])), residuals]))[:M]


@pytest.mark.parametrize("count", [1, 4])
def test_an_equality_is_the_constrained_least_squares(count):
  moment, keys, residuals = drawn(count)
  got = edits.least_squares_update(moment, keys, residuals)
  np.testing.assert_allclose(got, constrained(moment, keys, residuals), rtol=1e-8, atol=1e-10)
  np.testing.assert_allclose(keys @ got, residuals, atol=1e-12)
  assert got.dtype == np.float64
  cost = lambda update: np.trace(update.T @ moment @ update)
  free = RNG.normal(size=(M, D))
  away = free - keys.T @ np.linalg.solve(keys @ keys.T, keys @ free)  # keeps K D = R
  assert all(cost(got + scale * away) > cost(got) for scale in (-0.1, 0.1))


@pytest.mark.parametrize("strength", [1e-3, 1.0, 200.0])
def test_a_strength_is_memit_s_form_and_its_minimum(strength):
  moment, keys, residuals = drawn(3)
  got = edits.least_squares_update(moment, keys, residuals, strength)
  memit = np.linalg.solve(strength * moment + keys.T @ keys, keys.T @ residuals)
  np.testing.assert_allclose(got, memit, rtol=1e-8, atol=1e-10)
  slope = keys.T @ (keys @ got - residuals) + strength * moment @ got
  np.testing.assert_allclose(slope, 0, atol=1e-9)
  scale, gamma = 1000.0, strength / 1000.0  # EMMET's released code: C times a number, and gamma
  inner = np.linalg.inv(scale * moment)
  released = inner @ keys.T @ np.linalg.inv(keys @ inner @ keys.T + gamma * np.eye(3)) @ residuals
  np.testing.assert_allclose(got, released, rtol=1e-7, atol=1e-10)


def test_of_one_key_memit_is_a_share_of_rome_and_its_limit():
  moment, keys, residuals = drawn(1)
  rome = edits.rank_one_update(moment, keys[0], residuals[0], keys[0])
  share = keys[0] @ np.linalg.inv(moment) @ keys[0]
  for strength in (0.5, 20.0):
    got = edits.least_squares_update(moment, keys, residuals, strength)
    np.testing.assert_allclose(got, rome * share / (strength + share), rtol=1e-9)
  np.testing.assert_allclose(edits.least_squares_update(moment, keys, residuals), rome, rtol=1e-9)
  np.testing.assert_allclose(edits.least_squares_update(moment, keys, residuals, 1e-9), rome, rtol=1e-6)
  # What other keys of the moment's law are moved by, in the mean.
  half = np.linalg.cholesky(moment)
  others = RNG.normal(size=(200_000, M)) @ half.T
  np.testing.assert_allclose(np.mean(np.sum((others @ rome) ** 2, 1)), np.trace(rome.T @ moment @ rome), rtol=0.02)
  least = residuals[0] @ residuals[0] / share
  np.testing.assert_allclose(np.trace(rome.T @ moment @ rome), least, rtol=1e-9)


def test_another_key_along_holds_at_the_key_and_may_grow_without_bound():
  moment, keys, residuals = drawn(2)
  inner = np.linalg.inv(moment)
  own = edits.rank_one_update(moment, keys[0], residuals[0], keys[0])
  got = edits.rank_one_update(moment, keys[0], residuals[0], keys[1])
  np.testing.assert_allclose(got, np.outer(inner @ keys[1], residuals[0]) / (keys[1] @ inner @ keys[0]), rtol=1e-8)
  np.testing.assert_allclose(keys[0] @ got, residuals[0], rtol=1e-9)
  near = keys[1] - (keys[1] @ inner @ keys[0]) / (keys[0] @ inner @ keys[0]) * keys[0]
  far = edits.rank_one_update(moment, keys[0], residuals[0], near + 1e-4 * keys[0])
  np.testing.assert_allclose(keys[0] @ far, residuals[0], rtol=1e-6)
  assert np.linalg.norm(far) > 100 * np.linalg.norm(own)


WRONG = [
  (lambda c, k, r: edits.least_squares_update(c, k[:1], r), r"keys: have shape \(1, 9\), residuals \(2, 4\)"),
  (lambda c, k, r: edits.least_squares_update(c[:3, :3], k, r), r"moment: has shape \(3, 3\); keys of 9 numbers need"),
  (
    lambda c, k, r: edits.least_squares_update(np.zeros_like(c), k, r),
    "moment: is not positive definite; take it over",
  ),
  (lambda c, k, r: edits.least_squares_update(c, k[[0, 0]], r), "keys: the 2 depend on one another; strength above 0"),
  (lambda c, k, r: edits.least_squares_update(c, k, r, -1.0), "strength must be at least 0; got -1"),
  (lambda c, k, r: edits.rank_one_update(c, k[0], r[0], k[0][:3]), r"along: has shape \(3,\), key \(9,\)"),
  (lambda c, k, r: edits.rank_one_update(c, k[0], r[0], 0 * k[0]), "key: C\\^-1 along is orthogonal to it"),
]


@pytest.mark.parametrize(("call", "said"), WRONG, ids=[s for _, s in WRONG])
def test_updates_refuse_what_has_no_solution(call, said):
  with pytest.raises(UsageError, match=said):
    call(*drawn(2))
