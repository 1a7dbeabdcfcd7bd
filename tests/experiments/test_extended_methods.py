"""The table of what can be extended: whole, as the docs have it, and true of a sample."""

from __future__ import annotations

import pytest

from cljax import methods
from experiments import _page_table
from experiments import extended_methods as table


def test_the_table_of_the_docs_is_whole():
  rows = _page_table.read(table.FILE)
  assert set(rows) == set(methods.METHODS), "run python -m experiments.extended_methods"
  assert table.table(rows) in table.PAGE.read_text()
  assert {row["extends"] for row in rows.values()} <= {table.YES, table.ROOM, table.NO}
  assert all(bool(row["reason"]) == (row["extends"] != table.YES) for row in rows.values())


@pytest.mark.parametrize("name", ["er", "agem", "joint", "dualprompt", "sd_lora"])
def test_a_sample_is_as_the_table_says(name):
  assert table.line(name, table.dataset()) == _page_table.read(table.FILE)[name]
