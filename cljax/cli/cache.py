"""Lists and clears the folder of compiled programs.

``python -m launch.cache [--compilation_cache=DIR] [--clear] [--days=N]``

Without ``--clear`` only lists: how many programs, their size, when they were last used. ``--days=N`` clears those that
no run took for so long. A launcher that starts drops the oldest itself where the folder holds more than
``$CLJAX_CACHE_BYTES`` (2 GiB; 0 for no limit). Clearing loses nothing but the time to compile again.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from typing import NamedTuple

from absl import flags as absl_flags

from cljax import UsageError
from cljax.cli import _environment, _shared

DAY = 86_400.0


class Listed(NamedTuple):
  """A program of the folder: the name of the function that was compiled, bytes, seconds since it was last read."""

  name: str
  size: int
  unused: float


def listed(folder: str, now: float) -> list[Listed]:
  """The programs of a folder, the latest first."""
  found = [Listed(p.name.rsplit("-", 2)[0], p.size, now - p.used) for p in _environment.programs(folder)]
  return sorted(found, key=lambda p: p.unused)


def _ago(seconds: float) -> str:
  days = seconds / DAY
  return f"{days:.0f} days ago" if days >= 2 else f"{seconds / 3600:.1f} hours ago"


def summary(folder: str, found: list[Listed], largest: int = 5) -> str:
  """What the folder holds, in a few lines."""
  if not found:
    return f"{folder}: no compiled programs"
  total = sum(p.size for p in found)
  lines = [
    f"{folder}: {len(found)} compiled programs, {total / 2**20:.1f} MiB; used between {_ago(found[-1].unused)} and "
    f"{_ago(found[0].unused)}",
    "the largest:",
  ]
  for p in sorted(found, key=lambda p: -p.size)[:largest]:
    lines.append(f"  {p.size / 2**20:7.2f} MiB  {p.name}  {_ago(p.unused)}")
  return "\n".join(lines)


def _cache(argv: Sequence[str], stop: _shared.Stop) -> int:
  """The program, with errors as exceptions; returns the exit code."""
  del stop
  values = absl_flags.FlagValues()
  absl_flags.DEFINE_string("compilation_cache", "", "Folder; default: that of the launchers.", flag_values=values)
  absl_flags.DEFINE_bool("clear", False, "Delete the compiled programs.", flag_values=values)
  absl_flags.DEFINE_float("days", 0.0, "With --clear: only what was not used for so many days.", flag_values=values)
  _shared.parse(argv, values, __doc__ or "")
  if values.days < 0:
    raise UsageError(f"days: got {values.days:g}; expected at least 0")
  if values.days and not values.clear:
    raise UsageError("days: given without --clear")
  # The variable as it stands: JAX takes it so, a ~ that no shell has replaced included.
  theirs = "" if values.compilation_cache else os.environ.get("JAX_COMPILATION_CACHE_DIR", "")
  folder = theirs or os.path.expanduser(values.compilation_cache or _environment.CACHE)
  if values.compilation_cache and not _environment.remote(folder) and not os.path.isdir(folder):
    raise UsageError(f"compilation_cache: no folder {folder}")
  if _environment.remote(folder):
    raise UsageError(f"compilation_cache: got {folder!r}; only folders of this machine are listed and cleared")
  now = time.time()
  if values.clear:
    gone = _environment.drop(p for p in _environment.programs(folder) if now - p.used >= values.days * DAY)
    print(f"{folder}: {len(gone)} compiled programs deleted, {sum(p.size for p in gone) / 2**20:.1f} MiB")
  else:
    print(summary(folder, listed(folder, now)))
  return 0


def main(argv: Sequence[str] | None = None) -> int:
  """Runs with the given arguments (program name first; default ``sys.argv``) and returns the exit code."""
  return _shared.guarded(_cache, list(sys.argv if argv is None else argv))


if __name__ == "__main__":
  sys.exit(main())
