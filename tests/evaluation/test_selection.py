"""Selection on validation data, against loops over plain lists."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cljax import UsageError
from cljax.evaluation import selection


def learn(*tasks):
  return [{"kind": "learn", "task": t} for t in tasks]


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=8), st.integers(1, 4), st.integers(0, 2**31))
def test_scores_against_a_loop(order, k, seed):
  events = learn(*order)
  values = np.random.default_rng(seed).random((3, len(events) + 1, 4))
  met: list[int] = []
  at = {}
  for row, task in enumerate(order, 1):
    if task not in met:
      met.append(task)
      at[len(met)] = row
  for s in range(3):
    whole = sum(values[s][len(order)][t] for t in met) / len(met)
    assert selection.validation_accuracy(values, events)[s] == pytest.approx(whole)
    assert selection.reported_accuracy(values, events)[s] == pytest.approx(whole)
  if k < len(met):
    for s in range(3):
      early = sum(values[s][at[k]][t] for t in met[:k]) / k
      later = sum(values[s][len(order)][t] for t in met[k:]) / (len(met) - k)
      assert selection.validation_accuracy(values, events, k)[s] == pytest.approx(early)
      assert selection.reported_accuracy(values, events, k)[s] == pytest.approx(later)
  else:
    with pytest.raises(UsageError, match="first_tasks: got"):
      selection.reported_accuracy(values, events, k)


def test_the_first_tasks_are_all_that_the_early_choice_sees():
  """Whatever comes after the first k tasks, on whatever task, must not change the choice."""
  events = learn(0, 1, 2, 3)
  rng = np.random.default_rng(0)
  values = rng.random((2, 5, 4))
  other = rng.random((2, 5, 4))
  other[:, 2, :2] = values[:, 2, :2]
  early = lambda v: selection.validation_accuracy(v, events, 2)
  np.testing.assert_array_equal(early(values), early(other))
  assert (selection.validation_accuracy(values, events) != selection.validation_accuracy(other, events)).all()


def test_a_forget_event_takes_a_row_but_is_not_a_task():
  events = [*learn(0, 1), {"kind": "forget", "classes": [0]}, *learn(2), {"kind": "forget", "ids": [1]}]
  assert selection.moment(events) == (4, [0, 1, 2])
  assert selection.moment(events, 2) == (2, [0, 1])


def test_best_takes_one_of_each_name_and_the_first_of_equals():
  names = ["er", "ewc", "er", "ewc", "er", "si"]
  assert selection.best(names, [0.5, 0.2, 0.7, 0.2, 0.7, None]) == {1, 2}
  assert selection.best(names, [None, None, float("nan"), 0.1, 0.0, None]) == {3, 4}
  assert selection.best([], []) == set()


def test_where_lower_is_better_the_lowest_is_best():
  names, scores = ["a", "a", "b", "b", "a"], [2.0, 1.0, None, 4.0, 1.0]
  assert selection.best(names, scores, "lower") == {1, 3}
  assert selection.best(names, scores, ["lower", "lower", "higher", "higher", "lower"]) == {1, 3}
  assert selection.best(names, scores) == {0, 3}
  with pytest.raises(UsageError, match="better: got 'less'; allowed: higher, lower"):
    selection.best(names, scores, "less")


@pytest.mark.parametrize("shape", [(5, 4), (2, 4, 4), (1, 2, 5, 4)])
def test_another_shape_is_refused(shape):
  with pytest.raises(UsageError, match=r"validation: has shape .*expected \[S, 5, T\]"):
    selection.validation_accuracy(np.zeros(shape), learn(0, 1, 2, 3))
