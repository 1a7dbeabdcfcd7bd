"""Friedman's test and Nemenyi's difference against their formulas, by loops, and Demsar's published example."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from cljax import UsageError
from cljax.cli.reporting import _ranks
from cljax.evaluation.ranks import mean_ranks

# Demsar (JMLR 2006), table 6: AUC of C4.5 and three variants of it on 14 data sets; mean ranks 3.143, 2.000, 2.893,
# 1.964; chi2 9.28; the critical difference at .05 is 1.25, at .1 it is 1.12.
AUC = np.asarray([
  [0.763, 0.768, 0.771, 0.798], [0.599, 0.591, 0.590, 0.569], [0.954, 0.971, 0.968, 0.967],
  [0.628, 0.661, 0.654, 0.657], [0.882, 0.888, 0.886, 0.898], [0.936, 0.931, 0.916, 0.931],
  [0.661, 0.668, 0.609, 0.685], [0.583, 0.583, 0.563, 0.625], [0.775, 0.838, 0.866, 0.875],
  [1.000, 1.000, 1.000, 1.000], [0.940, 0.962, 0.965, 0.962], [0.619, 0.666, 0.614, 0.669],
  [0.972, 0.981, 0.9751, 0.975], [0.957, 0.978, 0.946, 0.970],
])  # fmt: skip
NAMES = ("C4.5", "C4.5+m", "C4.5+cf", "C4.5+m+cf")


def rank(row, own) -> float:
  return 1 + sum(s > own for s in row) + (sum(s == own for s in row) - 1) / 2


def by_loops(scores):
  """``(mean ranks, chi2)`` by the definition, ties and all."""
  n, k = scores.shape
  each = np.asarray([[rank(row, s) for s in row] for row in scores])
  mean = each.mean(0)
  plain = 12 * n / (k * (k + 1)) * (mean**2).sum() - 3 * n * (k + 1)
  ties = sum(t**3 - t for row in scores for t in (np.sum(row == s) for s in set(row)))
  return mean, plain / (1 - ties / (n * (k**3 - k)))


def test_the_published_example():
  found = mean_ranks(NAMES, AUC)
  mean = dict(zip(found.names, found.ranks, strict=True))
  assert {n: round(float(r), 3) for n, r in mean.items()} == {
    "C4.5+m+cf": 1.964, "C4.5+m": 2.0, "C4.5+cf": 2.893, "C4.5": 3.143
  }  # fmt: skip
  assert found.difference == pytest.approx(1.25, abs=0.005)
  assert mean_ranks(NAMES, AUC, alpha=0.1).difference == pytest.approx(1.12, abs=0.005)
  plain = 12 * 14 / 20 * ((found.ranks**2).sum() - 4 * 25 / 4)
  assert plain == pytest.approx(9.28, abs=0.01), "without the correction for ties, as printed there"


@pytest.mark.parametrize("better", ["higher", "lower"])
def test_ranks_against_loops(better):
  rng = np.random.default_rng(0)
  scores = np.round(rng.normal(size=(7, 5)) + np.linspace(0, 1, 5), 1)  # with ties
  sign = 1 if better == "higher" else -1
  mean, chi2 = by_loops(sign * scores)
  found = mean_ranks("abcde", scores, better)
  np.testing.assert_allclose([mean["abcde".index(n)] for n in found.names], found.ranks)
  assert (np.diff(found.ranks) >= 0).all()
  assert found.chi2 == pytest.approx(chi2)
  assert found.p == pytest.approx(stats.chi2.sf(chi2, 4))
  q = stats.studentized_range.ppf(0.95, 5, np.inf) / math.sqrt(2)
  assert found.difference == pytest.approx(q * math.sqrt(5 * 6 / (6 * 7)))
  for i, j in itertools.combinations(range(5), 2):
    z = abs(found.ranks[i] - found.ranks[j]) / math.sqrt(5 * 6 / (6 * 7))
    assert found.pairs[i, j] == pytest.approx(stats.studentized_range.sf(z * math.sqrt(2), 5, np.inf))
    joined = any(a <= i and j <= b for a, b in found.groups)
    assert joined == (abs(found.ranks[i] - found.ranks[j]) < found.difference)


def test_each_stream_has_its_own_way():
  scores = np.asarray([[0.9, 0.1, 0.5], [1.0, 9.0, 5.0]])
  found = mean_ranks(["a", "b", "c"], scores, ["higher", "lower"])
  assert (found.names, found.ranks.tolist()) == (("a", "c", "b"), [1.0, 2.0, 3.0])


def test_few_and_equal():
  two = mean_ranks(["a", "b"], [[1.0, 2.0], [1.0, 2.0]])
  assert (two.names, math.isnan(two.p)) == (("b", "a"), True)
  alike = mean_ranks(["a", "b", "c"], np.ones((3, 3)))
  assert (alike.chi2, alike.p, alike.groups) == (0.0, 1.0, ((0, 2),))
  for names, scores, text in (
    (["a"], [[1.0], [2.0]], "two streams and methods or more"), (["a", "b"], [[1.0, 2.0]], "two streams"),
    (["a", "b"], [[1.0, np.nan], [1.0, 2.0]], "no number"),
  ):  # fmt: skip
    with pytest.raises(UsageError, match=text):
      mean_ranks(names, scores)
  with pytest.raises(UsageError, match="alpha: got 0"):
    mean_ranks(["a", "b"], np.ones((2, 2)), alpha=0)
  with pytest.raises(UsageError, match="better: got 'up'"):
    mean_ranks(["a", "b"], np.ones((2, 2)), "up")


@pytest.mark.parametrize("count", [2, 3, 24])
def test_labels_of_the_picture_do_not_overlap(count):
  rng = np.random.default_rng(count)
  names = [f"method_{i} strength={10 ** (i % 4)}" for i in range(count)]
  figure = _ranks._figure(mean_ranks(names, rng.normal(size=(12, count)) + np.linspace(0, 1, count)), "title")
  figure.canvas.draw()
  boxes = [t.get_window_extent() for t in figure.axes[0].texts]
  assert len(boxes) > count
  assert not [(a, b) for a, b in itertools.combinations(boxes, 2) if a.overlaps(b)]
  whole = figure.bbox
  assert all(whole.x0 <= b.x0 and b.x1 <= whole.x1 and whole.y0 <= b.y0 and b.y1 <= whole.y1 for b in boxes)
  _ranks._pyplot().close(figure)
