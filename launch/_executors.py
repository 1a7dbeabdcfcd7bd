"""Where units run: in this process, or in worker processes of this machine (``launch._slurm``: on a cluster)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence

from etils import epath

from cljax import Stopped
from launch import _environment, _owner, _plan, _units
from launch._plan import Unit

_DEATHS = 2  # of processes that worked on a unit, after which it is given up for this launch


def command(workdir: epath.Path, names: Sequence[str], cache: str) -> list[str]:
  """The command line of a worker."""
  worker = [sys.executable, "-m", "launch._worker", f"--workdir={os.fspath(workdir)}", f"--compilation_cache={cache}"]
  return [*worker, f"--units={','.join(names)}"]


def local(workdir: epath.Path, units: Sequence[Unit], workers: int, cache: str, stop: Callable[[], bool]) -> None:
  """Runs units in ``workers`` processes, each with its share of the cores; the units' folders say how they ended.

  A worker that dies is told and replaced. Raises Stopped after all have saved.
  """
  environment = _environment.of_worker(workers)
  deaths = dict.fromkeys((u.name for u in units), 0)
  running: list[subprocess.Popen] = []
  told = False

  def start() -> None:
    wanted = [name for name, count in deaths.items() if count < _DEATHS]
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
        _mourn(process, workdir, units, deaths)
        if any(count < _DEATHS and not _ended(workdir, u) for u, count in zip(units, deaths.values(), strict=True)):
          start()
  finally:
    for process in running:
      process.kill()
      process.wait()
  if told:
    raise Stopped("stopped all workers")


def _ended(workdir: epath.Path, unit: Unit) -> bool:
  record = _owner.latest(workdir / "groups" / unit.name)[1] or {}
  return record.get("left") == "failed" or _plan.finished(workdir, unit)


def _mourn(process: subprocess.Popen, workdir: epath.Path, units: Sequence[Unit], deaths: dict[str, int]) -> None:
  """Tells of a worker's death, and counts it for the unit that it worked on."""
  code = process.returncode
  how = f"by signal {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
  at = ""
  for unit in units:
    record = _owner.latest(workdir / "groups" / unit.name)[1] or {}
    if record.get("pid") == process.pid and not record.get("left"):
      deaths[unit.name] += 1
      rest = "given up" if deaths[unit.name] >= _DEATHS else "goes on from its last checkpoint"
      at = f" in {unit.label}, which {rest if deaths[unit.name] < _DEATHS else 'is ' + rest}"
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
