"""The line of a user's own code that asked for something: the nearest frame outside of this package."""

from __future__ import annotations

import os
import sys
import types
import warnings

_OWN = os.path.dirname(__file__) + os.sep


def frame() -> types.FrameType | None:
  """The nearest frame that is neither of this package nor of Python's import system; None where there is none."""
  found: types.FrameType | None = sys._getframe()
  while found and (found.f_code.co_filename.startswith(_OWN) or "importlib" in found.f_code.co_filename):
    found = found.f_back
  return found


def place() -> str:
  """Its file and line: ``'my_method.py, line 22'``; '' where there is none."""
  found = frame()
  return f"{found.f_code.co_filename}, line {found.f_lineno}" if found else ""


def warn(text: str, kind: type[Warning] = UserWarning) -> None:
  """Warns there, however many frames of ours lie between, so that Python shows that line, once."""
  found = frame()
  if found is None:
    warnings.warn(text, kind, stacklevel=2)
    return
  where = found.f_globals
  registry = where.setdefault("__warningregistry__", {})
  warnings.warn_explicit(text, kind, found.f_code.co_filename, found.f_lineno, where.get("__name__"), registry)
