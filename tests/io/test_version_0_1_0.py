"""Folders that version 0.1.0 wrote (a finished run, one that was stopped half way, a sweep, a run with a deletion) are
read: results, reports, parameters, the ledger. ``version_0_1_0.tar.xz`` holds them; that version made them on
``small.py``, which lies beside them."""

from __future__ import annotations

import json
import pathlib
import shutil
import sys
import tarfile

import numpy as np
import pytest
from etils import epath

import cljax
from cljax.cli import analyze, forget, report, sweep, train
from cljax.engine import restore
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


ER = ("--config.method.name=er", "--config.method.capacity=8", "--config.method.insert=every_pass")  # as 0.1 did


def test_results_and_parameters(folder):
  found = results.read(folder / "finished" / "result.json")
  assert found["method"] == "er"
  assert np.shape(found["accuracy_matrix"]) == (2, 3, 2)
  loaded = cljax.load(folder / "finished")
  assert loaded.result["params_sha256"] == found["params_sha256"]
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
  shown = [json.loads(line) for line in (folder / "sweep" / "rows.jsonl").read_text().splitlines()]
  assert len(shown) == len(rows) == 4
  assert {(row["format"], row["cljax"]) for row in shown} == {(1, "0.1.0")}, "they stay what they are"


def test_nothing_new_is_put_beside_its_numbers(folder, monkeypatch, capsys):
  """Accuracies before the last event follow another rule since."""
  monkeypatch.chdir(folder)
  for more in ("--methods=finetune,ewc", "--seeds=3"), ("--methods=finetune,l2", "--seeds=2"):
    assert again(sweep.main, folder, "sweep", *more, config="small.py") == 2
    said = capsys.readouterr().err
    assert "was written by cljax 0.1.0, whose numbers follow other rules; nothing is added to them" in said


def test_a_report_compares_its_numbers_among_themselves(folder, tmp_path, monkeypatch, capsys):
  """Its runs are another table's, whichever folder is named first."""
  monkeypatch.chdir(folder)
  given = ["--config=small.py", "--methods=finetune", "--seeds=2", f"--workdir={tmp_path}/new", "--compilation_cache="]
  assert sweep.main(["launch", *given]) == 0
  capsys.readouterr()
  shown = []
  for order in ([str(folder / "sweep"), f"{tmp_path}/new"], [f"{tmp_path}/new", str(folder / "sweep")]):
    assert report.main(["report", *order, f"--out={tmp_path}/report"]) == 0
    shown.append(capsys.readouterr().out)
  for text in shown:
    assert "(cljax 0.1.0)" in text
    assert text.count("finetune") >= 2
    assert "fisher" not in text
  result = tmp_path / "new" / "runs"
  (path,) = result.glob("*/result.json")
  path.write_text(path.read_text().replace('"format": 2', '"format": 3'))
  assert report.main(["report", f"{tmp_path}/new", f"--out={tmp_path}/report"]) == 0
  said = capsys.readouterr()
  assert "it is of format 3" in said.err + said.out


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


def test_what_an_option_is_now_is_not_what_its_configuration_meant(folder, capsys):
  assert again(train.main, folder, "finished", "--seeds=2", *ER[:2]) == 2
  said = capsys.readouterr().err
  assert 'differing keys: method.insert: "every_pass" -> "once"; give another workdir' in said
  assert "0.1.0 had no such option, and meant: --config.method.insert=every_pass" in said
  assert again(train.main, folder, "finished", "--seeds=3", "--config.train.epochs=9", *ER[:2]) == 2
  assert "0.1.0 had no such option" not in capsys.readouterr().err, "other keys differ too"


def test_a_stopped_run_is_ended_by_the_version_that_began_it(folder, capsys):
  given = ["forget", str(folder / "stopped"), "--request=class=1", "--method=ssd", "--compilation_cache="]
  assert forget.main(given) == 2
  assert "has not ended; run its last command again under cljax 0.1.0 first" in capsys.readouterr().err


@pytest.mark.parametrize("method", ["ssd", "retrain"])
def test_a_finished_run_answers_a_request(folder, tmp_path, capsys, method):
  """It kept no history; the command that it was made with begins one."""
  shutil.copytree(folder / "finished", tmp_path / "run")
  (tmp_path / "run" / "history.json").unlink(missing_ok=True)
  asked = ["forget", str(tmp_path / "run"), "--request=class=1", f"--method={method}", "--compilation_cache="]
  assert forget.main(asked) == 2
  assert "has no history.json; run it once more as it was" in capsys.readouterr().err
  given = [f"--config={folder / 'small.py'}", f"--workdir={tmp_path / 'run'}", "--compilation_cache=", "--seeds=2", *ER]
  assert train.main(["launch", *given]) == 0
  assert forget.main(asked) == 0, capsys.readouterr().err
  (line,) = ledger.read(tmp_path / "run")
  assert (line["status"], line["method"], line["request"]["classes"]) == ("done", method, [1])
  assert np.shape(results.read(tmp_path / "run" / "result.json")["accuracy_matrix"]) == (2, 4, 2)


def test_a_sweep_does_not_mix_what_defaults_meant(folder, tmp_path, capsys, monkeypatch):
  """Folders of rows are called by what differs from the defaults, which have changed."""
  monkeypatch.chdir(folder)
  shutil.copytree(folder / "sweep", tmp_path / "sweep")
  (run,) = (tmp_path / "sweep" / "runs").glob("ewc-*")
  result = json.loads((run / "result.json").read_text())
  result["config"]["method"]["fisher"] = "empirical"
  (run / "result.json").write_text(json.dumps(result))
  given = ["--config=small.py", f"--workdir={tmp_path / 'sweep'}", "--methods=finetune,ewc", "--seeds=2"]
  assert sweep.main(["launch", *given, "--compilation_cache="]) == 2
  said = capsys.readouterr().err
  assert "was written by cljax 0.1.0; what ewc means now differs in" in said
  assert 'method.fisher: "empirical" -> absent' in said


def test_the_rest_of_a_run_is_not_trained_by_other_rules(folder, capsys):
  """Its configuration says nothing of options that came later: what is left would silently be another run's."""
  assert again(train.main, folder, "stopped", "--config.train.epochs=30000", "--config.train.chunk_steps=50", *ER) == 1
  said = capsys.readouterr().err.strip().splitlines()[-1]
  assert "is of format 1, written by cljax 0.1.0, and what is left of its run would be trained by other rules" in said
  assert "end it with that version, or begin anew in another workdir" in said


def test_the_python_of_its_readme_runs(tmp_path, monkeypatch, capsys):
  """Block by block, in one namespace; the method of one's own is tests/cli/test_porting.py's."""
  run, penalty, projector, edit, anchors = (
    pathlib.Path(__file__).with_name("readme_0_1_0.txt").read_text().split("# ----")[:5]
  )
  named: dict = {"__name__": "reader"}
  exec(run.replace("epochs=10", "epochs=1").replace("seeds=5", "seeds=1"), named)
  assert named["result"].accuracy.shape == (1, 6, 5)
  capsys.readouterr()
  exec(penalty, named)
  exec(projector, named)
  assert [float(line.split()[-1]) for line in capsys.readouterr().out.splitlines()] == [0.0, 1.0, 0.0, 1.0]
  exec(edit, named)
  assert 0 < float(capsys.readouterr().out) < 10
  # Two names in it are the reader's own.
  params = {"w": named["params"]["w"], "b": np.zeros(3, np.float32)}
  tx = named["optax"].chain(named["regularizers"].ewc(100.0), named["optax"].adamw(1e-3))
  opt_state = named["regularizers"].consolidate(
    tx.init(params), params, importance={k: v**2 for k, v in params.items()}
  )
  fresh = named["optax"].adamw(1e-3).init(params)
  named.update(params=params, opt_state=opt_state, month_1_adamw_state=fresh)
  monkeypatch.chdir(tmp_path)
  vars(cljax).pop("checkpoint", None)  # a name is looked up once
  sys.modules.pop("cljax.checkpoint", None)
  with pytest.warns(DeprecationWarning, match=r"cljax\.checkpoint is now cljax\.io\.checkpoint"):
    exec(anchors, named)
  np.testing.assert_allclose(named["opt_state"][0].anchor["w"], params["w"], rtol=1e-2)


@pytest.mark.parametrize(
  ("name", "what"),
  [
    ("finished", "a run of launch.train; launch.train goes on with it and cljax.load reads it"),
    ("sweep", "a sweep; launch.sweep goes on with it and cljax.load reads its runs"),
    ("sweep/groups/*", "a part of a sweep; launch.sweep goes on with the sweep and cljax.load reads its runs"),
  ],
)
def test_run_says_what_a_launchers_folder_is(folder, name, what, class_stream, small_model):
  place = sorted(folder.glob(name))[0]
  before = sorted(p.name for p in place.iterdir())
  with pytest.raises(cljax.UsageError) as error:
    cljax.run(class_stream, small_model, workdir=str(place))
  assert str(error.value) == f"workdir: {place} holds {what}; give cljax.run another folder"
  assert sorted(p.name for p in place.iterdir()) == before


def test_parts_of_two_versions_are_named_by_them(folder, tmp_path, monkeypatch):
  """A key that one version did not have sets nothing apart: before, a folder's name listed all of them."""
  for name in ("ewc-a", "ewc-b"):
    shutil.copytree(next((folder / "sweep" / "groups").glob("ewc*")), tmp_path / "groups" / name)
  read = restore.meta_of

  def meta_of(source):
    meta = read(source)
    if source.name == "ewc-b":
      method = {**meta["config"]["method"], "decoupled": False}
      config = {**meta["config"], "method": method, "train": {**meta["config"]["train"], "epochs": 3}}
      meta = {**meta, "format": 2, "cljax": "0.2.0", "config": config}
    return meta

  monkeypatch.setattr(restore, "meta_of", meta_of)
  titles = [(t.title, t.out.name) for t in analyze.targets(epath.Path(tmp_path))]
  assert titles == [
    ("ewc epochs=1 of cljax 0.1.0", "ewc-epochs=1-of-cljax-0.1.0"),
    ("ewc epochs=3 of cljax 0.2.0", "ewc-epochs=3-of-cljax-0.2.0"),
  ]
