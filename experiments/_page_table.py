"""Tables that an experiment keeps as a file, a line for each method, and shows on a page between two marks."""

from __future__ import annotations

import csv
import io
import pathlib
from collections.abc import Callable, Iterable, Sequence

from cljax.io import files

Rows = dict[str, dict[str, str]]


def read(file: pathlib.Path) -> Rows:
  """``{method: line}``; none where there is no file."""
  if not file.exists():
    return {}
  return {row["method"]: row for row in csv.DictReader(io.StringIO(file.read_text()), delimiter="\t")}


def write(file: pathlib.Path, fields: Sequence[str], rows: Rows) -> None:
  text = io.StringIO()
  writer = csv.DictWriter(text, fields, delimiter="\t", lineterminator="\n")
  writer.writeheader()
  writer.writerows(rows[name] for name in sorted(rows))
  files.write_text(file, text.getvalue())


def show(page: pathlib.Path, mark: str, text: str) -> None:
  """Puts ``text`` between the marks of that name, where the page has them."""
  begin, end, whole = f"<!-- {mark}: begin -->", f"<!-- {mark}: end -->", page.read_text()
  if begin in whole:
    files.write_text(page, f"{whole.partition(begin)[0]}{begin}\n{text}{end}{whole.partition(end)[2]}")


def measured(
  file: pathlib.Path, fields: Sequence[str], names: Iterable[str], line: Callable[[str], dict[str, str]],
  only: Sequence[str], written: Callable[[Rows], None],
) -> Rows:  # fmt: skip
  """The lines of ``names``: those that the file lacks, or that are named in ``only``, are measured and written at once;
  ``written(rows)`` follows each."""
  names = list(names)
  rows = {name: row for name, row in read(file).items() if name in names and name not in only}

  def save() -> None:
    write(file, fields, rows)
    written(rows)

  for name in names:
    if name not in rows and (not only or name in only):
      rows[name] = line(name)
      print("\t".join(rows[name].values()), flush=True)
      save()
  save()
  return rows
