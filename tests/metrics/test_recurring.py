"""Metrics over any sequence of Learn events: by hand, and the matrix metrics where each task is learned once."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from cljax import metrics
from cljax.core.types import UsageError


@settings(max_examples=20, deadline=None)
@given(tasks=st.integers(1, 6), seed=st.integers(0, 99))
def test_each_task_once_is_the_matrix(tasks, seed):
  rng = np.random.default_rng(seed)
  R, b = rng.random((2, tasks, tasks)), rng.random((2, tasks))
  got = metrics.over_events(R, range(tasks), b)
  want = {
    "acc": metrics.average_accuracy(R),
    "average_incremental_accuracy": metrics.average_incremental_accuracy(R),
    "bwt": metrics.backward_transfer(R),
    "fwt": metrics.forward_transfer(R, b),
    "forgetting": metrics.forgetting(R),
  }
  assert set(got) == set(want)
  for name, value in want.items():
    np.testing.assert_allclose(got[name], value, err_msg=name)


def test_a_b_a_c_by_hand():
  #              A    B    C    never learned
  R = np.array([[0.9, 0.1, 0.2, 0.5], [0.3, 0.8, 0.3, 0.6], [0.7, 0.4, 0.1, 0.4], [0.2, 0.5, 1.0, 0.3]])
  got = metrics.over_events(R, [0, 1, 0, 2], [0.0, 0.05, 0.1, 0.2])
  assert got["acc"] == pytest.approx((0.2 + 0.5 + 1.0) / 3)
  met = [0.9, (0.3 + 0.8) / 2, (0.7 + 0.4) / 2, (0.2 + 0.5 + 1.0) / 3]
  assert got["average_incremental_accuracy"] == pytest.approx(np.mean(met))
  assert got["bwt"] == pytest.approx(((0.2 - 0.7) + (0.5 - 0.8)) / 2)
  assert got["forgetting"] == pytest.approx(((0.9 - 0.2) + (0.8 - 0.5)) / 2)
  assert got["fwt"] == pytest.approx(((0.1 - 0.05) + (0.1 - 0.1)) / 2)
  assert got["never_learned"] == pytest.approx(0.3)


def test_one_task_again_and_again_forgets_nothing():
  got = metrics.over_events(np.array([[0.4], [0.9], [0.6]]), [0, 0, 0], [0.1])
  assert got["acc"] == 0.6
  assert np.isnan([got["bwt"], got["fwt"], got["forgetting"]]).all()


@pytest.mark.parametrize(
  ("R", "learned", "baseline", "said"),
  [
    (np.ones((3, 2)), [0, 1], np.ones(2), "R: has shape (3, 2); expected [..., 2, T]"),
    (np.ones((2, 2)), [0, 2], np.ones(2), "learned: got tasks 0..2; expected 0..1"),
    (np.ones((2, 2)), [0, 1], np.ones(3), "baseline: has shape (3,)"),
    (np.full((2, 2), np.nan), [0, 1], np.ones(2), "no NaN"),
  ],
)
def test_wrong_shapes_are_refused(R, learned, baseline, said):
  with pytest.raises(UsageError) as error:
    metrics.over_events(R, learned, baseline)
  assert said in str(error.value)


def test_rows_are_counted_one_by_one():
  """Against a list of rows, right or wrong, task by task; a task comes back, one is never learned, one loses rows."""
  rng = np.random.default_rng(3)
  learned, sizes = [0, 2, 0, 1], np.array([[5, 3, 7, 4]] * 4)
  sizes[2:, 0] = 2  # three rows of task 0 were deleted
  right = np.array([[rng.integers(0, n + 1) for n in row] for row in sizes])
  got = metrics.over_rows((right / sizes)[None], learned, sizes[None])
  each = []
  for e in range(4):
    rows = [r < right[e, t] for t in set(learned[: e + 1]) for r in range(sizes[e, t])]
    each.append(sum(rows) / len(rows))
  np.testing.assert_allclose(got["acc_over_rows"], [each[-1]])
  np.testing.assert_allclose(got["average_incremental_accuracy_over_rows"], [np.mean(each)])


def test_the_tasks_of_three_one_two_and_one_classes():
  """A learner that knows the last task alone, 10 rows a class: 7 classes, of which 1 is right."""
  R, rows = np.zeros((1, 4)), np.array([[30, 10, 20, 10]])
  R[0, 3] = 1.0
  whole = lambda a: np.concatenate([np.zeros((3, 4)), a])
  got = metrics.over_rows(whole(R), range(4), np.repeat(rows, 4, 0))
  assert got["acc_over_rows"] == pytest.approx(1 / 7)
  assert metrics.over_events(whole(R), range(4), np.zeros(4))["acc"] == pytest.approx(1 / 4)
  empty = np.array([[30, 0, 20, 10]])  # a task all of whose rows went counts for nothing, whatever its entry says
  R[0, 1] = np.nan
  assert metrics.over_rows(whole(R), range(4), np.repeat(empty, 4, 0))["acc_over_rows"] == pytest.approx(1 / 6)
  none = np.repeat(empty, 4, 0)
  none[3] = 0.0  # after the last event no row is left
  last = metrics.over_rows(whole(R), range(4), none)
  assert np.isnan([*last.values()]).all()


@settings(max_examples=10, deadline=None)
@given(tasks=st.integers(1, 5), size=st.integers(1, 9), seed=st.integers(0, 99))
def test_over_rows_of_tasks_of_one_size_is_the_mean_over_tasks(tasks, size, seed):
  R = np.random.default_rng(seed).random((2, tasks, tasks))
  got, want = (
    metrics.over_rows(R, range(tasks), np.full(R.shape, size)),
    metrics.over_events(R, range(tasks), R[:, 0]),
  )
  np.testing.assert_allclose(got["acc_over_rows"], want["acc"])
  np.testing.assert_allclose(got["average_incremental_accuracy_over_rows"], want["average_incremental_accuracy"])


@pytest.mark.parametrize(
  ("R", "learned", "rows", "said"),
  [
    (np.ones((3, 2)), [0, 1], np.ones((3, 2)), "R: has shape (3, 2)"),
    (np.ones((2, 2)), [0, 1], np.ones((2, 3)), "rows: has shape (2, 3)"),
    (np.ones((2, 2)), [0, 1], np.full((2, 2), 1.5), "whole and at least 0"),
    (np.ones((2, 2)), [0, 2], np.ones((2, 2)), "learned: got tasks 0..2"),
    (np.full((2, 2), np.nan), [0, 1], np.ones((2, 2)), "R: holds NaN"),
  ],
)
def test_counts_that_do_not_fit_are_refused(R, learned, rows, said):
  with pytest.raises(UsageError) as error:
    metrics.over_rows(R, learned, rows)
  assert said in str(error.value)
