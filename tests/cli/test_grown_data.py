"""A file of data grows behind a run: the run is deleted from, loaded and extended on the rows that it had."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

import cljax
from cljax.cli import forget, train
from cljax.data import from_arrays
from cljax.data.types import first_rows
from cljax.io import history, ledger

RNG = np.random.default_rng(0)
X = RNG.normal(size=(6, 20, 4, 4, 1)).astype(np.float32)
Y = np.repeat(np.arange(6), 20).reshape(6, 20)
QUIET = "--compilation_cache="


def save(path, classes: int, more: int = 0, changed: int | None = None):
  """The rows of so many classes, and ``more`` of class 0 behind them; row ``changed`` is another."""
  part = lambda a, rows: np.concatenate([a[c][rows] for c in range(classes)])
  train_rows, test_rows = slice(0, 15), slice(15, 20)
  x, y = part(X, train_rows), part(Y, train_rows)
  x, y = np.concatenate([x, X[0, :more] + 1]), np.concatenate([y, Y[0, :more]])
  if changed is not None:
    x[changed] += 1
  np.savez(path, x_train=x, y_train=y, x_test=part(X, test_rows), y_test=part(Y, test_rows))


def one(argv, main=train.main, code=0):
  assert main(argv) == code, argv


def result(workdir) -> dict:
  return json.loads((workdir / "result.json").read_text())


@pytest.fixture(scope="module")
def made(command, tmp_path_factory):
  """A run of two tasks on four classes, its file, and what forgetting on that file gives."""
  folder = tmp_path_factory.mktemp("grown")
  save(folder / "data.npz", 4)
  given = ["--config.stream.classes_per_task=2", "--config.stream.task_fractions=()", "--config.method.name=er",
           "--config.stream.reserve_classes=6", "--config.train.epochs=1", "--config.stream.tasks=2"]  # fmt: skip
  one(command(*given, f"--config.data.name=npz:{folder}/data.npz", f"--workdir={folder / 'short'}"))
  shutil.copytree(folder / "short", folder / "before")
  one(["forget", str(folder / "before"), "--request=ids=0-9", "--method=graddiff", QUIET], forget.main)
  return folder


@pytest.fixture
def grown(made):
  """The same, its file grown; what a test does to the file is undone."""
  save(made / "data.npz", 6)
  yield made
  save(made / "data.npz", 4)


def forgets(run, ids: str, code: int = 0):
  one(["forget", str(run), f"--request=ids={ids}", "--method=graddiff", QUIET], forget.main, code)


def test_a_run_is_deleted_from_and_loaded_on_the_rows_that_it_had(grown, tmp_path):
  run = shutil.copytree(grown / "short", tmp_path / "run")
  before = cljax.load(run)
  forgets(run, "0-9")
  assert result(run)["params_sha256"] == result(grown / "before")["params_sha256"]
  assert [s["data_digest"] for s in history.read(run)] == [s["data_digest"] for s in history.read(grown / "before")]
  after = cljax.load(run)
  x = X[:, 15:].reshape(-1, 4, 4, 1)
  assert np.array_equal(after.predict(x), cljax.load(grown / "before").predict(x))
  assert not np.array_equal(after.predict(x), before.predict(x))


def test_extended_on_new_rows_deleted_from_and_extended_again(grown, tmp_path):
  """Each stage has the rows that it had, also where more came afterwards."""
  run = shutil.copytree(grown / "short", tmp_path / "run")
  extend = ["train", f"--workdir={run}", "--extend", QUIET]
  forgets(run, "0-9")
  one([*extend, "--config.stream.tasks=3"])
  save(grown / "data.npz", 6, more=2)  # of an old class: of no task that the run learned or will learn
  forgets(run, "61-63")
  first = cljax.load(run)
  assert first.config["stream"]["appended"] == [60]
  one([*extend])  # nothing more to do, whatever there is now
  save(grown / "data.npz", 6)
  one([*extend, "--config.stream.order=0,1,2,0"])
  assert [s["rows"] for s in history.read(run)] == [60, 60, 90, 90, 90]
  assert [s["what"] for s in history.read(run)] == ["begun", "forget", "extended", "forget", "extended"]
  assert [line["event"] for line in ledger.read(run)] == [2, 4]
  assert cljax.load(run).position["event"] == 6


def test_an_interrupted_run_is_ended_on_the_rows_that_it_had(grown, tmp_path, command, capsys):
  run = shutil.copytree(grown / "short", tmp_path / "run")
  (run / "result.json").unlink()
  shutil.rmtree(run / "checkpoints" / "2")
  config = json.loads((run / "config.json").read_text())
  same = [f"--config.stream.{k}={config['stream'][k]}" for k in ("classes_per_task", "reserve_classes", "tasks")]
  more = ["--config.stream.task_fractions=()", "--config.method.name=er", "--config.train.epochs=1"]
  one(command(*same, *more, f"--config.data.name=npz:{grown}/data.npz", f"--workdir={run}"), code=2)
  error = capsys.readouterr().err
  assert "differing keys: data.digest" in error
  assert "or --extend, which ends the run on the rows that it had" in error
  one(["train", f"--workdir={run}", "--extend", QUIET])
  assert result(run)["params_sha256"] == result(grown / "short")["params_sha256"]


def test_rows_that_changed_are_refused_by_name(grown, tmp_path, capsys):
  run = shutil.copytree(grown / "short", tmp_path / "run")
  save(grown / "data.npz", 6, changed=16)
  forgets(run, "0-9", 2)
  error = capsys.readouterr().err
  assert "its first 60 training and 20 test rows are not those that the run had: task 0 changed" in error
  assert len(error.splitlines()) == 1
  with pytest.raises(cljax.UsageError, match=r"data_dir: not given; .* task 0 changed"):
    cljax.load(run)
  save(grown / "data.npz", 3)
  forgets(run, "0-9", 2)
  assert "has 45 training rows; expected the 60 that there were, or more" in capsys.readouterr().err


def test_the_first_rows_are_the_data_that_there_were():
  """Of a split that is drawn by class, too, where whole classes came behind; not where a class got more rows."""
  x = np.arange(240.0).reshape(60, 4)
  made = lambda y: from_arrays("a", {"x": x[: len(y)], "y": y})
  y = np.arange(30) % 3
  short, classes, rows = made(y), made(np.append(y, np.full(30, 3))), made(np.append(y, y))
  cut = [first_rows(d, len(short.train.id), len(short.test.id), 3, 1) for d in (short, classes, rows)]
  assert [d.digest == short.digest for d in cut] == [True, True, False]
  assert np.array_equal(cut[1].train.x, short.train.x)
