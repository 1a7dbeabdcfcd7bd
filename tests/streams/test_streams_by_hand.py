"""Streams and scenarios against what their definitions say, row by row, in NumPy."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from cljax import streams
from cljax.types import Forget, Learn, UsageError

ORDER = [3, 1, 0, 2]


@pytest.mark.parametrize("kind", ["class", "task", "domain"])
def test_the_three_splits_by_class(dataset, kind):
  s = streams.build(dataset, kind, tasks=2, class_order=ORDER, classes_per_task=[1, 2], validation=0.25, seed=3)
  groups = [[3], [1, 0]]
  y, held = dataset.train.y, np.concatenate(s.validation)
  for t, group in enumerate(groups):
    mine = np.flatnonzero(np.isin(y, group))
    np.testing.assert_array_equal(np.sort(np.concatenate([s.train[t], s.validation[t]])), mine)
    np.testing.assert_array_equal(s.test[t], np.flatnonzero(np.isin(dataset.test.y, group)))
  np.testing.assert_array_equal(np.bincount(y[held], minlength=4), [6, 6, 0, 6])
  labels = [[-1, -1, -1, 3], [0, 1, -1, -1]] if kind != "domain" else [[-1, -1, -1, 0], [1, 0, -1, -1]]
  np.testing.assert_array_equal(s.labels, labels)
  assert s.num_classes == (2 if kind == "domain" else 4)
  table = [[False, False, False, True], [True, True, False, False]]
  np.testing.assert_array_equal(s.classes_of_task, [[True, False], [True, True]] if kind == "domain" else table)
  assert (s.active, s.task_id_given) == (("task", True) if kind == "task" else ("all", False))
  assert s.events == (Learn(0), Learn(1))


def test_groups_by_hand(dataset):
  s = streams.build(dataset, "group", tasks=2, validation=0.0)
  for t in range(2):
    np.testing.assert_array_equal(s.train[t], np.flatnonzero(dataset.train.group == t))
    np.testing.assert_array_equal(s.test[t], np.flatnonzero(dataset.test.group == t))
  np.testing.assert_array_equal(s.labels, [[0, 1, 2, 3]] * 2)
  assert (s.num_classes, s.active, s.task_id_given) == (4, "all", False)
  one = streams.build(dataset, "group", tasks=1, validation=0.0)
  np.testing.assert_array_equal(one.train[0], np.flatnonzero(dataset.train.group == 0))
  with pytest.raises(UsageError, match="3 tasks by group, but the dataset has 2 groups"):
    streams.build(dataset, "group", tasks=3)


def shown(s, x, task):
  return np.asarray(s.view.apply(s.view.tables, jnp.asarray(x), jnp.asarray(task)))


def test_pixels_are_permuted_by_each_tasks_own_permutation(dataset):
  s = streams.build(dataset, "permuted", tasks=3, seed=4, validation=0.0)
  places = np.tile(np.arange(16.0).reshape(1, 4, 4, 1), (3, 1, 1, 1))
  order = shown(s, places, [0, 1, 2]).reshape(3, 16).astype(int)  # x_t[i] = x[order[t, i]]
  for t in range(3):
    np.testing.assert_array_equal(np.sort(order[t]), np.arange(16))
    assert (order[t] != np.arange(16)).any()
    assert t == 0 or (order[t] != order[0]).any()
  x, task = dataset.train.x[:5], [2, 0, 0, 1, 2]
  want = np.stack([row.reshape(16)[order[t]] for row, t in zip(x, task, strict=True)]).reshape(x.shape)
  np.testing.assert_array_equal(shown(s, x, task), want)
  again, other = (streams.permuted(3, (4, 4, 1), seed).tables[0] for seed in (4, 5))
  np.testing.assert_array_equal(again, order)
  assert (other != order).any()
  for t in range(3):
    np.testing.assert_array_equal(s.train[t], np.arange(96))
    np.testing.assert_array_equal(s.test[t], np.arange(32))
  np.testing.assert_array_equal(s.labels, [[0, 1, 2, 3]] * 3)


def test_images_are_turned_about_their_centre(dataset):
  s = streams.build(dataset, "rotated", tasks=2, validation=0.0)  # 0 and 90 degrees
  x = dataset.train.x[:3]
  turned = shown(s, x, [0, 1, 1])
  np.testing.assert_allclose(turned[0], x[0], atol=1e-6)
  np.testing.assert_allclose(turned[1:], np.rot90(x[1:], 1, axes=(1, 2)), atol=1e-6)
  colours = np.random.default_rng(0).normal(size=(2, 3, 5, 2)).astype(np.float32)
  view = streams.rotated([180.0, -90.0], (3, 5, 2))
  got = np.asarray(view.apply(view.tables, jnp.asarray(colours), jnp.asarray([0, 0])))
  np.testing.assert_allclose(got, colours[:, ::-1, ::-1], atol=1e-6)
  got = np.asarray(view.apply(view.tables, jnp.asarray(colours), jnp.asarray([1, 1])))
  want = np.zeros_like(colours)  # of the 3 x 5 image the 3 x 3 middle stays inside
  want[:, :, 1:4] = np.rot90(colours[:, :, 1:4], -1, axes=(1, 2))
  np.testing.assert_allclose(got, want, atol=1e-6)


def test_renamed_classes_keep_their_rows(dataset):
  s = streams.build(dataset, "label_permuted", tasks=3, validation=0.0, seed=1)
  rng = np.random.default_rng(np.random.SeedSequence([1, 0x1AB315]))
  np.testing.assert_array_equal(s.labels, np.stack([rng.permutation(4) for _ in range(3)]))
  for t in range(3):
    np.testing.assert_array_equal(s.train[t], np.arange(96))
    np.testing.assert_array_equal(s.test[t], np.arange(32))
  assert (s.num_classes, s.active, s.task_id_given) == (4, "all", False)


def test_rows_of_ones_own_by_hand(dataset):
  y, tested = dataset.train.y, dataset.test.y
  train = [np.setdiff1d(np.flatnonzero(y < 2), np.flatnonzero(y == 0)[:2]), np.flatnonzero(y >= 1)[::-1]]
  held = [np.flatnonzero(y == 0)[:2], ()]
  test = [tested < 2, np.flatnonzero(tested == 3)]
  s = streams.from_tasks(dataset, train, test, validation=held, active="seen", task_id_given=True, name="mine")
  for got, want in zip(s.train, train, strict=True):
    np.testing.assert_array_equal(got, want)
  np.testing.assert_array_equal(s.validation[0], held[0])
  np.testing.assert_array_equal(s.test[0], np.flatnonzero(tested < 2))
  assert len(s.validation[1]) == 0
  np.testing.assert_array_equal(s.labels, [[0, 1, -1, -1], [-1, 1, 2, 3]])
  assert (s.num_classes, s.active, s.task_id_given, s.name) == (4, "seen", True, "mine")
  assert s.events == (Learn(0), Learn(1))
  named = streams.from_tasks(dataset, train, test, labels=[[5, 6, -1, -1], [-1, 0, 1, 2]])
  assert named.num_classes == 7
  wider = streams.from_tasks(dataset, train, test, num_classes=9, events=[Learn(1), Learn(0), Learn(1)])
  assert (wider.num_classes, [e.task for e in wider.events]) == (9, [1, 0, 1])
  assert (wider.active, wider.task_id_given) == ("all", False)


def test_tasks_by_time_row_by_row():
  rng = np.random.default_rng(0)
  y, time = np.repeat([0, 1], [60, 40]), rng.permutation(100)
  s = streams.from_timestamps(rng.normal(size=(100, 2)), y, time, boundaries=[30, 50], test_fraction=0.25, validation=0)
  train, test = s.dataset.train, s.dataset.test
  assert (s.num_tasks, s.num_classes, s.active) == (3, 2, "all")
  for t, inside in enumerate((time < 30, (time >= 30) & (time < 50), time >= 50)):
    learned, tested = train.id[s.train[t]], test.id[s.test[t]]
    np.testing.assert_array_equal(np.sort(np.concatenate([learned, tested])), np.flatnonzero(inside))
    for c in (0, 1):
      count = np.sum(inside & (y == c))
      assert np.sum(y[tested] == c) == max(round(0.25 * count), 1)
    np.testing.assert_array_equal(s.labels[t], [0, 1])
  even = streams.from_timestamps(rng.normal(size=(100, 2)), y, time, tasks=4, validation=0)
  spans = [
    np.concatenate([even.dataset.train.id[a], even.dataset.test.id[b]])
    for a, b in zip(even.train, even.test, strict=True)
  ]
  for t, ids in enumerate(spans):
    np.testing.assert_array_equal(np.sort(time[ids]), np.arange(25 * t, 25 * t + 25))


def test_requests_stand_behind_so_many_tasks(dataset):
  s = streams.build(dataset, "class", tasks=2, order=(0, 1, 0), validation=0.0)
  first, second = Forget(classes=(0,)), Forget(ids=(int(dataset.train.id[s.train[1][0]]),))
  got = streams.with_forget(s, [(2, second), (1, first), (3, first)])
  named = first._replace(classes=("class0",))
  assert got.events == (Learn(0), named, Learn(1), second, Learn(0), named)
  assert streams.with_forget(s, "").events == s.events
  for after in (0, 4):
    with pytest.raises(UsageError, match=f"after {after} tasks; the stream has 1..3"):
      streams.with_forget(s, [(after, first)])
  with pytest.raises(UsageError, match="names no row that was learned by then"):
    streams.with_forget(s, [(1, second)])


@pytest.mark.parametrize("match", ["any", "all"])
def test_rows_of_a_request_are_joined_as_asked(dataset, match):
  s = streams.build(dataset, "class", tasks=2, validation=0.0)
  split = dataset.train
  request = Forget(classes=(1, 2), ids=tuple(range(1000, 1060)), groups=(1,), tasks=(0,), match=match)
  told = [np.isin(split.y, [1, 2]), split.id < 1060, split.group == 1, np.isin(np.arange(96), s.train[0])]
  want = np.all(told, 0) if match == "all" else np.any(told, 0)
  np.testing.assert_array_equal(streams.resolve(request, split, s.train, 4), want)
  with pytest.raises(UsageError, match="names no rows"):
    streams.resolve(Forget(match=match), split, s.train, 4)
  by_name = streams.resolve(Forget(classes=("c",)), split, s.train, 4, ["a", "b", "c", "d"])
  np.testing.assert_array_equal(by_name, split.y == 2)


def test_i_blurry_row_by_row():
  """The draws in order: classes, then each task's blurry rows, then the pool; all of it from one generator."""
  y, pool, tasks, share = np.repeat(np.arange(5), 10), np.arange(50)[::-1], 2, 30
  got = streams.blurry_rows(y, pool, np.ones(50, bool), 5, tasks, 40, share, False, 7)
  rng = np.random.default_rng(np.random.SeedSequence([7, 0xB1022]))
  order = rng.permutation(5)
  own, shared = [order[:1], order[1:2]], [order[2:3], order[3:4]]  # the fifth class is dropped
  moving = [rng.permutation(pool[np.isin(y[pool], group)]) for group in shared]
  spread = rng.permutation(np.concatenate([rows[:3] for rows in moving]))
  for t in range(2):
    want = [pool[np.isin(y[pool], own[t])], moving[t][3:], spread[3 * t : 3 * t + 3]]
    np.testing.assert_array_equal(got[t], np.sort(np.concatenate(want)))


def test_si_blurry_row_by_row():
  y, pool, tasks = np.repeat(np.arange(8), 10), np.arange(80), 3
  got = streams.blurry_rows(y, pool, np.ones(80, bool), 8, tasks, 50, 40, True, 3)
  rng = np.random.default_rng(np.random.SeedSequence([3, 0xB1022]))
  cuts = lambda total: np.r_[0, np.sort(rng.integers(0, total, tasks - 1)), total]
  while True:  # until each task has a row
    order = rng.permutation(8)
    at = cuts(3)
    own = [order[:3][a:b] for a, b in itertools.pairwise(at)]
    at = cuts(3)
    shared = [order[3:6][a:b] for a, b in itertools.pairwise(at)]
    moving = [rng.permutation(pool[np.isin(y[pool], group)]) for group in shared]
    given = np.diff(cuts(30 * 40 // 100))
    spread = rng.permutation(np.concatenate([rows[:n] for rows, n in zip(moving, given, strict=True)]))
    back = [
      spread[a:b] for a, b in zip(np.r_[0, np.cumsum(given)[:-1]], [*np.cumsum(given)[:-1], len(spread)], strict=True)
    ]
    want = [np.r_[pool[np.isin(y[pool], own[t])], moving[t][given[t] :], back[t]] for t in range(tasks)]
    if all(len(w) for w in want):
      break
  for a, b in zip(got, want, strict=True):
    np.testing.assert_array_equal(a, np.sort(b))


def test_drawn_subsets_one_by_one():
  weights = [4, 2, 1, 1]
  subsets, order = streams.drawn_subsets(4, 12, 2, weights, 5)
  rng = np.random.default_rng(np.random.SeedSequence([5, 0x5C01E]))
  drawn = [tuple(sorted(rng.choice(4, 2, replace=False, p=np.divide(weights, 8)))) for _ in range(12)]
  assert [tuple(subsets[k]) for k in order] == drawn
  assert [tuple(s) for s in subsets] == list(dict.fromkeys(drawn))


def test_a_share_of_rows_by_class_is_as_even_as_can_be():
  """Of 3, 10 and 20 rows: 3, 5 and 4 or 3, 4 and 5 make twelve; positions outside stay outside."""
  y = np.repeat([0, 1, 2], [3, 10, 20])
  for seed in range(4):
    rows = np.arange(33)[::-1]
    got = streams.at_most(rows, y, 12, seed)
    assert sorted(np.bincount(y[got])) == [3, 4, 5]
    assert np.bincount(y[got])[0] == 3
    np.testing.assert_array_equal(got, np.unique(got))
  np.testing.assert_array_equal(streams.at_most(rows, y, 33, 0), np.arange(33))
  np.testing.assert_array_equal(streams.at_most([5, 4], y, 0, 0), [4, 5])
