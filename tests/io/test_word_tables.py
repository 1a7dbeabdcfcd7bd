"""Tables of words for a terminal and for Markdown."""

from cljax.io import tables

ROWS = [["name", "bytes", "of"], ["er", "12", "x"], ["finetune", "3", ""]]


def test_words_are_aligned_by_column():
  assert tables.aligned(ROWS) == ["name      bytes  of", "er           12   x", "finetune      3"]
  assert tables.aligned(ROWS, 2) == ["name      bytes  of", "er        12      x", "finetune  3"]
  assert tables.aligned(ROWS, None) == ["name      bytes  of", "er        12     x", "finetune  3"]


def test_a_rule_is_as_wide_as_its_column():
  assert tables.aligned(ROWS, None, ruled=True)[1] == "--------  -----  --"
  assert tables.aligned([["a", "bc"]], ruled=True) == ["a  bc", "-  --"]


def test_markdown_has_a_line_for_each_row():
  assert tables.markdown(ROWS[0], ROWS[1:2]) == ["| name | bytes | of |", "| --- | --- | --- |", "| er | 12 | x |"]
