"""The tables of unlearning are those of the numbers beside them, and the record of kills that of its table."""

from __future__ import annotations

import pytest

from cljax.io import files
from experiments import _page_table, kill_and_forget, stay_gone, unlearning_tables


@pytest.mark.parametrize("path", sorted(unlearning_tables.FOLDER.glob("*.json")), ids=lambda p: p.stem)
def test_a_table_is_made_of_the_numbers_beside_it(path):
  assert path.with_suffix(".md").read_text() == unlearning_tables.text(files.loads(path.read_bytes()))


def test_the_count_of_kills_goes_on_from_the_record():
  lines = kill_and_forget.read()
  assert len({line["trial"] for line in lines}) == len(lines)
  assert all(line["commit"] for line in lines)
  assert f"<!-- kills: begin -->\n{kill_and_forget.table(lines)}<!-- kills: end -->" in kill_and_forget.PAGE.read_text()
  left = kill_and_forget.shared({"er": [9, 5, 1], "derpp": [2, 6]}, 3)
  assert left == {"er": [5, 1], "derpp": [2]}


def test_what_every_method_forgot_stays_so():
  """Of each that answers requests, as measured: what was forgotten by half at least does not come back by another
  request, and nothing is left when more was learned."""
  rows = _page_table.read(stay_gone.FILE)
  assert set(rows) == set(stay_gone.asked())
  assert f"<!-- stay_gone: begin -->\n{stay_gone.table(rows)}<!-- stay_gone: end -->" in stay_gone.PAGE.read_text()
  numbers = lambda row: {k: float(v) for k, v in row.items() if k.startswith("gone")}
  measured = {name: numbers(row) for name, row in rows.items() if row["gone_learned"]}
  assert set(rows) == set(measured), "none diverges"
  for name, gone in measured.items():
    assert gone["gone_later"] <= 2, name
    if gone["gone_first"] <= 50:
      assert gone["gone_second"] <= gone["gone_first"] + 2, name
