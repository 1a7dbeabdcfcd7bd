"""A method that the configuration file registers, under a name that is no folder's: trained, reported, looked at."""

from __future__ import annotations

import json
import pathlib

import pytest
import small_config
from etils import epath

from cljax import UsageError, methods
from cljax.cli import _registered, analyze, report, sweep

CONFIG = small_config.text(
  """
import cljax
from cljax.methods.registry import Entry, Option, register

def factory(model, spec, *, nothing):
  return cljax.Method()

register("my/own", Entry(factory, {"nothing": Option(0.0)}, cljax.Access(), "here"))
"""
)


@pytest.fixture
def unknown():
  """Nobody knows the method before, nor after."""
  forget = lambda: methods.METHODS.pop("my/own", None)
  yield forget
  forget()


def test_a_registered_method_with_a_slash_in_its_name(tmp_path, monkeypatch, capfd, unknown):
  monkeypatch.setenv("PYTHONPATH", str(pathlib.Path(__file__).parents[2]))
  config, workdir = tmp_path / "config.py", tmp_path / "sweep"
  config.write_text(CONFIG)
  given = [f"--config={config}", f"--workdir={workdir}", "--compilation_cache=", "--executor=local", "--workers=1"]
  assert sweep.main(["sweep", *given, "--methods=my/own"]) == 0, capfd.readouterr().err
  told = capfd.readouterr()
  assert [line.split()[0] for line in told.out.splitlines()[2:3]] == ["my/own"]
  folders = [p.name for p in (workdir / "runs").iterdir()]
  assert len(folders) == 1
  assert folders[0].startswith("my%2Fown-")
  (row,) = [json.loads(line) for line in (workdir / "rows.jsonl").read_text().splitlines()]
  assert (row["method"], row["run"]) == ("my/own", folders[0])
  # Again: nothing is run anew, and nothing is lost.
  assert sweep.main(["sweep", *given, "--methods=my/own"]) == 2, "it is registered already, in this process"
  unknown()
  capfd.readouterr()
  assert report.main(["report", str(workdir)]) == 0
  told = capfd.readouterr()
  assert "my/own" in told.out
  assert "not there" not in told.err
  unknown()
  assert analyze.main(["analyze", str(workdir), "--rows=8", "--compilation_cache="]) == 0, capfd.readouterr().err
  assert "my/own on digits/class/2" in capfd.readouterr().out
  assert (workdir / "analysis" / "my%2Fown" / "analysis.json").exists()
  config.unlink()
  unknown()
  assert analyze.main(["analyze", str(workdir), "--compilation_cache="]) == 2
  error = capfd.readouterr().err
  assert error == f"error: method.name: unknown 'my/own'; its configuration file, {config}, is not there any more\n"


def test_a_file_that_no_longer_registers_the_method_is_told(tmp_path):
  (tmp_path / "config.py").write_text("def get_config(): return {}\n")
  _registered.remember(epath.Path(tmp_path), f"{tmp_path}/config.py:argument")
  with pytest.raises(UsageError, match="does not register it any more"):
    _registered.recall(epath.Path(tmp_path), [{"method": {"name": "nobody/s"}, "forget": {"name": ""}}])
  _registered.recall(epath.Path(tmp_path), [{"method": {"name": "er"}}, {"stream": "digits/class/5"}])
