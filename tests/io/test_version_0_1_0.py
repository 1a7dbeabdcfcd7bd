"""Folders that version 0.1.0 wrote (a finished run, one that was stopped half way, a sweep, a run with a deletion) are
read: results, reports, parameters, the ledger. ``version_0_1_0.tar.xz`` holds them; that version made them on
``small.py``, which lies beside them."""

from __future__ import annotations

import pathlib
import tarfile

import numpy as np
import pytest

import cljax
from cljax.cli import analyze, forget, report, sweep, train
from cljax.evaluation import results
from cljax.io import ledger


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  place = tmp_path_factory.mktemp("version_0_1_0")
  with tarfile.open(pathlib.Path(__file__).with_name("version_0_1_0.tar.xz")) as archive:
    archive.extractall(place, filter="data")
  return place


def again(main, folder, name, *more, config=""):
  given = [f"--config={config or folder / 'small.py'}", f"--workdir={folder}/{name}", "--compilation_cache=", *more]
  return main(["launch", *given])


ER = ("--config.method.name=er", "--config.method.capacity=8")


def test_results_and_parameters(folder):
  found = results.read(folder / "finished" / "result.json")
  assert found["method"] == "er"
  assert np.shape(found["accuracy_matrix"]) == (2, 3, 2)
  loaded = cljax.load(folder / "finished")
  assert loaded.predict(np.zeros((1, 8, 8, 1), np.float32)).shape == (1, 10)


def test_a_finished_run_is_shown_and_not_trained_again(folder, capsys):
  before = (folder / "finished" / "result.json").read_bytes()
  assert again(train.main, folder, "finished", "--seeds=2", *ER) == 0
  assert (folder / "finished" / "result.json").read_bytes() == before
  assert "10.0 ± 0.0" in capsys.readouterr().out
  assert analyze.main(["analyze", str(folder / "finished")]) == 0


def test_a_sweep_is_reported_and_goes_on(folder, monkeypatch):
  monkeypatch.chdir(folder)
  assert report.main(["report", str(folder / "sweep"), f"--out={folder}/report"]) == 0
  page = (folder / "report" / "report.html").read_text()
  assert "ewc" in page
  assert "finetune" in page
  rows = (folder / "sweep" / "rows.jsonl").read_text().splitlines()
  assert again(sweep.main, folder, "sweep", "--methods=finetune,ewc", "--seeds=2", config="small.py") == 0
  assert len((folder / "sweep" / "rows.jsonl").read_text().splitlines()) == len(rows) == 4


def test_the_ledger(folder, capsys):
  (line,) = ledger.read(folder / "deleted")
  assert (line["event"], line["rows"], line["method"]) == (2, 5, "retrain")
  assert ledger.is_deleted(folder / "deleted", 0, "id") is False  # of class 0
  assert forget.main(["forget", str(folder / "deleted"), "--list"]) == 0
  assert "5 of the training rows forgotten" in capsys.readouterr().out


def test_what_was_stopped_goes_on(folder, capsys):
  loaded = cljax.load(folder / "stopped")
  assert loaded.position["event"] == 0
  assert loaded.position["step"] >= 50
  assert again(train.main, folder, "stopped", "--config.train.epochs=30", *ER) == 2
  assert "train.epochs: 30000" in capsys.readouterr().err


def test_what_it_lacks_to_be_extended_is_said(folder, capsys):
  more = ["--request=class=1", "--method=ssd", "--compilation_cache="]
  assert forget.main(["forget", str(folder / "finished"), *more]) == 2
  assert "has no history.json; run it once more as it was" in capsys.readouterr().err
