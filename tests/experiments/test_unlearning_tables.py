"""The tables of unlearning are those of the numbers beside them, and the record of kills that of its table."""

from __future__ import annotations

import pytest

from cljax.io import files
from experiments import kill_and_forget, unlearning_tables


@pytest.mark.parametrize("path", sorted(unlearning_tables.FOLDER.glob("*.json")), ids=lambda p: p.stem)
def test_a_table_is_made_of_the_numbers_beside_it(path):
  assert path.with_suffix(".md").read_text() == unlearning_tables.text(files.loads(path.read_bytes()))


def test_the_count_of_kills_goes_on_from_the_record():
  lines = kill_and_forget.read()
  assert len({line["trial"] for line in lines}) == len(lines)
  assert all(line["commit"] for line in lines)
  page = kill_and_forget.PAGE.read_text()
  held = page.partition(kill_and_forget.BEGIN)[2].partition(kill_and_forget.END)[0]
  assert held.strip() == kill_and_forget.table(lines).strip()
  left = kill_and_forget.shared({"er": [9, 5, 1], "derpp": [2, 6]}, 3)
  assert left == {"er": [5, 1], "derpp": [2]}
