"""Rows of a sweep are deleted from, and extended, by their paths; what is no run says what to do instead."""

from __future__ import annotations

import json
import shutil

import pytest

import cljax
from cljax.cli import _rows, analyze, forget, report, sweep, train
from cljax.io import checkpoint, history, ledger, row_log

BASE = ("--config.stream.classes_per_task=2", "--config.stream.task_fractions=()", "--config.stream.rows=200",
        "--config.stream.tasks=2", "--config.train.epochs=1")  # fmt: skip
GRID = ("--grid=method.name=['si']", "--grid=method.strength=[0.5,1.0]")
QUIET = "--compilation_cache="
ASKED = ("--request=class=1", "--method=graddiff", QUIET)


def one(argv, main=forget.main, code=0):
  assert main(argv) == code, argv


def result(path) -> dict:
  return json.loads((path / "result.json").read_text())


@pytest.fixture(scope="module")
def swept(command, tmp_path_factory):
  """A sweep of two rows over three seeds: two of the seeds in one population, the third in another; and its command."""
  workdir = tmp_path_factory.mktemp("rows") / "sweep"
  given = command(*BASE, *GRID, f"--workdir={workdir}")
  one([*given, "--seeds=2"], sweep.main)
  one([*given, "--seeds=3"], sweep.main)
  return workdir, given


@pytest.fixture
def copied(swept, tmp_path):
  return shutil.copytree(swept[0], tmp_path / "sweep")


def rows(workdir) -> list:
  return sorted((workdir / "runs").iterdir(), key=lambda p: result(p)["config"]["method"]["strength"])


def kept(workdir) -> dict[str, list]:
  """The checkpoints below a folder."""
  found = sorted(workdir.rglob("checkpoints"))
  return {str(p.parent.relative_to(workdir)): checkpoint.numbers(p) for p in found if checkpoint.numbers(p)}


def test_a_row_is_deleted_from_as_its_own_run_would_be(copied, command, swept, tmp_path, capsys):
  first, second = rows(copied)
  before = cljax.load(second).params
  one(["forget", str(first), *ASKED])
  said = " ".join(capsys.readouterr().out.split())
  assert "checkpoints 1, 2 of the population" in said
  assert f"the sweep's other rows, whose models learned them ({second.name})" in said
  alone = tmp_path / "alone"
  more = ("--config.method.name=si", "--config.method.strength=0.5", "--config.train.on_divergence=freeze")
  one([*command(*BASE, *more, f"--workdir={alone}"), "--seeds=3"], train.main)
  one(["forget", str(alone), *ASKED])
  assert result(first)["params_sha256"] == result(alone)["params_sha256"]
  assert result(first)["accuracy_matrix"] == result(alone)["accuracy_matrix"]
  same_log(*map(row_log.read, (first, alone)))
  assert row_log.read(second).seeds == (0, 1, 2)
  assert not list(copied.glob(f"groups/*/{row_log.FOLDER}")), "the populations' logs went with their checkpoints"
  assert [s["what"] for s in history.read(first)] == ["begun", "forget"]
  # Nothing from before the deletion is left of it, and of the other row all that there was.
  assert kept(copied) == {f"runs/{first.name}": [2], f"runs/{second.name}": [1]}
  after = cljax.load(second)
  assert all((a == b).all() for a, b in zip(*map(cljax_leaves, (before, after.params)), strict=True))
  assert cljax.load(first).position["event"] == 3
  found = [json.loads(line) for line in (copied / "rows.jsonl").read_text().splitlines()]
  shas = [r["params_sha256"] for r in sorted(found, key=lambda r: r["seed"]) if r["run"] == first.name]
  assert shas == result(first)["params_sha256"]
  # The row again, and what reads the sweep.
  one(["forget", str(first), "--request=class=3", *ASKED[1:]])
  assert [line["event"] for line in ledger.read(first)] == [2, 3]
  given = [a if not a.startswith("--workdir") else f"--workdir={copied}" for a in swept[1]]
  one([*given, "--seeds=3"], sweep.main)
  capsys.readouterr()
  one([*given, "--seeds=4"], sweep.main, 2)
  assert "is a run of its own since it, or a row that it was trained with, was deleted from" in capsys.readouterr().err
  (first / "result.json").rename(first / "kept.json")
  one([*given, "--seeds=3"], sweep.main, 2)
  assert f"make it anew with launch.train --workdir={first} --extend" in capsys.readouterr().err
  one(["train", f"--workdir={first}", "--extend", QUIET], train.main)
  assert result(first)["params_sha256"] == json.loads((first / "kept.json").read_text())["params_sha256"]
  one(["report", str(copied)], report.main)
  one(["analyze", str(copied), QUIET], analyze.main)
  assert len(list((copied / "analysis").iterdir())) == 2


def same_log(a, b):
  assert (a.seeds, a.events, a.sizes, len(a.records)) == (b.seeds, b.events, b.sizes, len(b.records))
  for x, y in zip(a.records, b.records, strict=True):
    assert (x.arrays["accuracy"] == y.arrays["accuracy"]).all()


def cljax_leaves(tree):
  import jax

  return jax.tree.leaves(tree)


def test_a_row_is_a_row_again_where_the_request_is_refused(copied, capsys):
  first, _ = rows(copied)
  before = kept(copied), sorted(p.name for p in first.iterdir())
  one(["forget", str(first), "--list"])
  one(["forget", str(first), "--request=class=1", "--method=sisa", QUIET], code=2)
  one(["forget", str(first), "--request=class=8", "--method=ssd", QUIET], code=2)
  names = sorted(p.name for p in first.iterdir())
  assert (kept(copied), [n for n in names if n != ".owner"]) == before


def test_a_release_that_was_killed_is_taken_up(copied, monkeypatch, capsys):
  """Killed when half of the populations' checkpoints were gone: the same command removes the others."""
  first, _ = rows(copied)
  discard, left = checkpoint.discard, [1]

  def dies(directory, name):
    if "groups" in str(directory) and not left:
      raise KeyboardInterrupt
    left.clear()
    discard(directory, name)

  with monkeypatch.context() as patched:
    patched.setattr(_rows.checkpoint, "discard", dies)
    one(["forget", str(first), *ASKED], code=130)
  one(["forget", str(first), "--list"])
  said = " ".join(capsys.readouterr().out.split())
  assert "nothing was deleted" in said or "(run the command again)" in said
  one(["forget", str(first), *ASKED])
  assert not [p for p in kept(copied) if p.startswith("groups")]
  assert len(ledger.read(first)) == 1


def test_a_row_is_extended_and_the_sweep_keeps_its_populations(copied):
  first, second = rows(copied)
  one(["train", f"--workdir={first}", "--extend", "--config.stream.tasks=3", QUIET], train.main)
  assert [s["what"] for s in history.read(first)] == ["begun", "extended"]
  assert cljax.load(first).position["event"] == 3
  assert cljax.load(second).position["event"] == 2
  assert sum(name.startswith("groups") for name in kept(copied)) == 2
  # Its members still lie in the populations: a deletion takes them from there.
  one(["forget", str(first), *ASKED])
  assert not [p for p in kept(copied) if p.startswith("groups")]


def test_what_is_no_run_says_what_to_do(copied, tmp_path, capsys, class_stream, small_model):
  (unit, *_) = (copied / "groups").iterdir()
  (tmp_path / "unlearn" / "methods" / "ssd").mkdir(parents=True)
  (tmp_path / "unlearn" / "unlearn.request.json").write_text("{}")
  cljax.run(class_stream, small_model, training=cljax.Recipe(batch_size=8, epochs=1), workdir=str(tmp_path / "own"))
  said = {
    copied: "is a sweep; expected one of its rows: ",
    unit: "is a population of a sweep; expected a row that was trained in it: ",
    tmp_path / "unlearn": "is of the comparison",
    tmp_path / "unlearn" / "methods" / "ssd": "is of the comparison",
    tmp_path / "own": "extend=True, answers={len(stream.events): 'ssd'})",
  }
  for path, words in said.items():
    one(["forget", str(path), *ASKED], code=2)
    error = capsys.readouterr().err
    assert words in error
    assert len(error.splitlines()) == 1
  # As the last of these lines says it.
  events = (*class_stream.events, cljax.Forget(classes=("1",)))
  longer = class_stream._replace(events=events)
  given = {"training": cljax.Recipe(batch_size=8, epochs=1), "workdir": str(tmp_path / "own")}
  cljax.run(longer, small_model, **given, extend=True, answers={len(class_stream.events): "ssd"})
  assert [line["method"] for line in ledger.read(tmp_path / "own")] == ["ssd"]
