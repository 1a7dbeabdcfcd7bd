"""Streams from the caller's own rows, and from times of mixed units."""

import datetime

import jax.numpy as jnp
import numpy as np
import pytest

from cljax import streams
from cljax.core.types import Forget, Learn, UsageError


def parts(dataset):
  rows = lambda split: [np.flatnonzero(split.y < 2), np.flatnonzero(split.y >= 2)]
  return rows(dataset.train), rows(dataset.test)


def test_labels_come_from_the_rows_as_in_build(dataset):
  train, test = parts(dataset)
  mine = streams.from_tasks(dataset, train, test, active="task", task_id_given=True)
  built = streams.build(dataset, "task", tasks=2, validation=0.0)
  np.testing.assert_array_equal(mine.labels, built.labels)
  np.testing.assert_array_equal(mine.classes_of_task, built.classes_of_task)
  assert (mine.events, mine.num_classes) == (built.events, built.num_classes)
  held = streams.from_tasks(dataset, [train[0][2:], train[1]], test, validation=[train[0][:2], []])
  np.testing.assert_array_equal(held.labels, built.labels)
  assert [len(v) for v in held.validation] == [2, 0]


def test_a_mask_is_a_mask(dataset):
  train, test = parts(dataset)
  masks = [np.isin(np.arange(len(dataset.train.y)), t) for t in train]
  s = streams.from_tasks(dataset, masks, [dataset.test.y < 2, dataset.test.y >= 2])
  for a, b in zip((*s.train, *s.test), (*train, *test), strict=True):
    np.testing.assert_array_equal(a, b)


def test_hundreds_of_tasks_share_an_array(dataset):
  rows, test = np.arange(96), np.arange(32)
  s = streams.from_tasks(dataset, [rows] * 200, [test] * 200)
  assert len({id(r) for r in s.train}) == 1


def test_events_in_any_order_with_requests_by_name(dataset):
  train, test = parts(dataset)
  events = [Learn(1), Forget(classes=(2,)), Learn(0), Learn(np.int64(1))]
  s = streams.from_tasks(dataset, train, test, events=events, active="seen")
  assert s.events == (Learn(1), Forget(classes=("class2",)), Learn(0), Learn(1))


@pytest.mark.parametrize(
  ("change", "said"),
  [
    ({"train": [[0, 500], [1]]}, "train[0]: positions span 0..500; the data have 96 rows"),
    ({"train": [[-1], [1]]}, "train[0]: positions span -1..-1"),
    ({"train": [[0, 0], [1]]}, "train[0]: row 0 stands there 2 times"),
    ({"train": [[0.5], [1]]}, "train[0]: is float64[1]; expected positions of rows, or a boolean mask"),
    ({"train": [np.ones(3, bool), [1]]}, "train[0]: is a mask of shape (3,); the data have 96 rows"),
    ({"train": [[[0]], [1]]}, "train[0]: is int64[1, 1]"),
    ({"test": [[0]]}, "test: got 1 tasks; train has 2"),
    ({"test": [[0], [99]]}, "test[1]: positions span 99..99; the data have 32 rows"),
    ({"train": [], "test": []}, "train: got 0 tasks"),
    ({"validation": [[0], []], "train": [[0, 1], [2]]}, "validation[0]: row 0 is in train[0] too"),
    ({"validation": [[], [5, 0]], "train": [[0, 1], [2]]}, "validation[1]: row 0 is in train[0] too"),
    ({"active": "task", "test": [[0, 30], [31]]}, "test[0]: has class 'class3', of which train[0] has no row"),
    (
      {"active": "seen", "validation": [[3], []], "train": [[0, 6], [2]]},
      "validation[0]: has class 'class3', of which",
    ),
    ({"labels": np.zeros((2, 3), int)}, "labels: is int64[2, 3]; expected integers [2 tasks, 4 classes]"),
    ({"labels": np.zeros((2, 4))}, "labels: is float64[2, 4]"),
    ({"labels": np.full((2, 4), -2)}, "labels: span -2..-2"),
    ({"labels": np.tile([0, -1, 1, 1], (2, 1))}, "labels[0]: class 'class1' has no label (-1), but task 0 has rows"),
    ({"num_classes": 2}, "num_classes: got 2; labels go up to 3, so at least 4"),
    ({"num_classes": True}, "num_classes: got True"),
    ({"train": (r for r in ())}, "train: got generator; expected a list with the rows of each task"),
    ({"train": 3}, "train: got int; expected a list"),
    ({"validation": 5}, "validation: got int; expected a list"),
    ({"test": np.int64(3)}, "test: got int64; expected a list"),
    ({"train": [[1, [2, 3]], [4]]}, "train[0]: got [1, [2, 3]], which is no array"),
    ({"labels": [[1], [2, 3]]}, "labels: got [[1], [2, 3]], which is no array"),
    ({"num_classes": 10**30}, "num_classes: a table of 1000000000000000000000000000000 outputs needs about"),
    ({"task_id_given": "no"}, "task_id_given: got 'no'; expected True or False"),
    ({"name": None}, "name: got None; expected text that can be printed"),
    ({"name": "a\nb"}, "name: got 'a\\nb'; expected text"),
    ({"active": "some"}, "active: unknown 'some'; allowed: all, seen, task"),
    ({"view": "identity"}, "view: got str"),
    ({"events": [Learn(2)]}, "events[0]: got Learn(task=2); expected Learn of a task 0..1"),
    ({"events": [Learn(True)]}, "events[0]: got Learn(task=True)"),
    ({"events": [0, 1]}, "events[0]: got 0"),
    ({"events": []}, "events: learn no task"),
    ({"events": [Learn(0), Forget(classes=(3,))]}, "events[1]: request after 1 tasks names no row that was learned"),
    ({"events": [Learn(0), Forget(classes=("dog",))]}, "class 'dog' does not exist"),
    ({"train": [[], [1]]}, "events[0]: learns task 0, which has no training rows"),
    ({"test": [[], [1]]}, "events[0]: learns task 0, which has no test rows"),
  ],
)
def test_what_is_impossible_is_refused_in_one_line(dataset, change, said):
  train, test = parts(dataset)
  values = {"train": train, "test": test, **change}
  with pytest.raises(UsageError) as error:
    streams.from_tasks(dataset, values.pop("train"), values.pop("test"), **values)
  assert said in str(error.value)
  assert "\n" not in str(error.value)


def test_rows_of_one_array_are_each_task_s_own(dataset):
  """A row of a two-dimensional array is a view that may die, and another be born at its address."""
  masks = [dataset.train.y[None] == np.arange(4)[:, None], dataset.test.y[None] == np.arange(4)[:, None]]
  places = [np.stack([np.flatnonzero(row) for row in mask]) for mask in masks]
  for given in (masks, [jnp.asarray(m) for m in masks], places):
    s = streams.from_tasks(dataset, *given)
    for t in range(4):
      np.testing.assert_array_equal(s.train[t], np.flatnonzero(dataset.train.y == t))
      np.testing.assert_array_equal(s.test[t], np.flatnonzero(dataset.test.y == t))
  with pytest.raises(UsageError, match=r"dataset: got tuple; expected cljax\.data\.Dataset"):
    streams.from_tasks((1, 2), *masks)


@pytest.mark.parametrize(
  ("change", "said"),
  [
    ({"tasks": 10**12}, "tasks: got 1000000000000; expected an integer of at least 1, at most 100000"),
    ({"test_fraction": "a"}, "test_fraction: got 'a'"),
    ({"test_fraction": None}, "test_fraction: got None"),
    ({"seed": -1}, "seed: got -1"),
    ({"boundaries": [[1], [2, 3]]}, "boundaries: got [[1], [2, 3]], which is no array"),
    ({"name": 3}, "name: got 3; expected text"),
  ],
)
def test_wrong_timestamps_are_one_line(change, said):
  x, y = np.zeros((40, 2), np.float32), np.arange(40) % 2
  with pytest.raises(UsageError) as error:
    streams.from_timestamps(x, y, np.arange(40), **change)
  assert said in str(error.value)


@pytest.mark.parametrize(
  "cut",
  ["2024-01-02T00:00+05:00", "2024-01-02T12:00Z", datetime.datetime(2024, 1, 2, tzinfo=datetime.UTC)],
)
def test_a_boundary_of_another_clock_is_refused(cut):
  x, y = np.zeros((40, 2), np.float32), np.arange(40) % 2
  with pytest.raises(UsageError, match="has a time zone, which time does not"):
    streams.from_timestamps(x, y, DAYS, boundaries=[cut])


DAYS = np.array(["2024-01-01", "2024-01-02", "2024-01-03", "2024-01-04"], "datetime64[D]").repeat(10)


@pytest.mark.parametrize(
  "noon",
  [
    np.datetime64("2024-01-02T12"), np.datetime64("2024-01-02T12:00:00.000000001"), "2024-01-02T12:00",
    datetime.datetime(2024, 1, 2, 12),
  ],
)  # fmt: skip
@pytest.mark.parametrize("unit", ["D", "s", "ms"])
def test_a_boundary_at_noon_cuts_after_midnight(noon, unit):
  y = np.arange(40) % 2
  s = streams.from_timestamps(np.zeros((40, 2)), y, DAYS.astype(f"datetime64[{unit}]"), boundaries=[noon])
  for t, days in enumerate((DAYS[:20], DAYS[20:])):
    ids = np.concatenate(
      [s.dataset.train.id[s.train[t]], s.dataset.train.id[s.validation[t]], s.dataset.test.id[s.test[t]]]
    )
    assert set(DAYS[ids]) == set(days)


def test_whole_times_are_compared_as_whole_numbers():
  """Above 2**53 neighbours are one float."""
  time = 2**60 + np.arange(4, dtype=np.int64).repeat(10)
  s = streams.from_timestamps(np.zeros((40, 2)), np.arange(40) % 2, time, boundaries=[2**60 + 2])
  assert {int(time[i] - 2**60) for i in s.dataset.train.id[s.train[0]]} == {0, 1}
  s = streams.from_timestamps(np.zeros((40, 2)), np.arange(40) % 2, time - 2**60, boundaries=[1.5])
  assert {int(time[i] - 2**60) for i in s.dataset.train.id[s.train[0]]} == {0, 1}


@pytest.mark.parametrize(
  ("change", "said"),
  [
    ({"boundaries": [3.5]}, "boundaries: got [3.5]; expected dates, as time is datetime64[D]"),
    ({"boundaries": ["soon"]}, "boundaries: got ['soon']; expected dates"),
    ({"boundaries": [np.datetime64("NaT")]}, "boundaries: holds a value that is not finite"),
    ({"time": DAYS.astype("datetime64[Y]") - 10000, "boundaries": [np.datetime64("2024-01-01T00:00:00.000000001")]},
     "time: holds a time that does not fit into datetime64[ns]"),
    ({"time": np.arange(40), "boundaries": [np.datetime64("2024-01-02")]}, "boundaries: dtype is datetime64[D]"),
  ],
)  # fmt: skip
def test_times_that_do_not_compare_are_refused_in_one_line(change, said):
  with pytest.raises(UsageError) as error:
    streams.from_timestamps(**{"x": np.zeros((40, 2)), "y": np.arange(40) % 2, "time": DAYS, **change})
  assert said in str(error.value)
  assert "\n" not in str(error.value)
