"""What a comparison on one matrix or one network leaves open: plain lists, shapes that tell axes apart, best fits."""

import numpy as np
import pytest

from cljax import metrics


def test_one_task_transfers_nothing_without_a_division():
  with np.errstate(all="raise"):
    assert np.isnan(metrics.backward_transfer([[0.5]]))
    assert np.isnan(metrics.forgetting([[0.5]]))
    assert np.isnan(metrics.forward_transfer([[0.5]], [0.1]))


def test_confusion_of_lists():
  np.testing.assert_array_equal(metrics.confusion([0, 1, 1, 0], [0, 0, 1, 0], 3), [[2, 0, 0], [1, 1, 0], [0, 0, 0]])


def test_feature_drift_of_three_rows_of_two():
  got = metrics.feature_drift([[1, 0], [0, 0], [2, 2]], [[0, 0], [0, 2], [2, 4]])
  assert got == pytest.approx((1 + 4 + 4) / 3)


def test_a_scaling_law_is_the_best_of_all_exponents():
  """Of noise: some starts of the search end elsewhere. By a grid over both exponents, and least squares at each."""
  P, N = (v.ravel() for v in np.meshgrid([1.0, 10, 100], [1.0, 10, 100, 1000]))
  F = np.random.default_rng(3).normal(size=12)
  law = metrics.fit_scaling_law(P, N, F)
  lost = ((law(P, N) - F) ** 2).sum()

  def error(alpha, beta):
    columns = np.stack([np.ones(12), (P / 10) ** -alpha, (N / 30) ** -beta], 1)
    return ((columns @ np.linalg.lstsq(columns, F, rcond=None)[0] - F) ** 2).sum()

  grid = np.geomspace(0.01, 5, 25)
  best = min(error(a, b) for a in grid for b in grid)
  assert best - 0.1 < lost <= best * (1 + 1e-6)
  assert law.r2 == pytest.approx(1 - lost / ((F - F.mean()) ** 2).sum())


def test_a_constant_has_no_share_of_variance():
  s, k, r2 = metrics.fit_forgetting_tradeoff([1.0, 2.0, 4.0], [0.5, 0.5, 0.5])
  assert s == pytest.approx(0.5)
  assert k == pytest.approx(0, abs=1e-12)
  assert np.isnan(r2)
  P, N = (v.ravel() for v in np.meshgrid([1.0, 10, 100], [1.0, 10, 100]))
  with np.errstate(divide="raise", invalid="raise"):
    assert np.isnan(metrics.fit_scaling_law(P, N, np.ones(9)).r2)


def test_a_leaf_at_the_top_is_a_module_of_its_own():
  a = {"scale": np.array([1.0, 2.0]), "shift": np.array([5.0]), "head": {"bias": np.zeros(2)}}
  b = {"scale": np.array([2.0, 5.0]), "shift": np.array([4.0]), "head": {"bias": np.ones(2)}}
  assert metrics.module_sensitivity(a, b) == {"scale": 2.0, "shift": 1.0, "head": 1.0}
  got = metrics.with_module(a, b, "scale")
  np.testing.assert_array_equal(got["scale"], b["scale"])
  assert got["shift"] == 5
