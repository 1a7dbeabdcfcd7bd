"""Units as jobs of a SLURM cluster, by submitit: arrays, requeued when their time is up, on code that stays put."""

from __future__ import annotations

import contextlib
import difflib
import io
import os
import pathlib
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from typing import Any

from etils import epath

from cljax import Stopped, UsageError
from cljax.cli import _workdir
from cljax.cli._config import Override
from cljax.cli.sweeps import _executors, _plan, _units
from cljax.cli.sweeps._plan import Unit
from cljax.cli.sweeps._slurm_job import Job
from cljax.io import files
from cljax.io import owner as _owner

PACKAGES = ("cljax", "launch", "experiments")
_TIMEOUTS = 1000  # a job is requeued as often as its time is up


def array_limit() -> int:
  """The most jobs that one array of this cluster may have."""
  try:
    done = subprocess.run(["scontrol", "show", "config"], capture_output=True, text=True, timeout=60, check=False)
  except (OSError, subprocess.TimeoutExpired) as error:
    raise UsageError(f"executor: scontrol cannot be run: {error}; expected a SLURM cluster") from None
  for line in done.stdout.splitlines():
    key, _, value = line.partition("=")
    if key.strip() == "MaxArraySize" and value.strip().isdigit():
      return max(1, int(value))
  why = (done.stderr.strip().splitlines() or ["it gave no MaxArraySize"])[0]
  raise UsageError(f"executor: 'scontrol show config' failed: {why}")


def snapshot(workdir: epath.Path, config: str) -> pathlib.Path:
  """``workdir/code``: the packages and the configuration file as they were when the sweep was first submitted."""
  code = pathlib.Path(os.fspath(workdir)).absolute() / "code"
  root = pathlib.Path(__file__).resolve().parents[3]
  if code.exists():
    changed = [p for p in _sources(root) if _differs(root / p, code / p)]
    if changed:
      more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
      _units.say(f"code: jobs run {code}, in which {changed[0]}{more} is older; remove that folder for the code of now")
    return code
  fresh = code.with_name(f".code.{os.getpid()}")
  for path in _sources(root):
    (fresh / path).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(root / path, fresh / path)
  if os.path.isfile(config.partition(":")[0]):  # a preset is no file
    shutil.copy2(config.partition(":")[0], fresh / "config.py")
  fresh.rename(code)
  return code


def _sources(root: pathlib.Path) -> list[pathlib.Path]:
  return [p.relative_to(root) for package in PACKAGES for p in sorted((root / package).rglob("*.py"))]


def _differs(a: pathlib.Path, b: pathlib.Path) -> bool:
  return not b.exists() or a.read_bytes() != b.read_bytes()


def submitted(folder: epath.Path) -> bool:
  """Whether a unit has a job that waits or runs."""
  record = _workdir.read_json(folder / "job.json")
  if record is None:
    return False
  state = _owner.job_state(str(record["job"]))
  return state is None or bool(state[0])


def _executor(workdir: epath.Path, code: pathlib.Path, options: Sequence[Override]):
  try:
    import submitit
  except ImportError:
    raise UsageError("executor: slurm needs submitit; install it by: pip install 'cljax[slurm]'") from None
  if shutil.which("sbatch") is None or shutil.which("srun") is None:
    raise UsageError("executor: slurm needs sbatch and srun; expected to be run on a machine of a SLURM cluster")
  logs = pathlib.Path(os.fspath(workdir)).absolute() / "slurm"
  executor = submitit.SlurmExecutor(folder=logs, max_num_timeout=_TIMEOUTS)
  known = executor._valid_parameters()
  given: dict[str, Any] = {"job_name": pathlib.Path(os.fspath(workdir)).name or "sweep", "wckey": ""}
  extra: dict[str, Any] = {"chdir": str(code), "requeue": True}
  for key, text, _ in options:
    name = key.removeprefix("slurm.").replace("-", "_")
    if name not in known:
      near = difflib.get_close_matches(name, known, 1)
      if near:
        raise UsageError(f"--{key}: no such option; did you mean --slurm.{near[0]}?")
      extra[name.replace("_", "-")] = text
    elif name == "setup":
      given[name] = [text]
    else:
      given[name] = int(text) if text.isdigit() else True if text == "true" else text
  given.setdefault("cpus_per_task", 1)
  given.setdefault("time", 60)  # minutes; submitit's own 5 would spend most of them starting
  given["additional_parameters"] = extra
  given["setup"] = [f"export PYTHONPATH={code}", *given.get("setup", [])]
  try:
    executor.update_parameters(**given)
  except (ValueError, TypeError) as error:
    raise UsageError(f"slurm: {' '.join(str(error).split())}") from None
  return executor


def submit(
  workdir: epath.Path, units: Sequence[Unit], config: str, cache: str, options: Sequence[Override]
) -> list[Unit]:
  """Submits the units that have no job yet; returns those that it submitted."""
  code = snapshot(workdir, config)
  executor = _executor(workdir, code, options)
  limit = array_limit()
  with _workdir.exclusive(workdir):
    new = [u for u in units if not submitted(workdir / "groups" / u.name)]
    place = epath.Path(pathlib.Path(os.fspath(workdir)).absolute())
    for at in range(0, len(new), limit):
      part = new[at : at + limit]
      work = [Job(_executors.command(place, [u.name], cache)[1:], str(code)) for u in part]
      try:
        # submitit shows what sbatch says; ours is the one line.
        with contextlib.redirect_stderr(io.TextIOWrapper(io.BytesIO())), executor.batch():
          jobs = [executor.submit(job) for job in work]
      except Exception as error:
        text = " ".join(str(error).split())
        raise UsageError(f"slurm: sbatch refused the jobs: {text}") from None
      for unit, job in zip(part, jobs, strict=True):
        files.write_text(workdir / "groups" / unit.name / "job.json", files.dumps({"job": job.job_id}) + "\n")
  return new


_REQUEUE_S = 45.0  # SLURM gives the steps of a requeued job up to KillWait (30 s) to end


def run(
  workdir: epath.Path,
  units: Sequence[Unit],
  config: str,
  cache: str,
  options: Sequence[Override],
  stop: Callable[[], bool],
) -> None:
  """Submits what has no job, and waits until every unit has finished or lost its job.

  Raises Stopped where it is told to stop waiting; the jobs go on.
  """
  new = submit(workdir, units, config, cache, options)
  jobs = {
    u.name: str((_workdir.read_json(workdir / "groups" / u.name / "job.json") or {}).get("job", "")) for u in units
  }
  if new:
    _units.say(f"submitted: {len(new)} jobs, {jobs[new[0].name]} to {jobs[new[-1].name]}; logs in {workdir / 'slurm'}")
  if len(new) < len(units):
    _units.say(f"in the queue from before: {len(units) - len(new)} jobs")
  left, pause = list(units), 0.5
  absent: dict[str, float] = {}  # since when the queue lacks a job
  while left:
    if stop():
      raise Stopped("stopped waiting; the jobs go on (scancel ends them)")
    waiting = queued([jobs[u.name] for u in left])
    finished = [u for u in left if _plan.finished(workdir, u)]
    for unit in finished:
      _units.say(f"finished: {unit.label}")
    away = {u.name for u in left if u not in finished and waiting is not None and jobs[u.name] not in waiting}
    # A job that is being requeued may be out of the queue until its steps have ended; a worker that failed said so.
    now = time.monotonic()
    said = lambda u: _failed(workdir / "groups" / u.name, jobs[u.name])
    lost = [u for u in left if u.name in away and u.name in absent and (said(u) or now - absent[u.name] > _REQUEUE_S)]
    absent = {name: absent.get(name, now) for name in away}
    pause = max(pause, 2.0) if away else pause
    for unit in lost:
      log = workdir / "slurm" / f"{jobs[unit.name]}_0_log.err"
      _units.say(f"failed: {unit.label}: job {jobs[unit.name]}: {_last_line(log)}; see {log}")
    left = [u for u in left if u not in finished and u not in lost]
    for _ in range(round(pause / 0.1)):
      if left and not stop():
        time.sleep(0.1)
    pause = min(2 * pause, 10.0)


def _failed(folder: epath.Path, job: str) -> bool:
  """Whether the last word about a unit is that its worker failed in this job.

  submitit's result does not tell: the ``scontrol requeue`` that it starts inside the job ends with the job's steps,
  and it then takes the requeue for an error.
  """
  record = _owner.latest(folder)[1] or {}
  return record.get("left") == "failed" and job in (record.get("array"), record.get("job"))


def queued(jobs: Sequence[str]) -> set[str] | None:
  """Those of ``jobs`` that wait or run, by one call of ``squeue``; None where it cannot be told."""
  main = sorted({j.partition("_")[0] for j in jobs if j})
  if not main:
    return set()
  # All states: by its own choice squeue leaves out a job that is just being requeued.
  command = ["squeue", "--noheader", "--array", "--states=all", f"--jobs={','.join(main)}"]
  command.append("--Format=ArrayJobID:20,ArrayTaskID:20,State:30")
  try:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
  except (OSError, subprocess.TimeoutExpired):
    return None
  if done.returncode:
    return set() if "Invalid job id" in done.stderr else None
  rows = [line.split() for line in done.stdout.splitlines()]
  live = [row for row in rows if len(row) > 2 and not row[2].startswith(_owner.ENDED)]
  return {row[0] if row[1] == "N/A" else f"{row[0]}_{row[1]}" for row in live}


def _last_line(log: epath.Path) -> str:
  """What a failed worker said last: its own line, before those of submitit about it."""
  try:
    lines = [line.strip() for line in log.read_bytes().decode(errors="replace").splitlines() if line.strip()]
  except OSError:
    return "ended without a log"
  told = [line for line in lines if line.startswith(("failed: ", "error: ", "stopped: ", "slurmstepd: "))]
  return (told or lines or ["ended without a word"])[-1]
