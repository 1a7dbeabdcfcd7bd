"""Blurry, recurring and timed streams, and what the three scenarios show: the invariants of their papers."""

import itertools
import json
from collections import Counter

import hypothesis.strategies as st
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

import cljax
from cljax import streams
from cljax.cli import _config
from cljax.core.types import Forget, Learn, UsageError, Visit
from cljax.engine.setup import spec_of
from cljax.evaluation import results

TRAIN = cljax.Recipe(batch_size=8, epochs=2)


def owners(s, classes) -> list[set[int]]:
  """The tasks that hold rows of each class."""
  y = s.dataset.train.y
  rows = [np.concatenate([a, b]) for a, b in zip(s.train, s.validation, strict=True)]
  return [{t for t, mine in enumerate(rows) if (y[mine] == c).any()} for c in range(classes)]


@settings(max_examples=40, deadline=None)
@given(
  kind=st.sampled_from(["si_blurry", "i_blurry"]),
  classes=st.integers(6, 13),
  tasks=st.integers(1, 4),
  disjoint=st.sampled_from([0, 40, 50, 100]),
  blurry=st.sampled_from([0, 10, 50, 100]),
  seed=st.integers(0, 9),
)
def test_blurry_streams_keep_what_the_generator_promises(make_blobs, kind, classes, tasks, disjoint, blurry, seed):
  data = make_blobs(classes=classes, rows=20)
  s = streams.build(data, kind, tasks=tasks, disjoint=disjoint, blurry=blurry, seed=seed)
  rows = np.concatenate([*s.train, *s.validation])
  assert len(set(rows)) == len(rows), "no row twice"
  alone = int(classes * disjoint / 100) // tasks * tasks
  mixed = (classes - alone) // tasks * tasks
  where = owners(s, classes)
  present = [c for c in range(classes) if where[c]]
  assert len(present) == alone + mixed, "the classes left over are dropped"
  assert sum(len(where[c]) == 1 for c in present) >= alone
  dropped = 20 * (alone + mixed) - len(rows)
  assert dropped == 0 if kind == "si_blurry" else 0 <= dropped < tasks
  if blurry == 0 or disjoint == 100:
    assert all(len(where[c]) == 1 for c in present), "disjoint"
  if kind == "i_blurry" and blurry == 0:
    assert {len(np.unique(data.train.y[t])) for t in s.train} == {(alone + mixed) // tasks}
  for t in range(tasks):
    shown = {c for c in present if t in where[c]}
    assert set(np.flatnonzero(s.labels[t] >= 0)) == shown == set(data.test.y[s.test[t]])
    assert (s.labels[t][sorted(shown)] == sorted(shown)).all()
  assert s.num_classes == classes


def test_i_blurry_moves_its_share_and_deals_it_evenly(make_blobs):
  data = make_blobs(classes=10, rows=40)
  s = streams.build(data, "i_blurry", tasks=5, disjoint=50, blurry=30, validation=0.0, seed=3)
  y = data.train.y
  where = owners(s, 10)
  alone = [c for c in range(10) if len(where[c]) == 1]
  assert len(alone) == 5
  assert sorted(len(s.train[t][np.isin(y[s.train[t]], alone)]) for t in range(5)) == [40] * 5
  assert {len(t) for t in s.train} == {80}, "40 rows of its disjoint class, 28 kept and 12 dealt"
  shares = np.array([[(y[t] == c).sum() for t in s.train] for c in set(range(10)) - set(alone)])
  assert (shares.sum(1) == 40).all()
  # Each owner keeps 28 and gets back as many of its 12 as chance deals it: 12 of 60 in all, in the mean.
  assert (shares.max(1) >= 28).all()
  assert 140 < shares.max(1).sum() < 165


def test_what_a_task_gives_to_the_pool_is_a_random_choice_and_the_remainder_is_dropped():
  every = np.ones(81, bool)
  y = np.minimum(np.arange(81) // 20, 3)  # stored class by class
  half = streams.blurry_rows(y, np.arange(81), every, 4, 2, 0, 50, False, 0)
  assert all(set(y[rows]) == {0, 1, 2, 3} for rows in half), "of every class, not of the first in stored order"
  whole = streams.blurry_rows(y, np.arange(81), every, 4, 2, 0, 100, False, 0)
  assert [len(rows) for rows in whole] == [40, 40]


def test_si_blurry_varies_and_its_draws_follow_the_seed(make_blobs):
  data = make_blobs(classes=20, rows=20)
  sizes, classes = [], []
  for seed in range(12):
    s = streams.build(data, "si_blurry", tasks=4, blurry=10, seed=seed, validation=0.0)
    again = streams.build(data, "si_blurry", tasks=4, blurry=10, seed=seed, validation=0.0)
    assert all(np.array_equal(a, b) for a, b in zip(s.train, again.train, strict=True))
    sizes.append(tuple(len(t) for t in s.train))
    where = owners(s, 20)
    classes.append(tuple(sum(where[c] == {t} for c in range(20)) for t in range(4)))
    moved = sum(max((data.train.y[t] == c).sum() for t in s.train) < 20 for c in range(20))
    assert moved <= 10, "only blurry classes spread"
  assert len(set(sizes)) == 12
  assert any(0 in c for c in classes), "a task may own no class"


def test_blurry_label_noise_stays_inside_the_task(make_blobs):
  data = make_blobs(classes=8, rows=20)
  s = streams.build(data, "si_blurry", tasks=2, label_noise=0.5)
  for t in range(2):
    assert (s.labels[t, s.dataset.train.y[s.train[t]]] >= 0).all()


@settings(max_examples=20, deadline=None)
@given(size=st.integers(1, 6), tasks=st.integers(1, 60), seed=st.integers(0, 9))
def test_scole_learns_drawn_subsets_and_comes_back(make_blobs, size, tasks, seed):
  data = make_blobs(classes=6, rows=8)
  s = streams.build(data, "scole", tasks=tasks, classes_per_task=size, seed=seed)
  order = [e.task for e in s.events]
  assert len(order) == tasks
  assert (s.active, s.task_id_given, s.num_classes) == ("task", False, 6), "group masking; one head; no task at test"
  assert list(dict.fromkeys(order)) == list(range(s.num_tasks - 1)), "numbered as first met"
  shown = [tuple(np.flatnonzero(row)) for row in s.classes_of_task[:-1]]
  assert all(len(c) == size for c in shown)
  assert len(set(shown)) == len(shown), "the same classes are the same task"
  for t, classes in enumerate(shown):
    mine = np.concatenate([s.train[t], s.validation[t]])
    np.testing.assert_array_equal(np.sort(mine), np.flatnonzero(np.isin(data.train.y, classes)))
    assert set(data.test.y[s.test[t]]) == set(classes)
  assert not len(s.train[-1])
  np.testing.assert_array_equal(s.test[-1], np.arange(len(data.test.y)))
  assert len(s.validation[-1]) == 6 * round(0.1 * 8)
  if size == 6:
    assert s.num_tasks == 2, "all classes: every event is the same task"
  longer = streams.build(data, "scole", tasks=tasks + 5, classes_per_task=size, seed=seed)
  assert [e.task for e in longer.events[:tasks]] == order


def test_scole_draws_each_class_as_often_as_it_weighs(make_blobs):
  data, n = make_blobs(classes=6, rows=2), 4000
  s = streams.build(data, "scole", tasks=n, classes_per_task=2, validation=0.0)
  count = np.zeros(6)
  for task, times in Counter(e.task for e in s.events).items():
    count += times * s.classes_of_task[task]
  np.testing.assert_allclose(count / n, 2 / 6, atol=5 * np.sqrt(2 / 9 / n))
  skewed = streams.build(data, "scole", tasks=n, classes_per_task=1, class_weights=[4, 2, 1, 1, 0, 0], validation=0.0)
  times = Counter(int(np.flatnonzero(skewed.classes_of_task[e.task])[0]) for e in skewed.events)
  np.testing.assert_allclose([times[c] / n for c in range(6)], [0.5, 0.25, 0.125, 0.125, 0, 0], atol=0.04)


def test_what_takes_part_in_the_softmax_and_what_is_known_at_test(dataset):
  """The protocols of van de Ven and Tolias: the same rows, other targets and active classes."""
  made = {k: streams.build(dataset, k, tasks=2, class_order=5) for k in ("class", "task", "domain")}
  for s in made.values():
    for a, b in zip(s.train + s.test, made["class"].train + made["class"].test, strict=True):
      np.testing.assert_array_equal(a, b)
  assert {k: (s.active, s.task_id_given, s.num_classes) for k, s in made.items()} == {
    "class": ("all", False, 4),
    "task": ("task", True, 4),
    "domain": ("all", False, 2),
  }
  y = dataset.train.y
  classes = [sorted(set(y[t])) for t in made["class"].train]
  row_task = jnp.asarray([0, 1])
  mask = lambda s, current: spec_of(s, 8).class_mask(row_task, Visit.in_order(current, 2).trained)
  assert mask(made["class"], 1) is None
  assert mask(made["domain"], 1) is None
  own = np.array([[c in classes[t] for c in range(4)] for t in range(2)])
  np.testing.assert_array_equal(mask(made["task"], 1), own)
  np.testing.assert_array_equal(mask(streams.build(dataset, "class", tasks=2, class_order=5, active="task"), 1), own)
  seen = streams.build(dataset, "class", tasks=2, class_order=5, active="seen")
  np.testing.assert_array_equal(mask(seen, 0), own[[0, 0]])
  assert np.asarray(mask(seen, 1)).all()
  for t, rows in enumerate(made["domain"].train):
    position = [made["domain"].labels[t, c] for c in classes[t]]
    assert sorted(position) == [0, 1]
    np.testing.assert_array_equal(made["task"].labels[t, y[rows]], y[rows])


def timed(kind=float):
  rng = np.random.default_rng(0)
  time = rng.permutation(np.repeat(np.arange(50), 4))
  y = (time + rng.integers(0, 2, 200)) // 25 % 3
  return rng.normal(size=(200, 3)), y, time.astype(kind)


@pytest.mark.parametrize("kind", [float, np.int64, "datetime64[s]"])
def test_timestamps_split_by_quantiles(kind):
  x, y, time = timed(kind)
  s = streams.from_timestamps(x, y, time, tasks=5, validation=0.2)
  train, test = s.dataset.train, s.dataset.test
  spans = []
  for t in range(5):
    ids = np.concatenate([train.id[s.train[t]], train.id[s.validation[t]], test.id[s.test[t]]])
    assert len(ids) == 40
    spans.append((time[ids].min(), time[ids].max()))
    assert set(y[ids]) == set(np.flatnonzero(s.labels[t] >= 0))
  assert all(a[1] < b[0] for a, b in itertools.pairwise(spans)), "rows of one time stay together"
  np.testing.assert_array_equal(np.sort(np.concatenate([train.id, test.id])), np.arange(200))
  for part in (train, test):
    np.testing.assert_array_equal(part.x, x[part.id].astype(np.float32))
    np.testing.assert_array_equal(part.y, y[part.id])
  assert [type(e) for e in s.events] == [Learn] * 5


def test_timestamps_split_at_given_boundaries():
  x, y, time = timed()
  s = streams.from_timestamps(x, y, time, boundaries=[10, 30.5], forget=[(2, Forget(ids=(int(np.argmin(time)),)))])
  where = [time[s.dataset.train.id[rows]] for rows in s.train]
  assert [(w.min() >= a, w.max() < b) for w, a, b in zip(where, (0, 10, 30.5), (10, 30.5, 99), strict=True)] == [
    (True, True)
  ] * 3
  assert s.num_tasks == 3


@pytest.mark.parametrize(
  ("change", "said"),
  [
    ({"time": np.arange(3)}, "time: has shape (3,); y has 200 rows"),
    ({"time": np.full(200, np.nan)}, "time: holds a value that is not finite"),
    ({"time": np.array(["a"] * 200)}, "time: dtype is <U1"),
    ({"y": np.full(200, 0.5)}, "y: is float64"),
    ({"boundaries": [3, 3]}, "boundaries: got [3, 3]; expected times that ascend"),
    ({"boundaries": [30, 1000]}, "task 2 has 0 training"),
    ({"time": np.zeros(200)}, "task 0 has 0 training"),
    ({"tasks": 0}, "tasks: got 0"),
    ({"test_fraction": 1.0}, "test_fraction: got 1.0"),
  ],
)
def test_wrong_times_are_refused_in_one_line(change, said):
  x, y, time = timed()
  with pytest.raises(UsageError) as error:
    streams.from_timestamps(**{"x": x, "y": y, "time": time, **change})
  assert said in str(error.value)
  assert "\n" not in str(error.value)


@pytest.mark.parametrize(
  ("kwargs", "said"),
  [
    ({"kind": "si_blurry", "blurry": 101}, "stream.blurry: got 101"),
    ({"kind": "i_blurry", "disjoint": 0.5}, "stream.disjoint: got 0.5"),
    ({"kind": "si_blurry", "tasks": 5}, "no division of 4 classes and 96 rows gives each of 5 tasks a row"),
    ({"kind": "scole", "classes_per_task": 5}, "scole expects one integer of 1..4"),
    ({"kind": "scole", "class_weights": [1, 0, 0, 0]}, "expected 4 numbers of at least 0, 2 or more above 0"),
    ({"kind": "scole", "order": (0, 1)}, "which kind 'scole' does not read; read by: class, task"),
    ({"kind": "scole", "label_noise": 0.1, "tasks": 20}, "no wrong label fits them all"),
  ],
)
def test_impossible_scenarios_are_refused_in_one_line(dataset, kwargs, said):
  with pytest.raises(UsageError) as error:
    streams.build(dataset, **{"tasks": 2, **kwargs})
  assert said in str(error.value)


def test_a_run_comes_back_to_a_task(dataset, small_model):
  """A B A with the task known at test: the matrix has a row for each event, and the row is what predict says."""
  s = streams.build(dataset, "task", tasks=2, order=(0, 1, 0), validation=0.0)
  result = cljax.run(s, small_model, training=TRAIN)
  assert result.accuracy.shape == (1, 4, 2)
  assert [e["task"] for e in result.events] == [0, 1, 0]
  assert result.steps == 3 * 2 * 6
  for t, rows in enumerate(s.test):
    logits = np.asarray(result.predict(dataset.test.x[rows], task=t))
    assert (np.isfinite(logits) == s.classes_of_task[t]).all()
    assert result.accuracy[0, -1, t] == np.mean(logits.argmax(-1) == dataset.test.y[rows])
  said = results.describe(result, config={}, method="finetune", stream=s.name, kind="task", seeds=[0])
  R = result.accuracy[:, 1:]
  assert said["metrics"]["acc"]["mean"] == R[0, -1].mean()
  assert said["metrics"]["bwt"]["mean"] == R[0, 2, 1] - R[0, 1, 1]
  assert "never_learned" not in said["metrics"]


def test_a_blurry_run_is_measured_on_what_its_tasks_hold(make_blobs, small_model):
  data = make_blobs(rows=30)
  s = streams.build(data, "si_blurry", tasks=2, blurry=50, seed=1)
  result = cljax.run(s, small_model, training=TRAIN)
  assert result.accuracy.shape == (1, 3, 2)
  hit = np.asarray(result.predict(data.test.x)).argmax(-1) == data.test.y
  np.testing.assert_allclose(result.accuracy[0, -1], [hit[rows].mean() for rows in s.test])
  assert result.steps == 2 * sum(-(-len(t) // 8) for t in s.train)


@pytest.mark.parametrize(
  ("given", "expected"),
  [
    ({"kind": "si_blurry", "tasks": "2", "disjoint": "0", "blurry": "20"}, {"disjoint": 0, "blurry": 20}),
    ({"kind": "scole", "tasks": "9", "classes_per_task": "3", "class_weights": "[1,1,2,2]"}, {"classes_per_task": 3}),
    ({"kind": "label_random", "tasks": "3", "rows": "12"}, {"rows": 12}),
    ({"kind": "class", "tasks": "2", "order": "[0,1,0]", "label_noise": "0.2"}, {"label_noise": 0.2}),
    ({"kind": "task", "tasks": "2", "input_noise": "0.1,0.3", "label_noise": "[0,0.5]"}, {"label_noise": (0, 0.5)}),
  ],
)
def test_scenarios_come_from_a_configuration(dataset, given, expected):
  file = _config.File({"data": {"name": "digits"}}, {}, None)
  config = _config.resolve(file, [_config.Override(f"stream.{k}", v, True) for k, v in given.items()])
  assert {k: config["stream"][k] for k in expected} == expected
  stream = streams.build(dataset, **config["stream"])
  plain = json.loads(json.dumps(config["stream"]))  # as a checkpoint keeps it
  again = streams.build(dataset, **plain)
  assert again.events == stream.events
  assert again.dataset.digest == stream.dataset.digest
  for a, b in zip(stream.train, again.train, strict=True):
    np.testing.assert_array_equal(a, b)
