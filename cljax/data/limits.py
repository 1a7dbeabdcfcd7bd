"""Sizes, estimated before memory is asked for."""

from __future__ import annotations

import os
from pathlib import Path

from cljax.core.types import UsageError

_CGROUPS = (
  ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
  ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)


def available() -> int:
  """Bytes of memory that this process can still get: the machine's, and its control group's where it has a limit."""
  try:
    lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    free = int(lines["MemAvailable"].split()[0]) * 1024
  except (OSError, KeyError, ValueError):
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
  for limit, used in _CGROUPS:
    try:
      free = min(free, int(Path(limit).read_text()) - int(Path(used).read_text()))
    except (OSError, ValueError):
      continue
  return max(free, 0)


def check_memory(what: str, size: int, advice: str) -> None:
  """Refuses what needs ``size`` bytes where there are fewer, in one line with both figures."""
  free = available()
  if size > free:
    raise UsageError(f"{what} needs about {_readable(size)} of memory; {_readable(free)} are free; {advice}")


def _readable(size: int) -> str:
  for unit, scale in (("MiB", 2**20), ("GiB", 2**30)):
    if size < 1024 * scale:
      return f"{size / scale:.1f} {unit}"
  return f"{size // 2**40} TiB" if size < 2**60 else "over a million TiB"
