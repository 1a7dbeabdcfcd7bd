"""Streams: every row once, where it belongs; impossible splits refused in one line."""

import hypothesis.strategies as st
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
from hypothesis import given, settings

from cljax import streams
from cljax.core.types import Forget, Learn, UsageError


@settings(max_examples=30, deadline=None)
@given(tasks=st.sampled_from([1, 2, 3, 6]), order=st.none() | st.integers(0, 99), held=st.sampled_from([0.0, 0.25]))
def test_class_split_is_a_partition(make_blobs, tasks, order, held):
  dataset = make_blobs(classes=6, rows=12)
  s = streams.build(dataset, "class", tasks=tasks, class_order=order, validation=held)
  rows = np.concatenate([*s.train, *s.validation])
  assert sorted(rows) == list(range(len(dataset.train.y)))
  assert sorted(np.concatenate(s.test)) == list(range(len(dataset.test.y)))
  shown = [set(np.unique(dataset.train.y[t])) for t in s.train]
  assert sum(len(c) for c in shown) == 6
  assert set.union(*shown) == set(range(6))
  for t in range(tasks):
    assert set(dataset.train.y[s.validation[t]]) <= shown[t]
    assert set(dataset.test.y[s.test[t]]) == shown[t]
    assert set(np.flatnonzero(s.classes_of_task[t])) == shown[t]
  if held:
    assert np.bincount(dataset.train.y[np.concatenate(s.validation)]).tolist() == [3] * 6


def test_class_order_is_a_list_or_its_own_seed(dataset):
  listed = streams.build(dataset, tasks=2, class_order=[3, 1, 0, 2])
  assert [sorted(set(dataset.train.y[t])) for t in listed.train] == [[1, 3], [0, 2]]
  a, b = (streams.build(dataset, tasks=4, class_order=s) for s in (1, 2))
  again = streams.build(dataset, tasks=4, class_order=1, seed=7)
  first = lambda s: [int(dataset.train.y[t][0]) for t in s.train]
  assert first(a) == first(again) != first(b)


def test_domain_labels_are_positions(dataset):
  s = streams.build(dataset, "domain", tasks=2)
  assert s.num_classes == 2
  for t in range(2):
    assert set(s.labels[t, dataset.train.y[s.train[t]]]) == {0, 1}
    assert (s.labels[t][np.setdiff1d(np.arange(4), dataset.train.y[s.train[t]])] == -1).all()


def test_task_stream_masks_and_uneven_sizes(dataset):
  s = streams.build(dataset, "task", tasks=2, classes_per_task=[1, 3], task_fractions=[1.0, 0.5], validation=0.0)
  assert s.task_id_given
  assert s.active == "task"
  assert [len(t) for t in s.train] == [24, 36]


def test_groups_are_domains(dataset):
  s = streams.build(dataset, "group", tasks=2)
  for t in range(2):
    assert set(dataset.train.group[s.train[t]]) == {t}


def test_permuted_view_is_a_permutation_and_the_first_task_is_permuted_too(dataset):
  s = streams.build(dataset, "permuted", tasks=3, seed=4)
  x = jnp.asarray(dataset.train.x[:5])
  seen = [np.asarray(s.view.apply(s.view.tables, x, jnp.full(5, t))).reshape(5, -1) for t in range(3)]
  for flat in seen:
    np.testing.assert_array_equal(np.sort(flat), np.sort(np.asarray(x).reshape(5, -1)))
    assert (flat != np.asarray(x).reshape(5, -1)).any()
  assert (seen[0] != seen[1]).any()


@pytest.mark.parametrize("angle", [0.0, 90.0, 30.0, -45.0])
def test_rotation_is_scipys(angle):
  x = np.random.default_rng(0).normal(size=(2, 7, 7, 1)).astype(np.float32)
  view = streams.rotated([angle], (7, 7, 1))
  mine = np.asarray(view.apply(view.tables, jnp.asarray(x), jnp.zeros(2, jnp.int32)))
  theirs = scipy.ndimage.rotate(x, angle, axes=(2, 1), reshape=False, order=1, mode="constant", prefilter=False)
  if angle % 90:
    # At the border SciPy drops a sample whose neighbour lies outside; compare where all four neighbours are inside.
    mine, theirs = mine[:, 2:-2, 2:-2], theirs[:, 2:-2, 2:-2]
  np.testing.assert_allclose(mine, theirs, atol=1e-5)


def test_forget_events_stand_where_they_were_asked(dataset):
  s = streams.build(dataset, tasks=2, forget="1:class=0; 2:ids=1000-1002+class=3")
  assert [type(e) for e in s.events] == [Learn, Forget, Learn, Forget]
  assert s.events[1] == Forget(classes=("class0",)), "by name"
  assert s.events[3] == Forget(classes=("class3",), ids=(1000, 1001, 1002))


def test_resolve_names_rows(dataset):
  s = streams.build(dataset, tasks=2)
  split = dataset.train
  mask = lambda **k: streams.resolve(Forget(**k), split, s.train, 4)
  np.testing.assert_array_equal(mask(classes=(2,)), split.y == 2)
  np.testing.assert_array_equal(mask(classes=(3,)), split.y == 3)  # the last: without names, places have their number's
  np.testing.assert_array_equal(mask(ids=(1003,)), split.id == 1003)
  np.testing.assert_array_equal(mask(groups=(1,)), split.group == 1)
  np.testing.assert_array_equal(np.flatnonzero(mask(tasks=(1,))), np.sort(s.train[1]))
  both = mask(classes=(2,), ids=(1003,))
  np.testing.assert_array_equal(both, (split.y == 2) | (split.id == 1003))


@pytest.mark.parametrize(
  ("kwargs", "said"),
  [
    ({"kind": "clas"}, "stream.kind: unknown 'clas'"),
    ({"tasks": 0}, "stream.tasks: got 0"),
    ({"tasks": 3, "classes_per_task": 2}, "3 tasks of 2 classes need 6 classes; there are 4"),
    ({"tasks": 3}, "4 classes do not divide into 3 tasks"),
    ({"classes_per_task": [1, 2, 1], "tasks": 2}, "expected 2 positive sizes"),
    ({"class_order": [0, 0, 1, 2], "tasks": 2}, "expected distinct classes"),
    ({"class_order": [0, 9], "tasks": 2}, "stream.class_order: class 9 does not exist"),
    ({"validation": 1.0}, "stream.validation: got 1.0"),
    ({"active": "some"}, "stream.active: unknown 'some'"),
    ({"kind": "group", "tasks": 3}, "the dataset has 2 groups"),
    ({"kind": "rotated", "tasks": 2, "angles": [1.0]}, "stream.angles: got [1.0]; expected 2 numbers"),
    ({"tasks": 2, "task_fractions": [0.5, 2.0]}, "expected 2 values in (0, 1]"),
    ({"tasks": 2, "forget": "class=3"}, "expected 'AFTER_TASKS:"),
    ({"tasks": 2, "forget": "1:color=3"}, "unknown selector 'color'"),
    ({"tasks": 2, "forget": "1:class=x"}, "class 'x' does not exist; classes are class0, class1"),
    ({"tasks": 2, "forget": "1:class=9"}, "class 9 does not exist"),
    ({"tasks": 2, "forget": "1:ids=5"}, "row id 5 is not in the training data"),
    ({"tasks": 2, "forget": "3:class=1"}, "the stream has 1..2"),
    ({"tasks": 2, "forget": "1:class=3"}, "names no row that was learned by then"),
    ({"tasks": 2, "forget": "1:task=7"}, "task 7 does not exist"),
    ({"tasks": 2, "forget": "1:group=7"}, "group 7 has no training rows"),
  ],
)
def test_impossible_streams_are_refused_in_one_line(dataset, kwargs, said):
  with pytest.raises(UsageError) as error:
    streams.build(dataset, **kwargs)
  assert said in str(error.value)
  assert "\n" not in str(error.value)
