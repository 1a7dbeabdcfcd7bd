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
