"""Records of trials that are committed: a line each, with the code that was tried, so that a later run goes on."""

from __future__ import annotations

import csv
import hashlib
import io
import pathlib
from collections.abc import Sequence

from cljax.io import files

ROOT = pathlib.Path(__file__).parent.parent


def code() -> str:
  """The first 12 digits of the SHA-256 of the library's sources."""
  h = hashlib.sha256()
  for path in sorted((ROOT / "cljax").rglob("*.py")):
    h.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes() + b"\0")
  return h.hexdigest()[:12]


def read(path: pathlib.Path) -> list[dict[str, str]]:
  """The lines of a record, none where there is no file."""
  return list(csv.DictReader(io.StringIO(path.read_text()), delimiter="\t")) if path.exists() else []


def add(path: pathlib.Path, fields: Sequence[str], row: dict[str, object]) -> None:
  """Writes the record with one more line, in place of an earlier one of this trial."""
  kept = [r for r in read(path) if r["trial"] != str(row["trial"])]
  rows = sorted([*kept, {k: str(row[k]) for k in fields}], key=lambda r: int(r["trial"]))
  text = io.StringIO()
  writer = csv.DictWriter(text, fields, delimiter="\t", lineterminator="\n")
  writer.writeheader()
  writer.writerows(rows)
  path.parent.mkdir(parents=True, exist_ok=True)
  files.write_text(path, text.getvalue())


def todo(path: pathlib.Path, first: int, count: int) -> list[int]:
  """Those of ``count`` trials from ``first`` on that the record lacks, or has as wrong."""
  done = {int(r["trial"]) for r in read(path) if not r["wrong"]}
  return [n for n in range(first, first + count) if n not in done]


def summary(path: pathlib.Path) -> str:
  rows = read(path)
  mine = sum(r["code"] == code() for r in rows)
  return f"{len(rows)} trials in {path.name} ({mine} of this code), {sum(bool(r['wrong']) for r in rows)} wrong"
