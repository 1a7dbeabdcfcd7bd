"""Where units run: in this process, or in worker processes of this machine (``_slurm``: on a cluster)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence

from etils import epath

from cljax import Stopped
from cljax.cli import _environment
from cljax.cli.sweeps import _plan, _units
from cljax.cli.sweeps._plan import Unit
from cljax.io import owner as _owner


def command(workdir: epath.Path, names: Sequence[str], cache: str) -> list[str]:
  """The command line of a worker."""
  worker = [sys.executable, "-m", "cljax.cli.sweeps.worker", f"--workdir={os.fspath(workdir)}"]
  return [*worker, f"--compilation_cache={cache}", f"--units={','.join(names)}"]


def local(workdir: epath.Path, units: Sequence[Unit], workers: int, cache: str, stop: Callable[[], bool]) -> None:
  """Runs units in ``workers`` processes, each with its share of the cores; the units' folders say how they ended.

  A worker that dies is told and replaced; a unit that failed or killed two of them is left alone for this launch, by
  those that run already too. Raises Stopped after all have saved.
  """
  launch = uuid.uuid4().hex
  environment = {**_environment.of_worker(workers), _owner.LAUNCH: launch}
  running: list[subprocess.Popen] = []
  told = False

  def start() -> None:
    wanted = [u.name for u in units if not _owner.given_up(workdir / "groups" / u.name, launch)]
    running.append(subprocess.Popen(command(workdir, wanted, cache), env=environment, stdin=subprocess.DEVNULL))

  try:
    for _ in range(min(workers, len(units))):
      start()
    while running:
      time.sleep(0.05)
      if stop() and not told:
        told = True
        for process in running:
          process.send_signal(signal.SIGTERM)
      for process in [p for p in running if p.poll() is not None]:
        running.remove(process)
        if process.returncode in (0, 1, 2) or told:
          continue
        _report_dead_worker(process, workdir, units, launch)
        if any(not _ended(workdir, u, launch) for u in units):
          start()
  finally:
    for process in running:
      process.kill()
      process.wait()
  if told:
    raise Stopped("stopped all workers")


def _ended(workdir: epath.Path, unit: Unit, launch: str) -> bool:
  return _owner.given_up(workdir / "groups" / unit.name, launch) or _plan.finished(workdir, unit)


def _report_dead_worker(process: subprocess.Popen, workdir: epath.Path, units: Sequence[Unit], launch: str) -> None:
  """Tells of a worker's death, and of the unit that it worked on.

  Another worker may have taken that unit over, or even finished it, since: the owners' history has it.
  """
  code = process.returncode
  how = f"by signal {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
  at = ""
  for unit in units:
    folder = workdir / "groups" / unit.name
    if process.pid in _owner.deaths(folder, launch):
      rest = "is given up" if _owner.given_up(folder, launch) else "goes on from its last checkpoint"
      at = f" in {unit.label}, which {rest}"
  _units.say(f"died: worker {process.pid} {how}{at}")


def outcome(workdir: epath.Path, units: Sequence[Unit], held: Mapping[str, str]) -> int:
  """Tells of the units that others still work on; returns how many of the rest have not finished."""
  failed = 0
  for unit in units:
    if _plan.finished(workdir, unit):
      continue
    folder = workdir / "groups" / unit.name
    holder = held.get(unit.name) or _owner.holder(folder)
    if not (folder / "unit.json").exists():
      _units.say(f"skipped: {unit.label}: another process has planned its runs anew")
    elif holder:
      _units.say(f"skipped: {unit.label}: held by {holder}; run the same command again to collect it")
    else:
      failed += 1
  return failed
