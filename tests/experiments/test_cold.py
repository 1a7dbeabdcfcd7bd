"""The benchmark of a sweep's start: what its parts rest on."""

from __future__ import annotations

import os
import sys

import pytest

from experiments.benchmarks import _cold_probe, cold
from experiments.benchmarks._cold_probe import Interval


def test_of_nested_intervals_the_innermost_counts():
  # A trace with a trace inside, and a compilation inside training that reads its cache.
  found = [
    Interval("trace", 1, 2), Interval("trace", 0, 4), Interval("train", 5, 11), Interval("compile", 6, 9),
    Interval("read", 7, 8), Interval("train", 12, 13),
  ]  # fmt: skip
  assert _cold_probe.exclusive(found) == {"trace": 4, "train": 4, "compile": 2, "read": 1}
  assert _cold_probe.exclusive([Interval("a", 0, 2), Interval("b", 1, 2.5), Interval("c", 3, 4)]) == {
    "a": 1, "b": 1, "c": 1,
  }, "an inner one that ends late by the clock is cut"  # fmt: skip
  assert _cold_probe.exclusive([]) == {}
  assert set(_cold_probe.EVENTS.values()) <= set(_cold_probe.PARTS)


def test_the_clock_stops_at_the_last_line_of_the_table():
  code = "import time; print('mean ± x', flush=True); time.sleep(0.2)"
  found = cold.start([sys.executable, "-c", code], {**os.environ, "PYTHONIOENCODING": "utf8"})
  assert 0 < found.table < found.end - 0.19
  assert found.cpu > 0
  with pytest.raises(RuntimeError, match="exit code 3: no luck"):
    cold.start([sys.executable, "-c", "import sys; print('no luck', file=sys.stderr); sys.exit(3)"], dict(os.environ))


def test_rows_keep_the_main_thread_and_the_others_apart():
  start = cold.Start(2.0, 3.0, 4.0)
  part = {"main": {"compile": 1.0, "rest": 0.5}, "others": {"compile": 0.25}}
  rows = {
    r["what"].strip(): r
    for r in cold.rows_of(
      [{"empty": start, "warm": start}],
      [{"empty": start, "warm": start._replace(table=1.0)}],
      [{"empty": part, "warm": part}],
    )
  }
  assert rows["start to table, s"]["empty cache"] == 2
  assert rows["start to table, s"]["warm target"] == "4"
  assert rows["start to table, s, two workers"]["warm cache"] == 1
  found = rows[_cold_probe.PARTS["compile"]]
  assert (found["warm cache"], found["warm [quartiles]"]) == (1.0, "+ 0.25 beside")
