"""The quick part of the suite under other versions, in an environment of its own.

``python -m experiments.other_versions lowest`` installs the lowest versions that setup.cfg allows: a floor that was
never tried is a guess. ``python -m experiments.other_versions newest --python=python3.14`` installs the newest of all,
pre-releases not, with that interpreter. Both then run ``pytest -m "not slow"`` and end with its exit code.
"""

from __future__ import annotations

import configparser
import pathlib
import re
import subprocess
import sys
import tempfile
import venv

from absl import app, flags

ROOT = pathlib.Path(__file__).parent.parent
TOOLS = ("ruff", "mypy", "import-linter", "coverage")  # they judge text

_PYTHON = flags.DEFINE_string("python", sys.executable, "interpreter of the environment")
_FOLDER = flags.DEFINE_string("folder", "", "where the environment is made, or lies; a temporary folder if empty")


def constraints(text: str) -> list[str]:
  """``["jax==0.10", ...]`` of all that the package and its test extra require with a floor."""
  parser = configparser.ConfigParser()
  parser.read_string(text)
  extras = parser["options.extras_require"]
  wanted = "\n".join([parser["options"]["install_requires"], *(extras[e] for e in ("run", "data", "test"))])
  found = re.findall(r"^([\w.-]+)(?:\[[\w,]+\])?>=([\d.]+)$", wanted, re.M)
  return sorted(f"{name}=={floor}" for name, floor in found if name not in TOOLS)


def tried(which: str, folder: str) -> int:
  """Installs into ``folder`` and runs the quick part; the exit code."""
  python = f"{folder}/bin/python"
  if _PYTHON.value == sys.executable:
    venv.create(folder, with_pip=True)
  else:
    subprocess.run([_PYTHON.value, "-m", "venv", folder], check=True)
  pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
  floors = pathlib.Path(folder) / "floors.txt"
  floors.write_text("\n".join(constraints((ROOT / "setup.cfg").read_text())) + "\n")
  # Not in place: that would move what the checkout's own environment imports.
  packages = subprocess.run([*pip, ".[test]", *(["-c", str(floors)] if which == "lowest" else ["--upgrade"])], cwd=ROOT)
  if packages.returncode:
    return packages.returncode
  shown = ("jax", "jaxlib", "flax", "optax", "chex", "orbax-checkpoint", "numpy", "scipy")
  told = f"import importlib.metadata as m; print(*(f'{{p}} {{m.version(p)}}' for p in {shown}), sep=', ')"
  subprocess.run([python, "-c", told], check=True)
  return subprocess.run([python, "-m", "pytest", "-q", "-n", "2", "-m", "not slow"], cwd=ROOT).returncode


def main(argv) -> None:
  which = argv[1] if len(argv) == 2 else ""
  if which not in ("lowest", "newest"):
    raise app.UsageError(f"got {' '.join(argv[1:]) or 'nothing'}; expected lowest or newest")
  if _FOLDER.value:
    raise SystemExit(tried(which, _FOLDER.value))
  with tempfile.TemporaryDirectory() as folder:
    raise SystemExit(tried(which, folder))


if __name__ == "__main__":
  app.run(main)
