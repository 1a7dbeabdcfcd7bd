"""Accuracies and gaps by hand, their bounds and the retrained reference as a fixed point."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cljax.core.types import UsageError
from cljax.metrics import unlearning

LOGITS = np.array([[2.0, 1, 0], [0, 3, 1], [5, -np.inf, 1], [0, 0.5, 1]])
Y = np.array([0, 1, 1, 2])


def test_accuracy():
  assert unlearning.accuracy(LOGITS, Y) == 0.75
  assert unlearning.accuracy(LOGITS, Y, where=Y == 1) == 0.5
  assert np.isnan(unlearning.accuracy(LOGITS, Y, where=Y == 5))
  population = np.stack([LOGITS, -np.where(np.isinf(LOGITS), 9, LOGITS)])
  np.testing.assert_allclose(unlearning.accuracy(population, Y), [0.75, 0.0])
  got = unlearning.accuracies((LOGITS, Y), (LOGITS[:2], Y[:2]), (LOGITS[2:], Y[2:]))
  assert got == (0.75, 1.0, 0.5)
  assert unlearning.unlearning_accuracy(got.forget) == 0.25


def test_gaps_by_hand():
  ours, reference = unlearning.Accuracies(0.1, 0.9, 0.8), unlearning.Accuracies(0.6, 1.0, 0.75)
  assert unlearning.average_gap(ours, reference) == pytest.approx((0.5 + 0.1 + 0.05) / 3)
  assert unlearning.tug_of_war(ours, reference) == pytest.approx(0.5 * 0.9 * 0.95)
  a, b = {"forget": 10.0, "attack": 60.0}, {"attack": 50.0, "forget": 14.0}  # percent, another order
  assert unlearning.average_gap(a, b) == pytest.approx(7)
  seeds = unlearning.Accuracies(*np.full((3, 3), [0.5, 1.0, 0.0]))  # three seeds: not to be taken for the three metrics
  one = unlearning.Accuracies(0.5, 0.5, 1.0)
  np.testing.assert_allclose(unlearning.tug_of_war(seeds, one), [0.5, 0.25, 0])
  np.testing.assert_allclose(unlearning.average_gap(one, seeds), [0.5 / 3, 1 / 3, 2 / 3])


fraction = st.floats(0, 1)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(fraction, fraction), min_size=1, max_size=5), st.randoms())
def test_gap_and_tug_of_war_bounds(pairs, random):
  a, b = np.array(pairs).T
  tow, gap = unlearning.tug_of_war(a, b), unlearning.average_gap(a, b)
  assert 0 <= tow <= 1
  assert 0 <= gap <= 1
  assert unlearning.tug_of_war(a, a) == 1
  assert unlearning.average_gap(b, b) == 0
  assert tow == pytest.approx(unlearning.tug_of_war(b, a))
  assert tow <= 1 - np.abs(a - b).max() + 1e-12
  random.shuffle(pairs)
  assert tow == pytest.approx(unlearning.tug_of_war(*np.array(pairs).T))


@settings(deadline=None, max_examples=50)
@given(fraction, fraction, fraction, st.floats(0.1, 100))
def test_h_mean(before, after, retain, unit):
  h = unlearning.h_mean(before, after, retain)
  drop = before - after
  assert 0 <= h <= 1
  if drop <= 0 or retain == 0:
    assert h == 0
  elif drop > 1e-6 and retain > 1e-6:
    assert h == pytest.approx(2 / (1 / drop + 1 / retain))
    assert unlearning.h_mean(unit * before, unit * after, unit * retain) == pytest.approx(unit * h)


def test_over_forgetting():
  assert unlearning.over_forgetting(0.2, 0.3)
  assert not unlearning.over_forgetting(0.3, 0.3)
  assert not unlearning.over_forgetting(0.25, [0.2, 0.4])  # within what retrained seeds do
  assert unlearning.over_forgetting(0.15, [0.2, 0.4])
  np.testing.assert_array_equal(unlearning.over_forgetting([0.1, 0.9], 0.5), [True, False])


def test_refusals():
  nan = np.where(np.isinf(LOGITS), np.nan, LOGITS)
  for bad, name in [(nan, "diverged"), (LOGITS[0], "logits"), (LOGITS[:, :1], "logits"), (LOGITS[:0], "logits")]:
    with pytest.raises(UsageError, match=name):
      unlearning.accuracy(bad, Y)
  for y in (Y[:3], Y.astype(float), Y + 1, Y - 1, Y[:, None]):
    with pytest.raises(UsageError, match="y"):
      unlearning.accuracy(LOGITS, y)
  with pytest.raises(UsageError, match="where"):
    unlearning.accuracy(LOGITS, Y, where=[0, 1])
  with pytest.raises(UsageError, match="fractions"):
    unlearning.tug_of_war([90.0], [0.9])
  with pytest.raises(UsageError, match="fractions"):
    unlearning.unlearning_accuracy(90)
  with pytest.raises(UsageError, match="names"):
    unlearning.average_gap({"forget": 1.0}, {"retain": 1.0})
  with pytest.raises(UsageError, match="first axis"):
    unlearning.average_gap([1.0, 2.0], [1.0])


def test_tradeoff_auc_is_the_area_under_the_line_through_checkpoints():
  """The line is walked in small steps, with checkpoints out of order and two of one forget score."""
  forget, utility = np.array([0.95, 0.2, 0.6, 0.2, 0.0]), np.array([0.9, 0.7, 0.95, 0.5, 0.3])
  x, y = np.array([0.05, 0.4, 0.8, 1.0]), np.array([0.9, 0.95, 0.6, 0.3])
  fine = np.linspace(0.05, 1.0, 190_001)
  heights = np.interp((fine[1:] + fine[:-1]) / 2, x, y)
  area = heights.mean() * 0.95
  found = unlearning.tradeoff_auc(forget, utility)
  np.testing.assert_allclose(found, area, rtol=1e-8)
  order = np.random.default_rng(0).permutation(5)
  np.testing.assert_allclose(unlearning.tradeoff_auc(forget[order], utility[order]), found)
  both = unlearning.tradeoff_auc(np.stack([forget, forget[::-1]], 1), np.stack([utility, utility], 1))
  np.testing.assert_allclose(both, [found, unlearning.tradeoff_auc(forget[::-1], utility)])


def test_tradeoff_auc_at_fixed_points():
  assert unlearning.tradeoff_auc([1.0, 0.4, 0.0], [1.0, 1.0, 1.0]) == 1.0
  assert unlearning.tradeoff_auc([0.9, 0.9], [1.0, 0.8]) == 0.0  # nothing was forgotten
  assert unlearning.tradeoff_auc([0.5, 0.25], [0.8, 0.8]) == pytest.approx(0.2)
  for wrong, text in (
    (([1.0], [1.0]), "expected [P, ...] with P >= 2 of both"),
    (([1.0, 0.5], [1.0, 0.5, 0.2]), "utility: has shape (3,); forget has (2,)"),
    (([99.0, 0.5], [1.0, 0.5]), "forget: spans 0.5..99.0; expected fractions in 0..1"),
  ):
    with pytest.raises(UsageError, match=re.escape(text)):
      unlearning.tradeoff_auc(*wrong)
