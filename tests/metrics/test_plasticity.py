"""Dead and dormant units, ranks and weights, against loops and known singular values."""

from __future__ import annotations

import numpy as np
import pytest

from cljax import metrics
from cljax.core.types import UsageError

RNG = np.random.default_rng(0)


def with_values(s, rows=9):
  """A matrix with these singular values."""
  u = np.linalg.qr(RNG.normal(size=(rows, len(s))))[0]
  v = np.linalg.qr(RNG.normal(size=(len(s), len(s))))[0]
  return u @ np.diag(s) @ v


def test_units_by_loops():
  h = np.maximum(RNG.normal(size=(40, 3, 6)), 0)
  h[..., 1] = 0
  h[..., 4] = 0
  h[7, 2, 4] = -1e-30  # acts at one of 120 places
  flat = h.reshape(-1, 6)
  dead = [all(flat[r, u] == 0 for r in range(len(flat))) for u in range(6)]
  dormant = [sum(flat[r, u] != 0 for r in range(len(flat))) / len(flat) < 0.02 for u in range(6)]
  assert (sum(dead), sum(dormant)) == (1, 2)
  assert metrics.dead_units(h) == np.mean(dead)
  assert metrics.dormant_units(h, 0.02) == np.mean(dormant)
  assert metrics.dormant_units(h, 1 / 120) == np.mean(dead)  # not below its own share


def test_dead_are_dormant():
  h = np.zeros((5, 4))
  assert metrics.dead_units(h) == metrics.dormant_units(h) == 1
  h[:, 0] = 1
  assert metrics.dead_units(h) == metrics.dormant_units(h) == 0.75


def test_ranks_of_known_singular_values():
  """The numbers of the specification: effective 2.21, count to 0.99 of the sum 4, of squares 3."""
  h = with_values([10, 1, 1, 1])
  p = np.asarray([10, 1, 1, 1]) / 13
  np.testing.assert_allclose(metrics.effective_rank(h), np.exp(-np.sum(p * np.log(p))), rtol=1e-9)
  assert round(metrics.effective_rank(h), 2) == 2.21
  assert (metrics.approximate_rank(h, squared=False), metrics.approximate_rank(h)) == (4, 3)
  assert metrics.approximate_rank(h, 0.5) == 1
  assert metrics.approximate_rank(h, 1.0) == 4
  np.testing.assert_allclose(metrics.effective_rank(with_values([2, 2, 2])), 3)
  np.testing.assert_allclose(metrics.effective_rank(np.outer(np.arange(1, 5), [1.0, 2, 3])), 1, rtol=1e-6)
  np.testing.assert_allclose(metrics.effective_rank(np.diag([3.0, 3, 0])), 2)  # a singular value of 0 adds nothing
  assert metrics.approximate_rank(np.eye(100), 0.07) == 7  # 0.07 * 100 is above 7 in floating point
  assert metrics.effective_rank(np.zeros((3, 2))) == metrics.approximate_rank(np.zeros((3, 2))) == 0


def test_ranks_turn_with_nothing():
  """Neither scale nor an order of units or rows counts."""
  h = with_values([3, 2, 0.5])
  other = 7 * h[RNG.permutation(len(h))][:, RNG.permutation(3)]
  np.testing.assert_allclose(metrics.effective_rank(other), metrics.effective_rank(h))
  assert metrics.approximate_rank(other, 0.9) == metrics.approximate_rank(h, 0.9)


def test_weights_by_numpy():
  params = {"a": np.asarray([[1.0, -3.0]]), "b": np.float32([2.0])}
  assert metrics.weight_magnitude(params) == 2
  with pytest.raises(UsageError, match="params: got no numbers"):
    metrics.weight_magnitude({})


@pytest.mark.parametrize("measure", [metrics.dead_units, metrics.dormant_units, metrics.effective_rank])
def test_other_shapes_are_refused(measure):
  for h in (np.zeros(3), np.zeros((0, 3))):
    with pytest.raises(UsageError, match=r"expected \[B, \.\.\., D\] with rows"):
      measure(h)


def test_shares_are_checked():
  for share in (0, 1.5, -1):
    with pytest.raises(UsageError, match="below: got"):
      metrics.dormant_units(np.ones((2, 2)), share)
    with pytest.raises(UsageError, match="share: got"):
      metrics.approximate_rank(np.ones((2, 2)), share)
