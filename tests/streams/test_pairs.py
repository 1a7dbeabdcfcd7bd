"""Requests name (task, row) pairs: against loops over all of them, and however they are spelled."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from cljax import streams
from cljax.core.types import Forget, Learn, UsageError

KINDS = ("class", "task", "domain", "permuted", "label_permuted", "group", "scole")


def by_hand(stream, request):
  """{(task, row position)} that a request names, one at a time."""
  split, names = stream.dataset.train, stream.dataset.class_names
  out = set()
  for t, rows in enumerate(stream.train):
    for r in rows.tolist():
      told = []
      if request.classes:
        told.append(any(split.y[r] == c or names[split.y[r]] == c for c in request.classes))
      if request.ids:
        told.append(split.id[r] in request.ids)
      if request.groups:
        told.append(split.group[r] in request.groups)
      if request.tasks:
        told.append(t in request.tasks)
      if (all if request.match == "all" else any)(told):
        out.add((t, r))
  return out


def as_set(stream, named):
  return {(t, int(r)) for t, rows in enumerate(stream.train) for r in rows[named[t]]}


def gone_by_hand(stream, upto):
  deleted, learned = set(), []
  for event in stream.events[:upto]:
    if isinstance(event, Learn):
      learned.append(event.task)
    else:
      deleted |= by_hand(stream, event)
  have = {(t, int(r)) for t in learned for r in stream.train[t]}
  label = lambda pair: int(stream.labels[pair[0], stream.dataset.train.y[pair[1]]])
  return {label(p) for p in have} - {label(p) for p in have - deleted}


REQUESTS = st.builds(
  Forget,
  classes=st.lists(st.integers(0, 3), max_size=2).map(tuple),
  ids=st.lists(st.integers(1000, 1095), max_size=30).map(tuple),
  tasks=st.lists(st.integers(0, 1), max_size=2).map(tuple),
  groups=st.lists(st.integers(0, 1), max_size=1).map(tuple),
  match=st.sampled_from(["any", "all"]),
)


@settings(max_examples=120, deadline=None)
@given(kind=st.sampled_from(KINDS), requests=st.lists(REQUESTS, min_size=1, max_size=3), order=st.permutations([0, 1]),
       back=st.booleans())  # fmt: skip
def test_pairs_and_labels_gone_equal_a_loop(make_blobs, kind, requests, order, back):
  stream = streams.build(make_blobs(), kind, tasks=2, validation=0.0)
  learns = [Learn(t) for t in (*order, order[0]) if back or t != order[0]] + [Learn(order[0])] * (not back)
  sound = [r for r in requests if by_hand(stream, r) and (r.classes or r.ids or r.tasks or r.groups)]
  stream = stream._replace(events=(learns[0], *sound[:1], *learns[1:], *sound[1:]))
  for request in sound:
    named = streams.resolve_pairs(request, stream)
    assert [m.shape for m in named] == [t.shape for t in stream.train]
    assert as_set(stream, named) == by_hand(stream, request)
    table = streams.pair_table(stream, named)
    assert {(t, int(r)) for t, rows in enumerate(stream.train) for r in rows if table[t % len(table), r]} == by_hand(
      stream, request
    )
  for request in set(requests) - set(sound):
    with pytest.raises(UsageError, match="names no rows"):
      streams.resolve_pairs(request, stream)
  for upto in range(len(stream.events) + 1):
    gone = set().union(*(by_hand(stream, e) for e in stream.events[:upto] if isinstance(e, Forget)))
    assert as_set(stream, streams.deleted_pairs(stream, upto)) == gone
    assert set(np.flatnonzero(streams.forgotten_classes(stream, upto))) == gone_by_hand(stream, upto)


def test_a_task_of_shared_rows_is_forgotten_alone(dataset):
  stream = streams.build(dataset, "permuted", tasks=2, rows=48, validation=0.0, forget="2:task=0")
  named = streams.resolve_pairs(stream.events[-1], stream)
  assert [int(m.sum()) for m in named] == [48, 0]
  assert not streams.forgotten_classes(stream, 3).any(), "the other task has all labels still"
  assert sum(int(m.sum()) for m in streams.resolve_pairs(Forget(classes=(0,)), stream)) == 24


@pytest.mark.parametrize(
  ("kind", "gone"), [("class", [0, 1]), ("task", [0, 1]), ("domain", []), ("label_permuted", [])]
)
def test_three_spellings_of_the_same_pairs(dataset, kind, gone):
  plain = streams.build(dataset, kind, tasks=2, validation=0.0)
  first = plain.train[0]
  ids = tuple(dataset.train.id[first].tolist())
  spelled = {
    "task": Forget(tasks=(0,)), "ids": Forget(ids=ids, tasks=(0,), match="all"),
    "class": Forget(classes=tuple(np.unique(dataset.train.y[first]).tolist()), tasks=(0,), match="all"),
  }  # fmt: skip
  for request in spelled.values():
    stream = streams.build(dataset, kind, tasks=2, validation=0.0, forget=[(2, request)])
    assert as_set(stream, streams.resolve_pairs(request, stream)) == {(0, int(r)) for r in first}
    assert np.flatnonzero(streams.forgotten_classes(stream, 3)).tolist() == gone


def test_the_last_of_two_requests_takes_the_label(dataset):
  ids = dataset.train.id[dataset.train.y == 0]
  halves = [(1, Forget(ids=tuple(part.tolist()))) for part in (ids[:5], ids[5:])]
  stream = streams.build(dataset, "class", tasks=2, validation=0.0, forget=halves)
  gone = [np.flatnonzero(streams.forgotten_classes(stream, upto)).tolist() for upto in range(5)]
  assert gone == [[], [], [], [0], [0]]


def test_a_label_that_another_class_of_the_same_task_uses_is_not_gone(dataset):
  coarse = np.array([[0, 0, 1, 1]], np.int32)
  stream = streams.from_tasks(dataset, [np.arange(96)], [np.arange(32)], labels=coarse)
  one, both = (stream._replace(events=(Learn(0), Forget(classes=c))) for c in ((0,), (0, 1)))
  assert not streams.forgotten_classes(one, 2).any()
  assert np.flatnonzero(streams.forgotten_classes(both, 2)).tolist() == [0]


def test_hundreds_of_tasks_over_shared_rows_cost_one_mask(dataset):
  stream = streams.build(dataset, "label_permuted", tasks=300, validation=0.0)
  named = streams.resolve_pairs(Forget(ids=(1000,), tasks=(7,)), stream)
  assert len({m.__array_interface__["data"][0] for m in named}) == 2, "one over the rows, and the whole task's one byte"
  assert int(sum(m.sum() for m in named)) == 96 + 299


def test_tasks_that_come_back_are_listed_once():
  assert streams.learned_tasks((Learn(2), Learn(0), Forget(tasks=(0,)), Learn(2))) == [2, 0]


def named(names):
  """A one-task stream whose classes are called so, ten rows each."""
  from cljax import data

  n = len(names)
  part = data.types.split(np.zeros((10 * n, 2), np.float32), np.repeat(np.arange(n), 10))
  return data.types.dataset("named", part, part, names)


CALLED = ["1", "2", "03", "cat", "a,b", "x-ray", "5-6"]


@pytest.mark.parametrize(
  ("text", "places"),
  [
    ("cat", [3]), ("cat,x-ray", [3, 5]), ("'a,b'", [4]), ('"a,b",cat', [4, 3]), ("'1'", [0]), ("#1", [1]),
    ("'5-6'", [6]), ("#1,'1'", [1, 0]), ("03", None), ("3", None), ("0", [0]), ("4-5", [4, 5]), ("6", [6]),
  ],
)  # fmt: skip
def test_a_class_is_given_by_name_or_place(text, places):
  made = named(CALLED)
  if places is None:
    with pytest.raises(UsageError, match=r"class 3 may mean #2 .*'03'.* or #3 .*'cat'"):
      streams.build(made, tasks=1, forget=f"1:class={text}")
    return
  stream = streams.build(made, tasks=1, validation=0.0, forget=f"1:class={text}+task=0; 1:class={text}")
  event = stream.events[-1]
  assert np.flatnonzero(streams.forgotten_classes(stream._replace(events=(Learn(0), event)), 2)).tolist() == sorted(
    places
  )
  quoted = lambda n: f"'{n}'" if n in ("1", "2", "03") else n
  assert event.classes == tuple(quoted(CALLED[p]) for p in places), "the event holds the name"


@pytest.mark.parametrize(
  ("text", "said"),
  [
    ("1", "class 1 may mean #0 (the class called '1') or #1 (the class called '2')"),
    ("1-3", "class 1 may mean"),
    ("5-6", "5-6 is a range of numbers and the name of a class"),
    ("dog", "class 'dog' does not exist; classes are 1, 2, 03, cat, a,b, x-ray, 5-6"),
    ("99", "class 99 does not exist"),
    ("#9", "class '#9' does not exist"),
    ("", "'' in 'class=' is not"),
    ("9-1", "must ascend"),
  ],
)
def test_a_class_that_may_be_two_or_none_is_refused(text, said):
  with pytest.raises(UsageError) as error:
    streams.build(named(CALLED), tasks=1, forget=f"1:class={text}")
  assert said in str(error.value)
  assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["1", "cat", "'q'", "#0", "0", "007", "a b", "a+b;c", "5-6", "#2"])
def test_what_an_event_holds_reads_back_as_the_class(name):
  from cljax.streams.class_names import class_as_named, class_places

  names = ["zero", "7", name, "two"]
  assert class_places(names, [class_as_named(names, 2)], "x") == [2]
  assert streams.parse_request("class='a+b;c',\"x&y\"").classes == ("'a+b;c'", '"x&y"')
