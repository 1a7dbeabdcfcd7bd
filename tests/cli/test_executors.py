"""Ownership of populations, worker processes, and what is left when one of them dies."""

from __future__ import annotations

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import pytest

from cljax import UsageError
from cljax.cli import _build, _environment, _shared, _workdir, sweep
from cljax.cli._config import Override
from cljax.cli.sweeps import _ahead, _executors, _plan, _units
from cljax.io import files, interrupts
from cljax.io import owner as _owner

ROOT = pathlib.Path(__file__).parents[2]


def rows(workdir) -> list[dict]:
  return [json.loads(line) for line in (workdir / "rows.jsonl").read_text().splitlines()]


def test_a_folder_has_one_owner_and_a_dead_one_is_followed(tmp_path):
  first = _owner.take(tmp_path)
  assert isinstance(first, _owner.Owner)
  assert {"host", "pid", "start", "since"} <= set(first.record)
  held = _owner.take(tmp_path)
  assert isinstance(held, _owner.Held), "not even by itself"
  assert f"process {os.getpid()} on {socket.gethostname()} since 20" in str(held)
  first.leave("stopped")
  second = _owner.take(tmp_path)
  assert isinstance(second, _owner.Owner)
  # As a kill leaves it: the number of a process that is gone, or was given to another one since.
  gone = subprocess.Popen(["true"])
  gone.wait()
  for record in ({"pid": gone.pid}, {"pid": os.getpid(), "start": "boot:1"}, {"start": ""}):
    number, before = _owner.latest(tmp_path)
    (tmp_path / f"owner.{number}.json").write_text(json.dumps({**(before or {}), **record}))
    taken = _owner.take(tmp_path)
    assert isinstance(taken, _owner.Owner), record
    assert taken.path.name == f"owner.{number + 1}.json"
  (tmp_path / "owner.9.json").write_text('{"torn')
  assert isinstance(_owner.take(tmp_path), _owner.Owner), "a damaged file owns nothing"
  assert len(_owner.history(tmp_path)) == 7
  assert [p for p in tmp_path.iterdir() if not p.name.startswith("owner.")] == [], "nothing is left behind"


def test_on_a_full_disk_a_folder_is_given_up_all_the_same(tmp_path, monkeypatch):
  owner = _owner.take(tmp_path)
  assert isinstance(owner, _owner.Owner)

  def full(*_):
    raise OSError(28, "No space left on device")

  with monkeypatch.context() as patched:
    patched.setattr(pathlib.Path, "write_text", full)
    owner.leave("failed")
  assert _owner.holder(tmp_path) is None
  assert isinstance(_owner.take(tmp_path), _owner.Owner)


def test_a_zombie_is_dead_and_another_machine_cannot_be_told(tmp_path):
  child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
  assert child.stdin is not None
  start = _owner.started(child.pid)
  record = {"host": socket.gethostname(), "pid": child.pid, "start": start}
  assert start
  assert _owner.lives(record)
  child.stdin.close()
  end = time.time() + 20
  while _owner.started(child.pid) and time.time() < end:
    time.sleep(0.01)
  assert not _owner.lives(record), "it has ended, though nobody has asked how"
  child.wait()
  assert _owner.lives({**record, "host": "elsewhere"})
  assert not _owner.lives({**record, "host": "elsewhere", "left": "finished"})


RACE = """
import os, pathlib, sys
from cljax.io import interrupts
from cljax.io import owner as _owner
root = pathlib.Path(sys.argv[1])
for i in range(60):
  (root / str(i)).mkdir()
  (root / str(i) / "owner.1.json").write_text('{"pid": 1, "start": "boot:0", "host": "%s"}' % os.uname().nodename)
read, write = os.pipe()
for worker in range(6):
  if os.fork() == 0:
    os.close(write)
    os.read(read, 1)  # all begin together
    for i in range(60):
      if isinstance(_owner.take(root / str(i)), _owner.Owner):
        (root / f"{i}.{worker}").touch()
    os._exit(0)
os.close(write)
for worker in range(6):
  os.wait()
"""


def test_of_many_that_follow_a_dead_owner_one_wins(tmp_path):
  subprocess.run([sys.executable, "-c", RACE, str(tmp_path)], cwd=ROOT, check=True, timeout=60)
  winners = [len(list(tmp_path.glob(f"{i}.*"))) for i in range(60)]
  # A process that ends is a dead owner; so the next may follow it, but only under the next number.
  for i, count in enumerate(winners):
    assert count == len(_owner.history(tmp_path / str(i))) - 1
  assert min(winners) == 1


def test_without_hard_links_the_file_is_still_exclusive(tmp_path, monkeypatch):
  def refuse(*_):
    raise PermissionError(1, "Operation not permitted")

  monkeypatch.setattr(os, "link", refuse)
  assert isinstance(_owner.take(tmp_path), _owner.Owner)
  with pytest.raises(FileExistsError):
    _owner._create(tmp_path / "owner.1.json", "{}")
  assert isinstance(_owner.take(tmp_path), _owner.Held)


def test_a_live_owner_is_left_alone_and_named(command, tmp_path, monkeypatch, capsys):
  given = command("--methods=finetune,si", "--seeds=2", f"--workdir={tmp_path}")
  execute = _build.execute
  other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
  seen = []

  def held_meanwhile(built, population, folder, *rest):
    """Before the first population runs, another process takes the second."""
    seen.append(built.arguments["method"])
    (si,) = (tmp_path / "groups").glob("si-*")
    if not _owner.history(si):
      record = {"host": socket.gethostname(), "pid": other.pid, "start": _owner.started(other.pid), "since": "now"}
      (si / "owner.1.json").write_text(json.dumps(record))
    return execute(built, population, folder, *rest)

  monkeypatch.setattr(_build, "execute", held_meanwhile)
  try:
    assert sweep.main(given) == 0
    error = capsys.readouterr().err
    said = f"skipped: si: held by process {other.pid} on {socket.gethostname()} since now; run the same command again"
    assert said in error
    assert len(error.splitlines()) == 1
    assert seen == ["finetune"]
    # A larger grid meanwhile: what the other process holds stays as it is.
    monkeypatch.setattr(_build, "execute", lambda *a: pytest.fail("it ran"))
    assert sweep.main([*given, "--dry_run", "--seeds=3"]) == 0
    assert [line.split()[:3] for line in capsys.readouterr().out.splitlines()[2:5]] == [
      ["si", "1", "2"], ["finetune", "1", "1"], ["si", "1", "1"],
    ]  # fmt: skip
  finally:
    other.kill()
    other.wait()
  seen.clear()
  monkeypatch.setattr(_build, "execute", held_meanwhile)
  assert sweep.main(given) == 0
  assert seen == ["si"], "it died: its population is taken over"
  assert len(rows(tmp_path)) == 4


def test_populations_that_were_never_begun_are_planned_anew(command, tmp_path, monkeypatch, capsys):
  def stopped(*_):
    raise KeyboardInterrupt

  monkeypatch.setattr(_build, "execute", stopped)
  given = command("--methods=finetune,si", f"--workdir={tmp_path}")
  assert sweep.main([*given, "--seeds=2"]) == 130
  first = {p.name for p in (tmp_path / "groups").iterdir()}
  assert sweep.main([*given, "--seeds=3"]) == 130
  second = {p.name for p in (tmp_path / "groups").iterdir()}
  assert len(first) == len(second) == 2
  assert not first & second
  # A process that has the old plan in hand finds its populations gone.
  members = [{"run": "r", "seed": 0}]
  unit = _plan.Unit(first.pop(), {"label": "x", "members": members, "runs": {"r": {}}})
  assert _units.attempt(_path(tmp_path), unit, "x", lambda: False, True, _ahead.none({})) == "gone"
  capsys.readouterr()


def _path(path):
  from etils import epath

  return epath.Path(path)


@pytest.fixture(scope="module")
def workers(tmp_path_factory):
  """Two populations of one configuration, by two workers, of which the first to write a result dies over it."""
  root = tmp_path_factory.mktemp("workers")
  config = root / "config.py"
  text = (ROOT / "tests/cli/conftest.py").read_text().split('CONFIG = """')[1].split('"""')[0]
  config.write_text(text)
  common = [sys.executable, "-m", "launch.sweep", f"--config={config}", "--seeds=4", "--methods=finetune"]
  common += [f"--compilation_cache={root}/cache", "--config.checkpoint.every=8"]
  environment = {**os.environ, "NPROC": "1", "JAX_DISABLE_MOST_OPTIMIZATIONS": "true"}
  run = lambda *more, **env: subprocess.run(
    [*common, *more], cwd=ROOT, env={**environment, **env}, capture_output=True, text=True, check=False
  )
  # Python imports this module at its start: a worker that writes its first result dies half-way, once.
  (root / "sitecustomize.py").write_text(DIES)
  killed = run(
    f"--workdir={root}/killed", "--max_bytes=145KB", "--executor=local", "--workers=2",
    PYTHONPATH=f"{root}:{ROOT}", DIES=str(root / "died"),
  )  # fmt: skip
  return root, killed


DIES = """
import os, signal, sys

class Finder:
  def find_spec(self, name, path=None, target=None):
    if name == "cljax.cli.sweeps._units" and "--units=" in " ".join(sys.argv + sys.orig_argv):
      sys.meta_path.remove(self)
      import cljax.cli.sweeps._units as units
      write = units.results.write

      def dies(path, result):
        try:
          os.close(os.open(os.environ["DIES"], os.O_CREAT | os.O_EXCL))
        except FileExistsError:
          return write(path, result)
        path.parent.mkdir(parents=True)
        path.write_text('{"config": {"da')
        os.kill(os.getpid(), signal.SIGKILL)

      units.results.write = dies
      return units.__spec__

sys.meta_path.insert(0, Finder())
"""


def test_a_worker_that_dies_while_it_writes_sinks_nothing(workers):
  root, killed = workers
  assert killed.returncode == 0, killed.stderr
  assert (root / "died").exists()
  told = killed.stderr.splitlines()
  (death,) = [line for line in told if line.startswith("died: ")]
  assert "by signal SIGKILL in " in death
  assert death.endswith(", which goes on from its last checkpoint")
  assert sorted(line.split("] ")[1] for line in told if line.startswith("finished: ")) == [
    "finetune 1/2",
    "finetune 2/2",
  ]
  assert [r["seed"] for r in rows(root / "killed")] == [0, 1, 2, 3]
  assert len({r["params_sha256"] for r in rows(root / "killed")}) == 4
  owners = [_owner.history(p) for p in (root / "killed" / "groups").iterdir()]
  assert sorted(len(o) for o in owners) == [1, 2]
  assert all([o.get("left") for o in history][-1] == "finished" for history in owners)
  assert "±" in killed.stdout


def test_a_population_that_kills_its_workers_is_given_up(tmp_path, monkeypatch, capsys):
  folder = _path(tmp_path) / "groups" / "deadly"
  unit = _plan.Unit("deadly", {"label": "deadly", "members": [{"run": "r", "seed": 0}], "runs": {"r": {}}})
  files.write_text(folder / "unit.json", files.dumps(unit.content))
  dies = "import os, signal; from cljax.io import owner; owner.take({!r}); os.kill(os.getpid(), signal.SIGKILL)"
  monkeypatch.setattr(_executors, "command", lambda *a: [sys.executable, "-c", dies.format(str(folder))])
  _executors.local(_path(tmp_path), [unit], 2, "", lambda: False)
  told = capsys.readouterr().err.splitlines()
  assert [line.partition(" in deadly, which ")[2] for line in told if " in deadly" in line][-1] == "is given up"
  assert len(_owner.history(folder)) == 2
  assert _executors.outcome(_path(tmp_path), [unit], {}) == 1


def test_stopping_the_launcher_stops_the_workers_and_waits_for_them(tmp_path, monkeypatch):
  saves = "import signal, sys, time\n" + (
    f"signal.signal(signal.SIGTERM, lambda *a: (open({str(tmp_path / 'saved')!r}, 'a').write('x'), sys.exit(143)))\n"
    f"open({str(tmp_path / 'on')!r}, 'a').write('x')\ntime.sleep(60)"
  )
  monkeypatch.setattr(_executors, "command", lambda *a: [sys.executable, "-c", saves])
  units = [_plan.Unit(str(i), {"label": "x", "members": [], "runs": {}}) for i in range(3)]
  on = lambda: (tmp_path / "on").exists() and (tmp_path / "on").read_text() == "xx"
  with pytest.raises(_shared.Stopped, match="stopped all workers"):
    _executors.local(_path(tmp_path), units, 2, "", on)
  assert (tmp_path / "saved").read_text() == "xx"


def test_a_cache_of_the_user_s_wins_over_the_default(tmp_path):
  code = """
import sys
import jax
from cljax.cli import _environment
if sys.argv[2]:
  jax.config.update("jax_compilation_cache_dir", sys.argv[2])
_environment.use_compilation_cache(sys.argv[1] or _environment.CACHE)
print(jax.config.jax_compilation_cache_dir)
"""
  home = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"} | {"HOME": str(tmp_path)}
  mine = home | {"JAX_COMPILATION_CACHE_DIR": "/mine"}
  cases = {("", "", 0): f"{tmp_path}/.cache/cljax/jax", ("", "", 1): "/mine", ("/given", "", 1): "/given",
           ("", "/set", 0): "/set", ("/given", "/set", 0): "/given"}  # fmt: skip
  for (given, set_, own), expected in cases.items():
    run = [sys.executable, "-c", code, given, set_]
    out = subprocess.run(run, env=mine if own else home, capture_output=True, text=True, check=True)
    assert out.stdout.strip() == expected, (given, set_, own)


def test_each_worker_gets_its_share_of_the_cores(monkeypatch):
  monkeypatch.setattr(_environment, "_FOUND", {"NPROC": None, "XLA_FLAGS": "--mine"})
  monkeypatch.setenv("NPROC", "9")
  monkeypatch.setenv("XLA_FLAGS", "--mine --xla_force_host_platform_device_count=9")
  found = _environment.of_worker(2)
  assert (found["NPROC"], found["XLA_FLAGS"]) == ("4", "--mine")
  assert _environment.of_worker(20)["NPROC"] == "1"
  monkeypatch.setattr(_environment, "_FOUND", {"NPROC": "9", "XLA_FLAGS": None})
  assert _environment.of_worker(2)["NPROC"] == "9", "a user's own stays"
  monkeypatch.delenv("NPROC")
  monkeypatch.setenv("SLURM_CPUS_PER_TASK", "3")
  assert _environment.processors() == 3
  monkeypatch.setenv("SLURM_JOB_ID", "1")
  assert _environment.cluster() == _environment.describe()["cluster"] == "slurm"
  assert signal.SIGUSR2 in interrupts.stop_signals()
  monkeypatch.delenv("SLURM_JOB_ID")
  monkeypatch.setenv("TPU_WORKER_ID", "0")
  assert _environment.cluster() == "tpu"
  assert signal.SIGUSR2 not in interrupts.stop_signals()


def test_a_disk_that_is_full_fails_one_population_in_one_line(command, tmp_path, monkeypatch, capsys):
  import resource

  given = command("--methods=si,finetune", "--seeds=2", f"--workdir={tmp_path}")
  execute = _build.execute
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

  def full(built, *rest):
    """While si runs, no file may grow beyond 4 kB: its checkpoints cannot be written."""
    if built.arguments["method"] != "si":
      return execute(built, *rest)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
      return execute(built, *rest)
    finally:
      resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

  monkeypatch.setattr(_build, "execute", full)
  assert sweep.main(given) == 1
  error = capsys.readouterr().err.splitlines()
  assert [line.partition(": ")[0] for line in error] == ["failed", "error"], error
  assert "si" in error[0]
  assert [r["method"] for r in rows(tmp_path)] == ["finetune"] * 2


def test_slurm_options_are_kept_apart_from_the_configuration():
  flags = sweep._flags()
  given = _shared.parse(
    ["x", "--workdir=w", "--slurm.partition=a", "--config.train.epochs=2", "--slurm.time", "5"], flags
  )
  assert given == [
    Override("train.epochs", "2", True), Override("slurm.partition", "a", True), Override("slurm.time", "5", True),
  ]  # fmt: skip


def test_bytes():
  read = {"500": 500, "2e9": 2 * 10**9, "1.5KB": 1500, "4GiB": 4 * 2**30, "3M": 3 * 10**6}
  assert {text: sweep.parse_bytes(text) for text in read} == read
  for bad in ("", "-1", "1.2.3", "4Gi2", "many", "0"):
    with pytest.raises(UsageError, match="max_bytes: got"):
      sweep.parse_bytes(bad)


def test_damaged_json_reads_as_none(tmp_path):
  for content in (b"\xff\xfe", b"{", b"[1]"):
    (tmp_path / "x.json").write_bytes(content)
    assert _workdir.read_json(tmp_path / "x.json") is None
