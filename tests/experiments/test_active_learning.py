"""Rounds whose rows the model chooses: continued as extended runs, beside training from scratch."""

from __future__ import annotations

import json

import numpy as np
import pytest

import cljax
from experiments import active_learning as active

PLAN = active.Plan(data="blobs", rounds=3, rows=8, epochs=2, batch_size=8, replay_batch=8, hidden=6)


def test_what_is_asked_for_is_what_the_model_doubts():
  logits = np.log([[0.9, 0.05, 0.05], [0.5, 0.49, 0.01], [0.34, 0.33, 0.33], [0.6, 0.2, 0.2]])
  rng = np.random.default_rng(0)
  assert list(active.wanted(logits, "entropy", 3, rng)) == [2, 3, 1]
  p = np.exp(logits)
  entropy = -(p * logits).sum(1)
  assert list(active.wanted(logits + 5.0, "entropy", 4, rng)) == list(np.argsort(-entropy))
  assert list(active.wanted(np.log([[0.9, 0.05, 0.05], [0.5, 0.4, 0.1], [0.55, 0.44, 0.01]]), "margin", 2, rng)) == [
    1,
    2,
  ]
  drawn = [tuple(sorted(active.wanted(logits, "random", 2, np.random.default_rng(s)))) for s in range(200)]
  assert len(set(drawn)) == 6


@pytest.fixture(scope="module")
def whole(dataset, tmp_path_factory):
  """A course of each arm that nobody stopped."""
  out = tmp_path_factory.mktemp("active")
  lines = active.compared(dataset, PLAN, 1, out)
  return out, lines


def read(out, arm="continued"):
  return json.loads((out / arm / "0" / "rounds.json").read_text())


def test_rounds_are_tasks_that_are_appended(whole, dataset):
  """A run that had the chosen rounds from its start has the same accuracies; steps follow new rows, or all."""
  out, lines = whole
  held = read(out)
  rows = np.concatenate(held["rounds"])
  assert len(set(rows.tolist())) == 24 == len(rows)
  given = active.arguments(dataset, active.CONTINUED, PLAN)
  once = cljax.run(active.stream_of(dataset, held["rounds"], PLAN), **given, seeds=[0])
  np.testing.assert_allclose(held["accuracy"], 100 * once.accuracy[0, 1:, 0], rtol=1e-12)
  assert once.steps == held["steps"][-1]
  assert held["steps"] == [2, 4, 6]
  assert read(out, "from_scratch")["steps"] == [2, 2 + 4, 2 + 4 + 6]
  assert [line.split()[0] for line in lines[1:]] == ["8", "16", "24"]
  assert (out / "rounds.md").read_text().count("\n") == 5
  assert (out / "rounds.png").stat().st_size > 5000


@pytest.mark.parametrize("call", [1, 2])
def test_what_was_killed_between_rounds_goes_on(call, whole, dataset, tmp_path, monkeypatch):
  """Killed while a round is learned: its rows are noted already; the course ends as the undisturbed one."""
  run, calls = cljax.run, []

  def killed(*args, **given):
    calls.append(given.get("extend"))
    if len(calls) == call + 1:
      raise KeyboardInterrupt
    return run(*args, **given)

  folder = tmp_path / "continued" / "0"
  monkeypatch.setattr(cljax, "run", killed)
  with pytest.raises(KeyboardInterrupt):
    active.course(dataset, active.CONTINUED, PLAN, 0, folder)
  assert len(read(tmp_path)["rounds"]) == call + 1
  assert len(read(tmp_path)["accuracy"]) == call
  active.course(dataset, active.CONTINUED, PLAN, 0, folder)
  assert read(tmp_path) == read(whole[0])
  assert calls[:2] == [False, True]


def test_a_choice_that_was_not_noted_is_made_again(whole, dataset, tmp_path):
  """Killed after a round was learned and before the next was chosen: the model of the finished run chooses."""
  import shutil

  out = tmp_path / "copy"
  shutil.copytree(whole[0], out)
  held = read(out)
  cut = {**held, "rounds": held["rounds"][:2], "accuracy": held["accuracy"][:2], "steps": held["steps"][:2]}
  folder = out / "continued" / "0"
  shutil.rmtree(folder / "run")
  given = active.arguments(dataset, active.CONTINUED, PLAN)
  (folder / "rounds.json").write_text(json.dumps(cut))
  for rounds in (1, 2):
    active.learned(dataset, active.CONTINUED, held["rounds"][:rounds], given, PLAN, 0, folder)
  assert active.course(dataset, active.CONTINUED, PLAN, 0, folder) == held


def test_other_plans_and_small_pools_are_refused(whole, dataset):
  out, _ = whole
  with pytest.raises(cljax.UsageError, match="holds a course of another plan"):
    active.compared(dataset, PLAN._replace(epochs=3), 1, out)
  with pytest.raises(cljax.UsageError, match="rows: got 80 in 3 rounds; the pool has"):
    active.compared(dataset, PLAN._replace(rows=80), 1, out)
