"""The list of what methods need of a network: whole, as the docs have it, and true of a sample."""

from __future__ import annotations

import pytest

from cljax import methods
from experiments import _page_table
from experiments import model_needs as table
from experiments.extended_methods import dataset


def test_the_list_of_what_methods_need_is_whole():
  rows = _page_table.read(table.FILE)
  assert set(rows) == set(methods.METHODS), "run python -m experiments.model_needs"
  assert table.table(rows) in table.PAGE.read_text()
  assert {row["needs"] for row in rows.values()} <= {*table.KINDS, "none of these"}
  assert all(bool(row["reason"]) == bool(row["needs"]) for row in rows.values())


@pytest.mark.parametrize("name", ["er", "scr", "podnet"])
def test_what_a_sample_needs_is_as_the_list_says(name):
  assert table.line(name, dataset()) == _page_table.read(table.FILE)[name]
