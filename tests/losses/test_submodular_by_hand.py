"""Submodular information against set functions in float64 NumPy, its equalities, and that absent rows are absent."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cljax import losses
from cljax.core.types import UsageError

B, D = 8, 5
RNG = np.random.default_rng(4)
Z = RNG.normal(size=(B, D)).astype(np.float32)
Y = np.asarray([0, 1, 0, 2, 1, 0, 2, 1], np.int32)
TWO = (Y == 0).astype(np.int32)
WEIGHT = np.float32([1, 2, 1, 1, 0.5, 1, 0, 0])
THERE = WEIGHT > 0
NAMES = ("facility_location", "graph_cut", "log_determinant")


def close(a, b, rtol=2e-5, atol=1e-6):
  np.testing.assert_allclose(np.asarray(a, np.float64), b, rtol=rtol, atol=atol)


def likeness(z):
  z = z.astype(np.float64)
  z = z / np.linalg.norm(z, axis=1, keepdims=True)
  return z @ z.T


S, LABELS, GROUPS = likeness(Z[THERE]), Y[THERE], TWO[THERE]


def members(k):
  return np.flatnonzero(k == LABELS)


def log_det(rows, eps=0.5):
  """f of a set of rows."""
  return np.linalg.slogdet(S[np.ix_(rows, rows)] + eps * np.eye(len(rows)))[1]


def test_facility_location_is_a_smooth_maximum_over_other_sets():
  found = losses.facility_location(Z, Y, WEIGHT, 0.3)
  others = lambda i: [j for j in range(len(S)) if LABELS[j] != LABELS[i]]
  wanted = [0.3 * np.log(sum(np.exp(S[i, j] / 0.3) for j in others(i))) for i in range(len(S))]
  close(found[THERE], wanted)
  # As T goes to 0, of two sets: what both cover, f(A) + f(B) - f(A and B) with f(A) = sum_i max_{j in A} S_ij.
  f = lambda members: S[:, members].max(1).sum()
  a, b = (np.flatnonzero(k == GROUPS) for k in (0, 1))
  close(losses.facility_location(Z, TWO, WEIGHT, 1e-3).sum(), f(a) + f(b) - f(np.arange(len(S))), rtol=3e-3)


def test_graph_cut_is_the_cut_less_what_lies_within():
  kernel = np.exp(S / 0.4)
  apart, within = np.zeros(len(S)), np.zeros(len(S))
  for i in range(len(S)):
    for j in range(len(S)):
      apart[i] += kernel[i, j] * (LABELS[i] != LABELS[j])
      within[i] += kernel[i, j] * (LABELS[i] == LABELS[j] and i != j)
  close(losses.graph_cut(Z, Y, WEIGHT, 0.4, 0.7)[THERE], apart - 0.7 * within)
  # f(A) = sum_{i in V, j in A} k_ij - sum_{i, j in A} k_ij: f(A) + f(B) - f(A and B) of two sets.
  f = lambda m: kernel[:, m].sum() - kernel[np.ix_(m, m)].sum()
  a, b = (np.flatnonzero(k == GROUPS) for k in (0, 1))
  close(losses.graph_cut(Z, TWO, WEIGHT, 0.4, 0.0).sum(), f(a) + f(b) - f(np.arange(len(S))))


def test_log_determinant_is_the_total_correlation_of_the_sets():
  every = np.arange(len(S))
  total = sum(log_det(members(k)) for k in range(3)) - log_det(every)
  close(losses.log_determinant(Z, Y, WEIGHT), total)
  a, b = (np.flatnonzero(k == GROUPS) for k in (0, 1))
  shifted = lambda p, q: S[np.ix_(p, q)] + (0.2 * np.eye(len(p)) if p is q else 0)
  inner = np.linalg.solve(shifted(a, a), shifted(a, b)) @ np.linalg.solve(shifted(b, b), shifted(b, a))
  close(losses.log_determinant(Z, TWO, WEIGHT, 0.2), -np.linalg.slogdet(np.eye(len(a)) - inner)[1])
  assert losses.log_determinant(Z, Y, WEIGHT) > 0.1


def test_sets_without_likeness_share_nothing():
  """Orthogonal rows: log det is 0, the cut counts exp(0) = 1 for each other row, facility location is T log of that."""
  z, y, one = jnp.eye(4), jnp.arange(4), jnp.ones(4)
  close(losses.log_determinant(z, y, one), 0.0)
  close(losses.graph_cut(z, y, one), np.full(4, 3.0))
  close(losses.facility_location(z, y, one, 0.5), np.full(4, 0.5 * np.log(3)))


@pytest.mark.parametrize("name", NAMES)
def test_absent_rows_and_the_order_of_rows_change_nothing(name):
  loss = getattr(losses, name)
  of = jax.jit(lambda z, y, w: jnp.sum(loss(z, y, w)))
  whole = of(Z, Y, WEIGHT)
  close(of(np.where(THERE[:, None], Z, np.nan), Y, WEIGHT), whole)
  order = RNG.permutation(B)
  close(of(Z[order], Y[order], WEIGHT[order]), whole)
  close(of(3.0 * Z, Y, WEIGHT), whole)  # cosines
  slope = jax.grad(of)(jnp.asarray(Z), Y, WEIGHT)
  assert np.isfinite(slope).all()
  np.testing.assert_array_equal(np.asarray(slope)[~THERE], 0.0)
  assert np.abs(np.asarray(slope)[THERE]).max() > 1e-3


def test_a_set_whose_rows_are_absent_is_no_other_set():
  np.testing.assert_array_equal(losses.facility_location(Z[:3], Y[:3], np.float32([1, 0, 1])), 0.0)


@pytest.mark.parametrize("name", NAMES)
def test_one_set_and_no_rows_are_finite(name):
  loss, same = getattr(losses, name), np.zeros(B, np.int32)
  for weight in (WEIGHT, np.zeros(B, np.float32)):
    value, slope = jax.value_and_grad(lambda z, w=weight: jnp.sum(loss(z, same, w)))(jnp.asarray(Z))
    assert np.isfinite(value)
    assert np.isfinite(slope).all()
    if name != "graph_cut" or not weight.any():
      close(value, 0.0)


@pytest.mark.parametrize("name", NAMES)
def test_rows_of_wrong_shapes_are_named(name):
  with pytest.raises(UsageError, match=r"z: has shape \(8, 5\), y \(7,\)"):
    getattr(losses, name)(Z, Y[:-1], WEIGHT)
  with pytest.raises(UsageError, match="expected \\[B, D\\]"):
    getattr(losses, name)(Z[None], Y, WEIGHT)
  with pytest.raises(UsageError, match=r"weight \(2,\)"):
    getattr(losses, name)(Z, Y, WEIGHT[:2])
