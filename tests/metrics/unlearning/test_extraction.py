"""Memorisation, extraction and ROUGE-L against definitions in plain Python, and where the releases are wrong."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest

from cljax.core.types import UsageError
from cljax.metrics import unlearning as metrics

RNG = np.random.default_rng(1)
CORRECT = RNG.random((40, 8)) < 0.8
THERE = RNG.random((40, 8)) < 0.7
THERE[0] = False
THERE[1] = np.arange(8) == 3


def test_by_definition():
  em, es = metrics.exact_memorisation(CORRECT, THERE), metrics.extraction_strength(CORRECT, THERE)
  for i in range(40):
    c = [bool(v) for v in CORRECT[i][THERE[i]]]
    if not c:
      assert np.isnan([em[i], es[i]]).all()
      continue
    k = next(k for k in range(len(c) + 1) if all(c[k:]))
    assert em[i] == pytest.approx(sum(c) / len(c))
    assert es[i] == pytest.approx(1 - k / len(c))


EDGES = [
  ([1, 1, 1], 1.0, 1.0),
  ([0, 0, 0], 0.0, 0.0),  # the release: 1/3
  ([0, 0, 1], 1 / 3, 1 / 3),
  ([1, 1, 0], 2 / 3, 0.0),  # the release: 1/3
  ([0], 0.0, 0.0),  # the release: 1
  ([1], 1.0, 1.0),
]


@pytest.mark.parametrize(("correct", "em", "es"), EDGES)
def test_at_the_edges(correct, em, es):
  there = np.ones((1, len(correct)), bool)
  assert metrics.exact_memorisation([correct], there)[0] == pytest.approx(em)
  assert metrics.extraction_strength([correct], there)[0] == pytest.approx(es)


def longest(a, b):
  @functools.cache
  def of(i, j):
    if i == len(a) or j == len(b):
      return 0
    return 1 + of(i + 1, j + 1) if a[i] == b[j] else max(of(i + 1, j), of(i, j + 1))

  return of(0, 0)


def test_rouge_by_recursion():
  for _ in range(60):
    a, b = (tuple(RNG.integers(0, 4, RNG.integers(1, 9)).tolist()) for _ in range(2))
    found, common = metrics.rouge_l(a, b), longest(a, b)
    assert found.recall == pytest.approx(common / len(a))
    assert found.precision == pytest.approx(common / len(b))
    assert found.f1 == pytest.approx(2 * common / (len(a) + len(b)))


def test_rouge_at_its_edges():
  assert metrics.rouge_l([1, 2], [1, 2]) == (1, 1, 1)
  for a, b in (([], [1]), ([1], []), ([], []), ([1], [2])):
    assert metrics.rouge_l(a, b) == (0, 0, 0)
  long = metrics.rouge_l(["a", "b"], ["x", "a", "y", "b", "z"])
  assert long.recall == 1 > long.f1, "recall rewards length"


def test_words_are_of_the_latin_alphabet_alone():
  assert metrics.rouge_words("It's 12:30, NAÏVE-ly!") == ["it", "s", "12", "30", "na", "ve", "ly"]
  assert metrics.rouge_words("клавиатура") == []


def test_shapes_that_do_not_fit_are_one_line():
  for call in (metrics.exact_memorisation, metrics.extraction_strength):
    with pytest.raises(UsageError, match="there: has shape"):
      call(CORRECT, THERE[:3])
  assert math.isnan(metrics.row_mean(metrics.extraction_strength(CORRECT[:1], THERE[:1])).mean)
