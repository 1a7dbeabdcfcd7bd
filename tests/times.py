"""A pytest plugin that notes what each test costs: ``experiments.suite_times.py`` loads it.

A line of JSON a test in ``$TEST_TIMES/WORKER.jsonl``: its node id, CPU seconds of this process and of those it started
and waited for, and wall seconds.
"""

from __future__ import annotations

import json
import os
import pathlib

import pytest


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
  before = os.times()
  result = yield
  own, started, wall = (
    sum(b - a for a, b in zip(before[i : i + 2], os.times()[i : i + 2], strict=True)) for i in (0, 2, 4)
  )
  place = pathlib.Path(os.environ["TEST_TIMES"]) / f"{os.environ.get('PYTEST_XDIST_WORKER', 'main')}.jsonl"
  with open(place, "a") as file:
    print(json.dumps([item.nodeid, round(own, 3), round(started, 3), round(wall, 3)]), file=file)
  return result
