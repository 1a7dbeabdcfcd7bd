"""``launch.analyze`` and ``launch.unlearn`` on a learner that has no classes, as a user calls them."""

from __future__ import annotations

import json

import numpy as np
import pytest

from cljax.cli import analyze, train, unlearn
from experiments.objectives import regression


@pytest.fixture(scope="module")
def given(tmp_path_factory):
  folder = tmp_path_factory.mktemp("rows")
  file = regression.write_rows(folder)
  fast = ("--config.train.epochs=3", "--config.eval.every=0", "--config.model.hidden=(8,)", "--compilation_cache=")
  return (f"--config={regression.__file__}", f"--config.data.name=npz:{file}", *fast)


def test_what_was_forgotten_is_said_in_the_scores_own_words(given, tmp_path, capsys):
  asked = ("--config.stream.tasks=3", "--config.stream.forget=2:ids=1-20", "--config.forget.name=retrain")
  assert (
    train.main(["train", *given, *asked, "--config.eval.every=9", "--config.train.epochs=20", f"--workdir={tmp_path}"])
    == 0
  )
  assert analyze.main(["analyze", str(tmp_path), "--compilation_cache="]) == 0
  text = (tmp_path / "analysis" / "analysis.txt").read_text()
  found = json.loads((tmp_path / "analysis" / "analysis.json").read_text())
  result = json.loads((tmp_path / "result.json").read_text())
  assert found["score"] == {"name": "squared_error", "better": "lower"}
  np.testing.assert_allclose(found["accuracy"], result["scores"]["squared_error"][0])
  now = np.mean([t["now"] for t in found["tasks"]])
  assert f"the squared error is now {now:.4g}" in text
  assert "classes" not in found
  assert "%" not in text
  assert "accuracy" not in text.lower()
  lost = [t["task"] for t in found["tasks"] if t["now"] > t["then"]]  # more is worse
  assert found["resets"]["tasks"] == lost
  assert len(lost) > 0
  at = found["resets"]["tasks"].index(lost[0])
  assert found["resets"]["together"][at] == pytest.approx(found["resets"]["then"][at], rel=1e-5)
  pictures = {p.name for p in (tmp_path / "analysis").glob("*.png")}
  assert pictures == {"squared_error.png", "layers.png", "drift.png"}


def test_a_request_is_compared_by_losses(given, tmp_path, capsys):
  one = (
    "--config.stream.tasks=1",
    "--request=ids=0-60",
    "--seeds=2",
    "--oracles=8",
    "--config.forget.steps=5",
    "--shadows=8",
  )
  asked = ["unlearn", *given, *one, "--methods=gradient_ascent,random_labels,ssd", f"--workdir={tmp_path}"]
  assert unlearn.main(asked) == 0
  told = capsys.readouterr()
  assert "forget squared error" in told.out
  assert "random_labels refused" in told.out
  assert "of which lower is better" in told.out
  result = json.loads((tmp_path / "unlearn.json").read_text())
  assert result["values"]["random_labels"] == {}
  assert "needs classes" in result["about"]["random_labels"]["refused"]
  for name in ("original", "gradient_ascent", "ssd"):
    values = result["values"][name]
    assert {"forget_score", "average_gap", "klom_forget", "u_lira", "prediction_distance"} <= set(values)
  original, edited = (np.mean(result["values"][n]["forget_score"]) for n in ("original", "gradient_ascent"))
  assert edited > original, "an error that ascent made larger"
  assert unlearn.main(asked) == 0, "again: everything is read back"
  assert json.loads((tmp_path / "unlearn.json").read_text())["values"] == result["values"]


def test_a_request_for_one_row_shows_its_loss(given, tmp_path, capsys):
  one = ("--config.stream.tasks=1", "--request=ids=15", "--seeds=1", "--oracles=2", "--methods=ssd")
  assert unlearn.main(["unlearn", *given, *one, f"--workdir={tmp_path}"]) == 0
  assert "loss on them" in capsys.readouterr().out.splitlines()[2]
  values = json.loads((tmp_path / "unlearn.json").read_text())["values"]
  assert all(np.isfinite(values[n]["forget_loss"]).all() for n in ("original", "retrained", "ssd"))


def test_a_stream_of_requests_by_losses(given, tmp_path, capsys):
  asked = (
    "--config.stream.tasks=2",
    "--request=1:ids=0-60; 2:group=1",
    "--seeds=2",
    "--methods=graddiff,random_labels",
  )
  assert unlearn.main(["unlearn", *given, *asked, f"--workdir={tmp_path}"]) == 0
  out = capsys.readouterr().out
  assert "squared error at the end" in out
  assert "%" not in out
  values = json.loads((tmp_path / "unlearn.json").read_text())["values"]
  assert values["random_labels"] == {}
  assert len(values["graddiff"]["forget_gap"]) == 2
