"""A run that lives: events are appended to it, rows deleted from it, on the command line; and what is refused."""

from __future__ import annotations

import json
import os
import pathlib
import signal

import numpy as np
import pytest

from cljax import CljaxError
from cljax.cli import _build, _config, _extended, analyze, forget, train
from cljax.cli._progress import Progress
from cljax.engine import Member
from cljax.evaluation import results
from cljax.io import checkpoint, history, ledger

BASE = ("--config.stream.classes_per_task=2", "--config.stream.task_fractions=()", "--config.stream.rows=200",
        "--config.method.name=er", "--seeds=2", "--config.train.epochs=6")  # fmt: skip
REQUESTS = "3:ids=20-39; 4:class=3; 4:group=0&class=1"
ANSWERS = ((3, "ssd"), (5, "retrain"), (6, "graddiff"))


def result(workdir) -> dict:
  return json.loads((workdir / "result.json").read_text())


def one(argv, main=train.main, code=0):
  assert main(argv) == code, argv


@pytest.fixture(scope="module")
def short(command, tmp_path_factory):
  """A run of three tasks, as files to copy."""
  workdir = tmp_path_factory.mktemp("short") / "run"
  one(command(*BASE, "--config.stream.tasks=3", f"--workdir={workdir}"))
  return workdir


@pytest.fixture
def copied(short, tmp_path):
  import shutil

  return shutil.copytree(short, tmp_path / "run")


def edited(command, tasks: int, requests: str, answers):
  """The configuration of a run that has all events from its start."""
  given = [a.removeprefix("--config.").partition("=") for a in command(*BASE) if a.startswith("--config.")]
  overrides = [_config.Override(k, v, True) for k, _, v in given]
  overrides += [_config.Override("stream.tasks", tasks), _config.Override("stream.forget", requests)]
  file = next(a.partition("=")[2] for a in command() if a.startswith("--config="))
  config = _config.resolve(_config.read_file(file), overrides)
  listed = []
  for event, name in answers:
    own = _config.resolve(_extended.file_of(_build.build(config).identity), [_config.Override("forget.name", name)])
    listed.append([event, name, {k: v for k, v in own["forget"].items() if k != "name"}])
  return _build.build(config, answers=listed)


def test_a_life_ends_on_the_bits_of_the_same_events_at_once(command, copied, monkeypatch, capsys, request):
  """Extended, and deleted from by ids, class and group, by three methods; one of the phases is stopped in between."""
  at = f"--workdir={copied}"
  quiet = "--compilation_cache="
  before = result(copied)
  one(["forget", str(copied), "--request=ids=20-39", "--method=ssd", quiet], forget.main)
  said = capsys.readouterr().out
  assert "deletion 1" in said
  assert "checkpoints 1, 2, 3, of the model from before" in said
  call, stopped = Progress.__call__, []

  def stops(self, message):
    call(self, message)
    if message["kind"] == "chunk" and message["event"] == 4 and message["step"] >= 8 and not stopped:
      stopped.append(True)
      os.kill(os.getpid(), signal.SIGHUP)

  monkeypatch.setattr(Progress, "__call__", stops)
  before_us = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup it is ignored, and stays so
  request.addfinalizer(lambda: signal.signal(signal.SIGHUP, before_us))
  more = ["train", at, "--extend", "--config.stream.tasks=4", quiet]
  one(more, code=129)
  assert "saved, run the same command again" in capsys.readouterr().err
  one(more)
  one(["forget", str(copied), "--request=class=3", "--method=retrain", quiet], forget.main)
  one(["forget", str(copied), "--request=group=0&class=1", "--method=graddiff", quiet], forget.main)
  built = edited(command, 4, REQUESTS, ANSWERS)
  whole = _build.prepare(built, [Member(0), Member(1)]).run()
  found = result(copied)
  assert found["params_sha256"] == whole.params_sha256
  for key, own in (("accuracy_matrix", whole.accuracy), ("validation_matrix", whole.validation)):
    seen = np.asarray(found[key], float)
    gaps = np.isnan(seen)
    assert np.array_equal(seen[~gaps], own[~gaps])
    # Of the states that a deletion removed, nobody can say how they would have done on what came later.
    assert sorted({tuple(g) for g in np.argwhere(gaps)[:, 1:].tolist()}) == [(1, 3), (2, 3), (3, 3)]
  assert found["params_sha256"] != before["params_sha256"]
  stages = history.read(copied)
  assert [(s["what"], s["first_event"], len(s["events"])) for s in stages] == [
    ("begun", 0, 3), ("forget", 3, 4), ("extended", 4, 5), ("forget", 5, 6), ("forget", 6, 7),
  ]  # fmt: skip
  assert stages[-1]["answers"] == {str(e): n for e, n in ANSWERS}
  assert {s["data_digest"] for s in stages} == {found["dataset_digest"]}
  lines = ledger.read(copied)
  assert [(x["event"], x["method"]) for x in lines] == list(ANSWERS)
  capsys.readouterr()
  one(["forget", str(copied), "--list"], forget.main)
  table = capsys.readouterr().out
  told = [" ".join(line.split()[0:1] + line.split()[2:]) for line in table.splitlines()[1:6]]
  assert told == [f"{w}, of {stages[0]['rows']} training rows" for w in (
    "begun events 0-2: task 0, task 1, task 2", "forget event 3: deletion 1", "extended event 4: task 3",
    "forget event 5: deletion 2", "forget event 6: deletion 3",
  )]  # fmt: skip
  for words in ("ids=20-39", "class=3", "group=0&class=1", "exact: as if trained", "approximate", "score on the rows"):
    assert words in table
  first = lines[0]["fates"]
  assert sum(map(len, first.values())) == 20  # each row that was named has one fate, and is shown with it
  others = [f"{len(rows)} {fate}" for fate, rows in first.items() if fate != "forgotten"]
  assert ", ".join([f"{len(first['forgotten'])} of the training rows forgotten", *others]) in table
  assert "cannot be read" not in table


def test_a_forgetting_that_is_asked_for_again_is_made_once(copied, capsys):
  given = ["forget", str(copied), "--request=ids=20-39", "--method=ssd", "--compilation_cache="]
  one(given, forget.main)
  kept = result(copied)
  # As a kill leaves it, after the last checkpoint and before the result.
  (copied / "result.json").unlink()
  one(given, forget.main)
  assert result(copied)["params_sha256"] == kept["params_sha256"]
  assert len(ledger.read(copied)) == 1
  assert len(checkpoint.numbers(copied / "checkpoints")) == 1
  capsys.readouterr()
  # Once more, as after a kill while it was printed; and other rows of those that are gone.
  held = {p.name: p.read_bytes() for p in copied.iterdir() if p.is_file()}
  one(given, forget.main)
  assert "deletion 1" in capsys.readouterr().out
  one([*given[:2], "--request=ids=20-38", *given[3:]], forget.main, 2)
  assert "ids=20-38 names no row that was learned and is still there" in capsys.readouterr().err
  assert {p.name: p.read_bytes() for p in copied.iterdir() if p.is_file()} == held


def test_what_is_refused_while_it_runs_leaves_the_run_as_it_was(copied, capsys, monkeypatch):
  from cljax import UsageError
  from cljax.engine import stages

  def refuses(*_):
    raise UsageError("forget: the method cannot answer this request")

  held = {p.name: p.read_bytes() for p in copied.iterdir() if p.is_file()}
  with monkeypatch.context() as patched:
    patched.setattr(stages, "run", refuses)
    one(["forget", str(copied), "--request=class=1", "--method=ssd", "--compilation_cache="], forget.main, 2)
  assert {p.name: p.read_bytes() for p in copied.iterdir() if p.is_file()} == held
  one(["train", f"--workdir={copied}", "--extend", "--config.stream.order=0,1,2,0", "--compilation_cache="])


REFUSED = [
  (["--config.stream.tasks=2"], "the run has 3 events already; the given stream has 2"),
  (["--config.stream.tasks=4", "--config.stream.class_order=1"], "task 0 is not what it was"),
  (["--config.stream.tasks=4", "--config.train.epochs=2"], "differs in more than its events: train.epochs: 6 -> 2"),
  (["--config.stream.order=1,0,2,0"], "event 0 was Learn(task=0); the given stream has Learn(task=1)"),
  (["--config.stream.tasks=4", "--overwrite"], "got it with --overwrite"),
  (["--config.stream.tasks=4", "--seeds=3"], "the run has [0, 1]"),
]


@pytest.mark.parametrize(("given", "text"), REFUSED, ids=[t for _, t in REFUSED])
def test_what_does_not_go_on_is_refused_and_changes_nothing(short, given, text, capsys):
  before = {p.name: p.read_bytes() for p in short.iterdir() if p.is_file()}
  one(["train", f"--workdir={short}", "--extend", "--compilation_cache=", *given], code=2)
  error = capsys.readouterr().err
  assert text in error
  assert len(error.splitlines()) == 1
  assert {p.name: p.read_bytes() for p in short.iterdir() if p.is_file()} == before


def test_new_classes_of_new_data_come_behind(command, tmp_path, capsys):
  """The file has grown: rows of other classes are appended. Those that were there keep being held out, or not."""
  rng = np.random.default_rng(0)
  x, y = rng.normal(size=(6, 20, 4, 4, 1)).astype(np.float32), np.repeat(np.arange(6), 20).reshape(6, 20)
  part = lambda a, classes, rows: np.concatenate([a[c][rows] for c in range(classes)])
  train_rows, test_rows = slice(0, 15), slice(15, 20)

  def save(path, classes):
    np.savez(path, x_train=part(x, classes, train_rows), y_train=part(y, classes, train_rows),
             x_test=part(x, classes, test_rows), y_test=part(y, classes, test_rows))  # fmt: skip

  save(tmp_path / "data.npz", 4)
  run, whole = tmp_path / "run", tmp_path / "whole"
  given = [*BASE[:2], "--config.method.name=er", "--config.stream.reserve_classes=6", "--config.train.epochs=1"]
  given = command(*given, f"--config.data.name=npz:{tmp_path}/data.npz")
  one([*given, "--config.stream.tasks=2", f"--workdir={run}"])
  first = result(run)["dataset_digest"]
  save(tmp_path / "data.npz", 6)
  one(["train", f"--workdir={run}", "--extend", "--config.stream.tasks=3", "--compilation_cache="])
  one([*given, "--config.stream.tasks=3", "--config.stream.appended=60", f"--workdir={whole}"])
  assert result(run)["params_sha256"] == result(whole)["params_sha256"]
  assert result(run)["accuracy_matrix"] == result(whole)["accuracy_matrix"]
  assert [s["data_digest"] == first for s in history.read(run)] == [True, False]
  assert [s["rows"] for s in history.read(run)] == [60, 90]


def test_methods_that_prepare_themselves_offer_to_retrain(short, capsys):
  for method, reason in (("sisa", "prepares itself while the model is trained"), ("er", "does not answer requests")):
    one(["forget", str(short), "--request=class=1", f"--method={method}", "--compilation_cache="], forget.main, 2)
    error = capsys.readouterr().err
    assert reason in error
    assert "retrain" in error
    assert len(error.splitlines()) == 1
  one(["forget", str(short), "--request=class=1"], forget.main, 2)
  one(["forget", str(short / "nothing"), "--list"], forget.main, 2)
  assert "holds no run of launch.train" in capsys.readouterr().err
  one(["forget", str(short), "--list"], forget.main)
  assert "nothing was deleted" in capsys.readouterr().out


def test_retrained_models_of_other_seeds_stand_beside(command, copied, tmp_path, capsys):
  given = ["forget", str(copied), "--request=class=3", "--method=ssd", "--oracles=2", "--compilation_cache="]
  one(given, forget.main)
  assert "retrained by steps: score on the rows" in capsys.readouterr().out
  (line,) = ledger.read(copied)
  others = [s for s in range(9) if s not in line["seeds"]][:2]
  more = ["--config.stream.tasks=3", "--config.stream.forget=3:class=3", "--config.forget.name=retrain"]
  seeds = f"--seeds={','.join(map(str, others))}"
  one([*command(*BASE, *more, f"--workdir={tmp_path / 'whole'}"), seeds])
  last = result(tmp_path / "whole")["forgotten"][-1]
  assert line["retrained"] == {"seeds": others, "schedule": "steps", "forget": last["forget"], "retain": last["retain"]}
  one(given, forget.main)  # shown, not measured again
  assert ledger.read(copied) == [line]


def test_the_page_of_results_names_all_that_a_run_leaves(short):
  page = (pathlib.Path(__file__).parents[2] / "docs" / "results.md").read_text()
  for key, heading in results.METRICS.items():
    assert f"| `{key}` | {heading} |" in page
  found = result(short)
  (row, *_) = results.rows(found, run="name")
  for name in {*found, *row, *(p.name for p in short.iterdir() if p.suffix != ".png")}:
    assert f"`{name}`" in page or f"`{name}/`" in page, name


def test_a_ledger_that_was_lost_is_not_an_empty_one(copied, capsys):
  one(["forget", str(copied), "--request=ids=20-39", "--method=ssd", "--compilation_cache="], forget.main)
  assert ledger.is_deleted(copied, 25)
  (copied / ledger.LEDGER).unlink()
  capsys.readouterr()
  one(["forget", str(copied), "--list"], forget.main, 1)
  assert "deletions.jsonl is gone" in capsys.readouterr().err
  with pytest.raises(CljaxError, match=r"is gone, but not its deletions\.salt"):
    ledger.is_deleted(copied, 25)


def test_what_is_told_apart_before_anything_runs(copied, tmp_path, capsys):
  """Requests and folders that do not do, each in a line that says why."""
  (tmp_path / "sweep").mkdir()
  (tmp_path / "sweep" / "sweep.json").write_text("{}")
  said = {
    (str(copied), "--request=4:ids=20-22"): "expected one request without a position",
    (str(copied), "--request=ids=1;ids=2"): "expected one request without a position",
    (
      str(copied),
      "--request=class=3&task=0",
    ): "none of the stream's training rows is in all of its selections",
    (str(tmp_path / "sweep"), "--list"): "is a sweep; expected one of its rows: it has none yet",
  }
  for given, words in said.items():
    one(["forget", *given, "--method=ssd", "--compilation_cache="], forget.main, 2)
    error = capsys.readouterr().err
    assert words in error, error
    assert len(error.splitlines()) == 1
  one(["train", f"--workdir={copied}", "--extend", "--config.stream.tasks=50"], code=2)
  assert "stream.appended" not in capsys.readouterr().err


def test_a_run_over_all_tasks_is_deleted_from(command, tmp_path):
  """joint can not be extended by a task, but a request brings none."""
  given = ["--config.stream.tasks=2", "--config.method.name=joint", f"--workdir={tmp_path / 'run'}"]
  base = [b for b in BASE if "method.name" not in b]
  one(command(*base, *given))
  one(["forget", str(tmp_path / "run"), "--request=class=1", "--method=retrain", "--compilation_cache="], forget.main)
  (last,) = result(tmp_path / "run")["forgotten"]
  assert last["rows"] > 0


def test_an_extended_run_is_analysed_whole(command, tmp_path):
  """Masks for each task: the checkpoints of the first stage have fewer of them."""
  run = tmp_path / "run"
  base = ["--config.stream.kind=task", "--config.method.name=supsup", "--config.train.epochs=1",
          "--config.stream.classes_per_task=2", "--config.stream.task_fractions=()"]  # fmt: skip
  one(command(*base, "--config.stream.tasks=2", f"--workdir={run}"))
  one(["train", f"--workdir={run}", "--extend", "--config.stream.tasks=3", "--compilation_cache="])
  one(["analyze", str(run), "--compilation_cache="], analyze.main)
  found = json.loads((run / "analysis" / "analysis.json").read_text())
  assert (found["moments"], found["notes"]) == ([0, 1, 2], [])
