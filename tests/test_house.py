"""Where things stand: old names, the command ``cljax``, and what an import loads."""

import importlib
import subprocess
import sys
import warnings

import jax.numpy as jnp
import pytest

from cljax import UsageError, _old_names
from cljax.cli import main as command


def fresh(code):
  out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
  assert out.returncode == 0, out.stderr
  return out.stdout.strip()


@pytest.mark.parametrize("old", sorted(_old_names.MODULES))
def test_an_old_module_is_the_new_one_and_says_so(old):
  sys.modules.pop(old, None)
  with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    module = importlib.import_module(old)
  new = _old_names.MODULES[old]
  assert module is importlib.import_module(new)
  assert [str(w.message) for w in said if w.category is DeprecationWarning] == [
    f"{old} is now {new}; the old name goes with 0.3"
  ]


def test_old_names_in_the_users_own_line():
  """The warning names the file and the line that ask, so that Python shows it in a script."""
  code = (
    "\nfrom cljax.types import UsageError\nfrom cljax import tree\nimport cljax\ncljax.rows\n"
    "from cljax.projectors import linear\nfrom cljax.optimizers import ema\nprint(UsageError is cljax.UsageError)"
  )
  out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
  assert out.stdout == "True\n", out.stderr
  for line, old, new in (
    (2, "types", "core.types"), (3, "tree", "core.tree"), (5, "rows", "core.rows"),
    (6, "projectors.linear", "theory.linear"), (7, "optimizers.ema", "edits.ema"),
  ):  # fmt: skip
    assert f"<string>:{line}: DeprecationWarning: cljax.{old} is now cljax.{new}; " in out.stderr
  assert out.stderr.count("DeprecationWarning") == 5


@pytest.mark.parametrize(
  ("package", "name", "new"),
  [("optimizers", "ema", "edits"), ("optimizers", "elephant", "models"), ("projectors", "ntk_overlap", "theory")],
)
def test_an_old_name_of_a_package(package, name, new):
  old, home = (importlib.import_module(f"cljax.{m}") for m in (package, new))
  with pytest.deprecated_call(match=f"cljax.{package}.{name} is now cljax.{new}.{name}"):
    assert getattr(old, name) is getattr(home, name)
  with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
    _ = old.nothing


def test_an_old_name_under_a_new_one():
  from cljax.methods import replay

  with pytest.deprecated_call(match="cljax.methods.replay.insert is now cljax.methods.replay.insert_pending"):
    assert replay.insert is replay.insert_pending
  with pytest.raises(UsageError, match=r"visit: got ArrayImpl \(.*test_house\.py, line \d+\); expected batch\.visit"):
    replay.drawn(None, {}, None, jnp.zeros((), jnp.int32))


def test_an_old_module_is_an_attribute_of_its_package():
  out = fresh("import cljax.methods; print(cljax.methods.anchors.__name__)")
  assert out == "cljax.methods.penalties.anchors"


def test_the_package_loads_what_is_asked_for():
  assert fresh("import sys, cljax; print('jax' in sys.modules, 'numpy' in sys.modules)") == "False False"
  assert fresh("import cljax; print(cljax.metrics.__name__, cljax.run.__name__)") == "cljax.metrics run"
  assert fresh("import cljax; print(set(cljax.__all__) <= set(dir(cljax)), hasattr(cljax, 'nothing'))") == "True False"
  assert fresh("import cljax; print(sum(hasattr(cljax, n) for n in cljax.__all__) == len(cljax.__all__))") == "True"


def test_a_launcher_sets_the_environment_before_jax_is_imported():
  """Else LAPACK takes threads of its own, and XLA one device for all cores."""
  for module in ("cljax", "launch.train"):
    code = (
      "import os, runpy, sys\n"
      "os.environ.pop('XLA_FLAGS', 0), os.environ.pop('OPENBLAS_NUM_THREADS', 0), os.environ.update(NPROC='3')\n"
      "class Watch:\n"
      "  def find_spec(self, name, path=None, target=None):\n"
      "    if name == 'jax': print(os.environ.get('OPENBLAS_NUM_THREADS'), '=3' in os.environ.get('XLA_FLAGS', ''))\n"
      f"sys.meta_path.insert(0, Watch()); sys.argv = ['x', 'train'][:{1 + (module == 'cljax')}]\n"
      "try: runpy.run_module('" + module + "', run_name='__main__', alter_sys=True)\n"
      "except SystemExit: pass\n"
    )
    assert fresh(code) == "1 True", module


def test_the_command_names_its_commands(capsys):
  assert command.main(["cljax"]) == 0
  listed = capsys.readouterr().out
  assert all(f"  {name}" in listed for name in command.COMMANDS)
  assert command.main(["cljax", "trian"]) == 2
  assert capsys.readouterr().err == (
    "error: command: got 'trian'; allowed: train, forget, sweep, tune, report, efficiency, analyze, merge, "
    "unlearn, parity, methods, cache\n"
  )
  for name in command.COMMANDS:
    assert callable(importlib.import_module(f"cljax.cli.{name}").main)
    assert importlib.import_module(f"launch.{name}").main is importlib.import_module(f"cljax.cli.{name}").main
  assert command.main(["cljax", "train", "--workdir="]) == 2
  assert "workdir: not given" in capsys.readouterr().err
