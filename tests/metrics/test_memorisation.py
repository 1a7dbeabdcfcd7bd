"""Memorisation and influence against loops over models, on learners whose answer is known, and their errors."""

from __future__ import annotations

import numpy as np
import pytest

from cljax import metrics
from cljax.core.types import UsageError

RNG = np.random.default_rng(0)
R, N, M = 40, 7, 5
INCLUDED = np.stack([RNG.permutation(N) < 4 for _ in range(R)])
CORRECT = RNG.random((R, N))
TEST = RNG.random((R, M))


def by_loops(included, correct, pair):
  """``(difference, error)`` of the pair (row, column)."""
  row, column = pair
  sides = [[correct[r, column] for r in range(len(included)) if included[r, row] == side] for side in (True, False)]
  error = np.sqrt(sum(np.var(s, ddof=1) / len(s) for s in sides))
  return np.mean(sides[0]) - np.mean(sides[1]), error


def test_memorisation_by_loops():
  found = metrics.memorisation(INCLUDED, CORRECT)
  for i in range(N):
    value, error = by_loops(INCLUDED, CORRECT, (i, i))
    np.testing.assert_allclose([found.value[i], found.error[i]], [value, error], rtol=1e-9, atol=1e-12)
  np.testing.assert_allclose(found.inside - found.outside, found.value, rtol=1e-12)
  rights = (CORRECT > 0.4).astype(int)
  p, n = np.array([[rights[INCLUDED[:, 0] == side, 0].mean(), np.sum(INCLUDED[:, 0] == side)] for side in (1, 0)]).T
  np.testing.assert_allclose(metrics.memorisation(INCLUDED, rights).error[0], np.sqrt(np.sum(p * (1 - p) / (n - 1))))


def test_influence_by_loops():
  found = metrics.influence(INCLUDED, TEST)
  assert found.value.shape == found.error.shape == (M, N)
  for j in range(M):
    for i in range(N):
      wanted = by_loops(INCLUDED, TEST, (i, j))
      np.testing.assert_allclose([found.value[j, i], found.error[j, i]], wanted, rtol=1e-9, atol=1e-12)


def test_on_its_copy_a_row_s_influence_is_its_memorisation():
  both = metrics.influence(INCLUDED, CORRECT), metrics.memorisation(INCLUDED, CORRECT)
  for field in ("value", "error"):
    np.testing.assert_allclose(np.diagonal(getattr(both[0], field)), getattr(both[1], field), rtol=1e-12)


def test_a_constant_answer_remembers_nothing():
  found = metrics.memorisation(INCLUDED, np.broadcast_to(CORRECT[:1] > 0.5, (R, N)))
  np.testing.assert_array_equal(found.value, 0)
  np.testing.assert_array_equal(found.error, 0)


def test_of_the_nearest_row_it_is_one_less_what_others_answer():
  """One nearest neighbour is right on each row it has, so memorisation is 1 - P(right without it); a copy hides it."""
  x = np.sort(RNG.random(N))
  x[1] = x[0]  # a copy
  y = np.asarray([0, 0, 1, 0, 1, 1, 0])
  correct = np.zeros((R, N))
  for r in range(R):
    mine = np.flatnonzero(INCLUDED[r])
    for i in range(N):
      near = i if INCLUDED[r, i] else mine[np.argmin(np.abs(x[mine] - x[i]))]
      correct[r, i] = y[near] == y[i]
  found = metrics.memorisation(INCLUDED, correct)
  np.testing.assert_array_equal(found.inside, 1)
  np.testing.assert_allclose(found.value, 1 - found.outside)
  assert found.value[2] == 1  # between rows of the other class
  assert found.value[0] < 0.6


def test_the_error_is_the_spread_over_banks():
  """Of independent banks: the values vary by what each says its error is, and their mean is the difference made."""
  rng, values, errors = np.random.default_rng(1), [], []
  for _ in range(400):
    included = np.stack([rng.permutation(6) < 3 for _ in range(60)])
    correct = rng.random(included.shape) < np.where(included, 0.9, 0.6)
    found = metrics.memorisation(included, correct)
    values.append(found.value)
    errors.append(found.error)
  np.testing.assert_allclose(np.mean(values), 0.3, atol=0.01)
  np.testing.assert_allclose(np.std(values), np.sqrt(np.mean(np.square(errors))), rtol=0.05)


def test_two_models_with_and_without_are_enough():
  included = np.asarray([[1], [1], [0], [0]])
  found = metrics.memorisation(included, np.asarray([[1], [0], [0], [0]]))
  np.testing.assert_allclose([found.value[0], found.error[0]], [0.5, 0.5])


def test_banks_that_say_nothing_are_refused():
  always = INCLUDED.copy()
  always[:, 3] = True
  for measure in (metrics.memorisation, metrics.influence):
    with pytest.raises(UsageError, match="included: row 3 is in 40 of 40 models; expected two with it and two without"):
      measure(always, CORRECT)
    with pytest.raises(UsageError, match=r"correct: has shape \(39, 7\)"):
      measure(INCLUDED, CORRECT[1:])
    with pytest.raises(UsageError, match="other numbers than 0 and 1"):
      measure(2 * INCLUDED, CORRECT)
    with pytest.raises(UsageError, match=r"correct: lies in \[.*\]; expected \[0, 1\]"):
      measure(INCLUDED, CORRECT + 1)
  with pytest.raises(UsageError, match=r"correct: has shape \(40, 5\); included has \(40, 7\)"):
    metrics.memorisation(INCLUDED, TEST)


def test_the_mass_of_what_was_seen_once():
  """Three kinds once, two twice, one four times: 4 of 11 rows; and, over many draws, what it estimates."""
  assert metrics.singleton_mass([1, 1, 1, 2, 2, 4, 0]) == pytest.approx(4 / 11)
  assert metrics.singleton_mass(np.array([1.0, 2.0])) == pytest.approx(2 / 3)
  rng, p = np.random.default_rng(2), 1 / np.arange(1, 301)
  p, found, true = p / p.sum(), [], []
  for _ in range(300):
    counts = np.bincount(rng.choice(300, 150, p=p), minlength=300)
    found.append(metrics.singleton_mass(counts))
    true.append(p[counts == 1].sum())
  np.testing.assert_allclose(np.mean(found), np.mean(true), rtol=0.05)


@pytest.mark.parametrize("counts", [[], [0, 0], [1, -1], [[1, 2]], [1.5, 2], [1, np.nan], [np.inf], ["a"]])
def test_counts_are_checked(counts):
  with pytest.raises(UsageError, match="counts: got shape"):
    metrics.singleton_mass(counts)
