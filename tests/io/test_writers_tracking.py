"""TensorBoard and Weights & Biases behind the writer protocol, read back from what they wrote."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from cljax import UsageError
from cljax.cli._progress import Log
from cljax.io import trackers as tracking

MEMBERS = ["seed 0", "seed 1"]


def chunk(total, loss):
  return {"kind": "chunk", "event": 0, "task": 0, "step": total, "steps": 9, "total": total, "of": 18, "loss": loss,
          "seconds_per_step": 0.5}  # fmt: skip


def ended(total, level):
  test = [[level, 0.0], [level / 2, 0.2]]
  return {"kind": "event", "event": 0, "total": total, "test": test, "task": test, "validation": test}


def test_scalars_of_messages():
  assert tracking.scalars(chunk(3, 0.25), MEMBERS) == {"train/loss": 0.25, "train/steps_per_second": 2.0}
  assert tracking.scalars(chunk(3, float("nan")), MEMBERS) == {"train/steps_per_second": 2.0}
  got = tracking.scalars({"kind": "curve", "total": 3, "accuracy": [[0.5, 0.1], [0.7, 0.3]]}, MEMBERS)
  assert got == pytest.approx({
    "test/task_0": 0.6, "test/task_1": 0.2, "test/all_tasks/seed 0": 0.3, "test/all_tasks/seed 1": 0.5,
  })  # fmt: skip
  after = tracking.scalars(ended(9, 0.8), MEMBERS)
  assert after["after_event/task_0"] == after["validation_after_event/task_0"] == pytest.approx(0.6)
  assert tracking.scalars({"kind": "diverged", "step": 3}, MEMBERS) == {}


def test_scalars_of_several_scores():
  """The main score stands where accuracy does, the others below their names."""
  row = {"kind": "event", "score": "perplexity", "test": [[3.0, None]], "scores": {"accuracy": {"test": [[0.5, 0.25]]}}}
  assert tracking.scalars(row, ["a"]) == {
    "after_event/task_0": 3.0, "after_event/accuracy/task_0": 0.5, "after_event/accuracy/task_1": 0.25,
    "after_event/accuracy/all_tasks/a": 0.375,
  }  # fmt: skip


def test_a_run_id_is_that_of_its_identity():
  one = tracking.run_id({"a": 1, "b": [2.5, None]}, "unit")
  assert one == tracking.run_id({"b": [2.5, None], "a": 1}, "unit")
  assert len({one, tracking.run_id({"a": 1, "b": [2.5, None]}, "other"), tracking.run_id({"a": 2}, "unit")}) == 3


def test_what_is_unknown_or_not_installed_is_said(tmp_path, monkeypatch):
  given = {"members": MEMBERS, "identity": 1, "name": "n", "config": {}}
  with pytest.raises(UsageError, match="log_to: got 'mlflow'; expected some of tensorboard, wandb"):
    tracking.open_writers(["mlflow"], tmp_path, **given)
  for name, module in (("tensorboard", "tensorboardX"), ("wandb", "wandb")):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UsageError, match=rf"log_to: {name}.* pip install 'cljax\[{name}\]'"):
      tracking.open_writers([name], tmp_path, **given)
  assert not list(tmp_path.iterdir())


def test_tensorboard_after_a_kill_and_a_resume(tmp_path):
  pytest.importorskip("tensorboardX", reason="tensorboardX is not installed: pip install 'cljax[tensorboard]'")
  from tensorboardX.proto import event_pb2

  def opened():
    more = tracking.open_writers(["tensorboard"], tmp_path, members=MEMBERS, identity=1, name="n", config={})
    return Log(tmp_path / "metrics.jsonl", more)

  log = opened()
  log(chunk(3, 0.5))
  log(chunk(6, 0.4))
  log.close()
  log = opened()
  log({"kind": "resumed", "event": 0, "step": 3, "total": 3})
  log(chunk(6, 0.3))
  log(ended(9, 0.8))
  log.close()
  found: dict = {}
  for file in sorted((tmp_path / "tensorboard").iterdir(), key=lambda p: p.stat().st_mtime_ns):
    for event in events(file, event_pb2):
      if event.HasField("session_log") and event.session_log.status == event_pb2.SessionLog.START:
        found = {k: {s: v for s, v in steps.items() if s < event.step} for k, steps in found.items()}
      for value in event.summary.value:
        found.setdefault(value.tag, {})[event.step] = value.simple_value
  assert found["train/loss"] == pytest.approx({3: 0.5, 6: 0.3})
  assert found["after_event/task_0"] == pytest.approx({9: 0.6})
  assert found["after_event/all_tasks/seed_1"] == pytest.approx({9: 0.3})
  rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
  assert [(r["kind"], r["total"]) for r in rows] == [("chunk", 3), ("chunk", 6), ("event", 9)]


def events(path, event_pb2):
  """The records of an event file: length, its checksum, the record, its checksum."""
  data, at = path.read_bytes(), 0
  while at < len(data):
    size = int(np.frombuffer(data[at : at + 8], "<u8")[0])
    yield event_pb2.Event.FromString(data[at + 12 : at + 12 + size])
    at += size + 16


def test_wandb_offline_goes_on_under_the_same_id(tmp_path, monkeypatch):
  wandb = pytest.importorskip("wandb", reason="wandb is not installed: pip install 'cljax[wandb]'")
  for key, value in (("MODE", "offline"), ("SILENT", "true"), ("ERROR_REPORTING", "false")):
    monkeypatch.setenv(f"WANDB_{key}", value)
  given = {"members": MEMBERS, "identity": {"a": 1}, "name": "er", "config": {"method": "er"}}
  first = [chunk(3, 0.5)]
  second = [{"kind": "resumed", "event": 0, "step": 3, "total": 3}, ended(9, 0.8)]
  content = {}
  for at, rows in (("before", first), ("moved", second)):
    folder = tmp_path / at
    log = Log(folder / "metrics.jsonl", tracking.open_writers(["wandb"], folder, **given))
    for row in rows:
      log(row)
    log.close()
    wandb.teardown()  # its service closes files a moment after a run is finished
    (written,) = (folder / "wandb").rglob("*.wandb")
    assert written.name == f"run-{tracking.run_id({'a': 1})}.wandb"
    content[at] = written.read_bytes()
  assert b"train/loss" in content["before"]
  assert b"after_event/all_tasks/seed 1" in content["moved"]
