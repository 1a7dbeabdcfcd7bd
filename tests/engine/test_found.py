"""What a run left is found: rows and populations of sweeps load as runs do, and results are tables."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
import small_config

import cljax
from cljax import data
from cljax.cli import sweep, train
from cljax.engine import frames

ROOT = pathlib.Path(__file__).parents[2]
CONFIG = small_config.text()


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
  """A sweep whose seeds came in two launches, so that a row's members lie in two populations; and one run."""
  folder = tmp_path_factory.mktemp("found")
  (folder / "config.py").write_text(CONFIG)
  given = [f"--config={folder}/config.py", "--compilation_cache="]
  for seeds in ("1", "0,1"):
    assert sweep.main(["sweep", *given, f"--workdir={folder}/sweep", f"--seeds={seeds}", "--methods=l2"]) == 0
  assert train.main(["train", *given, f"--workdir={folder}/train", "--seeds=2", "--config.method.name=l2"]) == 0
  return folder


def test_a_row_a_population_and_a_run_load_alike(swept):
  (row,) = (swept / "sweep/runs").iterdir()
  assert len(list((swept / "sweep/groups").iterdir())) == 2
  of_row, of_run = cljax.load(row), cljax.load(swept / "train")
  digests = json.loads((row / "result.json").read_text())["params_sha256"]
  assert digests == json.loads((swept / "train/result.json").read_text())["params_sha256"]
  assert [m[0] for m in of_row.config["members"]] == [0, 1]
  x = data.load("digits").test.x[:5]
  for member in range(2):
    assert np.array_equal(of_row.predict(x, member), of_run.predict(x, member))
    of = lambda params, m=member: [np.asarray(a)[m].tobytes() for a in jax.tree.leaves(params)]
    assert of(of_row.params) == of(of_run.params)
  for group in (swept / "sweep/groups").iterdir():
    one = cljax.load(group)
    (seed,) = [m[0] for m in one.config["members"]]
    assert np.array_equal(one.predict(x), of_run.predict(x, seed))
  with pytest.raises(cljax.UsageError, match=f"holds a sweep; give one of its rows, .*{row.name}"):
    cljax.load(swept / "sweep")
  with pytest.raises(cljax.UsageError, match="does not hold any checkpoint"):
    cljax.load(swept / "nothing")


def test_a_launcher_says_where_its_results_lie(swept, capsys):
  given = [f"--config={swept}/config.py", "--compilation_cache="]
  assert sweep.main(["sweep", *given, f"--workdir={swept}/sweep", "--seeds=2", "--methods=l2"]) == 0
  last = capsys.readouterr().out.splitlines()[-1]
  assert last.startswith(f"results: {swept}/sweep (")
  assert last.endswith(f"look at them: python -m launch.report {swept}/sweep")


@pytest.fixture(scope="module")
def result(class_stream, small_model):
  return cljax.run(class_stream, small_model, training=cljax.Recipe(batch_size=16), seeds=2)


def test_a_result_as_columns_and_in_a_notebook(result):
  columns = frames.columns(result)
  assert {len(v) for v in columns.values()} == {2 * 3 * 2}
  at = [i for i in range(12) if (columns["member"][i], columns["event"][i], columns["task"][i]) == (1, 0, 1)]
  assert [columns["accuracy"][i] for i in at] == [result.accuracy[1, 1, 1]]
  assert [columns["task_accuracy"][i] for i in at] == [result.task_accuracy[1, 1, 1]]
  assert columns["kind"][:4] == ["start", "start", "learn", "learn"]
  assert columns["learned"][:4] == [None, None, 0, 0]
  shown = result._repr_html_()
  assert shown.count("<tr>") == 4
  assert f"{result.accuracy[:, 2, 1].mean():.3f}" in shown


def test_a_result_as_a_table_of_pandas(class_stream, small_model):
  """As a user groups it; NaN of a member that diverged and events that learn no task stay apart."""
  pandas = pytest.importorskip("pandas", reason="pandas is of the test extra alone")
  asked = class_stream._replace(events=(*class_stream.events, cljax.Forget(classes=("1",))))
  result = cljax.run(asked, small_model, forget="ssd", training=cljax.Recipe(batch_size=8, epochs=1), seeds=2)
  frame = result.to_pandas()
  assert frame.shape == (2 * 4 * 2, 8)
  assert list(frame.dtypes.astype(str)) == ["int64", "int64", str(frame.kind.dtype), "Int64", "int64", *["float64"] * 3]
  mean = frame.groupby(["event", "task"]).accuracy.mean().unstack()
  np.testing.assert_allclose(mean.to_numpy(), result.accuracy.mean(0))
  assert frame[frame.kind == "learn"].learned.tolist() == [0, 0, 1, 1] * 2
  assert frame[frame.kind == "forget"].learned.isna().all()
  dead = result._replace(accuracy=result.accuracy * np.nan, scores={"accuracy": result.accuracy * np.nan})
  assert pandas.isna(dead.to_pandas().accuracy).all()


def test_a_table_without_pandas_is_refused_in_a_line(monkeypatch, class_stream, small_model):
  monkeypatch.setitem(sys.modules, "pandas", None)
  result = cljax.run(class_stream, small_model, training=cljax.Recipe(batch_size=8, epochs=1))
  with pytest.raises(cljax.UsageError, match="pandas is not installed; pip install pandas, or use") as error:
    result.to_pandas()
  assert "\n" not in str(error.value)


def test_a_reader_that_has_enough_is_no_error():
  code = "import sys; from cljax.cli import _shared\nwith _shared.piped():\n  [print('x' * 9) for _ in range(99999)]"
  command = f'"{sys.executable}" -c "{code}" | head -1'
  done = subprocess.run(
    ["bash", "-c", command], capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": str(ROOT)}
  )
  assert (done.stdout, done.stderr) == ("x" * 9 + "\n", "")
