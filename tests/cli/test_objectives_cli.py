"""Objectives and scores from the command line: regression on a file, what its results say, and what is refused."""

from __future__ import annotations

import itertools
import json
import pathlib
import re

import numpy as np
import pytest

from cljax import Stopped
from cljax.cli import _build, _config, analyze, report, sweep, train
from cljax.cli._config import Override
from cljax.engine import restore
from cljax.evaluation import results

CONFIG = """
from ml_collections import ConfigDict

import jax.numpy as jnp
from cljax.objectives import regression, registry, OBJECTIVES, Score

def near(model, spec, *, noise, within):
  # Regression, and the share of rows that are near: a second score, of the other direction.
  made = regression(noise=1.0)(model, spec, {{"objective.noise": noise}})
  def close(key, predict, batch):
    gap = predict(batch)[:, 0] - batch.y
    return jnp.abs(gap) < within, jnp.ones(gap.shape)
  return made._replace(name="near", scores={{**made.scores, "accuracy": Score(close)}})

if "near" not in OBJECTIVES:
  registry.offered(noise=registry.Number(1.0, above=True), within=registry.Number(0.5))(near)

def get_config():
  config = ConfigDict()
  config.data = ConfigDict({{"name": "npz:{path}"}})
  config.stream = ConfigDict({{"kind": "group", "tasks": 3, "validation": 0.2}})
  config.model = ConfigDict({{"name": "mlp", "hidden": (8,)}})
  config.objective = ConfigDict({{"name": "regression", "noise": 0.5}})
  config.train = ConfigDict({{"epochs": 2, "batch_size": 16, "chunk_steps": 8}})
  config.optimizer = ConfigDict({{"learning_rate": 0.02}})
  config.method_defaults = ConfigDict({{"er": {{"capacity": 16}}}})
  return config
"""


@pytest.fixture(scope="module")
def rows():
  """scikit-learn's diabetes rows: ten inputs, how the illness went on after a year (standardised), and thirds of
  age."""
  from sklearn.datasets import load_diabetes

  x, y = load_diabetes(return_X_y=True)
  x, y = (x / x.std(0)).astype(np.float32), ((y - y.mean()) / y.std()).astype(np.float32)
  group = np.searchsorted(np.quantile(x[:, 0], [1 / 3, 2 / 3]), x[:, 0]).astype(np.int32)
  cut = np.arange(len(x)) % 4 == 0
  named = {"x": x, "y": y, "group": group}
  return {f"{k}_{s}": v[m] for k, v in named.items() for s, m in (("train", ~cut), ("test", cut))}


@pytest.fixture(scope="module")
def command(rows, tmp_path_factory):
  folder = tmp_path_factory.mktemp("diabetes")
  np.savez(folder / "diabetes.npz", **rows)
  (folder / "config.py").write_text(CONFIG.format(path=folder / "diabetes.npz"))
  return lambda *more: ["launch", f"--config={folder / 'config.py'}", "--compilation_cache=", *more]


@pytest.fixture(scope="module")
def trained(command, tmp_path_factory):
  workdir = tmp_path_factory.mktemp("trained") / "run"
  assert train.main(command("--seeds=2", f"--workdir={workdir}")) == 0
  return workdir


def test_a_file_of_real_targets_trains_by_group(trained, rows):
  """The last row of the matrix is NumPy's mean squared error of what the saved model predicts."""
  result = json.loads((trained / "result.json").read_text())
  assert (result["main"], result["better"]) == ("squared_error", {"squared_error": "lower"})
  assert result["config"]["objective"] == {"name": "regression", "noise": 0.5}
  assert "accuracy_matrix" not in result
  matrix = np.asarray(result["scores"]["squared_error"])
  assert matrix.shape == (2, 4, 3)
  loaded = restore.load(trained)
  for member in range(2):
    z = np.asarray(loaded.predict(rows["x_test"], member=member), np.float64)[:, 0]
    for task in range(3):
      mine = rows["group_test"] == task
      np.testing.assert_allclose(matrix[member, -1, task], np.mean((z - rows["y_test"])[mine] ** 2), rtol=1e-5)


def test_where_lower_is_better_forgetting_is_what_got_worse(trained):
  result = json.loads((trained / "result.json").read_text())
  R = np.asarray(result["scores"]["squared_error"])
  after = R[:, 1:]
  assert result["metrics"]["acc"]["values"] == pytest.approx(after[:, -1].mean(-1))
  assert result["metrics"]["forgetting"]["values"] == pytest.approx(
    (after[:, -1, :2] - after[:, :2, :2].min(1)).mean(-1)
  )
  own = np.diagonal(after, axis1=1, axis2=2)
  assert result["metrics"]["bwt"]["values"] == pytest.approx((own - after[:, -1])[:, :2].mean(-1))
  assert result["validation_metrics"]["acc"]["mean"] > 0


def test_the_printed_summary_names_the_score(trained, command, capsys):
  assert train.main(command("--seeds=2", f"--workdir={trained}")) == 0
  out = capsys.readouterr().out
  assert "squared error: lower is better" in out
  assert re.search(r"final squared error, domain-incremental \(group\) +0\.\d+ ± 0\.\d+\n", out)
  assert "%" not in out
  assert (trained / "score_matrix.png").read_bytes()[:4] == b"\x89PNG"
  events = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
  assert {e["score"] for e in events if e["kind"] == "event"} == {"squared_error"}


def test_a_workdir_of_another_objective_is_refused(trained, command, capsys):
  assert train.main(command("--seeds=2", f"--workdir={trained}", "--config.objective.noise=2")) == 2
  error = capsys.readouterr().err
  assert "objective.noise: 0.5 -> 2.0" in error
  assert len(error.splitlines()) == 1


def test_an_analysis_without_the_data_says_where_they_are_given(trained, rows, tmp_path, capsys):
  def refused(*given):
    assert analyze.main(["analyze", str(trained), *given]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    return error

  file = pathlib.Path(json.loads((trained / "result.json").read_text())["config"]["data"]["name"].partition(":")[2])
  away = file.rename(tmp_path / file.name)
  try:
    assert "data_dir: not given; expected the folder of this run's data (npz:" in refused()
    assert f"data_dir: got {tmp_path}; expected the folder" in refused(f"--data_dir={tmp_path}")
    np.savez(file, **{**rows, "y_train": -rows["y_train"]})
    assert "are not those that the run had" in refused()
  finally:
    away.rename(file)


REFUSED = [
  (["--config.objective.name=regresion"], "objective.name: unknown 'regresion'; did you mean regression?"),
  (["--config.objective.noise=0"], "objective.noise: got 0.0; expected a number above 0"),
  (["--config.objective.noise=much"], "objective.noise: got 'much'; expected a number"),
  (["--config.objective.nois=1"], "objective.nois: 'regression' has no such option; allowed: name, noise"),
  (["--config.objective.reduction=rows"], "'regression' has no such option; allowed: name, noise; read by: sequence"),
  (["--config.objective.name=classification"], "objective.name: 'classification' needs classes, which the data do not"),
  (["--config.stream.kind=class"], "stream.kind: 'class' needs classes, which the data do not have; allowed: group"),
  (["--config.stream.label_noise=0.1"], "stream.label_noise: got 0.1; it needs classes"),
  (["--config.stream.forget=2:class=1", "--config.forget.name=retrain"], "class= needs classes, which the data do not"),
  (["--config.method.name=ncm"], "method.name: 'ncm' needs classes, which the objective 'regression' does not have"),
  (["--config.stream.forget=2:group=0", "--config.forget.name=unsir"], "forget.name: 'unsir' needs classes, which the"),
  (["--config.objective.name=ranking"], "objective.items: not given; expected an integer of at least 2"),
  (["--config.train.augment=flip"], "train.augment: got 'flip', which needs images; inputs have shape (10,)"),
]


@pytest.mark.parametrize(("given", "said"), REFUSED, ids=[g[0] for g, _ in REFUSED])
def test_refused_in_one_line(given, said, command, tmp_path, capsys):
  assert train.main(command(f"--workdir={tmp_path}", *given)) == 2
  error = capsys.readouterr().err
  assert said in error
  assert len(error.splitlines()) == 1


def test_rows_are_forgotten_by_exact_retraining(command, rows, tmp_path, capsys):
  """The score on the rows to forget and on the others is NumPy's, of the learner that never saw the former."""
  gone = "--config.stream.forget=3:ids=0-20", "--config.forget.name=retrain", "--config.stream.validation=0"
  assert train.main(command(f"--workdir={tmp_path}", *gone)) == 0
  assert "request after 3 tasks (event 3): 21 rows to forget, squared error on them" in capsys.readouterr().out
  (record,) = json.loads((tmp_path / "result.json").read_text())["forgotten"]
  z = np.asarray(restore.load(tmp_path).predict(rows["x_train"]), np.float64)[:, 0]
  off = (z - rows["y_train"]) ** 2
  np.testing.assert_allclose([*record["forget"], *record["retain"]], [off[:21].mean(), off[21:].mean()], rtol=1e-5)


def test_classification_is_the_same_run_named_or_not():
  """Its identity has no objective, so that runs of before there were others go on to the letter."""
  file = _config.File({}, {}, None)
  plain = _config.identity(_config.resolve(file), "d")
  named = _config.identity(_config.resolve(file, [Override("objective.name", "classification", True)]), "d")
  assert plain == named
  assert "objective" not in plain
  essence = _config.essence({**plain, "objective": {"name": "classification"}})
  assert essence == _config.essence(plain)
  other = _config.resolve(file, [Override("objective.name", "regression", True)])
  assert _config.identity(other, "d")["objective"] == {"name": "regression", "noise": 1.0}
  assert _build.traced(other)["objective.noise"] == 1.0
  assert not [k for k in _build.traced(_config.resolve(file)) if k.startswith("objective")]


NEAR = ("--config.objective.name=near", "--grid=objective.noise=[0.25,1.0]", "--methods=finetune,er")


@pytest.fixture(scope="module")
def swept(command, tmp_path_factory):
  """Two methods, each with two noises in one program, under an objective of the file's own with two scores."""
  workdir = tmp_path_factory.mktemp("swept") / "sweep"
  assert sweep.main(command(*NEAR, "--seeds=2", f"--workdir={workdir}")) == 0
  return workdir


def results_of(workdir):
  found = [json.loads(p.read_text()) for p in sorted(workdir.glob("runs/*/result.json"))]
  return {(r["method"], r["config"]["objective"]["noise"]): r for r in found}


def test_a_traced_option_is_swept_in_one_program(swept, command, tmp_path):
  assert len(list((swept / "groups").iterdir())) == 2, "one population a method"
  found = results_of(swept)
  assert sorted(found) == [("er", 0.25), ("er", 1.0), ("finetune", 0.25), ("finetune", 1.0)]
  alone = ("--config.objective.name=near", "--config.objective.noise=0.25", "--seeds=2")
  assert train.main(command(*alone, f"--workdir={tmp_path}")) == 0
  result = json.loads((tmp_path / "result.json").read_text())
  for name, values in result["scores"].items():
    np.testing.assert_allclose(found["finetune", 0.25]["scores"][name], values, rtol=1e-4, atol=1e-6)
  assert found["finetune", 1.0]["scores"] != found["finetune", 0.25]["scores"]


def test_every_score_stands_in_the_results(swept):
  for result in results_of(swept).values():
    assert (result["main"], list(result["scores"])) == ("squared_error", ["squared_error", "accuracy"])
    assert result["better"] == {"squared_error": "lower", "accuracy": "higher"}
    R = np.asarray(result["scores"]["accuracy"])[:, 1:]
    own = result["score_metrics"]["accuracy"]
    assert own["acc"]["values"] == pytest.approx(R[:, -1].mean(-1))
    assert own["forgetting"]["values"] == pytest.approx((R[:, :2, :2].max(1) - R[:, -1, :2]).mean(-1))
  rows = [json.loads(line) for line in (swept / "rows.jsonl").read_text().splitlines()]
  assert len(rows) == 8
  for row in rows:
    result = results_of(swept)[row["method"], row["config"]["objective"]["noise"]]
    at = result["seeds"].index(row["seed"])
    assert (row["score"], row["better"]) == ("squared_error", "lower")
    assert row["acc"] == result["metrics"]["acc"]["values"][at]
    assert row["accuracy.forgetting"] == result["score_metrics"]["accuracy"]["forgetting"]["values"][at]


def test_the_table_marks_the_lowest_validation_error(swept, command, capsys):
  """More seeds join those that are there; the best of a method is the lowest."""
  assert sweep.main(command(*NEAR, "--seeds=3", f"--workdir={swept}")) == 0
  out = capsys.readouterr().out
  assert "squared error: lower is better; * best of its method by validation squared error" in out
  assert "accuracy, %" in out
  found = results_of(swept)
  assert all(np.shape(r["scores"][n]) == (3, 4, 3) for r in found.values() for n in r["scores"])
  assert all(len(r["score_metrics"]["accuracy"]["acc"]["values"]) == 3 for r in found.values())
  error = lambda m, n: found[m, n]["validation_metrics"]["acc"]["mean"]
  best = {m: min((0.25, 1.0), key=lambda n, m=m: error(m, n)) for m in ("er", "finetune")}
  marked = [line.split()[1:3] for line in out.splitlines() if line.startswith("*")]
  assert sorted(marked) == [[m, f"noise={best[m]}"] for m in ("er", "finetune")]
  assert (swept / "comparison.png").exists()


def test_results_of_two_scores_make_two_tables(swept, trained, tmp_path):
  """A table's numbers are of one score."""
  found = [*results_of(swept).values()]
  plain = {**json.loads((trained / "result.json").read_text())}
  matrix = np.clip(plain.pop("scores")["squared_error"], 0, 1)
  plain = {k: v for k, v in plain.items() if k not in ("better", "main")} | {"accuracy_matrix": matrix.tolist()}
  plain["metrics"] = results.matrix_metrics(matrix, plain["events"])
  text = results.table([*found, plain], [*"abcd", "labels"])
  first, second = text.split("\n\n")
  assert "squared error" in first
  assert "labels" not in first
  assert "labels" in second
  assert "in %" in second


def test_a_real_sweep_is_reported(swept, capsys):
  """From the files alone: the lowest error first, the second score beside it."""
  assert report.main(["report", str(swept)]) == 0
  out = capsys.readouterr().out
  lines = [line for line in out.splitlines() if line.startswith(("er", "finetune"))]
  shown = [float(re.split(r"  +", line)[1].split(" ")[0]) for line in lines]
  assert len(shown) == 4, "the table of runs, and that of single rows from the raw log"
  assert shown[:2] == sorted(shown[:2])
  assert "accuracy, %" in out
  page = (swept / "report.html").read_text()
  assert "Squared error over events, lower is better" in page
  assert (swept / "report.png").read_bytes()[:4] == b"\x89PNG"


def test_an_error_of_what_diverged_is_no_number(command, tmp_path, capsys):
  """It is frozen with NaN, which takes nothing from the others of its population."""
  grid = "--grid=optimizer.learning_rate=[0.02,1e6]"
  given = command(grid, "--methods=finetune", f"--workdir={tmp_path}", "--config.eval.every=4")
  assert sweep.main(given) == 0
  assert re.search(r"finetune learning_rate=1000000.0 \(1 of 1 diverged\) +- +- ", capsys.readouterr().out)
  found = [json.loads(p.read_text()) for p in tmp_path.glob("runs/*/result.json")]
  assert {tuple(r["alive"]): r["metrics"]["acc"]["mean"] is None for r in found} == {(True,): False, (False,): True}
  assert report.main(["report", str(tmp_path)]) == 0
  out = capsys.readouterr().out
  assert "Result on" in out or "Winner on" in out
  assert "learning_rate=0.02" in out
  assert "nan" not in out
  assert '<span class="flag">1 of 1 diverged</span>' in (tmp_path / "report.html").read_text()


def test_a_feed_of_the_host_and_evaluations_in_part_change_nothing(trained, command, tmp_path):
  """Real targets go by Grain as they are; what is looked at meanwhile leaves no trace."""
  alike = {"grain": ["--config.train.feed=grain"], "limit": ["--config.eval.every=8", "--config.eval.limit=10"]}
  expected = json.loads((trained / "result.json").read_text())
  for name, more in alike.items():
    assert train.main(command("--seeds=2", f"--workdir={tmp_path / name}", *more)) == 0
    result = json.loads((tmp_path / name / "result.json").read_text())
    assert result["params_sha256"] == expected["params_sha256"]
    # A limit puts other rows into a block, and so another order into its sum.
    np.testing.assert_allclose(result["scores"]["squared_error"], expected["scores"]["squared_error"], rtol=1e-6)
  assert np.shape([c["accuracy"] for c in result["curves"]])[1:] == (2, 3)


def test_a_stopped_run_resumes_to_the_same_bits(trained, command, tmp_path):
  """Under the objective of its file, with a replay memory that holds real targets."""
  er = ("--config.method.name=er", "--config.checkpoint.every=8")
  assert train.main(command(*er, f"--workdir={tmp_path / 'whole'}")) == 0
  asked = itertools.count()
  with pytest.raises(Stopped):
    train.run(command(*er, f"--workdir={tmp_path / 'cut'}"), lambda: next(asked) > 4)
  assert not (tmp_path / "cut" / "result.json").exists()
  assert train.main(command(*er, f"--workdir={tmp_path / 'cut'}")) == 0
  whole, cut = (json.loads((tmp_path / n / "result.json").read_text()) for n in ("whole", "cut"))
  for key in ("params_sha256", "scores", "metrics"):
    assert whole[key] == cut[key]
