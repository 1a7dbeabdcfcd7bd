"""Repetition and language of what was said, against NumPy and brute force."""

import collections

import numpy as np
import pytest

from cljax import metrics
from cljax.core.types import UsageError

RNG = np.random.default_rng(0)


def test_repetition_against_windows_of_an_array():
  for n in (1, 2, 4):
    for _ in range(30):
      tokens = RNG.integers(0, 3, RNG.integers(n, 25))
      grams = np.lib.stride_tricks.sliding_window_view(tokens, n)
      np.testing.assert_allclose(metrics.repetition(tokens.tolist(), n), 1 - len(np.unique(grams, axis=0)) / len(grams))


def test_repetition_of_one_token_and_of_none_twice():
  assert metrics.repetition([5] * 10) == pytest.approx(1 - 1 / 7)
  assert metrics.repetition(range(10)) == 0
  assert np.isnan(metrics.repetition([1, 2, 3]))
  with pytest.raises(UsageError, match="repetition: n: got 0"):
    metrics.repetition([1], 0)


def test_loops_by_trying_all_spans():
  """A tail that a span makes up, read from the back."""
  seen = set()
  for times in (2, 3):
    for _ in range(300):
      tokens = RNG.integers(0, 2, RNG.integers(0, 11)).tolist()
      tail = tokens[::-1]
      want = any(
        len(tail) >= times * size and all(tail[i] == tail[i % size] for i in range(times * size))
        for size in range(1, 11)
      )
      assert metrics.ends_in_loop(tokens, times) == want
      seen.add(want)
  assert seen == {True, False}
  assert metrics.ends_in_loop([9, 1, 2, 1, 2, 1, 2])
  assert not metrics.ends_in_loop([1, 2, 1, 2, 1, 2, 9])
  with pytest.raises(UsageError, match="ends_in_loop: times: got 1"):
    metrics.ends_in_loop([1], 1)


TEXTS = ("the cat sat on the mat and the dog", "die Katze saß auf der Matte und der Hund", "кошка сидела на ковре")


def test_a_language_is_the_likeliest_profile():
  """Dense tables over all n-grams, in NumPy."""
  for n in (1, 2, 3):
    profiles = [metrics.character_profile(t, n) for t in TEXTS]
    grams = sorted({g for p in profiles for g in p})
    place = {g: i for i, g in enumerate(grams)}
    table = np.zeros((3, len(grams) + 1))
    for row, text in enumerate(TEXTS):
      plain = " ".join(text.lower().split())
      for i in range(len(plain) - n + 1):
        table[row, place[plain[i : i + n]]] += 1
    log_p = np.log((table + 1) / (table.sum(1, keepdims=True) + len(grams) + 1))
    for _ in range(40):
      source = "".join(TEXTS)
      text = "".join(source[i] for i in RNG.integers(0, len(source), 12))
      plain = " ".join(text.lower().split())
      at = [place.get(plain[i : i + n], len(grams)) for i in range(len(plain) - n + 1)]
      want = int(log_p[:, at].sum(1).argmax())
      assert metrics.language(text, profiles) == want
    assert [metrics.language(t, profiles) for t in TEXTS] == [0, 1, 2]


def test_profiles_count_lower_case_and_single_blanks():
  assert metrics.character_profile("Ab\n\n aB", 2) == dict(collections.Counter(["ab", "b ", " a", "ab"]))
  assert metrics.character_profile("a", 2) == {}
  assert metrics.language("a", [{"ab": 1}]) == -1
  assert metrics.language("xy", [{"ab": 1}, {"cd": 1}]) == 0, "of equal ones the first"


def test_wrong_profiles_are_refused():
  for profiles in ([], [{}], [{"ab": 1}, {}], [{"ab": 1}, {"abc": 1}]):
    with pytest.raises(UsageError, match="profiles: "):
      metrics.language("text", profiles)
  with pytest.raises(UsageError, match="character_profile: n: got 0"):
    metrics.character_profile("text", 0)
