"""Deletion requests on disk: the ledger, and checkpoints that hold nothing of what was deleted."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
import records

import cljax
from cljax import engine, streams
from cljax.io import checkpoint, ledger

TRAINING = cljax.Recipe(batch_size=8, epochs=2)


def stream_of(dataset):
  """Two tasks; after each, three rows of the first are forgotten, five in all: two are asked for twice."""
  ids = dataset.train.id[streams.build(dataset, "class", tasks=2).train[0]]
  asked = [tuple(int(i) for i in ids[part]) for part in (slice(0, 3), slice(1, 5))]
  return streams.build(
    dataset, "class", tasks=2, forget=[(1, cljax.Forget(ids=asked[0])), (2, cljax.Forget(ids=asked[1]))]
  )


def prepared(stream, model, method="er", purge=False):
  hyper = records.arguments(method)
  options = cljax.Options(chunk_steps=2, checkpoint_purge_before_deletion=purge)
  return engine.prepare(stream, model, method, hyper, forget="ssd", seeds=2, training=TRAINING, options=options)


@pytest.fixture(scope="module")
def er(dataset, small_model):
  stream = stream_of(dataset)
  return {purge: prepared(stream, small_model, purge=purge) for purge in (False, True)}


def holders(directory, rows):
  """``{checkpoint: rows found in any of its arrays}``; every committed checkpoint is read back whole."""
  width, found = rows[0].size, {}
  for number in checkpoint.numbers(directory):
    state = checkpoint.read_state(directory, number, checkpoint.read_meta(directory, number))
    found[number] = set()
    for leaf in map(np.asarray, state.values()):
      if leaf.size and leaf.size % width == 0 and leaf.dtype == rows.dtype:
        same = (leaf.reshape(-1, 1, width) == rows.reshape(1, -1, width)).all(-1).any(0)
        found[number] |= set(np.flatnonzero(same).tolist())
  return found


def gone_and_kept(stream):
  split = stream.dataset.train
  gone = np.zeros(len(split.y), bool)
  for event in stream.events:
    if isinstance(event, cljax.Forget):
      gone |= np.isin(split.id, event.ids)
  return split.x[gone], split.x[~gone]


def test_no_checkpoint_holds_a_deleted_row_after_a_purge(er, tmp_path):
  plain, purged = tmp_path / "plain", tmp_path / "purged"
  er[False].run(str(plain))
  gone, kept = gone_and_kept(er[False].setup.stream)
  # The control: the memory of the first task held deleted rows, and without a purge that checkpoint is still there.
  found = holders(plain / "checkpoints", gone)
  assert found[min(found)]
  assert not found[max(found)]
  er[True].run(str(purged))
  found = holders(purged / "checkpoints", gone)
  assert len(found) == 1
  assert not any(found.values())
  assert any(holders(purged / "checkpoints", kept).values())
  lines = [json.loads(line) for line in (purged / "deletions.jsonl").read_text().splitlines()]
  assert [bool(line["checkpoints_purged"]) for line in lines] == [True, True]


def test_a_purge_cut_short_is_done_when_the_run_resumes(er, tmp_path):
  """Killed after the checkpoint and before the purge: the next start drops what should have gone."""
  whole = er[False].run(str(tmp_path))  # as if every purge had been cut short
  again = er[True].run(str(tmp_path))
  assert again.params_sha256 == whole.params_sha256
  assert len(checkpoint.numbers(tmp_path / "checkpoints")) == 1
  assert not any(holders(tmp_path / "checkpoints", gone_and_kept(er[True].setup.stream)[0]).values())


def test_the_ledger_names_rows_to_those_who_know_them(er, tmp_path):
  result = er[False].run(str(tmp_path))
  split, events = er[False].setup.stream.dataset.train, er[False].setup.stream.events
  text = (tmp_path / "deletions.jsonl").read_text()
  lines = [json.loads(line) for line in text.splitlines()]
  assert [line["event"] for line in lines] == [1, 3]
  assert [line["rows"] for line in lines] == [3, 2]  # what was gone already is not deleted again
  asked = sorted(set(events[1].ids) | set(events[3].ids))
  assert all(ledger.is_deleted(tmp_path, i) for i in asked)
  assert not any(ledger.is_deleted(tmp_path, int(i)) for i in split.id if int(i) not in asked)
  touched = {int(g) for g in split.group[np.isin(split.id, asked)]}
  assert touched
  assert [ledger.is_deleted(tmp_path, g, kind="group") for g in touched] == [None] * len(touched)
  assert not any(f" {i}," in text or f"[{i}" in text for i in asked)
  assert oct(os.stat(tmp_path / "deletions.salt").st_mode)[-3:] == "600"
  for line, told in zip(lines, result.forgotten, strict=True):
    assert line["evidence"] == {"forget": told["forget"], "retain": told["retain"]}
    assert (line["method"], line["exactness"], line["seeds"]) == ("ssd", "approximate", [0, 1])
    assert isinstance(line["parameters_changed"], dict)
  other = tmp_path / "other"
  er[False].run(str(other))
  hashes = lambda where: json.loads((where / "deletions.jsonl").read_text().splitlines()[0])["row_hashes"]
  assert not set(hashes(other)) & set(hashes(tmp_path))


def test_an_event_that_is_done_again_has_one_record(er, tmp_path):
  split, event = er[False].setup.stream.dataset.train, er[False].setup.stream.events[1]
  for seen in (1, 2):
    ledger.record(tmp_path, 1, event, split, np.asarray([3, 4]), evidence=seen)
  ledger.record(tmp_path, 3, event, split, np.asarray([5]), evidence=3)
  lines = [json.loads(line) for line in (tmp_path / "deletions.jsonl").read_text().splitlines()]
  assert [(line["event"], line["evidence"]) for line in lines] == [(1, 2), (3, 3)]


def test_changes_names_the_tensors_that_moved():
  before = {"a": np.zeros((2, 2)), "b": np.ones(3), "c": np.ones((0, 2))}
  assert ledger.changes(before, {**before, "b": np.asarray([1.0, 3.0, 1.0])}) == {"b": 2.0}
