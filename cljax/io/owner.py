"""Who works on a folder: a file that exactly one process can create, and how to tell that its maker is gone.

A folder's owners are ``owner.1.json``, ``owner.2.json``, ...; the last one counts. Taking over from a dead owner is
creating the next number, which succeeds for one process only, so there is no moment at which two believe they hold it.
The files of a sweep's folders stay: they are its history.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import pathlib
import re
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from cljax.core.types import CljaxError, UsageError

LAUNCH = "CLJAX_LAUNCH"  # names the launcher that started this process, and stands in the owners' files
DEATHS = 2  # of a launch's processes that worked on a folder, after which none of them takes it up again
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK)
# States in which a SLURM job has processes; a requeued job that waits has none.
_WITHOUT = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT")
ENDED = (
  "CANCELLED",
  "COMPLETED",
  "FAILED",
  "TIMEOUT",
  "PREEMPTED",
  "NODE_FAIL",
  "BOOT_FAIL",
  "DEADLINE",
  "OUT_OF_MEM",
)


HIDDEN = ".owner"  # where the owners' files of a folder lie that is not a sweep's
_MINE: dict[str, int] = {}  # folders that this process holds, and the thread that took them


class HeldError(CljaxError):
  """The folder is worked on by another process, which lives."""


class Owner(NamedTuple):
  """A folder that this process holds: its file and what the file says."""

  path: pathlib.Path
  record: dict[str, Any]

  def leave(self, how: str, **more) -> None:
    """Gives the folder up; ``how`` is 'finished', 'stopped' or 'failed'."""
    _MINE.pop(os.path.realpath(self.path.parent), None)
    text = json.dumps({**self.record, "left": how, "until": _now(), **more})
    temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}")
    try:
      temporary.write_text(text)
      temporary.replace(self.path)
    except OSError:
      # A full disk has no room for why, but the folder is given up all the same.
      temporary.unlink(missing_ok=True)
      self.path.unlink(missing_ok=True)


class Held(NamedTuple):
  """A folder that a live process holds."""

  record: Mapping[str, Any]

  def __str__(self) -> str:
    job = self.record.get("array") or self.record.get("job")
    who = f"SLURM job {job} on" if job else f"process {self.record.get('pid')} on"
    return f"{who} {self.record.get('host')} since {self.record.get('since')}"


def take(folder) -> Owner | Held | None:
  """Makes this process the folder's owner, in the place of a dead one, or says who it is that lives.

  None where the processes of this launch let the folder be (:func:`given_up`).
  """
  folder = pathlib.Path(folder)
  number, record = latest(folder)
  if record is not None and lives(record):
    return Held(record)
  # The records so far are final; who adds one now takes the number that is ours to create.
  if given_up(folder, os.environ.get(LAUNCH, "")):
    return None
  path = folder / f"owner.{number + 1}.json"
  mine = myself()
  try:
    _create(path, json.dumps(mine))
  except FileExistsError:
    return Held(latest(folder)[1] or {})
  newest, record = latest(folder)
  if newest != number + 1:  # others came and went since we looked, and have cleared away the file of our number
    path.unlink(missing_ok=True)
    return Held(record or {})
  _MINE[os.path.realpath(folder)] = threading.get_ident()
  return Owner(path, mine)


@contextlib.contextmanager
def holding(folder) -> Iterator[None]:
  """Makes the folder this process's for as long as the block runs; inside such a block, of the same thread, nothing.

  Raises HeldError, one line that names the holder, where another process works on it; one that died is followed. In an
  object store, which has no exclusive files, it does nothing.
  """
  text = os.fspath(folder)
  place = os.path.join(text, HIDDEN)
  mine = lambda path: _MINE.get(os.path.realpath(path)) == threading.get_ident()
  if "://" in text or mine(text) or mine(place):
    yield
    return
  try:
    os.makedirs(place, exist_ok=True)
    owner = holder(text) or take(place)  # the folder of a sweep's population has its owner in it
    for _ in range(100):  # who was in front of us may have left meanwhile
      if not isinstance(owner, Held) or lives(owner.record):
        break
      owner = take(place)
  except OSError as error:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
      raise
    raise UsageError(
      f"workdir: cannot write to {text}: {error.strerror or error}; expected a writable folder"
    ) from error
  if not isinstance(owner, Owner):
    here = isinstance(owner, Held) and owner.record.get("host") == socket.gethostname()
    gone = "" if here or owner is None else f"; if that is gone for good, remove {place}"
    raise HeldError(f"workdir: {text} is worked on by {owner or 'another process'}; wait until it has ended{gone}")
  how = "failed"
  try:
    yield
    how = "finished"
  finally:
    owner.leave(how)
    for number in _numbers(place):  # nobody counts these
      if number < int(owner.path.name.split(".")[1]):
        owner.path.with_name(f"owner.{number}.json").unlink(missing_ok=True)


def latest(folder) -> tuple[int, dict[str, Any] | None]:
  """``(number, record)`` of the newest owner, ``(0, None)`` where there is none; an unreadable record is empty."""
  numbers = _numbers(folder)
  if not numbers:
    return 0, None
  return numbers[-1], _read(pathlib.Path(folder) / f"owner.{numbers[-1]}.json")


def history(folder) -> list[dict[str, Any]]:
  """The records of all owners, oldest first."""
  return [_read(pathlib.Path(folder) / f"owner.{n}.json") for n in _numbers(folder)]


def deaths(folder, launch: str) -> list[int]:
  """The numbers of the processes of a launch that died while they held the folder, oldest first.

  Whoever took the folder over from one of them changes nothing: its own record stays.
  """
  mine = [r for r in history(folder) if launch and r.get("launch") == launch and not r.get("left")]
  return [r["pid"] for r in mine if not lives(r)]


def given_up(folder, launch: str) -> bool:
  """Whether the processes of a launch let a folder be: it failed in one of them, or killed DEATHS of them."""
  failed = any(launch and r.get("launch") == launch and r.get("left") == "failed" for r in history(folder))
  return failed or len(deaths(folder, launch)) >= DEATHS


def _numbers(folder) -> list[int]:
  found = [re.fullmatch(r"owner\.([0-9]{1,9})\.json", p.name) for p in pathlib.Path(folder).glob("owner.*.json")]
  return sorted(int(f[1]) for f in found if f)


def holder(folder) -> Held | None:
  """The live process that holds the folder, or None."""
  record = latest(folder)[1]
  return Held(record) if record is not None and lives(record) else None


def _read(path: pathlib.Path) -> dict[str, Any]:
  try:
    record = json.loads(path.read_text())
  except (OSError, ValueError, RecursionError):
    return {}
  whole = lambda name: isinstance(record.get(name, 0), int)
  return record if isinstance(record, dict) and whole("pid") and whole("restart") else {}


def _create(path: pathlib.Path, text: str) -> None:
  """Creates the file, whole at once; FileExistsError where there is one."""
  temporary = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}")
  try:
    temporary.write_text(text)
    try:
      os.link(temporary, path)
    except OSError as error:
      if error.errno not in _NO_LINKS:
        raise
      handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
      try:
        os.write(handle, text.encode())
      finally:
        os.close(handle)
  finally:
    temporary.unlink(missing_ok=True)


def _now() -> str:
  return time.strftime("%Y-%m-%d %H:%M:%S")


def myself() -> dict[str, Any]:
  """This process as it stands in an owner's file."""
  record: dict[str, Any] = {
    "host": socket.gethostname(),
    "pid": os.getpid(),
    "start": started(os.getpid()),
    "since": _now(),
  }
  if os.environ.get(LAUNCH):
    record["launch"] = os.environ[LAUNCH]
  if "SLURM_JOB_ID" in os.environ:
    record["job"] = os.environ["SLURM_JOB_ID"]
    record["restart"] = int(os.environ.get("SLURM_RESTART_COUNT", 0))
    if "SLURM_ARRAY_JOB_ID" in os.environ:
      record["array"] = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ.get('SLURM_ARRAY_TASK_ID', '')}"
  return record


def started(pid: int) -> str:
  """When a process of this machine was started, in a form to compare; '' where there is no such process.

  A number alone does not name a process: it is given out again, and begins anew when the machine does.
  """
  try:
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    # Field 3 is the state: a zombie has ended; field 22 the start time in clock ticks since the machine's start.
    return "" if fields[0] in "ZX" else f"{boot}:{fields[19]}"
  except FileNotFoundError:
    if os.path.isdir("/proc/self"):
      return ""
  except OSError:
    return ""
  found = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
  return found.stdout.strip()


def lives(record: Mapping[str, Any]) -> bool:
  """Whether the process of a record still runs; where that cannot be told (another machine, no scheduler), True."""
  if not record or record.get("left"):
    return False
  if record.get("host") == socket.gethostname():
    return bool(record.get("start")) and started(record.get("pid", 0)) == record["start"]
  job = record.get("job")
  if not job:
    return True
  if job == os.environ.get("SLURM_JOB_ID") and record.get("restart") != int(os.environ.get("SLURM_RESTART_COUNT", 0)):
    return False
  state = job_state(str(job))
  return state is None or (state[0] not in ("", *_WITHOUT) and state[1] <= record.get("restart", 0))


def job_state(job: str) -> tuple[str, int] | None:
  """``(state, restarts)`` of a SLURM job by ``squeue``; state '' where it has left the queue, None: cannot be told."""
  command = ["squeue", "--noheader", f"--jobs={job}", "--states=all", "--Format=State:30,RestartCnt:10"]
  try:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
  except (OSError, subprocess.TimeoutExpired):
    return None
  if done.returncode:
    return ("", 0) if "Invalid job id" in done.stderr else None
  words = done.stdout.split()
  if not words or words[0].startswith(ENDED):
    return "", 0
  return words[0], int(words[1]) if len(words) > 1 and words[1].isdigit() else 0
