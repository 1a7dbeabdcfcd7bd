"""The script for accelerators: what it does when it is tried is small, and is written as of a device."""

from __future__ import annotations

import json
import types

import pytest

from experiments import accelerator


@pytest.fixture
def flags(monkeypatch, tmp_path):
  given = types.SimpleNamespace(tiny=True, repeats=1, rows=100, parts=["population", "resume"], out=str(tmp_path))
  monkeypatch.setattr(accelerator, "flags", types.SimpleNamespace(FLAGS=given))
  return given


def test_a_tiny_run_writes_each_part_and_one_that_fails_says_so(flags, monkeypatch, tmp_path):
  monkeypatch.setattr(accelerator, "MODELS", {k: accelerator.MODELS[k] for k in ("mlp", "cnn")})
  monkeypatch.setitem(accelerator.WORK, "resume", lambda: 1 / 0)
  accelerator.main([])
  (path,) = tmp_path.glob("*_tiny.json")
  parts = json.loads(path.read_text())["parts"]
  assert parts["resume"] == "ZeroDivisionError: division by zero"
  assert [(r["model"], r["seeds"]) for r in parts["population"]] == [("mlp", 1), ("mlp", 8), ("cnn", 1), ("cnn", 8)]
  assert all(0 < r["GFLOP a step"] < 0.1 for r in parts["population"])
  assert "| mlp | 8 |" in path.with_suffix(".md").read_text()


@pytest.mark.parametrize("name", sorted(accelerator.MODELS))
def test_a_tiny_step_is_a_small_one(flags, name):
  """It must end in minutes on two cores: rows of 8 by 8, eight a batch, two steps."""
  run, steps = accelerator.prepared(name, 1)
  assert steps == 2
  assert len(run.setup.stream.dataset.train.x) <= 32
  assert run.setup.stream.dataset.train.x.shape[1:3] == (8, 8)
