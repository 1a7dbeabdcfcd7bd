"""The quick part of the suite under other versions, in an environment of its own.

``python -m experiments.other_versions lowest`` installs the lowest versions that setup.cfg allows: a floor that was
never tried is a guess. ``python -m experiments.other_versions newest --python=python3.14`` installs the newest of all,
pre-releases not, with that interpreter. Both then run ``pytest -m "not slow"`` and end with its exit code.

``lowest --files=tests/lowest.txt --patience=300``, as CI does, runs the files named there alone, and ends with 75 where
the packages did not come in so many seconds, or no index answered: nothing was tried then. Floors that contradict one
another are an error of their own.
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
NOT_TRIED = 75  # EX_TEMPFAIL
UNREACHED = ("ConnectionError", "NameResolutionError", "Read timed out", "ConnectTimeout", "ProxyError", "Max retries")
CLASH = "ResolutionImpossible"
TOOLS = ("ruff", "mypy", "import-linter", "coverage")  # they judge text


def constraints(text: str) -> list[str]:
  """``["jax==0.10", ...]`` of all that the package and its test extra require with a floor."""
  parser = configparser.ConfigParser()
  parser.read_string(text)
  extras = parser["options.extras_require"]
  wanted = "\n".join([parser["options"]["install_requires"], *(extras[e] for e in ("run", "data", "test"))])
  found = re.findall(r"^([\w.-]+)(?:\[[\w,]+\])?>=([\d.]+)$", wanted, re.M)
  return sorted(f"{name}=={floor}" for name, floor in found if name not in TOOLS)


def installed(command: list[str], patience: int) -> int:
  """0, or NOT_TRIED where it took too long or no index answered, or pip's exit code."""
  try:
    made = subprocess.run(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, timeout=patience or None)
  except subprocess.TimeoutExpired:
    print(f"the packages did not come in {patience} s; nothing was tried", file=sys.stderr)
    return NOT_TRIED
  lines = [line for line in made.stderr.splitlines() if "WARNING: Location" not in line]  # a folder lacks a package
  print("\n".join(lines), file=sys.stderr)
  if made.returncode and patience and any(mark in made.stderr for mark in UNREACHED) and CLASH not in made.stderr:
    print("no package index answered; nothing was tried", file=sys.stderr)
    return NOT_TRIED
  return made.returncode


def tried(which: str, folder: str) -> int:
  """Installs into ``folder`` and runs the quick part; the exit code."""
  python = f"{folder}/bin/python"
  if flags.FLAGS.python == sys.executable:
    venv.create(folder, with_pip=True)
  else:
    subprocess.run([flags.FLAGS.python, "-m", "venv", folder], check=True)
  pip = [python, "-m", "pip", "install", "--quiet", "--no-compile", "--disable-pip-version-check"]
  floors = pathlib.Path(folder) / "floors.txt"
  floors.write_text("\n".join(constraints((ROOT / "setup.cfg").read_text())) + "\n")
  # Not in place: that would move what the checkout's own environment imports.
  lowest = ["-c", str(floors)] if which == "lowest" else ["--upgrade"]
  code = installed([*pip, ".[test]", *lowest], flags.FLAGS.patience)
  if code:
    return code
  shown = ("jax", "jaxlib", "flax", "optax", "chex", "orbax-checkpoint", "numpy", "scipy")
  told = f"import importlib.metadata as m; print(*(f'{{p}} {{m.version(p)}}' for p in {shown}), sep=', ')"
  subprocess.run([python, "-c", told], check=True)
  files = (ROOT / flags.FLAGS.files).read_text().split() if flags.FLAGS.files else []
  return subprocess.run([python, "-m", "pytest", "-n", "2", "-m", "not slow", *files], cwd=ROOT).returncode


def main(argv) -> None:
  which = argv[1] if len(argv) == 2 else ""
  if which not in ("lowest", "newest"):
    raise app.UsageError(f"got {' '.join(argv[1:]) or 'nothing'}; expected lowest or newest")
  if flags.FLAGS.folder:
    raise SystemExit(tried(which, flags.FLAGS.folder))
  with tempfile.TemporaryDirectory() as folder:
    raise SystemExit(tried(which, folder))


if __name__ == "__main__":
  flags.DEFINE_string("python", sys.executable, "interpreter of the environment")
  flags.DEFINE_string("files", "", "a file that names the test files to run, one a line; empty for all")
  flags.DEFINE_integer("patience", 0, "seconds that the packages may take; 0 for any number", 0)
  flags.DEFINE_string("folder", "", "where the environment is made, or lies; a temporary folder if empty")
  app.run(main)
