"""The sweep launcher: grouping into populations, rows, growth, selection by validation."""

from __future__ import annotations

import json

import pytest

from cljax.cli import _build, _config, _grid, report, sweep
from cljax.cli.sweeps import _plan, _units
from cljax.evaluation import results
from cljax.io import checkpoint
from cljax.io import owner as _owner


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
  assert len(rows(workdir)) >= 6


def test_more_seeds_run_alone_and_to_the_bits_of_a_larger_population(swept, command, tmp_path, monkeypatch, capsys):
  workdir, _ = swept
  only = command("--methods=si", "--grid=method.strength=[0.0,1.0]")
  assert (
    sweep.main([*command("--methods=si", "--grid=method.strength=[1.0]"), "--seeds=4", f"--workdir={tmp_path}"]) == 0
  )
  whole = {(r["run"], r["seed"]): r for r in rows(tmp_path)}
  ran = []
  execute = _build.execute

  def counted(built, population, *rest):
    ran.append([m.seed for m in population])
    return execute(built, population, *rest)

  monkeypatch.setattr(_build, "execute", counted)
  before = {(r["run"], r["seed"]): r["params_sha256"] for r in rows(workdir)}
  assert sweep.main([*only, "--seeds=4", f"--workdir={workdir}"]) == 0
  assert ran == [[2, 3, 2, 3]], "one population of what is new"
  found = {(r["run"], r["seed"]): r for r in rows(workdir)}
  assert len(found) == len(rows(workdir)) == len(before) + 4
  assert all(found[k]["params_sha256"] == digest for k, digest in before.items())
  for key, row in whole.items():
    for name in ("params_sha256", "acc", "task_acc", "validation_acc", "forgetting", "alive", "config"):
      assert found[key][name] == row[name], name
  for run in {run for run, _ in whole}:
    merged, single = (json.loads((w / "runs" / run / "result.json").read_text()) for w in (workdir, tmp_path))
    assert merged["seeds"] == single["seeds"] == [0, 1, 2, 3]
    for name in ("accuracy_matrix", "validation_matrix", "metrics", "task_metrics", "validation_metrics", "curves"):
      assert merged[name] == single[name], name
  capsys.readouterr()


def test_a_merged_result_counts_each_configurations_share_of_the_time():
  def part(seeds, seconds, population):
    result = {"seeds": seeds, "seconds": {"train": seconds}, "population": population, "forgotten": [], "curves": []}
    summary = {"acc": {"mean": 0.0, "stderr": None, "values": [None if s == 3 else s / 10 for s in seeds]}}
    return {**result, "metrics": summary, "params_sha256": [str(s) for s in seeds]}

  curved = {**part([3, 1, 2], 6.0, 3), "curves": [{"step": 1, "accuracy": [[0.0]] * 3}]}
  assert _units.merge(part([0, 2], 8.0, 4), curved)["curves"] == []  # not those of some seeds for those of all
  merged = _units.merge(part([0, 2], 8.0, 4), part([3, 1, 2], 6.0, 3))
  assert merged["seeds"] == [0, 1, 2, 3]
  assert merged["params_sha256"] == ["0", "1", "2", "3"]
  assert merged["metrics"]["acc"]["values"][:3] == [0.0, 0.1, 0.2]
  assert results.share_of_seconds(merged) == 8.0 / 4 + 6.0


def test_a_key_that_comes_new_with_its_default_changes_no_identity(config, monkeypatch):
  identity = _plan.plan(_config.read_file(str(config)), [], [{"method.name": "si"}])[0].built.identity
  usual = _config.defaults
  more: dict[str, dict] = {"train": {"novelty": 0.0}, "method": {"novelty": (1, 2)}}
  monkeypatch.setattr(_config, "defaults", lambda s, name="": {**usual(s, name), **more.get(s, {})})
  now = {s: {**fields, **json.loads(json.dumps(more.get(s, {})))} for s, fields in identity.items()}
  assert now != identity
  assert _config.essence(now) == _config.essence(identity)
  assert _config.essence(identity)["train"] == {"epochs": 2, "chunk_steps": 4, "on_divergence": "freeze"}
  now["train"]["novelty"] = 1.0
  assert checkpoint.differences(_config.essence(identity), _config.essence(now)) == ["train.novelty: absent -> 1.0"]


def test_damaged_rows_are_told_in_one_line_and_made_anew(swept, monkeypatch, capsys):
  workdir, given = swept
  monkeypatch.setattr(_build, "execute", lambda *a, **k: pytest.fail("it ran again"))
  assert sweep.main(given) == 0
  path = workdir / "rows.jsonl"
  sound = path.read_bytes()
  lines = sound.splitlines(keepends=True)
  path.write_bytes(lines[0] + b"\xff\x00 not a row\n" + b"".join(lines[2:-1]) + b'{"run": "x"}\n' + lines[-1][:20])
  capsys.readouterr()
  assert sweep.main(given) == 0
  assert path.read_bytes() == sound
  error = capsys.readouterr().err
  assert len(error.splitlines()) == 1
  assert "rows.jsonl has 3 damaged lines; made anew from the results" in error


def test_a_dry_run_shows_the_plan_and_writes_nothing(command, tmp_path, capsys):
  given = command("--seeds=3", f"--workdir={tmp_path}/run", "--dry_run")
  assert sweep.main(given) == 0
  out = capsys.readouterr().out.splitlines()
  assert out[0] == "9 runs (3 configurations x 3 seeds), 0 finished; 2 to train:"
  assert [line.split()[:3] for line in out[2:4]] == [["finetune", "1", "3"], ["si", "2", "6"]]
  assert sweep.main([*given, "--max_bytes=190KB"]) == 0
  cut = capsys.readouterr().out.splitlines()
  assert [line.split()[:4] for line in cut[3:5]] == [["si", "1/2", "1", "3"], ["si", "2/2", "1", "3"]]
  assert sweep.main([*given, "--max_bytes=1000"]) == 2
  error = capsys.readouterr().err
  assert len(error.splitlines()) == 1
  assert "max_bytes: one member of finetune takes 2,452 bytes beside" in error
  assert not (tmp_path / "run").exists()


def test_a_population_that_fails_does_not_sink_the_others(command, tmp_path, monkeypatch, capsys):
  execute = _build.execute

  def broken(built, *rest):
    if built.arguments["method"] == "si":
      raise ZeroDivisionError("this was\nunforeseen")
    return execute(built, *rest)

  monkeypatch.setattr(_build, "execute", broken)
  given = command("--methods=si,finetune", "--seeds=2", f"--workdir={tmp_path}")
  assert sweep.main(given) == 1
  error = capsys.readouterr().err.splitlines()
  (folder,) = (tmp_path / "groups").glob("si-*")
  assert error == [
    f"failed: [1/2] si: ZeroDivisionError: this was; the traceback: {folder / 'error.txt'}",
    "error: 1 of 2 populations did not finish; run the same command again to try them anew",
  ]
  assert [r["method"] for r in rows(tmp_path)] == ["finetune"] * 2
  assert report.main(["report", str(tmp_path)]) == 0
  told = "note: si: 2 of 2 runs have no result; it failed: ZeroDivisionError: this was; the traceback: "
  assert told + str(folder / "error.txt") in capsys.readouterr().err
  assert "unforeseen" in (folder / "error.txt").read_text()
  assert [o["left"] for o in _owner.history(folder)] == ["failed"]
  monkeypatch.setattr(_build, "execute", execute)
  assert sweep.main(given) == 0, "what failed is tried anew"
  assert [r["method"] for r in rows(tmp_path)] == ["finetune"] * 2 + ["si"] * 2


def test_a_frozen_member_is_told_and_the_others_go_on(command, tmp_path, capsys):
  given = command("--methods=finetune", "--grid=optimizer.learning_rate=[0.1,1e20]", f"--workdir={tmp_path}")
  assert sweep.main(given) == 0
  (line,) = capsys.readouterr().err.splitlines()
  assert line == "diverged: finetune learning_rate=1e+20: seeds 0 became NaN or infinite and were frozen"
  assert sorted(r["alive"] for r in rows(tmp_path)) == [False, True]


def test_what_is_not_a_traced_float_makes_another_program(config):
  file = _config.read_file(str(config))
  grid = _grid.product([
    _grid.sweep("optimizer.weight_decay", [0.0, 0.1, 0.2]),
    _grid.sweep("optimizer.learning_rate", [0.1, 0.2]),
    _grid.sweep("train.batch_size", [16, 32]),
  ])  # fmt: skip
  groups = _plan.groups(_plan.plan(file, [], grid))
  assert sorted(len(g) for g in groups) == [2, 2, 4, 4]


BAD = [
  (["--grid=method.name"], "grid: got 'method.name'; expected KEY=[VALUE,...]"),
  (["--grid=train.epochs=[]"], "grid: train.epochs has no values"),
  (["--grid=train.epochs=[1,1]"], "grid: train.epochs holds 1 twice"),
  (["--grid=train.epochs=3"], "grid: train.epochs got 3; expected a list"),
  (["--grid=train.epochs=[1,"], "grid: cannot read '[1,' of train.epochs"),
  (["--grid=train.epoch=[1]"], "train.epoch: no such field"),
  (["--grid=method.strength=[1]"], "method.strength: 'finetune' has no such option"),
  (["--methods=ewc", "--grid=method.strength=[1,-1]"], "method.strength: got -1.0; expected a number of at least 0"),
  (["--methods=ewc", "--grid=method.strength=['a']"], "method.strength: got 'a'; expected a number"),
  (["--methods=ewc,ewcc"], "method.name: unknown 'ewcc'"),
  (["--grid=train.epochs=[1]", "--grid=train.epochs=[2]"], "grid: train.epochs is varied twice"),
  (["--methods=ewc", "--max_bytes=lots"], "max_bytes: got 'lots'; expected a number of bytes"),
  (["--methods=ewc", "--workers=2"], "workers: got 2 with --executor=process"),
  (["--methods=ewc", "--executor=magic"], "flag --executor=magic: value should be one of <process|local|slurm>"),
  (["--methods=ewc", "--slurm.time=3"], "--slurm.time: got it with --executor=process; expected --executor=slurm"),
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
  for name in (
    "config",
    "workdir",
    "seeds",
    "overwrite",
    "compilation_cache",
    "grid",
    "methods",
    "executor",
    "workers",
  ):
    assert f"--{name}: " in out


def test_of_all_methods_those_that_do_not_fit_are_left_out(command, tmp_path, capsys):
  """A family on a network that is too small for one of it; the same by name is refused."""
  given = command("--config.model.hidden=(4,)", "--dry_run", f"--workdir={tmp_path}")
  assert sweep.main([*given, "--methods=all:projection:no_rows"]) == 0
  out, told = capsys.readouterr()
  assert "coso is left out: method.sketch_rank" in told
  assert "gpm " in out
  assert "coso" not in out
  assert sweep.main([*given, "--methods=gpm,coso"]) == 2
