"""Metric writers: anything with ``write(dict)`` and ``close()``; here, lines of JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
from etils import epath

DEEPEST = 100  # of brackets inside brackets: more than anything written here has, less than Python's recursion takes


class Writer(Protocol):
  """Where the messages of a run go. ``write`` may be called with any JSON-like dict; ``close`` is called once."""

  def write(self, row: Mapping[str, Any]) -> None: ...

  def close(self) -> None: ...


class JsonLines:
  """Appends one line a row to ``path``; each line is flushed, so that a killed run loses at most the row in hand."""

  def __init__(self, path):
    self.path = epath.Path(path)
    self._file: Any = None

  def write(self, row: Mapping[str, Any]) -> None:
    if self._file is None:
      self.path.parent.mkdir(parents=True, exist_ok=True)
      self._file = self.path.open("a")
    self._file.write(dumps(row) + "\n")
    self._file.flush()

  def keep(self, wanted: Callable[[dict], bool]) -> None:
    """Drops the rows for which ``wanted`` is false, and a torn last line; the file is replaced whole."""
    self.close()
    rows = read_lines(self.path)
    write_text(self.path, "".join(dumps(r) + "\n" for r in rows if wanted(r)))

  def close(self) -> None:
    if self._file is not None:
      self._file.close()
      self._file = None


def dumps(value, **how) -> str:
  """JSON of plain and NumPy values. NaN and infinity, which JSON lacks, become null."""
  return json.dumps(_plain(value), allow_nan=False, **how)


def loads(text: str | bytes) -> Any:
  """``json.loads``; whatever cannot be read is a ValueError, brackets nested deeper than DEEPEST too."""
  try:
    found = json.loads(text)
  except RecursionError:
    raise ValueError("nested too deeply") from None
  level = [found]
  for _ in range(DEEPEST):
    children = (v.values() if isinstance(v, dict) else v for v in level if isinstance(v, dict | list))
    level = [c for each in children for c in each if isinstance(c, dict | list)]
    if not level:
      return found
  raise ValueError("nested too deeply")


def _plain(value):
  if isinstance(value, Mapping):
    return {str(k): _plain(v) for k, v in value.items()}
  if isinstance(value, list | tuple):
    return [_plain(v) for v in value]
  if isinstance(value, np.ndarray):
    return _plain(value.tolist())
  if isinstance(value, np.generic):
    return _plain(value.item())
  if isinstance(value, float) and not np.isfinite(value):
    return None
  return value


def read_lines(path) -> list[dict]:
  """The rows of a file of JSON lines; none where there is no file. What is no row, such as the torn last line of a
  killed writer, is passed over."""
  return [row for row in numbered_rows(path) if row is not None]


def numbered_rows(path) -> list[dict | None]:
  """What each line of a file of JSON lines holds, None for one that is no row; blank lines are left out."""
  path = epath.Path(path)
  out: list[dict | None] = []
  for line in path.read_bytes().split(b"\n") if path.exists() else ():
    if not line.strip():
      continue
    try:
      row = loads(line)
    except ValueError:
      row = None
    out.append(row if isinstance(row, dict) else None)
  return out


def write_text(path, text: str) -> None:
  """Writes a file whole or not at all: under a temporary name, then renamed."""
  write_bytes(path, text.encode())


def write_bytes(path, content: bytes) -> None:
  """As :func:`write_text`, for bytes."""
  path = epath.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = path.parent / f".{path.name}.{os.getpid()}"
  try:
    with temporary.open("wb") as f:
      f.write(content)
      f.flush()
      if hasattr(f, "fileno"):
        os.fsync(f.fileno())
    temporary.replace(path)
  except BaseException:
    temporary.unlink(missing_ok=True)
    raise
