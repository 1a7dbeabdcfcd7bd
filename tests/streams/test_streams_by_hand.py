"""Streams and scenarios against what their definitions say, row by row, in NumPy."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from cljax import streams
from cljax.core.types import Forget, Learn, UsageError
from cljax.streams.class_names import class_as_named
from cljax.streams.relabel import random_labels

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
  colours, angles = np.random.default_rng(0).normal(size=(2, 4, 6, 2)).astype(np.float32), [0.0, -90.0, 30.0, 170.0]
  view = streams.rotated(angles, (4, 6, 2))
  for t, angle in enumerate(np.deg2rad(angles)):
    got = np.asarray(view.apply(view.tables, jnp.asarray(colours), jnp.asarray([t, t])))
    want = np.zeros_like(colours)
    for i, j in itertools.product(range(4), range(6)):
      row, column = i - 1.5, j - 2.5
      y = np.cos(angle) * row + np.sin(angle) * column + 1.5
      x = -np.sin(angle) * row + np.cos(angle) * column + 2.5
      for near in itertools.product(
        (np.floor(y + 1e-9), np.floor(y + 1e-9) + 1), (np.floor(x + 1e-9), np.floor(x + 1e-9) + 1)
      ):
        u, v = map(int, near)
        if 0 <= u < 4 and 0 <= v < 6:
          want[:, i, j] += max(0, 1 - abs(y - u)) * max(0, 1 - abs(x - v)) * colours[:, u, v]
    np.testing.assert_allclose(got, want, atol=1e-5)
  three = streams.build(dataset, "rotated", tasks=3, validation=0.0)
  given = streams.build(dataset, "rotated", tasks=3, angles=[0.0, 60.0, 120.0], validation=0.0)
  rows = dataset.train.x[:3]
  np.testing.assert_array_equal(shown(three, rows, [0, 1, 2]), shown(given, rows, [0, 1, 2]))
  own = streams.build(dataset, "rotated", tasks=2, angles=[90.0, 0.0], validation=0.0)
  np.testing.assert_allclose(shown(own, dataset.train.x[:3], [1, 0, 0]), turned, atol=1e-6)


def test_tables_that_do_not_fit_into_memory_are_refused(dataset, monkeypatch):
  """Bytes of a task: an index a pixel; four indices and weights; a label a class; a label a row."""
  from cljax.data import limits

  for kind, each in {"permuted": 64, "rotated": 512, "label_permuted": 16, "label_random": 384}.items():
    monkeypatch.setattr(limits, "available", lambda each=each: 3 * each)
    s = streams.build(dataset, kind, tasks=3)
    assert (s.num_tasks, len(s.test[0]), len(s.labels)) == (3, 96 if kind == "label_random" else 32, 3)
    with pytest.raises(UsageError, match=f"what makes 4 tasks of kind '{kind}' needs"):
      streams.build(dataset, kind, tasks=4)


def test_renamed_classes_keep_their_rows(dataset):
  s = streams.build(dataset, "label_permuted", tasks=3, validation=0.0, seed=1)
  rng = np.random.default_rng(np.random.SeedSequence([1, 0x1AB315]))
  np.testing.assert_array_equal(s.labels, np.stack([rng.permutation(4) for _ in range(3)]))
  for t in range(3):
    np.testing.assert_array_equal(s.train[t], np.arange(96))
    np.testing.assert_array_equal(s.test[t], np.arange(32))
  assert (s.num_classes, s.active, s.task_id_given) == (4, "all", False)


def test_random_labels_row_by_row(dataset):
  pool = np.array([3, 0, 7, 90])
  made, labels = random_labels(dataset, pool, 2, 5)
  rng = np.random.default_rng(np.random.SeedSequence([5, 0x7A2D03]))
  np.testing.assert_array_equal(labels, rng.integers(4, size=(2, 4)))
  np.testing.assert_array_equal(made.train.y[pool], np.arange(4))
  assert np.sum(made.train.y) == 6  # rows outside the pool are of class 0
  np.testing.assert_array_equal(made.test.x, dataset.train.x[pool])
  np.testing.assert_array_equal(made.test.y, np.arange(4))
  np.testing.assert_array_equal(made.test.id, dataset.train.id[pool])
  np.testing.assert_array_equal(made.test.group, dataset.train.group[pool])
  assert made.train.x is dataset.train.x
  assert (made.num_classes, made.class_names) == (4, tuple(f"row {i}" for i in dataset.train.id[pool]))
  others = [
    random_labels(dataset, pool[::-1], 2, 5), random_labels(dataset, pool, 3, 5),
    random_labels(dataset._replace(digest="other"), pool, 2, 5),
  ]  # fmt: skip
  assert len({d.digest for d, _ in [(dataset, 0), (made, 0), *others]}) == 5
  assert random_labels(dataset, pool, 2, 5)[0].digest == made.digest
  s = streams.build(dataset, "label_random", tasks=3, seed=2)
  assert s.dataset.train.x is dataset.train.x
  assert s.dataset.test.x is dataset.train.x
  assert (s.num_classes, len(s.test[0]), len(s.train[2])) == (4, 96, 96)
  np.testing.assert_array_equal(s.labels, random_labels(dataset, np.arange(96), 3, 2)[1])


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
  assert wider.view.tables == ()
  view = streams.permuted(2, (4, 4, 1), 0)
  assert streams.from_tasks(dataset, train, test, view=view).view is view
  shared = streams.from_tasks(dataset, [train[0]] * 2, [test[0]] * 2)
  assert shared.train[0] is shared.train[1]
  for change, said in (
    ({"num_classes": True}, "num_classes: got True"),
    ({"num_classes": 3}, "labels go up to 3, so at least 4"),
    ({"validation": [train[0][:1], ()]}, r"is in train\[0\] too"),
    ({"events": [Forget(classes=(0,)), Learn(0)]}, "names no row that was learned"),
    ({"events": [Learn(1), Forget(classes=(0,))]}, "names no row that was learned"),
  ):
    with pytest.raises(UsageError, match=said):
      streams.from_tasks(dataset, train, test, **change)


def test_tasks_by_time_row_by_row():
  rng = np.random.default_rng(0)
  y, time = np.repeat([0, 1], [60, 40]), rng.permutation(100)
  s = streams.from_timestamps(
    rng.normal(size=(100, 2)), y, time, boundaries=[29.5, 50], test_fraction=0.25, validation=0
  )
  train, test = s.dataset.train, s.dataset.test
  assert (s.num_tasks, s.num_classes, s.active) == (3, 2, "all")
  for t, inside in enumerate((time < 30, (time >= 30) & (time < 50), time >= 50)):
    learned, tested = train.id[s.train[t]], test.id[s.test[t]]
    np.testing.assert_array_equal(np.sort(np.concatenate([learned, tested])), np.flatnonzero(inside))
    for c in (0, 1):
      count = np.sum(inside & (y == c))
      assert np.sum(y[tested] == c) == max(round(0.25 * count), 1)
    np.testing.assert_array_equal(s.labels[t], [0, 1])
  assert s.dataset.class_names == ("0", "1")
  lists = streams.from_timestamps(np.ones((4, 2)).tolist(), [0, 1, 0, 1], [3, 1, 2, 0], tasks=1, validation=0)
  assert lists.dataset.train.x.dtype == np.float32
  x = rng.integers(0, 255, size=(100, 2), dtype=np.uint8)
  even = streams.from_timestamps(x, y, time, tasks=3, validation=0.5, seed=3)
  held = np.zeros(100, bool)  # a fifth of each class of each task, by uniform draws
  draw = np.random.Generator(np.random.PCG64(3)).random(100)
  for (low, high), c in itertools.product(((0, 34), (34, 67), (67, 100)), (0, 1)):
    rows = np.flatnonzero((time >= low) & (time < high) & (y == c))
    held[rows[np.argsort(draw[rows])[: round(0.2 * len(rows))]]] = True
  np.testing.assert_array_equal(even.dataset.test.id, np.flatnonzero(held))
  np.testing.assert_array_equal(even.dataset.train.x, x[~held])
  rest = np.flatnonzero(~held)
  order = np.random.default_rng(np.random.SeedSequence([3, 0x7A11D])).permutation(len(rest))
  chosen = [order[y[rest[order]] == c][: round(0.5 * np.sum(y[rest] == c))] for c in (0, 1)]
  np.testing.assert_array_equal(np.sort(np.concatenate(even.validation)), np.sort(np.concatenate(chosen)))
  for t, (low, high) in enumerate(((0, 34), (34, 67), (67, 100))):
    ids = [
      even.dataset.train.id[even.train[t]],
      even.dataset.train.id[even.validation[t]],
      even.dataset.test.id[even.test[t]],
    ]
    np.testing.assert_array_equal(np.sort(time[np.concatenate(ids)]), np.arange(low, high))


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


@pytest.mark.parametrize("seed", [0, 1, 3])
def test_si_blurry_row_by_row(seed):
  """Of the seeds 1 and 3 a draw leaves a task without a row that is kept, and is made again."""
  y, pool, tasks = np.repeat(np.arange(8), 10), np.arange(80), 3
  keep = np.arange(80) % 10 < 3
  got = streams.blurry_rows(y, pool, keep, 8, tasks, 50, 40, True, seed)
  want, _ = si_blurry(y, pool, keep, tasks, seed)
  for a, b in zip(got, want, strict=True):
    np.testing.assert_array_equal(a, np.sort(b))


def si_blurry(y, pool, keep, tasks, seed):
  """The tasks' rows of 8 classes, 3 of them disjoint and 3 blurry at 40 %, and how many draws they took."""
  rng = np.random.default_rng(np.random.SeedSequence([seed, 0xB1022]))
  cuts = lambda total: np.r_[0, np.sort(rng.integers(0, total, tasks - 1)), total]
  for draws in range(1, 100):
    order = rng.permutation(8)
    own = [order[:3][a:b] for a, b in itertools.pairwise(cuts(3))]
    shared = [order[3:6][a:b] for a, b in itertools.pairwise(cuts(3))]
    moving = [rng.permutation(pool[np.isin(y[pool], group)]) for group in shared]
    given = np.diff(cuts(30 * 40 // 100))
    spread = rng.permutation(np.concatenate([rows[:n] for rows, n in zip(moving, given, strict=True)]))
    ends = np.r_[0, np.cumsum(given)[:-1], max(len(spread), np.sum(given))]
    back = [spread[a:b] for a, b in itertools.pairwise(ends)]
    out = [np.r_[pool[np.isin(y[pool], own[t])], moving[t][given[t] :], back[t]] for t in range(tasks)]
    if all(keep[rows].any() for rows in out):
      return out, draws
  raise AssertionError("no draw gave each task a row")


def test_as_many_tasks_as_rows_are_possible_and_more_are_not():
  y, every = np.arange(2), np.ones(2, bool)
  got = streams.blurry_rows(y, np.arange(2), every, 2, 2, 100, 0, False, 0)
  assert sorted(np.concatenate(got)) == [0, 1]
  with pytest.raises(UsageError, match="no division of 2 classes and 2 rows gives each of 2 tasks a row"):
    streams.blurry_rows(y, np.arange(2), np.array([True, False]), 2, 2, 100, 0, False, 0)
  with pytest.raises(UsageError, match="no division"):  # classes are dealt evenly: one draw says it
    streams.blurry_rows(np.array([0, 0, 1]), np.arange(3), np.array([True, True, False]), 2, 2, 100, 0, False, 0)


def test_drawn_subsets_one_by_one():
  weights = [4, 2, 1, 1]
  subsets, order = streams.drawn_subsets(4, 12, 2, weights, 5)
  rng = np.random.default_rng(np.random.SeedSequence([5, 0x5C01E]))
  drawn = [tuple(sorted(rng.choice(4, 2, replace=False, p=np.divide(weights, 8)))) for _ in range(12)]
  assert [tuple(subsets[k]) for k in order] == drawn
  assert [tuple(s) for s in subsets] == list(dict.fromkeys(drawn))
  same = streams.drawn_subsets(4, 12, np.int64(2), np.array(weights), 5)
  assert same[1] == order
  rng = np.random.default_rng(np.random.SeedSequence([5, 0x5C01E]))
  subsets, order = streams.drawn_subsets(4, 6, (), (), 5)  # two of equal classes
  assert [tuple(subsets[k]) for k in order] == [
    tuple(sorted(rng.choice(4, 2, replace=False, p=[0.25] * 4))) for _ in range(6)
  ]
  for size, given in ((True, ()), (5, ()), (2, [1, "a", 1, 1]), (3, [1, 1, 0, 0]), (2, [1, -1, 1, 1])):
    with pytest.raises(UsageError):
      streams.drawn_subsets(4, 6, size, given, 5)


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


def test_events_hold_classes_by_a_name_that_reads_back():
  """A class that is called as its own place is a number; a name that may mean two is quoted; one that stands twice
  goes by its place."""
  from cljax import data

  def told(names, place):
    part = data.types.split(np.zeros((10 * len(names), 2), np.float32), np.repeat(np.arange(len(names)), 10))
    made = data.types.dataset("named", part, part, names) if len(set(names)) == len(names) else None
    if made is None:
      return class_as_named(names, place)
    s = streams.build(made, "class", tasks=1, validation=0.0)
    s = streams.with_forget(s, [(1, Forget(classes=(f"#{place}",)))])
    (event,) = (e for e in s.events if isinstance(e, Forget))
    np.testing.assert_array_equal(streams.resolve_pairs(event, s)[0], made.train.y == place)
    return event.classes[0]

  for name, place, want in (
    ("cat", 1, "cat"), ("1", 1, 1), ("0", 1, "'0'"), ("007", 1, "007"), ("7", 1, "7"), ("'q'", 1, "'q'"),
    ("#1", 1, "#1"),
    ("#0", 1, "'#0'"), ("#9", 1, "#9"), ("5-6", 1, "5-6"), ("a b", 1, "a b"), ("\u00b2", 1, "\u00b2"), ("''", 1, "''"),
  ):  # fmt: skip
    names = ["zero", "one", "two"]
    names[place] = name
    assert told(names, place) == want, name
  assert told(["q", "'q'", "two"], 1) == "''q''"
  assert told(["a", "b", "a"], 2) == "#2"
  assert told(["2", "07", "7"], 1) == "'07'"
