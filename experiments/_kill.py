"""Killing a launcher and all that it started, at a moment told by its own progress."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable


def kill_after(process: subprocess.Popen, lines: Callable[[], int], at_line: int, delay: float) -> bool:
  """SIGKILL to the process group ``delay`` seconds after ``at_line`` lines were written; False where it had ended."""
  while process.poll() is None and lines() < at_line:
    time.sleep(0.002)
  time.sleep(delay)
  if process.poll() is not None:
    return False
  os.killpg(process.pid, signal.SIGKILL)
  process.communicate()
  return True
