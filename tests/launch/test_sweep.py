"""The sweep launcher: grouping into populations, rows, growth, selection by validation."""

from __future__ import annotations

import json

import pytest

from cljax import results
from launch import _build, _config, _grid, sweep


def rows(workdir) -> list[dict]:
  return [json.loads(line) for line in (workdir / "rows.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def swept(command, tmp_path_factory):
  """A finished sweep of the file's get_hyper: finetune, and si with two strengths, two seeds each."""
  workdir = tmp_path_factory.mktemp("swept")
  given = command("--seeds=2", f"--workdir={workdir}")
  assert sweep.main(given) == 0
  return workdir, given


def test_a_strength_grid_is_one_compilation(swept):
  workdir, _ = swept
  found = [json.loads(p.read_text()) for p in sorted((workdir / "runs").glob("*/result.json"))]
  by_method = {m: [r for r in found if r["method"] == m] for m in ("finetune", "si")}
  assert len(by_method["finetune"]) == 1
  assert sorted(r["config"]["method"]["strength"] for r in by_method["si"]) == [0.0, 1.0]
  assert {r["population"] for r in by_method["si"]} == {4}
  assert len(list((workdir / "groups").iterdir())) == 2
  assert all(r["compilations"]["chunk"] == 1 for r in found)
  a, b = by_method["si"]
  assert a["params_sha256"] != b["params_sha256"], "the strengths take effect"
  neutral = next(r for r in by_method["si"] if r["config"]["method"]["strength"] == 0.0)
  assert neutral["accuracy_matrix"] == by_method["finetune"][0]["accuracy_matrix"]


def test_rows_are_one_for_each_configuration_and_seed(swept):
  workdir, _ = swept
  found = rows(workdir)
  assert len(found) == 6
  assert len({(r["run"], r["seed"]) for r in found}) == 6
  for row in found:
    result = json.loads((workdir / "runs" / row["run"] / "result.json").read_text())
    i = result["seeds"].index(row["seed"])
    assert row["acc"] == result["metrics"]["acc"]["values"][i]
    assert row["task_acc"] == result["task_metrics"]["acc"]["values"][i]
    assert row["validation_acc"] == result["validation_metrics"]["acc"]["values"][i]
    assert row["params_sha256"] == result["params_sha256"][i]
    assert row["point"]["method.name"] == row["method"]


def test_a_finished_sweep_is_not_run_again(swept, monkeypatch, capsys):
  workdir, given = swept
  before = rows(workdir)
  monkeypatch.setattr(_build, "execute", lambda *a, **k: pytest.fail("it ran again"))
  assert sweep.main(given) == 0
  table = capsys.readouterr().out
  assert "si strength=0.0" in table
  assert "best of its method by validation accuracy" in table
  assert rows(workdir) == before
  assert (workdir / "comparison.png").read_bytes()[:4] == b"\x89PNG"


def test_an_interrupted_sweep_resumes_and_a_grown_one_runs_what_is_new(swept, monkeypatch, capsys):
  workdir, given = swept
  ran = []
  execute = _build.execute

  def counted(built, population, *rest):
    ran.append([dict(m.hyper) for m in population])
    return execute(built, population, *rest)

  monkeypatch.setattr(_build, "execute", counted)
  first = next(p for p in (workdir / "runs").iterdir() if p.name.startswith("si"))
  saved = json.loads((first / "result.json").read_text())
  (first / "result.json").unlink()
  assert sweep.main(given) == 0
  assert json.loads((first / "result.json").read_text())["params_sha256"] == saved["params_sha256"]
  assert len(ran) == 1, "only the group that misses a result, from its last checkpoint"
  ran.clear()
  assert sweep.main([*given, "--methods=si", "--grid=method.strength=[0.0,1.0,2.0]"]) == 0
  assert [[m["method.strength"] for m in p] for p in ran] == [[2.0, 2.0]]
  found = rows(workdir)
  assert len(found) == len({(r["run"], r["seed"]) for r in found}) == 8
  capsys.readouterr()


def test_a_workdir_of_another_sweep_is_refused(swept, capsys):
  workdir, given = swept
  assert sweep.main([*given, "--config.train.epochs=1"]) == 2
  assert 'differing keys: overrides.train.epochs: absent -> "1"' in capsys.readouterr().err
  assert sweep.main([*given, "--seeds=3"]) == 2
  assert "seeds: [0, 1] -> [0, 1, 2]" in capsys.readouterr().err
  assert len(rows(workdir)) >= 6


def test_what_is_not_a_traced_float_makes_another_program(config):
  file = _config.read_file(str(config))
  grid = _grid.product([
    _grid.sweep("optimizer.weight_decay", [0.0, 0.1, 0.2]),
    _grid.sweep("optimizer.learning_rate", [0.1, 0.2]),
    _grid.sweep("train.batch_size", [16, 32]),
  ])  # fmt: skip
  groups = sweep.groups(sweep.plan(file, [], grid))
  assert sorted(len(g) for g in groups) == [2, 2, 4, 4]


BAD = [
  (["--grid=method.name"], "grid: got 'method.name'; expected KEY=[VALUE,...]"),
  (["--grid=train.epochs=[]"], "grid: train.epochs has no values"),
  (["--grid=train.epochs=[1,1]"], "grid: train.epochs holds 1 twice"),
  (["--grid=train.epochs=3"], "grid: train.epochs got 3; expected a list"),
  (["--grid=train.epochs=[1,"], "grid: cannot read '[1,' of train.epochs"),
  (["--grid=train.epoch=[1]"], "train.epoch: no such field"),
  (["--grid=method.strength=[1]"], "method.strength: 'finetune' has no such option"),
  (["--methods=ewc", "--grid=method.strength=[1,-1]"], "method.strength: got -1.0; expected at least 0"),
  (["--methods=ewc", "--grid=method.strength=['a']"], "method.strength: got 'a'; expected a number"),
  (["--methods=ewc,ewcc"], "method.name: unknown 'ewcc'"),
  (["--grid=train.epochs=[1]", "--grid=train.epochs=[2]"], "grid: train.epochs is varied twice"),
  (["--grid=train.epochs=[1]", "--config.train.epochs=2"], "grid: train.epochs is also given as --config.train.epochs"),
]


@pytest.mark.parametrize(("given", "text"), BAD, ids=[" ".join(given) for given, _ in BAD])
def test_bad_grids(command, tmp_path, capsys, given, text):
  assert sweep.main(command(f"--workdir={tmp_path}/run", *given)) == 2
  error = capsys.readouterr().err
  assert text in error
  assert len(error.splitlines()) == 1
  assert not (tmp_path / "run").exists()


def test_without_a_grid(tmp_path, capsys):
  file = tmp_path / "config.py"
  file.write_text("def get_config(): return {}")
  assert sweep.main(["launch", f"--config={file}", f"--workdir={tmp_path}/run"]) == 2
  assert "grid: not given" in capsys.readouterr().err


def test_selection_is_by_validation_and_passes_over_diverged_runs():
  def result(validation, test, alive=True, forgotten=()):
    return {
      "method": "m", "config": {}, "alive": [alive], "forgotten": forgotten,
      "metrics": {"acc": {"mean": test}}, "validation_metrics": {"acc": {"mean": validation}},
    }  # fmt: skip

  found = [result(0.5, 0.9), result(0.7, 0.1), result(0.9, 0.9, alive=False)]
  assert results.best_by_validation(found) == {1}
  assert results.best_by_validation([result(0.9, 0.9, forgotten=[{}])]) == set()


def test_help_names_every_flag(capsys):
  assert sweep.main(["launch", "--help"]) == 0
  out = capsys.readouterr().out
  for name in ("config", "workdir", "seeds", "overwrite", "compilation_cache", "grid", "methods"):
    assert f"--{name}: " in out
