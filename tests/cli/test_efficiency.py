"""``launch.efficiency`` on real small runs, its numbers against NumPy alone."""

from __future__ import annotations

import json

import numpy as np
import pytest

from cljax import UsageError
from cljax.cli import efficiency, train
from cljax.evaluation import efficiency as evaluated
from cljax.evaluation.cost import Cost


@pytest.fixture(scope="module")
def trained(command, tmp_path_factory):
  """``{method: workdir}`` of two seeds each."""
  root = tmp_path_factory.mktemp("efficiency")
  for name in ("joint", "finetune", "er"):
    assert train.main(command("--seeds=2", f"--config.method.name={name}", f"--workdir={root / name}")) == 0
  return {name: root / name for name in ("joint", "finetune", "er")}


def told(trained, *more):
  assert efficiency.main(["efficiency", *map(str, trained.values()), *more]) == 0
  return json.loads((trained["joint"] / "efficiency.json").read_text())


@pytest.fixture(scope="module")
def numbers(trained):
  return told(trained)


def results(trained):
  return {name: json.loads((path / "result.json").read_text()) for name, path in trained.items()}


def test_accuracy_is_relative_and_netscore_is_its_formula(trained, numbers):
  (table,) = numbers["streams"].values()
  final = {n: np.asarray(r["accuracy_matrix"])[:, -1].mean(1) for n, r in results(trained).items()}
  model = 4 * (64 * 8 + 8 + 8 * 10 + 10)
  for name, r in results(trained).items():
    row = table[name]["row"]
    relative = final[name] / final["joint"].mean()
    np.testing.assert_allclose(row["relative"], relative)
    assert row["model_bytes"] == model
    assert row["kept_bytes"] == r["state_bytes"]
    assert row["updates"] == r["steps"]
    memory, updates = (model + r["state_bytes"]) / 4e6, r["steps"] / 1e3
    want = 20 * np.log10((100 * relative) ** 2 / np.sqrt(memory * updates))
    np.testing.assert_allclose(row["netscore"], want)
  assert table["er"]["row"]["kept_bytes"] > 20 * 64  # a byte and more for each stored pixel
  assert table["er"]["row"]["operations"] > 1.7 * table["finetune"]["row"]["operations"]  # as many rows again


def test_the_criteria_beside_forgetting(trained, numbers):
  (table,) = numbers["streams"].values()
  for name, r in results(trained).items():
    R, own = np.asarray(r["accuracy_matrix"])[:, 1:], table[name]["criteria"]
    low = np.tril(np.ones((5, 5), bool))
    back = [np.mean([m[i, j] - m[j, j] for i in range(5) for j in range(i)]) for m in R]
    np.testing.assert_allclose(own["accuracy"], [m[low].mean() for m in R])
    np.testing.assert_allclose(own["remembering"], [1 - abs(min(b, 0)) for b in back])
    np.testing.assert_allclose(own["positive_backward_transfer"], np.maximum(back, 0))
    np.testing.assert_allclose(own["forward_transfer"], [m[~low].mean() for m in R])
    seven = [own[k] for k in list(own)[:7]]
    assert own["cl_score"] == pytest.approx(np.mean(seven))
    assert own["cl_stability"] == pytest.approx(1 - np.mean([np.std(c) for c in seven]))


def test_what_is_printed(trained, numbers, capsys):
  (table,) = numbers["streams"].values()
  assert told(trained, "--compute=operations")["streams"] != numbers["streams"]
  text = capsys.readouterr().out
  lines = text.splitlines()
  order = [line.split()[0] for line in lines[4:7]]
  assert sorted(order) == sorted(table)
  er = next(line for line in lines if line.startswith("er "))
  v = 100 * np.asarray(table["er"]["row"]["relative"])
  assert f"{v.mean():.1f} ± {v.std(ddof=1) / np.sqrt(2):.1f}" in er
  assert f"{table['er']['row']['updates']:,}" in er.split()
  stored = np.asarray(table["er"]["criteria"]["sample_storage_efficiency"])
  assert 0 < stored[0] == stored[1] < 1
  assert any(line.startswith("er ") and f" {stored[0]:.3f} ± 0.000" in line for line in lines[8:])
  page = (trained["joint"] / "efficiency.md").read_text()
  assert page.startswith("# Efficiency")
  assert "| run | A | REM | BWT+" in page


@pytest.mark.parametrize(
  ("given", "said"),
  [
    ([], "DIR: not given"),
    (["nowhere"], "DIR: no folder nowhere"),
    (["er"], "reference: nothing to compare with 'joint'"),
    (["er", "--reference=lwf"], "no runs of 'lwf'; expected one, by --reference=LABEL"),
    (["er", "joint", "--compute=steps"], "value should be one of <updates|operations|seconds>"),
  ],
)
def test_wrong_arguments_are_one_line(trained, capsys, given, said):
  given = [str(trained[g]) if g in trained else g for g in given]
  assert efficiency.main(["efficiency", *given]) == 2
  error = capsys.readouterr().err
  assert said in error
  assert len(error.splitlines()) == 1


def spent(accuracy, matrix=None, updates=10, kept=0.0):
  one = np.ones(2)
  cost = Cost(400 * one, 0 * one, 80, 2.0, 1.0, 20 * one, 10 * one)
  return evaluated.Spent(np.asarray(accuracy), matrix, kept, updates, 3.0, cost)


def test_of_what_diverged_there_is_no_number():
  reference = spent([0.5, np.nan, 0.3])
  row = evaluated.row(spent([0.2, np.nan, 0.0]), reference)
  np.testing.assert_allclose(row.relative, [0.5, np.nan, 0.0])
  want = 20 * np.log10(50.0**2 / np.sqrt(100 / 1e6 * 10 / 1e3))
  np.testing.assert_allclose(row.netscore, [want, np.nan, np.nan])
  assert evaluated.row(spent([0.2]), reference, "seconds").netscore[0] == pytest.approx(
    20 * np.log10(50.0**2 / np.sqrt(100 / 1e6 * 3.0))
  )
  assert evaluated.row(spent([0.2]), reference, "operations").netscore[0] == pytest.approx(
    20 * np.log10(50.0**2 / np.sqrt(100 / 1e6 * 40 / 2e9))
  )
  with pytest.raises(UsageError, match="reference: has no accuracy above 0"):
    evaluated.row(spent([0.2]), spent([np.nan, 0.0]))
  with pytest.raises(UsageError, match="compute: got 'steps'; allowed: updates, operations, seconds"):
    evaluated.row(spent([0.2]), reference, "steps")


def test_a_matrix_has_a_column_for_each_event():
  matrix = np.arange(18.0).reshape(1, 6, 3) / 18
  learn = lambda *tasks: [{"kind": "learn", "task": t} for t in tasks]
  events = [*learn(2, 0), {"kind": "forget", "classes": [1]}, *learn(1), {"kind": "forget", "classes": [0]}]
  want = [[matrix[0, row, column] for column in (2, 0, 1)] for row in (1, 2, 4)]
  np.testing.assert_array_equal(evaluated.in_order(matrix, events)[0], want)
  assert evaluated.in_order(matrix[:, :4], learn(0, 1, 0)) is None
  assert evaluated.more(spent([0.2])) == {}
  assert evaluated.more(spent([0.2], np.ones((1, 1, 1)))) == {}
