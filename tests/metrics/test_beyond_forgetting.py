"""The ten metrics and MTIL's, against loops and by hand."""

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cljax import metrics
from cljax.core.types import UsageError

HAND = np.array([[0.9, 0.2, 0.1], [0.6, 0.8, 0.3], [0.7, 0.5, 1.0]])
matrices = st.integers(2, 5).flatmap(lambda t: hnp.arrays(np.float64, (t, t), elements=st.floats(0, 1)))


def test_by_hand():
  assert metrics.triangle_accuracy(HAND) == pytest.approx((0.9 + 0.6 + 0.8 + 0.7 + 0.5 + 1.0) / 6)
  assert metrics.mean_backward_transfer(HAND) == pytest.approx((-0.3 - 0.2 - 0.3) / 3)
  assert metrics.remembering(HAND) == pytest.approx(1 - 0.8 / 3)
  assert metrics.positive_backward_transfer(HAND) == 0
  assert metrics.zero_shot_transfer(HAND) == pytest.approx(0.6 / 3)
  assert metrics.transfer_before_learning(HAND) == pytest.approx((0.2 + (0.1 + 0.3) / 2) / 2)
  assert metrics.average_over_all(HAND) == pytest.approx(HAND.sum() / 9)


@settings(deadline=None, max_examples=60)
@given(matrices)
def test_against_loops_and_bounds(R):
  N = len(R)
  pairs = N * (N - 1) / 2
  assert metrics.triangle_accuracy(R) == pytest.approx(
    sum(R[i][j] for i in range(N) for j in range(i + 1)) / (N * (N + 1) / 2)
  )
  bwt = sum(R[i][j] - R[j][j] for i in range(1, N) for j in range(i)) / pairs
  assert metrics.mean_backward_transfer(R) == pytest.approx(bwt)
  rem, plus = float(metrics.remembering(R)), float(metrics.positive_backward_transfer(R))
  assert rem - 1 + plus == pytest.approx(bwt)
  assert 0 <= rem <= 1
  assert 0 <= plus <= 1
  assert rem == 1 or plus == 0
  fwt = sum(R[i][j] for j in range(N) for i in range(j)) / pairs
  assert metrics.zero_shot_transfer(R) == pytest.approx(fwt)
  transfer = sum(sum(R[t][i] for t in range(i)) / i for i in range(1, N)) / (N - 1)
  assert metrics.transfer_before_learning(R) == pytest.approx(transfer)
  assert metrics.average_over_all(R) == pytest.approx(sum(sum(r) for r in R) / N**2)
  # Two tasks: one entry on each side, so all definitions meet.
  if N == 2:
    assert metrics.mean_backward_transfer(R) == pytest.approx(metrics.backward_transfer(R))
    assert transfer == pytest.approx(fwt)


@settings(deadline=None, max_examples=20)
@given(matrices, st.integers(0, 10))
def test_transfer_reads_the_upper_triangle_only(R, seed):
  other = np.where(np.tri(len(R), dtype=bool), np.random.default_rng(seed).random(R.shape), R)
  assert metrics.transfer_before_learning(other) == metrics.transfer_before_learning(R)
  assert metrics.zero_shot_transfer(np.where(np.tri(len(R), dtype=bool), np.nan, R)) == metrics.zero_shot_transfer(R)
  frozen = np.broadcast_to(R[0], R.shape)  # a model that never changes: Transfer is its accuracy, Avg is Last
  assert metrics.transfer_before_learning(frozen) == pytest.approx(R[0][1:].mean())
  assert metrics.average_over_all(frozen) == pytest.approx(metrics.average_accuracy(frozen))


def test_one_task_axes_and_missing_entries():
  for f in (metrics.mean_backward_transfer, metrics.zero_shot_transfer, metrics.transfer_before_learning):
    assert np.isnan(f([[0.5]]))
    assert f(np.random.default_rng(0).random((3, 4, 4))).shape == (3,)
  with pytest.raises(UsageError, match="upper"):
    metrics.zero_shot_transfer(np.where(np.tri(3, dtype=bool), HAND, np.nan))
  with pytest.raises(UsageError, match="lower"):
    metrics.triangle_accuracy(np.where(np.tri(3, dtype=bool), np.nan, HAND))


def test_efficiencies():
  # A model that never grows and stores nothing.
  assert metrics.model_size_efficiency([7.0, 7.0, 7.0]) == 1
  assert metrics.sample_storage_efficiency([0, 0, 0], 100) == 1
  assert metrics.model_size_efficiency([1.0, 2.0, 4.0]) == pytest.approx((1 + 0.5 + 0.25) / 3)
  assert metrics.model_size_efficiency([2.0, 1.0]) == 1  # a model that shrinks is capped
  assert metrics.sample_storage_efficiency([10, 20, 30], 100) == pytest.approx(0.8)
  assert metrics.sample_storage_efficiency([300.0], 100) == 0
  assert metrics.computational_efficiency([100, 400], [5, 5], epsilon=10) == pytest.approx((0.5 + 0.125) / 2)
  assert metrics.computational_efficiency([1, 1], [5, 5]) == 1
  assert metrics.model_size_efficiency(np.ones((2, 3))).shape == (2,)
  np.testing.assert_allclose(metrics.sample_storage_efficiency([[10.0, 10], [20, 20]], [100, 50]), [0.9, 0.6])
  with pytest.raises(UsageError, match="memory"):
    metrics.model_size_efficiency([0.0, 1.0])
  with pytest.raises(UsageError, match="memory"):
    metrics.sample_storage_efficiency([-1.0], 3)
  with pytest.raises(UsageError, match="total"):
    metrics.sample_storage_efficiency([1.0], 0)
  with pytest.raises(UsageError, match="training_ops"):
    metrics.computational_efficiency([0.0], [1.0])
  with pytest.raises(UsageError, match="one_pass_ops"):
    metrics.computational_efficiency([1.0, 2.0], [1.0])


def test_score_and_stability():
  criteria = {"A": [0.8, 0.6], "REM": [1.0, 1.0]}
  assert metrics.cl_score(criteria) == pytest.approx(0.85)
  assert metrics.cl_stability(criteria) == pytest.approx(1 - 0.5 * 0.1)
  assert metrics.cl_score(criteria, {"A": 0.25, "REM": 0.75}) == pytest.approx(0.925)
  assert metrics.cl_stability({"A": 0.3}) == 1
  with pytest.raises(UsageError, match="weights"):
    metrics.cl_score(criteria, {"A": 0.5, "REM": 0.6})
  with pytest.raises(UsageError, match="weights"):
    metrics.cl_score(criteria, {"A": 1.0})
  with pytest.raises(UsageError, match="criteria"):
    metrics.cl_score({"A": [1.2]})
  with pytest.raises(UsageError, match="criteria"):
    metrics.cl_score({})


@settings(deadline=None, max_examples=30)
@given(st.lists(st.lists(st.floats(0, 1), min_size=3, max_size=3), min_size=1, max_size=4))
def test_score_and_stability_are_bounded(values):
  criteria = {f"c{i}": v for i, v in enumerate(values)}
  low, high = min(min(v) for v in values), max(max(v) for v in values)
  assert low - 1e-12 <= metrics.cl_score(criteria) <= high + 1e-12
  assert 0.5 - 1e-12 <= metrics.cl_stability(criteria) <= 1  # the deviation of numbers in [0, 1] is at most 1/2
