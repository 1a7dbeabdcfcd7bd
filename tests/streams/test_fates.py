"""What becomes of every row that a request names, against loops over rows; and what selectors joined by & mean."""

from __future__ import annotations

import numpy as np
import pytest

import cljax
from cljax import UsageError, streams
from cljax.streams import fates


def by_hand(stream, at):
  """``{row: fate}`` by loops over the rows."""
  split, out = stream.dataset.train, {}
  names = lambda event, row: split.id[row] in event.ids
  learned = {e.task for e in stream.events[:at] if isinstance(e, cljax.Learn)}
  for row in range(len(split.id)):
    if not names(stream.events[at], row):
      continue
    before = any(isinstance(e, cljax.Forget) and names(e, row) for e in stream.events[:at])
    shown = {t for t in range(stream.num_tasks) if row in stream.train[t]}
    if before:
      out[row] = "already gone"
    elif shown & learned:
      out[row] = "forgotten"
    elif shown:
      out[row] = "not yet learned"
    else:
      out[row] = "held out" if any(row in v for v in stream.validation) else "never trained"
  return out


@pytest.mark.parametrize("kind", ["class", "permuted"])
def test_every_row_that_is_named_has_one_fate(dataset, kind):
  """Of requests for any rows: learned, to be learned, held out, left out by ``rows``, asked for before."""
  ids = dataset.train.id
  rng = np.random.default_rng(0)
  first, second = (tuple(int(i) for i in rng.choice(ids, 40, replace=False)) for _ in range(2))
  asked = [(1, cljax.Forget(ids=first)), (2, cljax.Forget(ids=second))]
  stream = streams.build(dataset, kind, tasks=2, validation=0.25, rows=72, forget=asked)
  seen = set()
  for at, event in enumerate(stream.events):
    if isinstance(event, cljax.Forget):
      found = {int(r): name for name, rows in fates.fates(stream, at).items() for r in rows}
      assert found == by_hand(stream, at)
      assert {int(ids[r]) for r in found} == set(event.ids)
      seen |= set(found.values())
  assert seen == set(fates.FATES) - ({"not yet learned"} if kind == "permuted" else set())


def test_a_request_for_a_task_names_what_it_held_out_too(dataset):
  stream = streams.build(dataset, "class", tasks=2, validation=0.25, forget="1:task=0")
  told = fates.fates(stream, 1)
  assert set(told) == {"forgotten", "held out"}
  assert set(told["forgotten"]) == set(stream.train[0])
  assert set(told["held out"]) == set(stream.validation[0])


def test_a_row_that_another_task_still_shows_went_in_part(dataset):
  stream = streams.build(dataset, "permuted", tasks=2, validation=0, forget="2:task=0")
  rows = stream.train[0]
  assert set(fates.partly(stream, 2, rows)) == set(rows)
  whole = streams.build(dataset, "permuted", tasks=2, validation=0, forget="2:task=0; 2:task=1")
  assert len(fates.partly(whole, 3, rows)) == 0


def test_selectors_joined_by_and_mean_what_all_of_them_name():
  ids = lambda text: streams.parse_request(text).ids
  assert ids("ids=1-10&ids=5-20") == tuple(range(5, 11))
  assert ids("ids=1-10+ids=5-20") == (*range(1, 11), *range(5, 21))
  assert streams.parse_request("group=1,2&class=3&group=2").groups == (2,)
  for text, message in (
    ("ids=1-4&ids=5-9", "names no rows: its ids have none in common"),
    ("class=1&class=2", "gives class= twice with &"),
  ):
    with pytest.raises(UsageError, match=message):
      streams.parse_request(text)


@pytest.mark.parametrize("text", ["ids=40-20,50", "ids=0-999999999", "ids=5,9-2"])
def test_ranges_that_descend_or_are_endless_are_one_line(text):
  with pytest.raises(UsageError, match=r"^forget request: the range [0-9]+-[0-9]+ in .* must ascend and hold at most"):
    streams.parse_request(text)


def test_unknown_rows_are_refused_before_training(dataset):
  with pytest.raises(UsageError, match=r"row id 77777 is not in the training data"):
    streams.build(dataset, "class", tasks=2, forget=[(1, cljax.Forget(ids=(int(dataset.train.id[0]), 77777)))])


def test_events_are_told_as_requests_count(dataset):
  stream = streams.build(dataset, "class", tasks=2, forget="1:class=0; 2:class=1")
  assert [fates.moment(stream, at) for at in range(5)] == [
    "task 0 (event 0)",
    "the request after 1 tasks (event 1)",
    "task 1 (event 2)",
    "the request after 2 tasks (event 3)",
    "the end (event 4)",
  ]
