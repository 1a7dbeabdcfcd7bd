"""Forgetting events, recognition and recall against loops and by hand."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cljax import metrics
from cljax.core.types import UsageError


def loop(history):
  """One example's own presentations, in order."""
  forgot = sum(a and not b for a, b in itertools.pairwise(history))
  learned = sum(b and not a for a, b in itertools.pairwise(history))
  return forgot, learned, history.index(True) if True in history else -1, len(history)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.integers(1, 12), st.floats(0, 1))
def test_events_against_a_loop(seed, times, rate):
  rng = np.random.default_rng(seed)
  correct, presented = rng.random((2, times, 6)) < 0.5, rng.random((2, times, 6)) < rate
  got = metrics.forgetting_events(correct, presented)
  for r in range(2):
    for n in range(6):
      history = [bool(c) for c, p in zip(correct[r, :, n], presented[r, :, n], strict=True) if p]
      assert tuple(int(v[r, n]) for v in got[:4]) == loop(history)
      assert got.unforgettable[r, n] == (True in history and loop(history)[0] == 0)
  assert np.all(got.forgetting <= got.presentations // 2)
  assert np.all(np.abs(got.forgetting - got.learning) <= 1)


def test_events_by_hand():
  correct = np.array([[0, 1, 1, 0, 1, 0], [1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0], [0, 0, 1, 1, 1, 1]]).T
  e = metrics.forgetting_events(correct)
  assert e.forgetting.tolist() == [2, 0, 0, 0]
  assert e.learning.tolist() == [2, 0, 0, 1]
  assert e.first_learned.tolist() == [1, 0, -1, 2]
  assert e.unforgettable.tolist() == [False, True, False, True]
  assert metrics.forgetting_score(e).tolist() == [2, 0, 6, 0]
  with pytest.raises(UsageError, match="correct"):
    metrics.forgetting_events([True, False])
  with pytest.raises(UsageError, match="presented"):
    metrics.forgetting_events(correct, correct[:2])


def test_recognition():
  assert metrics.recognition([1.0, 2.0, 3.0, 4.0], [2.0, 2.0, 1.0, 5.0]) == 0.5  # the tie is an error
  seen, unseen = np.random.default_rng(0).random((2, 3, 10000))
  got = metrics.recognition(seen, unseen)
  assert got.shape == (3,)
  np.testing.assert_allclose(got, 0.5, atol=4.5 * 0.5 / np.sqrt(10000))  # exchangeable pairs: chance
  # A strictly increasing change of all losses changes nothing; without ties, swapping the roles gives the complement.
  np.testing.assert_array_equal(metrics.recognition(np.exp(seen), np.exp(unseen)), got)
  np.testing.assert_allclose(metrics.recognition(unseen, seen), 1 - got)
  with pytest.raises(UsageError, match="unseen_loss"):
    metrics.recognition([1.0], [1.0, 2.0])


def test_recall():
  reference = ["the", "cat", "sat", "on", "the", "cat", "mat"]
  assert metrics.recall(reference, reference) == 1
  assert metrics.recall([], reference) == 0
  assert metrics.recall(["the", "cat", "ate"], reference) == pytest.approx(1 / 6)  # one of the two 'the cat'
  assert metrics.recall(["the", "cat", "the", "cat", "the", "cat"], reference) == pytest.approx(2 / 6)
  assert metrics.recall(["mat", "cat", "the", "on", "sat", "cat", "the"], reference, n=1) == 1
  assert metrics.recall("abcd", "abxd", n=1) == pytest.approx(3 / 4)
  assert np.isnan(metrics.recall("ab", "a"))
  with pytest.raises(UsageError, match="n:"):
    metrics.recall("ab", "ab", n=0)
