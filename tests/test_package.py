"""The package as an import: light, layered, typed."""

import ast
import configparser
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parent.parent


def test_import_is_light():
  heavy = ("tensorflow", "tensorflow_datasets", "sklearn", "matplotlib", "orbax", "grain", "PIL")
  code = f"import sys, cljax; print([m for m in {heavy!r} if m in sys.modules])"
  out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
  assert out.stdout.strip() == "[]"


def imported(path):
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.ImportFrom) and node.module and not node.level:
      yield from (f"{node.module}.{a.name}" for a in node.names)
      yield node.module
    elif isinstance(node, ast.Import):
      yield from (a.name for a in node.names)


FILES = [p for p in sorted((ROOT / "cljax").rglob("*.py")) if p.name != "__init__.py" or p.parent.name != "cljax"]


def test_nothing_imports_upwards():
  """The contract in pyproject.toml, by import-linter; and nothing outside the package is imported."""
  command = [sys.executable, "-c", "import importlinter.cli; importlinter.cli.lint_imports_command()", "--no-cache"]
  out = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
  assert out.returncode == 0, out.stdout
  for path in FILES:
    outside = [n for n in imported(path) if n.split(".")[0] in ("experiments", "launch", "tests")]
    assert not outside, f"{path.name} imports {outside}"


def test_only_the_checkpoint_module_imports_orbax():
  users = [p.name for p in (ROOT / "cljax").rglob("*.py") if any(n.split(".")[0] == "orbax" for n in imported(p))]
  assert users == ["checkpoint.py"]


def test_files_stay_small():
  files = [p for part in ("cljax", "experiments", "launch", "tests") for p in (ROOT / part).rglob("*.py")]
  lengths = {str(p.relative_to(ROOT)): len(p.read_text().splitlines()) for p in files}
  assert not {p: n for p, n in lengths.items() if n > 420}


def test_the_checkpoints_that_a_purge_deletes_need_an_orbax_that_can():
  """0.12.7 and older fail the ledger's tests; 0.12.4 has no ``Checkpointer.delete`` at all."""
  setup = configparser.ConfigParser()
  setup.read(ROOT / "setup.cfg")
  floors = dict(line.split(">=") for line in setup["options"]["install_requires"].split())
  assert tuple(map(int, floors["orbax-checkpoint"].split("."))) >= (0, 12, 8)
  assert all(floors.values())
