"""The proof records, which stand beside the tests: scripts that read them need the repository."""

from __future__ import annotations

import pathlib
import sys

ROOT = pathlib.Path(__file__).parent.parent
if str(ROOT / "tests") not in sys.path:
  sys.path.append(str(ROOT / "tests"))

import records  # noqa: E402
from records import check, code  # noqa: E402

__all__ = ["ROOT", "check", "code", "records"]
