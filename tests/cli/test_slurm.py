"""A sweep through a real SLURM: daemons of this machine's packages, in a private directory, as root."""

from __future__ import annotations

import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

import made_sweeps
import numpy as np
import pytest
from etils import epath

from cljax import UsageError
from cljax.cli import _config, sweep
from cljax.cli._config import Override
from cljax.cli.sweeps import _executors, _plan, _slurm
from cljax.io import files
from cljax.io import owner as _owner

pytestmark = pytest.mark.xdist_group("slurm")  # one cluster is enough

ROOT = pathlib.Path(__file__).parents[2]
NEEDED = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue", "scancel")
CONF = """
ClusterName=test
SlurmctldHost=localhost
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
AuthType=auth/munge
AuthInfo=socket={at}/munge.sock
SlurmUser=root
SlurmctldPidFile={at}/slurmctld.pid
SlurmdPidFile={at}/slurmd.pid
SlurmdSpoolDir={at}/spool
StateSaveLocation={at}/state
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/builtin
ReturnToService=2
MaxArraySize=2
KillWait=20
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
NodeName=localhost CPUs=2 State=UNKNOWN
PartitionName=debug Nodes=localhost Default=YES MaxTime=INFINITE State=UP
"""
GRID = """
from ml_collections import ConfigDict

def get_config():
  config = ConfigDict()
  config.data = ConfigDict({"name": "digits"})
  config.stream = ConfigDict({"kind": "class", "tasks": 5, "task_fractions": (0.3,) * 5})
  config.model = ConfigDict({"name": "mlp", "hidden": (8,)})
  config.train = ConfigDict({"epochs": 100, "chunk_steps": 4})
  return config

def get_hyper(h):
  return h.product([h.fixed("method.name", "si"), h.sweep("method.strength", [0.1, 1.0])])
"""


def _ask(*command: str) -> str:
  return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False).stdout.strip()


def _free_port() -> int:
  with socket.socket() as s:
    s.bind(("localhost", 0))
    return s.getsockname()[1]


@pytest.fixture(scope="module")
def cluster():
  """One node of two cores; ``SLURM_CONF`` points to it."""
  os.environ["PATH"] += ":/usr/sbin"
  missing = [name for name in NEEDED if shutil.which(name) is None]
  if missing:
    pytest.skip(f"SLURM is not installed here ({missing[0]} is missing): apt-get install slurm-wlm munge")
  if os.geteuid():
    pytest.skip("SLURM's daemons are started as root here")
  pytest.importorskip("submitit", reason="needs the extra 'slurm'")
  at = pathlib.Path(tempfile.mkdtemp(prefix="slurm-"))
  daemons: list[subprocess.Popen] = []
  before = os.environ.get("SLURM_CONF")
  try:
    os.environ["SLURM_CONF"] = str(at / "slurm.conf")
    for name in ("spool", "state"):
      (at / name).mkdir()
    (at / "munge.key").write_bytes(os.urandom(1024))
    (at / "munge.key").chmod(0o600)
    (at / "slurm.conf").write_text(CONF.format(at=at, ports=(_free_port(), _free_port())))

    def start(*command: str):
      with (at / f"{command[0]}.log").open("w") as log:
        daemons.append(subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True))

    files = [f"--{k}={at}/munge.{v}" for k, v in (("key-file", "key"), ("socket", "sock"), ("pid-file", "pid"))]
    start("munged", "--foreground", "--force", *files, f"--seed-file={at}/munge.seed", f"--log-file={at}/munge.log")
    _until(lambda: (at / "munge.sock").exists(), 10, at)
    start("slurmctld", "-D", "-c")
    start("slurmd", "-D", "-N", "localhost")
    _until(lambda: _ask("sinfo", "--noheader", "--format=%T") == "idle", 30, at)
    yield at
  finally:
    _ask("scancel", "--user=root")  # no job outlives its cluster
    end = time.time() + 10
    while _ask("squeue", "--noheader") and time.time() < end:
      time.sleep(0.1)
    for daemon in reversed(daemons):
      daemon.terminate()
    for daemon in daemons:
      try:
        daemon.wait(20)
      except subprocess.TimeoutExpired:
        daemon.kill()
    del os.environ["SLURM_CONF"]
    if before is not None:
      os.environ["SLURM_CONF"] = before
    shutil.rmtree(at, ignore_errors=True)


def _until(true, seconds: float, at: pathlib.Path) -> None:
  end = time.time() + seconds
  while not true():
    if time.time() > end:
      said = [f"{p.name}: {p.read_text().strip().splitlines()[-1:]}" for p in at.glob("*.log")]
      pytest.skip(f"SLURM's daemons do not start here: {'; '.join(said)}")
    time.sleep(0.2)


def rows(workdir: pathlib.Path) -> dict:
  found = [json.loads(line) for line in (workdir / "rows.jsonl").read_text().splitlines()]
  assert len({(r["run"], r["seed"]) for r in found}) == len(found)
  return {(r["run"], r["seed"]): (r["params_sha256"], r["acc"]) for r in found}


def written(folder: pathlib.Path) -> int:
  path = folder / "metrics.jsonl"
  return path.read_bytes().count(b"\n") if path.exists() else 0


class _Wait:
  """Polls, for at most five minutes in all (a busy machine); a launcher that has ended meanwhile is an error."""

  def __init__(self, launcher: subprocess.Popen, logs: pathlib.Path):
    self.launcher, self.logs = launcher, logs
    self.end = time.time() + 300

  def __call__(self, what: str, true) -> None:
    while not true():
      if self.launcher.poll() is not None:
        logs = "".join(f"\n{p.name}:\n{p.read_text(errors='replace')}" for p in sorted(self.logs.glob("*_log.*")))
        pytest.fail(f"{what}: the launcher ended: {self.launcher.communicate()[1]}{logs}")
      if time.time() > self.end:
        pytest.fail(f"{what}: not after five minutes; queue: {_ask('squeue')}")
      time.sleep(0.05)


def start_again(job: str) -> None:
  """Starts a requeued job now, not after SLURM's two minutes: in a later second than its first start was ended in, or
  slurmd takes it for that one ("already killed, do not launch batch job") and the job fails."""
  time.sleep(2.5)
  _ask("scontrol", "update", f"JobId={job}", "StartTime=now")


def test_twelve_runs_through_slurm_and_a_job_requeued_twice(cluster, tmp_path):
  (tmp_path / "grid.py").write_text(GRID)
  common = [f"--config={tmp_path}/grid.py", "--seeds=6", "--max_bytes=185KB", f"--compilation_cache={tmp_path}/cache"]
  command = [sys.executable, "-m", "launch.sweep", *common]
  environment = {**os.environ, "NPROC": "1", "JAX_DISABLE_MOST_OPTIMIZATIONS": "true"}  # it compiles in half the time
  local = [*command, f"--workdir={tmp_path}/local", "--executor=local", "--workers=1"]
  done = subprocess.run(local, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
  assert done.returncode == 0, done.stderr

  workdir = tmp_path / "slurm"
  given = [*command, f"--workdir={workdir}", "--executor=slurm", "--slurm.time=10", "--slurm.partition=debug"]
  launcher = subprocess.Popen(
    given, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
  )
  wait = _Wait(launcher, workdir / "slurm")
  try:
    wait("submission", lambda: len(list(workdir.glob("groups/*/job.json"))) == 3)
    long = next(p for p in sorted(workdir.glob("groups/si-*")))
    job = json.loads((long / "job.json").read_text())["job"]
    # The signal that comes before the end of a job's time: submitit has the worker save, and requeues the job.
    wait("first start", lambda: written(long) > 30)
    _ask("scancel", "--signal=USR2", job)
    wait("requeue by the job", lambda: _owner.job_state(job) == ("PENDING", 1))
    assert _owner.history(long)[0]["left"] == "stopped", "it saved"
    before = written(long)
    start_again(job)
    # An administrator's requeue: SIGTERM, then SIGKILL.
    wait("second start", lambda: written(long) > before + 30)
    _ask("scontrol", "requeue", job)
    wait("requeue by command", lambda: _owner.job_state(job) == ("PENDING", 2))
    start_again(job)
    out, errors = launcher.communicate(timeout=300)
  finally:
    launcher.kill()
    _ask("scancel", "--user=root")
  assert launcher.returncode == 0, errors
  assert "si strength=1.0" in out
  told = errors.splitlines()
  assert told[0].startswith("submitted: 3 jobs, "), told
  assert sorted(told[1:]) == [f"finished: si {n}/3" for n in (1, 2, 3)]

  assert len(rows(workdir)) == 12
  assert rows(workdir) == rows(tmp_path / "local")
  owners = _owner.history(long)
  assert [o["left"] for o in owners][:1] + [o["left"] for o in owners][-1:] == ["stopped", "finished"]
  assert [o["restart"] for o in owners] == [0, 1, 2]
  jobs = {json.loads(p.read_text())["job"].partition("_")[0] for p in workdir.glob("groups/*/job.json")}
  assert len(jobs) == 2, "arrays of at most MaxArraySize"
  for path in ("cljax/__init__.py", "launch/sweep.py", "experiments/__init__.py"):
    assert (workdir / "code" / path).read_bytes() == (ROOT / path).read_bytes()
  assert (workdir / "code" / "config.py").read_text() == GRID
  result = json.loads(next(workdir.glob("runs/si-*/result.json")).read_text())
  assert result["environment"]["cluster"] == "slurm"
  assert result["environment"]["NPROC"] == "1"


def test_what_slurm_knows_of_jobs(cluster, monkeypatch):
  assert _slurm.array_limit() == 2
  job = _ask("sbatch", "--parsable", "--array=0-1", "--output=/dev/null", "--wrap", "sleep 60")
  try:
    assert _slurm.queued([f"{job}_0", f"{job}_1"]) == {f"{job}_0", f"{job}_1"}
    state = lambda: _owner.job_state(f"{job}_0")
    end = time.time() + 30
    while state() != ("RUNNING", 0) and time.time() < end:
      time.sleep(0.1)
    elsewhere = {"host": "another", "pid": 1, "start": "1", "job": f"{job}_0", "restart": 0}
    assert _owner.lives(elsewhere)
    assert not _owner.lives({**elsewhere, "job": "4711"}), "no such job"
    # A new start of the very job knows that its earlier self is gone.
    monkeypatch.setenv("SLURM_JOB_ID", f"{job}_0")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert not _owner.lives(elsewhere)
    monkeypatch.delenv("SLURM_JOB_ID")
    _ask("scontrol", "requeue", f"{job}_0")
    while state() != ("PENDING", 1) and time.time() < end:
      time.sleep(0.1)
    assert not _owner.lives(elsewhere), "it waits to be started again"
  finally:
    _ask("scancel", job)
  while _slurm.queued([f"{job}_0"]) and time.time() < end:
    time.sleep(0.1)
  assert _slurm.queued([f"{job}_0", f"{job}_1"]) == set()
  assert not _owner.lives(elsewhere)


def test_a_job_that_fails_is_one_line_and_the_rest_is_waited_for(cluster, command, tmp_path, capsys):
  config = command()[1].removeprefix("--config=")
  workdir = epath.Path(tmp_path)
  units = []
  plain: dict = {section: {} for section in _config.SECTIONS}
  for name, identity in (("bad", {**plain, "method": {"name": "ewcc"}, "data": {"digest": ""}}), ("done", plain)):
    content = {"label": name, "identity": identity, "more": {}, "members": [{"run": name, "seed": 0, "hyper": {}}]}
    about = {"label": name, "point": {}, "identity": identity}
    units.append(_plan.Unit(name, {**content, "runs": {name: about}}))
    files.write_text(workdir / "groups" / name / "unit.json", files.dumps(units[-1].content))
  finished = made_sweeps.result("er", 0.5, seeds=(0,), rng=np.random.default_rng(0))
  files.write_text(workdir / "runs" / "done" / "result.json", files.dumps(finished))
  _slurm.run(workdir, units, config, "", [Override("slurm.cpus-per-task", "1", True)], lambda: False)
  told = capsys.readouterr().err.splitlines()
  assert len(told) == 3
  assert told[1] == "finished: done"
  assert re.match(
    r"failed: bad: job \d+_0: failed: \[1/1\] bad: method.name: unknown 'ewcc'.*; see .*_0_log.err$", told[2]
  )
  assert _executors.outcome(workdir, units, {}) == 1


def test_the_code_of_the_first_submission_stays(tmp_path, capsys, monkeypatch):
  monkeypatch.setattr(_slurm, "PACKAGES", ("launch",))
  (tmp_path / "c.py").write_text("x = 1")
  code = _slurm.snapshot(epath.Path(tmp_path), f"{tmp_path}/c.py:argument")
  assert (code / "config.py").read_text() == "x = 1"
  assert _slurm.snapshot(epath.Path(tmp_path), f"{tmp_path}/c.py") == code
  assert capsys.readouterr().err == ""
  (code / "launch" / "sweep.py").write_text("x = 2")
  assert _slurm.snapshot(epath.Path(tmp_path), f"{tmp_path}/c.py") == code
  assert "in which launch/sweep.py is older; remove that folder" in capsys.readouterr().err
  assert (code / "launch" / "sweep.py").read_text() == "x = 2"


def test_wrong_options_are_one_line(cluster, command, tmp_path, capsys):
  given = command("--methods=finetune", "--executor=slurm", f"--workdir={tmp_path}")
  assert sweep.main([*given, "--slurm.partitoin=x"]) == 2
  assert "--slurm.partitoin: no such option; did you mean --slurm.partition?" in capsys.readouterr().err
  assert sweep.main([*given, "--slurm.partition=nowhere"]) == 2
  error = capsys.readouterr().err
  assert "sbatch refused the jobs" in error
  assert "nowhere" in error
  assert len(error.splitlines()) == 1


def test_without_a_cluster(monkeypatch, tmp_path):
  monkeypatch.setenv("PATH", str(tmp_path))
  with pytest.raises(UsageError, match="executor: scontrol cannot be run"):
    _slurm.array_limit()
  assert _slurm.queued(["1"]) is None
  assert _owner.job_state("1") is None
  assert _owner.lives({"host": "another", "pid": 1, "start": "1", "job": "1", "restart": 0}), "it cannot be told"
  pytest.importorskip("submitit", reason="needs the extra 'slurm'")
  with pytest.raises(UsageError, match="executor: slurm needs sbatch and srun"):
    _slurm._executor(tmp_path, tmp_path, [Override("slurm.time", "3", True)])


def test_a_job_passes_on_how_its_worker_ended(tmp_path):
  from cljax.cli.sweeps._slurm_job import Job

  job = Job(["-c", "import sys; sys.exit(3)"], str(tmp_path))
  with pytest.raises(RuntimeError, match="exit code 3"):
    job()
  pytest.importorskip("submitit", reason="needs the extra 'slurm'")
  wait = "import signal, sys; signal.signal(signal.SIGTERM, lambda *a: sys.exit(143)); print('on', flush=True); "
  job._child = child = subprocess.Popen([sys.executable, "-c", wait + "signal.pause()"], stdout=subprocess.PIPE)
  assert child.stdout is not None
  assert child.stdout.readline() == b"on\n"
  again = job.checkpoint().function
  assert child.wait() == 143, "it was asked to stop, and waited for"
  assert (again.command, again.code) == (job.command, job.code)
  assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
