"""The package as an import: light, layered, typed."""

import ast
import configparser
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
FLOORS = [
  {"types", "tree", "rows", "dtypes", "layout", "judging"},
  {"losses", "regularizers", "projectors", "optimizers", "memory", "estimators", "models", "data", "metrics", "method"}
  | {"theory"},
  {"objective"},
  {
    "streams",
    "recipe",
    "unlearning",
    "objectives",
    "evaluation_parameters",
    "holding",
    "identity",
    "writers",
    "writers_tracking",
  },
  {"methods", "step", "feed", "checkpoint", "mesh", "prediction"},
  {"programs"},
  {"setup"},
  {"loop"},
  {"ahead"},
  {"ledger"},
  {"engine", "results", "selection"},
  {"cost", "evidence", "loading"},
]


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


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_imports_upwards(path):
  own = path.relative_to(ROOT / "cljax").parts[0].removesuffix(".py")
  level = {part: i for i, floor in enumerate(FLOORS) for part in floor}
  assert own in level, f"{own} has no floor"
  for name in imported(path):
    parts = name.split(".")
    assert parts[0] not in ("experiments", "launch", "tests"), name
    if parts[0] == "cljax" and len(parts) > 1 and parts[1] in level and parts[1] != own:
      assert level[parts[1]] <= level[own], f"{own} imports {name} from a floor above"
      if level[parts[1]] == level[own] == 1:
        assert parts[1] in ("method",), f"{own} knows {name}, which stands beside it"


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
