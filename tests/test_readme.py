"""What the README shows, done: its table, its method in one file, its regularizer in a plain optax loop."""

import pathlib
import re
import subprocess
import sys

import pytest

README = (pathlib.Path(__file__).parent.parent / "README.md").read_text()


def blocks(heading, language="python"):
  """The code blocks of one language under a heading."""
  section = README.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
  return re.findall(rf"```{language}\n(.*?)```", section, re.S)


def test_the_methods_table_is_the_registry():
  from cljax.cli.methods import state_bytes
  from cljax.methods.table import table

  assert table(state_bytes()) in README


def test_a_method_in_one_file(tmp_path):
  """The README's method, in a file outside the package: registered by import, run by name, better than finetune."""
  (source,) = blocks("Adding a method")
  assert len(source.splitlines()) < 60
  (tmp_path / "hard_replay.py").write_text(source)
  script = """
import cljax, hard_replay
from cljax import data, models, streams
stream = streams.build(data.load("digits"), "class", tasks=5)
model = models.mlp((8, 8, 1), 10, hidden=(50,))
run = lambda name: cljax.run(stream, model, name, training=cljax.Recipe(batch_size=32, epochs=2)).accuracy[0, -1].mean()
print(run("hard_replay"), run("finetune"))
"""
  out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, check=False)
  assert out.returncode == 0, out.stderr
  mine, floor = map(float, out.stdout.split())
  assert mine > floor + 0.2


def test_an_objective_of_one_s_own(tmp_path):
  """As the README shows it: ewc forgets less of the first task's absolute error than finetune."""
  (source,) = blocks("More than labels")
  out = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, cwd=tmp_path, check=False)
  assert out.returncode == 0, out.stderr
  finetune, ewc = (float(v) for v in re.findall(r"\[([\d.]+)", out.stdout))
  assert ewc < finetune - 0.02, out.stdout


def test_an_evaluator_of_one_s_own(tmp_path):
  """As the README shows it: the probe knows the first of five tasks long after it was learned."""
  (source,) = blocks("Evaluators")
  source += '\nprint(result.evaluations["sureness"]["margin"].shape)\n'
  out = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, cwd=tmp_path, check=False)
  assert out.returncode == 0, out.stderr
  first, *_, shape = re.findall(r"[\d.]+", out.stdout.partition("(")[0]) + [out.stdout.partition("(")[2]]
  assert float(first) > 0.5, out.stdout
  assert shape.strip() == "1, 6, 5)"


@pytest.mark.parametrize("heading", ["One regularizer in your own optax chain", "One projector in your own loop"])
def test_scripts_outside_the_package(tmp_path, heading):
  """Scripts with optax and one cljax import: less forgetting with than without, as they print."""
  (source,) = blocks(heading)
  out = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, cwd=tmp_path, check=False)
  assert out.returncode == 0, out.stderr
  without, with_it = (float(v) for v in re.findall(r"([\d.]+)$", out.stdout, re.M))
  assert with_it > without + 0.05, out.stdout
