"""A package that breaks under the versions at hand is named in one line; the floors of setup.cfg are what is tried."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import pytest

from experiments import other_versions

ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture
def broken(tmp_path):
  """``broken(arguments) -> standard error`` of a Python for which optax asks jax for what it does not have."""
  package = tmp_path / "site-packages" / "optax"
  package.mkdir(parents=True)
  (package / "__init__.py").write_text("import jax\n\nfrom optax import inner\n")
  (package / "inner.py").write_text("import jax\n\njax.nothing_of_the_kind\n")
  path = f"{package.parent}{os.pathsep}{ROOT}"

  def ran(*arguments: str) -> str:
    command = [sys.executable, *arguments]
    out = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": path})
    assert out.returncode == 1, out.stdout
    return out.stderr

  return ran


SAID = "optax {} cannot be imported here, beside jax {} on Python {}.{}.{} (AttributeError: module 'jax' has no"


def said() -> str:
  import jax
  import optax

  return SAID.format(optax.__version__, jax.__version__, *sys.version_info[:3])


def test_an_import_ends_with_the_package_that_breaks(broken):
  last = broken("-c", "from cljax import regularizers").strip().splitlines()[-1]
  assert last.startswith(
    f"cljax._dependencies.BrokenPackageError: {said()} attribute 'nothing_of_the_kind'); install another version of it"
  )


def test_a_launcher_says_it_in_one_line(broken):
  told = broken("-m", "launch.train", "--config=none.py", "--workdir=none")
  (line,) = told.strip().splitlines()
  assert line.startswith(f"error: {said()}")


def test_another_error_keeps_its_traceback(tmp_path):
  (tmp_path / "own.py").write_text("import cljax.losses\n\nraise ValueError('mine')\n")
  command = [sys.executable, "-c", "from cljax import _dependencies; _dependencies.say_so(); import own"]
  env = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
  out = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
  assert "Traceback" in out.stderr
  assert out.stderr.strip().endswith("ValueError: mine")


def test_the_lowest_versions_are_the_floors():
  text = """
[options]
install_requires =
    jax>=0.10
    absl-py>=2.1
[options.extras_require]
run =
    etils[epath]>=1.9.1
data =
    grain>=0.2
test =
    cljax[run,data]
    ruff>=0.12
    pytest>=8
"""
  assert other_versions.constraints(text) == ["absl-py==2.1", "etils==1.9.1", "grain==0.2", "jax==0.10", "pytest==8"]


@pytest.mark.parametrize(
  ("does", "patience", "code"),
  [
    ("import time; time.sleep(60)", 1, other_versions.NOT_TRIED),
    ("sys.exit('Retrying after NewConnectionError: no route to host\\nERROR: No matching distribution')", 60, 75),
    ("sys.exit('Retrying after NewConnectionError\\nERROR: ResolutionImpossible: jax 0.10 and jax 0.11')", 60, 1),
    ("sys.exit('NewConnectionError')", 0, 1),
    ("sys.exit('ERROR: No matching distribution found for jax==0.10')", 60, 1),
    ("pass", 60, 0),
  ],
)
def test_an_index_that_does_not_answer_is_no_floor_that_fails(does, patience, code):
  assert other_versions.installed([sys.executable, "-c", f"import sys; {does}"], patience) == code


def test_the_files_for_the_lowest_versions_are_there():
  named = (ROOT / "tests" / "lowest.txt").read_text().split()
  assert [name for name in named if not (ROOT / name).exists()] == []
  assert len({*named}) == len(named) > 10
