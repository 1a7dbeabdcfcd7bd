"""Every option of a kind changes the stream or is refused; what is drawn leaves no class without a row."""

import numpy as np
import pytest

from cljax import streams
from cljax.core.types import Forget, Learn, UsageError
from cljax.streams.rows import thin

GIVEN = {
  "tasks": 1, "classes_per_task": [1, 2], "class_order": [3, 1, 0, 2], "task_fractions": [0.5, 0.75], "validation": 0.3,
  "active": "seen", "angles": [5.0, 50.0], "seed": 7, "forget": "1:ids=1000-1095", "rows": 24, "order": (1, 0),
  "label_noise": 0.5, "input_noise": 0.1, "disjoint": 0, "blurry": 50, "class_weights": [1, 1, 0, 0],
  "reserve_tasks": 6, "reserve_rows": 99, "reserve_classes": 9, "appended": [50],
  "per_seed": True, "labelled": 1, "returning": 0.1,
}  # fmt: skip
PAIRS = [(kind, option) for kind in streams.KINDS for option in GIVEN]


def contents(s):
  arrays = [*s.train, *s.validation, *s.test, s.labels, *s.view.tables, s.dataset.train.x, s.dataset.train.y]
  return [s.events, s.num_classes, s.active, s.num_tasks, s.room, s.row_room], [np.asarray(a).tolist() for a in arrays]


def made(dataset, kind, **options):
  base = {"tasks": 2, **({"classes_per_task": 2, "seed": 3} if kind == "scole" else {})}
  return streams.build(dataset, kind, **{**base, **options})


def test_the_table_holds_every_kind_and_option():
  import inspect

  options = set(inspect.signature(streams.build).parameters) - {"dataset", "kind"}
  assert options == set(GIVEN)
  assert set().union(*streams.READS.values()) == options


@pytest.mark.parametrize(("kind", "option"), PAIRS)
def test_an_option_changes_the_stream_or_is_refused(dataset, kind, option):
  value = GIVEN[option]
  if kind == "scole":  # one size for all draws; a last task is the whole test set
    value = {"classes_per_task": 3, "task_fractions": [0.5, 0.75, 1.0], "class_weights": {"class0": 0, "#1": 0}}.get(
      option, value
    )
  alone = {"tasks": 1} if (kind, option) == ("scole", "label_noise") else {}  # drawn subsets may share classes
  if option in streams.READS[kind]:
    assert contents(made(dataset, kind, **{option: value}, **alone)) != contents(made(dataset, kind, **alone))
    return
  with pytest.raises(UsageError) as error:
    made(dataset, kind, **{option: value})
  readers = [k for k, read in streams.READS.items() if option in read]
  assert f"stream.{option}: got" in str(error.value)
  assert f"which kind {kind!r} does not read; read by: {', '.join(readers)}" in str(error.value)


@pytest.mark.parametrize("kind", streams.KINDS)
def test_defaults_are_not_given(dataset, kind):
  empty = {"classes_per_task": 0, "class_order": [], "angles": [], "order": [], "label_noise": 0.0, "input_noise": [],
           "disjoint": 50, "blurry": 10, "class_weights": [], "task_fractions": [], "active": ""}  # fmt: skip
  if kind == "scole":
    del empty["classes_per_task"]
  assert contents(made(dataset, kind, **empty)) == contents(made(dataset, kind))
  if kind == "label_random":
    made(dataset, kind, validation=0.0)


@pytest.mark.parametrize("order", [(1, 0), (2, 0, 1), (0, 1, 0, 2, 0)])
@pytest.mark.parametrize("active", ["all", "seen"])
def test_tasks_are_met_in_any_order(make_blobs, order, active):
  s = streams.build(make_blobs(classes=6), "class", tasks=max(order) + 1, order=order, active=active)
  assert s.events == tuple(Learn(t) for t in order)


def test_class_order_and_weights_take_names(dataset):
  listed = streams.build(dataset, tasks=2, class_order=["class3", "class1", 0, "#2"])
  placed = streams.build(dataset, tasks=2, class_order=[3, 1, 0, 2])
  assert contents(listed) == contents(placed)
  assert contents(streams.build(dataset, tasks=2, class_order="class3, 'class1',0,#2")) == contents(placed)
  weights = {"class0": 0, "#1": 0, "class3": 2.5}
  by_name, by_place = (made(dataset, "scole", class_weights=w) for w in (weights, [0, 0, 1, 2.5]))
  assert contents(by_name) == contents(by_place)
  for wrong, said in (
    ({"class_order": ["class9"]}, "stream.class_order: class 'class9' does not exist"),
    ({"class_order": "class0,'class9'"}, "stream.class_order: class \"'class9'\" does not exist"),
    ({"class_order": 1.5}, "stream.class_order: got 1.5"),
    ({"class_order": -1}, "stream.class_order: got -1"),
    ({"classes_per_task": [1.5, 2]}, "stream.classes_per_task: got [1.5, 2]"),
    ({"kind": "scole", "class_weights": {"class0": 1, "#0": 2}}, "stream.class_weights: names a class twice"),
  ):
    with pytest.raises(UsageError) as error:
      streams.build(dataset, **{"tasks": 2, **wrong})
    assert said in str(error.value)


def test_a_class_of_a_domain_stream_can_be_forgotten(dataset):
  s = streams.build(dataset, "domain", tasks=2, validation=0.0, forget="2:class=0")
  named = streams.resolve_pairs(s.events[-1], s)
  assert [int(m.sum()) for m in named] == [24, 0]
  assert dataset.train.y[s.train[0][named[0]]].tolist() == [0] * 24


def uneven(counts):
  from cljax import data

  y = np.repeat(np.arange(len(counts)), counts)
  x = np.zeros((len(y), 2), np.float32)
  group = np.arange(len(y)) % 2
  part = data.types.split(x, y, group)
  return data.types.dataset("uneven", part, part, [str(c) for c in range(len(counts))], group_names=["even", "odd"])


@pytest.mark.parametrize(("kind", "tasks"), [("class", 2), ("class", 1), ("group", 2), ("permuted", 2)])
@pytest.mark.parametrize("validation", [0.6, 0.99])
@pytest.mark.parametrize("seed", range(3))
def test_validation_leaves_each_class_a_row_in_each_task(kind, tasks, validation, seed):
  dataset = uneven([1, 20, 3, 2])
  s = streams.build(dataset, kind, tasks=tasks, validation=validation, seed=seed)
  y, group = dataset.train.y, dataset.train.group
  for t in range(tasks):
    mine = np.concatenate([s.train[t], s.validation[t]])
    assert set(y[s.train[t]]) == set(y[mine])
    assert len(set(mine.tolist())) == len(mine)
    if kind == "group":
      assert set(group[mine]) == {t}


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.5, 1.0])
def test_a_share_of_a_task_holds_each_of_its_classes(fraction):
  dataset = uneven([1, 40, 2, 60])
  s = streams.build(dataset, "class", tasks=2, validation=0.0, task_fractions=[fraction, 1.0])
  counts = np.bincount(dataset.train.y[s.train[0]], minlength=4)
  assert counts[:2].all()
  assert counts.sum() == max(2, round(fraction * 41))


def test_a_share_that_holds_each_class_is_the_plain_draw():
  rows, labels = np.arange(100, 140), np.arange(40) % 2
  draw = np.random.default_rng(np.random.SeedSequence([5, 0xF4AC])).permutation(40)[:20]
  np.testing.assert_array_equal(thin([rows], [labels], [0.5], 5)[0], np.sort(rows[draw]))


def test_so_few_rows_that_a_class_has_none_are_refused(dataset):
  with pytest.raises(UsageError, match=r"stream\.rows: 3 training rows leave class 'class3' without one"):
    streams.build(dataset, "class", tasks=2, rows=3)


def test_at_most_so_many_rows_are_drawn_by_class():
  y = np.repeat([0, 1, 2], [50, 30, 4])
  rows = np.arange(10, 84)  # 40, 30, 4
  for seed in range(3):
    drawn = streams.at_most(rows, y, 14, seed)
    assert np.bincount(y[drawn]).tolist() == [5, 5, 4]
    assert set(drawn) <= set(rows.tolist())
    assert (np.diff(drawn) > 0).all()
  assert (streams.at_most(rows, y, 14, 0) != streams.at_most(rows, y, 14, 1)).any()
  np.testing.assert_array_equal(streams.at_most(rows[::-1], y, 0, 0), rows)


@pytest.mark.parametrize(
  ("kwargs", "said"),
  [
    ({"seed": -1}, "stream.seed: got -1"),
    ({"tasks": True}, "stream.tasks: got True"),
    ({"order": 5}, "stream.order: got [5]"),
    ({"order": (0, True)}, "stream.order: got [0, True]"),
    ({"validation": "0.1"}, "stream.validation: got '0.1'"),
    ({"kind": "rotated", "angles": ["a", "b"]}, "stream.angles: got ['a', 'b']"),
    ({"kind": "rotated", "angles": 30.0}, "stream.angles: got 30.0"),
    ({"task_fractions": ["a", 1]}, "stream.task_fractions: got ['a', 1]"),
    ({"task_fractions": 0.5}, "stream.task_fractions: got 0.5"),
    ({"forget": Forget(classes=(0,))}, "stream.forget: got Forget("),
    ({"forget": ";"}, "stream.forget: got ';', which holds no request"),
    ({"forget": " ; ;"}, "stream.forget: got ' ; ;', which holds no request"),
    ({"forget": [Forget(classes=(0,))]}, "expected text, or a list of (after_tasks, cljax.Forget)"),
    ({"forget": [("1", Forget(classes=(0,)))]}, "expected text, or a list"),
    ({"forget": [(1, Forget(ids=("a",)))]}, "row id ('a',); expected integers"),
  ],
)
def test_values_of_a_wrong_type_are_refused_in_one_line(dataset, kwargs, said):
  with pytest.raises(UsageError) as error:
    streams.build(dataset, **{"tasks": 2, **kwargs})
  assert said in str(error.value)
  assert "\n" not in str(error.value)


def test_numpy_integers_are_integers(dataset):
  a, b = (streams.build(dataset, tasks=i(2), rows=i(24), seed=i(3)) for i in (int, np.int64))
  assert contents(a) == contents(b)
