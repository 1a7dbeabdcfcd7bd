"""What a kill would leave: copies of a folder, made just before chosen changes of the files in it.

A process killed at that moment leaves these files and no others, so each copy is one kill, at the cost of a copy; the
process itself goes on. An audit hook sees every change that Python makes, in any thread (arrays are written by another
library, files at a time, between them).
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import sys
from collections.abc import Callable

from cljax.io import owner

_CHANGES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate", "os.chmod")
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_TRUNC


def copy(folder, into) -> None:
  """The files of a folder as they are now; those that another thread takes away meanwhile are left out, and so is who
  holds it: the holder of the copy would be dead."""
  folder, into = os.fspath(folder), os.fspath(into)
  for place, inside, names in os.walk(folder):  # passes over what is gone when it comes there
    inside[:] = [name for name in inside if name != owner.HIDDEN]
    target = os.path.join(into, os.path.relpath(place, folder))
    os.makedirs(target, exist_ok=True)
    for name in names:
      with contextlib.suppress(FileNotFoundError):
        content = pathlib.Path(place, name).read_bytes()
        pathlib.Path(target, name).write_bytes(content)


class Images:
  """``watch(folder, into, wanted)``: before the n-th change below ``folder`` a copy goes to ``into/n`` where
  ``wanted(n)``; until ``rest()``, ``count`` changes."""

  def __init__(self):
    self.folder = ""
    self.count = 0
    sys.addaudithook(self._hear)

  def watch(self, folder, into, wanted: Callable[[int], bool]) -> None:
    self.count, self.into, self.wanted = 0, pathlib.Path(into), wanted
    self.folder = os.path.abspath(os.fspath(folder)) + os.sep

  def rest(self) -> int:
    self.folder = ""
    return self.count

  def _hear(self, event: str, args) -> None:
    if not self.folder:
      return
    if event == "open":
      path, mode, flags = args
      changes = any(c in mode for c in "wax+") if isinstance(mode, str) else bool((flags or 0) & _WRITES)
    else:
      path, changes = (args[0], True) if event in _CHANGES else ("", False)
    if not changes or not isinstance(path, str | bytes | os.PathLike):
      return
    path = os.fsdecode(path)
    if not path.startswith(self.folder) and not (event in ("os.remove", "os.rmdir") and os.sep not in path):
      return  # a bare name is one inside an open folder: how trees are removed
    self.count += 1
    if self.wanted(self.count):
      copy(self.folder, self.into / str(self.count))
