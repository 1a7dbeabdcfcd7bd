"""The page of forget methods at their defaults is of its measured tables, whole, and says why a row fails."""

from __future__ import annotations

import pytest

from cljax import methods
from experiments import _page_table, forget_defaults, frozen_ntk

PAGE = forget_defaults.PAGE.read_text()
TABLES = {name: _page_table.read(forget_defaults.FOLDER / f"{name}.tsv") for name in forget_defaults.SETTINGS}
OF_A_CLASS = ("class_mlp", "class_cnn")


def shown(mark: str) -> str:
  return PAGE.partition(f"<!-- {mark}: begin -->\n")[2].partition(f"<!-- {mark}: end -->")[0]


@pytest.mark.parametrize("setting", TABLES)
def test_the_page_is_of_the_measured_tables(setting):
  assert shown(setting) == forget_defaults.table(TABLES[setting], setting)


@pytest.mark.parametrize("setting", TABLES)
def test_every_method_that_answers_requests_has_a_row(setting):
  asked = {n for n, e in methods.METHODS.items() if e.access.forgets} - set(forget_defaults.APART)
  assert set(TABLES[setting]) == asked | {"original", "retrained"}
  for name, row in TABLES[setting].items():
    assert row["forget"] or row["why"], name
    if row["forget"]:
      assert all(0 <= float(row[side]) <= 100 for side in ("forget", "retain", "test")), name


@pytest.mark.parametrize("setting", OF_A_CLASS)
def test_a_row_that_does_nothing_or_destroys_says_why(setting):
  rows = TABLES[setting]
  least = float(rows["retrained"]["retain"]) - 10
  for name, row in rows.items():
    if name in ("original", "retrained"):
      continue
    fails = not row["forget"] or float(row["forget"]) > 50 or float(row["retain"]) < least - 1e-9
    assert fails is (f"\n- `{name}` " in shown(setting)), name
    if fails:
      assert forget_defaults.REASONS.get(name) or row["why"], name


def test_a_reason_is_of_a_method_that_fails_somewhere():
  assert set(forget_defaults.REASONS) <= {n for s in OF_A_CLASS for n in forget_defaults.failing(TABLES[s])}


def test_the_frozen_backbone_s_table_is_the_measured_one():
  rows = _page_table.read(frozen_ntk.FILE)
  names = [f"{which}/{row}" for which in frozen_ntk.BACKBONES for row in frozen_ntk.ROWS]
  assert set(rows) == set(names)
  assert shown("frozen_ntk") == frozen_ntk.table({name: rows[name] for name in names})
