"""Continual evaluation against loops over all pairs and by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cljax import metrics
from cljax.core.types import UsageError

# Two tasks, three evaluations each. Task 1 drops to .2 at the switch and recovers: the gap.
CURVE = np.array([[0.5, np.nan], [0.7, np.nan], [0.9, np.nan], [0.2, 0.4], [0.6, 0.7], [0.8, 0.9]])
CURRENT = np.array([0, 0, 0, 1, 1, 1])


@st.composite
def runs(draw):
  lengths = draw(st.lists(st.integers(1, 5), min_size=1, max_size=3))
  current = np.repeat(np.arange(len(lengths)), lengths)
  seed = draw(st.integers(0, 10**6))
  curve = np.random.default_rng(seed).random((len(current), len(lengths)))
  return np.where(np.arange(len(lengths)) > current[:, None], np.nan, curve), current


def test_by_hand():
  assert metrics.minimum_accuracy(CURVE, CURRENT) == pytest.approx(0.2)
  assert metrics.worst_case_accuracy(CURVE, CURRENT) == pytest.approx((0.9 + 0.2) / 2)
  assert metrics.windowed_forgetting(CURVE, CURRENT, 2) == pytest.approx((0.7 + 0) / 2)
  assert metrics.windowed_plasticity(CURVE, CURRENT, 2) == pytest.approx((0.4 + 0.3) / 2)
  assert metrics.windowed_plasticity(CURVE, CURRENT, 3) == pytest.approx((0.6 + 0.5) / 2)
  assert metrics.learning_curve_area(CURVE, CURRENT, 2) == pytest.approx((0.6 + 0.55) / 2)


def test_plasticity_is_the_largest_pair_and_not_the_released_scan():
  curve, current = np.array([[0.5], [0.2], [0.9]]), np.zeros(3, int)
  assert metrics.windowed_plasticity(curve, current, 3) == pytest.approx(0.7)
  assert metrics.windowed_forgetting(curve, current, 3) == pytest.approx(0.3)


@settings(deadline=None, max_examples=60)
@given(runs(), st.integers(2, 6))
def test_against_loops_and_bounds(run, window):
  curve, current = run
  k = current[-1]

  def extreme(sign):
    best = []
    for i in range(k + 1):
      a = [curve[n][i] for n in range(len(current)) if current[n] >= i]
      windows = [a[s : s + window] for s in range(len(a))]
      best.append(
        max([sign * (w[q] - w[p]) for w in windows for p in range(len(w)) for q in range(p + 1, len(w))] + [0])
      )
    return sum(best) / (k + 1)

  wf, wp = metrics.windowed_forgetting(curve, current, window), metrics.windowed_plasticity(curve, current, window)
  assert wf == pytest.approx(extreme(-1))
  assert wp == pytest.approx(extreme(1))
  assert wf <= metrics.windowed_forgetting(curve, current, window + 1)
  assert wp <= metrics.windowed_plasticity(curve, current, window + 1)
  low = [min(curve[n][i] for n in range(len(current)) if current[n] > i) for i in range(k)]
  now = curve[-1][: k + 1]
  if k:
    assert metrics.minimum_accuracy(curve, current) == pytest.approx(sum(low) / k)
    assert metrics.minimum_accuracy(curve, current) <= now[:-1].mean() + 1e-12
  else:
    assert np.isnan(metrics.minimum_accuracy(curve, current))
  wc = metrics.worst_case_accuracy(curve, current)
  assert wc == pytest.approx((now[-1] + sum(low)) / (k + 1))
  assert wc <= now.mean() + 1e-12


def test_a_rising_curve_does_not_forget():
  curve = np.stack([np.linspace(0, 1, 7)] * 2, 1)
  current = np.array([0, 0, 0, 1, 1, 1, 1])
  assert metrics.windowed_forgetting(curve, current, 100) == 0
  assert metrics.windowed_plasticity(curve, current, 100) == pytest.approx((1 + 0.5) / 2)
  assert metrics.windowed_forgetting(np.ones((1, 1)), [0], 10) == 0


def test_feature_drift():
  before = np.array([[1.0, 2.0], [3.0, 4.0]])
  assert metrics.feature_drift(before, before + np.array([[3.0, 4.0], [0.0, 1.0]])) == pytest.approx((25 + 1) / 2)
  with pytest.raises(UsageError, match="after"):
    metrics.feature_drift(before, before[:1])


def test_wrong_arguments():
  for bad in ([0, 0, 0, 1, 1, 2], [1, 1, 1, 1, 1, 1], [0, 0, 1, 0, 1, 1], [0, 0], [0.0] * 6):
    with pytest.raises(UsageError, match="current"):
      metrics.minimum_accuracy(CURVE, np.array(bad))
  with pytest.raises(UsageError, match="curve"):
    metrics.minimum_accuracy(CURVE[:, 0], CURRENT)
  with pytest.raises(UsageError, match="task 1"):
    metrics.minimum_accuracy(CURVE, [0, 0, 1, 1, 1, 1])
  with pytest.raises(UsageError, match="window"):
    metrics.windowed_forgetting(CURVE, CURRENT, 1)
  for beta in (0, 4):
    with pytest.raises(UsageError, match="beta"):
      metrics.learning_curve_area(CURVE, CURRENT, beta)
