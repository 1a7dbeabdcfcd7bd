"""Workers that die: which unit they had in hand, however quick the others are, and an end of it for one that kills."""

from __future__ import annotations

import pathlib
import sys
import time

import made_sweeps
import numpy as np
import pytest
from etils import epath

from cljax.cli import _config
from cljax.cli.sweeps import _executors, _plan
from cljax.io import files
from cljax.io import owner as _owner

ROOT = pathlib.Path(__file__).parents[2]

RESULT = files.dumps(made_sweeps.result("er", 0.5, seeds=(0,), rng=np.random.default_rng(0)))

# Each worker passes over the units as a real one does; what it would train is said by the unit's name.
WORKER = """
import os, signal, sys, time
from etils import epath
from cljax.cli import _workdir
from cljax.cli.sweeps import _plan, _units
workdir, most = epath.Path(sys.argv[1]), int(sys.argv[2])
(workdir / f"on.{os.getpid()}").touch()
end = time.time() + 60
while len(list(workdir.glob("on.*"))) < most and time.time() < end:
  time.sleep(0.01)  # all begin together

def run(workdir, unit, *rest):
  if unit.name == "deadly":
    os.kill(os.getpid(), signal.SIGKILL)
  if unit.name == "wrong":
    raise ValueError("wrong")
  _workdir.files.write_text(workdir / "runs" / unit.name / "result.json", RESULT)

_units._run = run
_units.results.rows = lambda *a, **k: []
units = {u.name: u for u in _plan.on_disk(workdir)}
failed, _ = _units.work(workdir, [units[n] for n in sys.argv[3].split(",")], lambda: False, live=False)
sys.exit(1 if failed else 0)
"""


def made(folder: pathlib.Path, *names: str) -> list[_plan.Unit]:
  identity = {section: {} for section in _config.SECTIONS}
  about = lambda name: {name: {"label": name, "point": {}, "identity": identity}}
  members = lambda name: {"label": name, "members": [{"run": name, "seed": 0, "hyper": {}}], "runs": about(name),
                          "identity": identity, "more": {}}  # fmt: skip
  units = [_plan.Unit(name, members(name)) for name in names]
  for unit in units:
    files.write_text(epath.Path(folder) / "groups" / unit.name / "unit.json", files.dumps(unit.content))
  return units


def launched(folder, units, workers: int, monkeypatch, capfd) -> list[str]:
  """What the launcher and its workers say on stderr."""
  script = f"RESULT = {RESULT!r}\n{WORKER}"
  command = lambda workdir, names, cache: [sys.executable, "-c", script, str(workdir), str(workers), ",".join(names)]
  monkeypatch.setattr(_executors, "command", command)
  monkeypatch.setenv("PYTHONPATH", str(ROOT))
  _executors.local(epath.Path(folder), units, workers, "", lambda: False)
  return capfd.readouterr().err.splitlines()


@pytest.mark.parametrize("place", [0, 3])
def test_a_unit_that_kills_costs_two_of_several_workers(tmp_path, monkeypatch, capfd, place):
  names = ["a", "b", "c"]
  names.insert(place, "deadly")
  units = made(tmp_path, *names)
  told = launched(tmp_path, units, 4, monkeypatch, capfd)
  died = [line for line in told if line.startswith("died: ")]
  assert len(died) == 2, told
  assert all(" by signal SIGKILL in deadly, which " in line for line in died), told
  assert died[-1].endswith(", which is given up")
  assert len(_owner.history(tmp_path / "groups" / "deadly")) == 2
  assert [_plan.finished(epath.Path(tmp_path), u) for u in units] == [name != "deadly" for name in names]
  assert _executors.outcome(epath.Path(tmp_path), units, {}) == 1


def test_a_unit_that_failed_is_told_once_by_several_workers(tmp_path, monkeypatch, capfd):
  units = made(tmp_path, "wrong", "a", "b", "c")
  told = launched(tmp_path, units, 4, monkeypatch, capfd)
  why = f"ValueError: wrong; the traceback: {tmp_path / 'groups' / 'wrong' / 'error.txt'}"
  assert [line for line in told if line.startswith("failed: ")] == [f"failed: [1/4] wrong: {why}"], told
  assert [r["left"] for r in _owner.history(tmp_path / "groups" / "wrong")] == ["failed"]
  # Another launch tries it anew, as it does one that killed.
  again = launched(tmp_path, units[:1], 1, monkeypatch, capfd)
  assert again == [f"failed: [1/1] wrong: {why}"]


TAKES_OVER = """
import os, pathlib, signal, sys, time
from cljax.io import owner as _owner
folder = pathlib.Path(sys.argv[1])
if any(r.get("left") == "finished" for r in _owner.history(folder)):
  sys.exit(0)  # started for the other unit, which never runs here
end = time.time() + 60
while not isinstance(owner := _owner.take(folder), _owner.Owner) and time.time() < end:
  time.sleep(0.01)
if owner.path.name == "owner.1.json":
  os.kill(os.getpid(), signal.SIGKILL)
(folder.parents[1] / "runs" / "deadly").mkdir(parents=True)
(folder.parents[1] / "runs" / "deadly" / "result.json").write_text(RESULT)
owner.leave("finished")
"""


def test_a_dead_worker_is_found_though_another_took_its_unit_over_at_once(tmp_path, monkeypatch, capfd):
  units = made(tmp_path, "deadly", "other")
  folder = tmp_path / "groups" / "deadly"
  monkeypatch.setattr(
    _executors, "command", lambda *a: [sys.executable, "-c", f"RESULT = {RESULT!r}\n{TAKES_OVER}", str(folder)]
  )
  monkeypatch.setenv("PYTHONPATH", str(ROOT))
  sleep = time.sleep

  def slow(seconds: float) -> None:
    """The launcher looks when all is over."""
    end = time.monotonic() + 60
    while not any(r.get("left") == "finished" for r in _owner.history(folder)) and time.monotonic() < end:
      sleep(0.02)

  monkeypatch.setattr(_executors.time, "sleep", slow)
  _executors.local(epath.Path(tmp_path), units, 2, "", lambda: False)
  died = [line for line in capfd.readouterr().err.splitlines() if line.startswith("died: ")]
  assert len(died) == 1
  pid = _owner.history(folder)[0]["pid"]
  assert died[0] == f"died: worker {pid} by signal SIGKILL in deadly, which goes on from its last checkpoint"
  assert _owner.deaths(folder, _owner.history(folder)[0]["launch"]) == [pid]
