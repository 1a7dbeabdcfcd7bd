"""Accuracy-matrix metrics against loops, hand-made matrices and the relations between them."""

import json

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cljax import metrics
from cljax.core.types import UsageError

# Three tasks by hand. Task 1: .9 -> .6 -> .7; task 2: .2 before, .8, .5; task 3: .1, .3, 1.0.
HAND = np.array([[0.9, 0.2, 0.1], [0.6, 0.8, 0.3], [0.7, 0.5, 1.0]])
BASE = np.array([0.05, 0.1, 0.15])

matrices = st.integers(1, 5).flatmap(lambda t: hnp.arrays(np.float64, (t, t), elements=st.floats(0, 1)))
larger = st.integers(2, 5).flatmap(lambda t: hnp.arrays(np.float64, (t, t), elements=st.floats(0, 1)))


def test_by_hand():
  assert metrics.average_accuracy(HAND) == pytest.approx(2.2 / 3)
  assert metrics.average_incremental_accuracy(HAND) == pytest.approx((0.9 + 0.7 + 2.2 / 3) / 3)
  assert metrics.backward_transfer(HAND) == pytest.approx((-0.2 - 0.3) / 2)
  assert metrics.forward_transfer(HAND, BASE) == pytest.approx((0.1 + 0.15) / 2)
  assert metrics.forgetting(HAND) == pytest.approx((0.2 + 0.3) / 2)
  # A last row above all others: negative here, and 0 by the convention of Mammoth.
  assert metrics.forgetting([[0.5, 0.0], [0.75, 1.0]]) == pytest.approx(-0.25)


@settings(deadline=None, max_examples=60)
@given(larger)
def test_against_loops(R):
  T = len(R)
  assert metrics.average_accuracy(R) == pytest.approx(sum(R[T - 1][i] for i in range(T)) / T)
  rows = [sum(R[t][i] for i in range(t + 1)) / (t + 1) for t in range(T)]
  assert metrics.average_incremental_accuracy(R) == pytest.approx(sum(rows) / T)
  bwt = sum(R[T - 1][i] - R[i][i] for i in range(T - 1)) / (T - 1)
  assert metrics.backward_transfer(R) == pytest.approx(bwt)
  b = R[0] * 0.5
  assert metrics.forward_transfer(R, b) == pytest.approx(sum(R[i - 1][i] - b[i] for i in range(1, T)) / (T - 1))
  F = sum(max(R[t][i] for t in range(T - 1)) - R[T - 1][i] for i in range(T - 1)) / (T - 1)
  assert metrics.forgetting(R) == pytest.approx(F)
  assert F + bwt >= -1e-12
  if T == 2:
    assert metrics.forgetting(R) == pytest.approx(-bwt)


@settings(deadline=None, max_examples=30)
@given(matrices, st.floats(-2, 2), st.floats(0.5, 100))
def test_bounds_shift_and_scale(R, shift, scale):
  """Accuracies follow shift and scale; differences follow the scale alone."""
  for f in (metrics.average_accuracy, metrics.average_incremental_accuracy):
    assert 0 <= f(R) <= 1
    assert f(scale * R + shift) == pytest.approx(scale * f(R) + shift)
  for f in (metrics.backward_transfer, metrics.forgetting, lambda r: metrics.forward_transfer(r, r[0])):
    if len(R) > 1:
      assert -1 <= f(R) <= 1
      assert f(scale * R + shift) == pytest.approx(scale * f(R), abs=1e-9)
    else:
      assert np.isnan(f(R))


def test_a_constant_matrix_forgets_nothing():
  R = np.full((4, 4), 0.3)
  assert metrics.average_accuracy(R) == pytest.approx(0.3)
  assert metrics.average_incremental_accuracy(R) == pytest.approx(0.3)
  assert metrics.backward_transfer(R) == metrics.forgetting(R) == metrics.forward_transfer(R, R[0]) == 0


def test_leading_axes():
  R = np.random.default_rng(0).random((2, 3, 4, 4))
  for f in (
    metrics.average_accuracy,
    metrics.average_incremental_accuracy,
    metrics.backward_transfer,
    metrics.forgetting,
    lambda r: metrics.forward_transfer(r, np.arange(4) / 10),
  ):
    assert f(R).shape == (2, 3)
    assert f(R)[1, 2] == pytest.approx(f(R[1, 2]))
  assert metrics.backward_transfer(np.ones((3, 1, 1))).shape == (3,)


def test_entries_that_are_not_needed_may_be_missing():
  R = np.where(np.tri(3, dtype=bool), HAND, np.nan)
  assert metrics.average_accuracy(R) == metrics.average_accuracy(HAND)
  assert metrics.average_incremental_accuracy(R) == metrics.average_incremental_accuracy(HAND)
  assert metrics.backward_transfer(R) == metrics.backward_transfer(HAND)
  assert metrics.forgetting(R) == metrics.forgetting(HAND)
  with pytest.raises(UsageError, match="superdiagonal"):
    metrics.forward_transfer(R, BASE)
  assert metrics.forward_transfer(HAND, [np.nan, 0.1, 0.15]) == metrics.forward_transfer(HAND, BASE)
  missing = HAND.copy()
  missing[1, 0] = np.nan
  assert metrics.backward_transfer(missing) == metrics.backward_transfer(HAND)
  for f in (metrics.forgetting, metrics.average_incremental_accuracy):
    with pytest.raises(UsageError, match="lower triangle"):
      f(missing)
  missing[2, 1] = np.nan
  for f in (metrics.average_accuracy, metrics.backward_transfer):
    with pytest.raises(UsageError, match="last row"):
      f(missing)


def test_input_is_not_changed():
  R = HAND.copy()
  metrics.forgetting(R), metrics.average_incremental_accuracy(R)
  np.testing.assert_array_equal(R, HAND)


def test_wrong_arguments():
  for bad in (np.ones(3), np.ones((2, 3)), np.ones((0, 0))):
    with pytest.raises(UsageError, match="R: has shape"):
      metrics.average_accuracy(bad)
  with pytest.raises(UsageError, match="baseline"):
    metrics.forward_transfer(HAND, [0.1, 0.2])
  with pytest.raises(UsageError, match="baseline"):
    metrics.forward_transfer(HAND, [0.1, np.nan, 0.2])


def test_summarize():
  s = metrics.summarize([1.0, 2.0, 4.0])
  assert s["mean"] == pytest.approx(7 / 3)
  assert s["stderr"] == pytest.approx(np.sqrt(((1 - 7 / 3) ** 2 + (2 - 7 / 3) ** 2 + (4 - 7 / 3) ** 2) / 2 / 3))
  assert s["values"] == [1.0, 2.0, 4.0]
  assert metrics.summarize([0.5]) == {"mean": 0.5, "stderr": None, "values": [0.5]}
  missing = metrics.summarize([0.5, np.nan])
  assert missing == {"mean": None, "stderr": None, "values": [0.5, None]}
  json.dumps(missing, allow_nan=False)
  for bad in ([], [[1.0]], 3.0):
    with pytest.raises(UsageError, match="values"):
      metrics.summarize(bad)
