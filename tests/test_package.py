"""The package as an import: light, layered, typed."""

import ast
import configparser
import pathlib
import subprocess
import sys

from cljax.core import extras

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


def test_a_plain_install_is_short():
  """What cljax is built on and no more; every other package that it imports comes with an extra, and is named."""
  setup = configparser.ConfigParser()
  setup.read(ROOT / "setup.cfg")
  needed = {line.split(">=")[0] for line in setup["options"]["install_requires"].split()}
  built_on = {"jax", "jaxlib", "flax", "optax", "chex", "tensorflow-datasets", "orbax-checkpoint", "absl-py", "numpy"}
  assert needed == built_on
  given = {n.replace("-", "_") for n in needed} | {
    "cljax",
    "orbax",
    "absl",
    "etils",
    "scipy",
  }  # etils: orbax's; scipy: jax's
  others = {"torch", "submitit", "tensorboardX", "wandb", "pandas"} | set(extras.PACKAGES)
  for path in FILES:
    roots = {n.split(".")[0] for n in imported(path)} - set(sys.stdlib_module_names)
    assert roots <= given | others, f"{path.name} imports {roots - given - others}"


def test_a_package_that_is_missing_is_named_with_its_extra():
  """Every module is imported without them; what needs one says so in a line."""
  code = (
    "import sys, pkgutil, importlib, numpy\n"
    f"for name in {sorted(extras.PACKAGES)}:\n  sys.modules[name] = None\n"
    "import cljax\n"
    "for found in pkgutil.walk_packages(cljax.__path__, 'cljax.'):\n"
    "  if 'worker' not in found.name: importlib.import_module(found.name)\n"
    "try: cljax.metrics.unlearning.loss_attack(*[numpy.zeros((9, 2))] * 2, *[numpy.zeros(9, int)] * 2)\n"
    "except cljax.UsageError as error: print(error)\n"
  )
  out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
  assert out.returncode == 0, out.stderr
  said = "a membership attack: needs sklearn, which is not installed; pip install 'cljax[data]', or 'cljax[all]'"
  assert out.stdout.strip() == said
