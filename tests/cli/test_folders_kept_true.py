"""A folder goes on saying what is true of it: purges that were begun, ledgers, what it holds, whether it is free."""

from __future__ import annotations

import shutil

import pytest

import cljax
from cljax.cli import forget, sweep, train, unlearn
from cljax.io import checkpoint, ledger

BASE = ("--config.stream.classes_per_task=2", "--config.stream.task_fractions=()", "--config.stream.rows=200",
        "--config.stream.tasks=2", "--config.train.epochs=1", "--config.method.name=er")  # fmt: skip
QUIET = "--compilation_cache="


@pytest.fixture(scope="module")
def trained(command, tmp_path_factory):
  workdir = tmp_path_factory.mktemp("kept_true") / "run"
  assert train.main(command(*BASE, f"--workdir={workdir}")) == 0
  return workdir


@pytest.fixture
def copied(trained, tmp_path):
  return shutil.copytree(trained, tmp_path / "run")


def asked(workdir, *more):
  return ["forget", str(workdir), "--request=class=1", "--method=ssd", "--config.forget.alpha=1.0", QUIET, *more]


def test_a_purge_that_was_begun_is_ended_by_whatever_goes_on(copied, monkeypatch, capsys):
  """launch.forget is cut off when only its configuration is written; --extend brings it to its end."""

  def cut(*args):
    raise cljax.Stopped("cut off")

  with monkeypatch.context() as patch:
    patch.setattr(train, "_train", cut)
    assert forget.main(asked(copied)) != 0
  assert forget.main(asked(copied, "--method=graddiff")[:3] + ["--method=graddiff", QUIET]) == 2
  assert "holds a run that has not ended" in capsys.readouterr().err
  before = checkpoint.numbers(copied / "checkpoints")
  assert train.main(["launch", f"--workdir={copied}", "--extend", QUIET]) == 0
  assert not set(before) & set(checkpoint.numbers(copied / "checkpoints"))
  (line,) = ledger.read(copied)
  assert line["status"] == ledger.DONE
  assert line["checkpoints_purged"] == before


def test_what_was_deleted_from_is_not_trained_anew(command, copied, capsys):
  assert forget.main(asked(copied)) == 0
  assert train.main(command(*BASE, f"--workdir={copied}", "--overwrite")) == 2
  assert "overwrite: " in (said := capsys.readouterr().err)
  assert "has a ledger of deletions" in said
  assert ledger.read(copied)[0]["status"] == ledger.DONE


def test_a_folder_holds_one_kind_of_thing(command, copied, capsys):
  many = command(*BASE[:-1], "--methods=si", f"--workdir={copied}")
  assert sweep.main(many) == 2
  assert "holds a run of launch.train; expected another folder" in capsys.readouterr().err
  assert not (copied / "launch.json").exists() or "sweep" not in (copied / "launch.json").read_text()
  asks = ["--methods=ssd", "--request=class=1", "--oracles=2", f"--workdir={copied}"]
  assert unlearn.main(command(*BASE[:-1], *asks)) == 2
  assert "holds a run of launch.train; expected another folder" in capsys.readouterr().err


def test_what_diverged_at_once_leaves_the_folder_free_from_python(class_stream, small_model, tmp_path):
  given = {"training": cljax.Recipe(batch_size=8), "workdir": str(tmp_path / "run")}
  with pytest.raises(cljax.DivergedError):
    cljax.run(class_stream, small_model, "finetune", optimizer_options={"learning_rate": 1e30}, **given)
  assert cljax.run(class_stream, small_model, "l2", **given).steps > 0


def test_what_can_not_be_gone_on_with_is_one_line(class_stream, small_model, tmp_path):
  with pytest.raises(cljax.UsageError, match="learner: got a str; expected what cljax"):
    cljax.run(class_stream, small_model, learner="runs/ewc")
  with pytest.raises(cljax.UsageError, match=r"extend: got workdir=.*expected the folder of the run"):
    cljax.run(class_stream, small_model, workdir=str(tmp_path / "none"), extend=True)
  assert not (tmp_path / "none").exists()


def test_what_diverged_later_gives_way_to_another_configuration(command, tmp_path, capsys):
  """A penalty of 1e12 acts in the second task; the same run again says that it is dead, another one takes over."""
  given = command(*BASE[:-1], f"--workdir={tmp_path}")
  dead = ["--config.method.name=ewc", "--config.method.strength=1e12", "--config.train.epochs=8"]
  assert train.main([*given, *dead]) == 1
  assert "of task 1" in capsys.readouterr().err
  assert train.main([*given, *dead]) == 1
  assert "loss became" in capsys.readouterr().err
  assert train.main([*given, "--config.method.name=l2"]) == 0
  assert (tmp_path / "result.json").exists()
  assert train.main([*given, "--config.method.name=si"]) == 2  # of what ended well
