"""Tasks that share rows and differ in labels, noisy training rows, subsets, and tasks that come back."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from cljax import streams
from cljax.core.types import Learn, UsageError


def test_hundreds_of_renamed_tasks_are_a_table_of_labels(dataset):
  s = streams.build(dataset, "label_permuted", tasks=300)
  assert s.dataset.train.x is dataset.train.x
  assert s.dataset.test.x is dataset.test.x
  assert {id(rows) for rows in s.train} == {id(s.train[0])}
  assert s.labels.shape == (300, 4)
  np.testing.assert_array_equal(np.sort(s.labels, 1), np.tile(np.arange(4), (300, 1)))
  assert len(np.unique(s.labels, axis=0)) == 24, "all 4! renamings come up"
  assert (s.labels[0] != np.arange(4)).any() or (s.labels[1] != np.arange(4)).any()
  assert s.num_classes == 4
  assert s.classes_of_task.all()
  held = np.concatenate([s.train[7], s.validation[7]])
  np.testing.assert_array_equal(np.sort(held), np.arange(len(dataset.train.y)))


def test_tasks_keep_their_labels_when_more_are_asked_for(dataset):
  for kind in ("label_permuted", "label_random"):
    few, many = (streams.build(dataset, kind, tasks=n, seed=3) for n in (2, 9))
    np.testing.assert_array_equal(few.labels, many.labels[:2])
    other = streams.build(dataset, kind, tasks=9, seed=4)
    assert (other.labels != many.labels).any()


@pytest.mark.parametrize("rows", [0, 10])
def test_random_labels_are_drawn_for_each_row_and_task(dataset, rows):
  s = streams.build(dataset, "label_random", tasks=200, rows=rows)
  count = rows or len(dataset.train.y)
  assert s.num_classes == 4
  assert all(len(v) == 0 for v in s.validation)
  train, test = s.dataset.train, s.dataset.test
  assert len(s.train[0]) == len(s.test[0]) == count
  # What a task trains on is what it is tested on: the same inputs with the same labels.
  for t in (0, 199):
    np.testing.assert_array_equal(train.x[s.train[t]], test.x[s.test[t]])
    shown = s.labels[t, train.y[s.train[t]]]
    np.testing.assert_array_equal(shown, s.labels[t, test.y[s.test[t]]])
  np.testing.assert_array_equal(train.x, dataset.train.x)
  np.testing.assert_array_equal(train.id, dataset.train.id)
  # Labels of a row over tasks, and of a task over rows, are uniform and say nothing of the class.
  table = s.labels[:, train.y[s.train[0]]]
  assert table.shape == (200, count)
  share = np.bincount(table.ravel(), minlength=4) / table.size
  np.testing.assert_allclose(share, 0.25, atol=5 * np.sqrt(0.25 * 0.75 / table.size))
  assert abs((table == dataset.train.y[s.train[0]]).mean() - 0.25) < 5 * np.sqrt(0.25 * 0.75 / table.size)
  assert len(np.unique(table, axis=1).T) == count, "no two rows share their labels over all tasks"
  assert s.dataset.digest != dataset.digest


def test_a_random_label_cannot_be_forgotten_by_class(dataset):
  s = streams.build(dataset, "label_random", tasks=2, forget="1:ids=1003")
  assert np.flatnonzero(streams.resolve(s.events[1], s.dataset.train, s.train, 4)).tolist() == [3]
  with pytest.raises(UsageError, match="class= names nothing"):
    streams.build(dataset, "label_random", tasks=2, forget="1:class=1")


@settings(max_examples=20, deadline=None)
@given(rows=st.integers(1, 80), kind=st.sampled_from(["class", "label_permuted", "group"]))
def test_a_subset_is_balanced_and_held_out_rows_come_from_it(dataset, rows, kind):
  if rows < 8:
    kind = "label_permuted"
  s = streams.build(dataset, kind, tasks=2, rows=rows, validation=0.25)
  used = np.unique(np.concatenate([*s.train, *s.validation]))
  assert len(used) == rows
  counts = np.bincount(dataset.train.y[used], minlength=4)
  assert counts.max() - counts.min() <= 1
  tested = np.unique(np.concatenate(s.test))
  assert len(tested) == min(rows, len(dataset.test.y))
  assert not set(np.concatenate(s.train)) & set(np.concatenate(s.validation))


@settings(max_examples=20, deadline=None)
@given(level=st.sampled_from([0.1, 0.5, 1.0]), kind=st.sampled_from(["class", "domain", "permuted", "label_permuted"]))
def test_noisy_labels_are_so_many_wrong_and_of_the_task(dataset, level, kind):
  clean = streams.build(dataset, kind, tasks=2)
  s = streams.build(dataset, kind, tasks=2, label_noise=level)
  wrong = s.dataset.train.y != dataset.train.y
  for t in range(2):
    np.testing.assert_array_equal(s.train[t], clean.train[t])
    assert wrong[s.train[t]].sum() == round(level * len(s.train[t]))
    assert (s.labels[t, s.dataset.train.y[s.train[t]]] >= 0).all()
    assert not wrong[s.validation[t]].any()
  assert s.dataset.test is dataset.test
  assert s.dataset.train.x is dataset.train.x
  assert s.dataset.digest != dataset.digest
  assert not np.shares_memory(s.dataset.train.y, dataset.train.y)


def test_wrong_labels_are_uniform_over_the_others(make_blobs):
  big = make_blobs(classes=4, rows=3000)
  s = streams.build(big, "permuted", tasks=2, validation=0.0, label_noise=1.0)
  moved = np.zeros((4, 4))
  np.add.at(moved, (big.train.y, s.dataset.train.y), 1 / 3000)
  np.testing.assert_allclose(moved, (1 - np.eye(4)) / 3, atol=5 * np.sqrt(2 / 9 / 3000))


def test_noise_may_differ_by_task_where_rows_do_not_meet(dataset):
  s = streams.build(dataset, "class", tasks=2, label_noise=[0.0, 0.5], input_noise=(0.3, 0.0))
  wrong, moved = s.dataset.train.y != dataset.train.y, (s.dataset.train.x != dataset.train.x).any(axis=(1, 2, 3))
  assert not wrong[s.train[0]].any()
  assert wrong[s.train[1]].sum() == round(0.5 * len(s.train[1]))
  assert moved[s.train[0]].all()
  assert not moved[np.concatenate([s.train[1], *s.validation])].any()


def test_input_noise_has_the_asked_deviation_in_what_the_model_sees(make_blobs):
  data = make_blobs(rows=200)
  grey = np.full(data.train.x.shape, 128, np.uint8)
  as_bytes = data._replace(train=data.train._replace(x=grey), scale=1 / 255)
  for source, spread in ((data, 0.5), (as_bytes, 0.1)):
    s = streams.build(source, "permuted", tasks=2, validation=0.0, input_noise=spread)
    change = (s.dataset.train.x.astype(np.float32) - source.train.x.astype(np.float32)) * source.scale
    assert s.dataset.train.x.dtype == source.train.x.dtype
    assert abs(change.std() / spread - 1) < 0.03
    assert abs(change.mean()) < 0.03 * spread
  loud = streams.build(as_bytes, "permuted", tasks=2, input_noise=50.0).dataset.train.x
  assert set(np.unique(loud)) >= {0, 255}, "clipped, not wrapped"


def test_an_order_comes_back_to_tasks(dataset):
  s = streams.build(dataset, "class", tasks=2, order=(0, 1, 0, 1), forget="3:class=0")
  assert [e.task for e in s.events if isinstance(e, Learn)] == [0, 1, 0, 1]
  assert not isinstance(s.events[3], Learn)
  assert s.num_tasks == 2
  once = streams.build(dataset, "class", tasks=2)
  for a, b in zip(s.train + s.test, once.train + once.test, strict=True):
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
  ("kwargs", "said"),
  [
    ({"rows": -1}, "stream.rows: got -1"),
    ({"order": (0, 2, 1)}, "stream.order: got [0, 2, 1]; expected tasks of 0..1"),
    ({"forget": "3:class=0", "order": (0, 1)}, "the stream has 1..2"),
    ({"forget": "3:class=3", "order": (0, 0, 0, 1)}, "names no row that was learned by then"),
    ({"label_noise": 1.5}, "stream.label_noise: got 1.5"),
    ({"label_noise": [0.1]}, "one for each of 2 tasks"),
    ({"label_noise": "much"}, "stream.label_noise: got 'much'"),
    ({"input_noise": -1.0}, "stream.input_noise: got -1.0"),
    ({"input_noise": float("nan")}, "stream.input_noise: got nan"),
    ({"label_noise": [0.1, 0.2], "kind": "permuted"}, "the tasks share rows, so expected one number"),
    ({"label_noise": 0.1, "kind": "label_random"}, "which kind 'label_random' does not read"),
    ({"label_noise": 0.5, "classes_per_task": [1, 3]}, "a wrong label needs another one"),
  ],
)
def test_impossible_noise_and_orders_are_refused_in_one_line(dataset, kwargs, said):
  with pytest.raises(UsageError) as error:
    streams.build(dataset, **{"tasks": 2, **kwargs})
  assert said in str(error.value)
  assert "\n" not in str(error.value)
