"""What runs inside a SLURM job: only light imports, because the job's worker is a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence


class Job:
  """What a job does: starts a worker on its units. At the end of its time it has the worker save, and is requeued.

  submitit pickles it, calls it in the job, and calls ``checkpoint`` from its signal handler.
  """

  def __init__(self, command: Sequence[str], code: str):
    self.command = list(command)
    self.code = code

  def __call__(self) -> int:
    environment = {**os.environ, "PYTHONPATH": self.code}
    self._child = subprocess.Popen([sys.executable, *self.command], cwd=self.code, env=environment)
    code = _wait(self._child.pid)
    if code:
      raise RuntimeError(f"the worker ended with exit code {code}")
    return code

  def checkpoint(self):
    from submitit.helpers import DelayedSubmission

    child = getattr(self, "_child", None)
    if child is not None:
      # The signal may have reached the whole job: asking a worker that has ended does nothing.
      if _ended(child.pid) is None:
        os.kill(child.pid, signal.SIGTERM)
      _wait(child.pid)
    return DelayedSubmission(Job(self.command, self.code))


def _ended(pid: int) -> int | None:
  """The exit code of a child that has ended, left to be asked again (by a signal handler, say); None: it runs."""
  try:
    info = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
  except ChildProcessError:
    return 0
  if info is None:
    return None
  return info.si_status if info.si_code == os.CLD_EXITED else -info.si_status


def _wait(pid: int) -> int:
  while True:
    code = _ended(pid)
    if code is not None:
      return code
    time.sleep(0.1)
