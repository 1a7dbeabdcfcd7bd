"""A ledger that is damaged says so in one line: passed over, a record would say that nothing was deleted."""

from __future__ import annotations

import json

import numpy as np
import pytest

import cljax
from cljax import CljaxError, UsageError
from cljax.data import Split
from cljax.io import ledger


@pytest.fixture
def workdir(tmp_path):
  split = Split(np.zeros((4, 1)), np.asarray([0, 0, 1, 1]), np.asarray([10, 11, 12, 13]), np.asarray([0, 0, 5, 5]))
  ledger.record(tmp_path, 1, cljax.Forget(ids=(10,)), split, np.asarray([0]))
  ledger.record(tmp_path, 3, cljax.Forget(ids=(12, 13)), split, np.asarray([2, 3]))
  return tmp_path


def test_what_is_written_is_found(workdir):
  assert [ledger.is_deleted(workdir, key) for key in (10, 11, 12, 13)] == [True, False, True, True]
  assert [ledger.is_deleted(workdir, key, "group") for key in (0, 1, 5)] == [None, False, True]
  ledger.update(workdir, 3, more=1)
  assert [line.get("more") for line in ledger.read(workdir)] == [None, 1]


def test_a_group_is_deleted_when_its_last_row_is(workdir):
  split = Split(np.zeros((4, 1)), np.asarray([0, 0, 1, 1]), np.asarray([10, 11, 12, 13]), np.asarray([0, 0, 5, 5]))
  ledger.record(workdir, 5, cljax.Forget(ids=(11,)), split, np.asarray([1]))
  assert ledger.is_deleted(workdir, 0, "group") is True


def test_a_row_that_another_task_still_shows_is_not_known_to_be_deleted(workdir):
  split = Split(np.zeros((4, 1)), np.asarray([0, 0, 1, 1]), np.asarray([10, 11, 12, 13]), np.asarray([0, 0, 5, 5]))
  ledger.record(workdir, 5, cljax.Forget(tasks=(0,)), split, np.asarray([1]), partly=[1])
  assert ledger.is_deleted(workdir, 11) is None
  assert ledger.is_deleted(workdir, 0, "group") is None
  ledger.record(workdir, 7, cljax.Forget(ids=(11,)), split, np.asarray([1]))
  assert ledger.is_deleted(workdir, 11) is True


def test_what_is_requested_and_not_done_is_not_deleted(workdir):
  split = Split(np.zeros((4, 1)), np.asarray([0, 0, 1, 1]), np.asarray([10, 11, 12, 13]), np.asarray([0, 0, 5, 5]))
  ledger.record(workdir, 5, cljax.Forget(ids=(11,)), split, np.asarray([1]), status=ledger.REQUESTED)
  assert ledger.is_deleted(workdir, 11) is False
  assert [line["event"] for line in ledger.pending(workdir, 6)] == [5]
  ledger.done(workdir, 5)  # of events before it
  assert ledger.is_deleted(workdir, 11) is False
  ledger.done(workdir, 6, checkpoints_kept=[1])
  assert ledger.is_deleted(workdir, 11) is True
  assert ledger.read(workdir)[-1]["checkpoints_kept"] == [1]


def test_a_ledger_of_an_earlier_version_is_read(workdir):
  """Its records have no status and do not say how much of a group went."""
  new = ("status", "row_hashes_partly", "group_hashes_whole", "fates", "records", "salt_mark")
  old = [{k: v for k, v in line.items() if k not in new} for line in ledger.read(workdir)]
  (workdir / ledger.LEDGER).write_text("".join(json.dumps(line) + "\n" for line in old))
  assert [ledger.is_deleted(workdir, key) for key in (10, 11)] == [True, False]
  assert [ledger.is_deleted(workdir, key, "group") for key in (0, 1, 5)] == [None, False, None]


@pytest.mark.parametrize("key", [0.0, "0", None, True, [10]])
def test_keys_of_other_types_are_refused(workdir, key):
  with pytest.raises(UsageError, match=r"^key: got .*; keys of rows and groups are integers$"):
    ledger.is_deleted(workdir, key)
  assert ledger.is_deleted(workdir, np.int64(10)) is True


def test_a_folder_that_does_not_exist_is_told_and_not_made(tmp_path):
  with pytest.raises(UsageError, match=r"^workdir: .*nowhere does not exist$"):
    ledger.is_deleted(tmp_path / "nowhere", 10)
  assert not (tmp_path / "nowhere").exists()
  with pytest.raises(UsageError, match=r"^kind: got 'row'; allowed: id, group$"):
    ledger.is_deleted(tmp_path, 10, "row")


def test_classes_stand_by_the_names_that_the_request_has(tmp_path):
  split = Split(np.zeros((2, 1)), np.asarray([0, 1]), np.asarray([10, 11]), np.asarray([0, 0]))
  ledger.record(tmp_path, 0, cljax.Forget(classes=("cat", "日本", 3)), split, np.asarray([0]))
  (line,) = ledger.read(tmp_path)
  assert line["request"]["classes"] == ["cat", "日本", 3]


def lines(workdir) -> list[bytes]:
  return (workdir / ledger.LEDGER).read_bytes().splitlines()


def without(key):
  return lambda line: json.dumps({k: v for k, v in json.loads(line).items() if k != key}).encode()


DAMAGE = {
  "flipped": lambda line: bytes([line[0] ^ 64]) + line[1:],
  "not text": lambda line: b"\xff" + line,
  "torn": lambda line: line[: len(line) // 2],
  "list": lambda line: b"[1]",
  "deep": lambda line: b"[" * 100_000,
  "no event": without("event"),
  "no hashes": without("row_hashes"),
  "hashes are a number": lambda line: line.replace(b'"row_hashes": [', b'"row_hashes": 7, "x": ['),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_record_is_told_by_all_who_read(workdir, damage):
  first, second = lines(workdir)
  (workdir / ledger.LEDGER).write_bytes(first + b"\n" + damage(second) + b"\n")
  split = Split(np.zeros((1, 1)), np.zeros(1, int), np.zeros(1, int), np.zeros(1, int))
  for call in (
    lambda: ledger.is_deleted(workdir, 10),
    lambda: ledger.update(workdir, 1, more=1),
    lambda: ledger.record(workdir, 5, cljax.Forget(ids=(0,)), split, np.asarray([0])),
  ):
    with pytest.raises(CljaxError, match=r"record 2 of .*deletions\.jsonl is damaged"):
      call()
  assert lines(workdir)[0] == first, "nothing was rewritten"


def test_a_salt_that_is_gone_is_told(workdir, tmp_path_factory):
  salt = (workdir / ledger.SALT).read_bytes()
  (workdir / ledger.SALT).unlink()
  with pytest.raises(CljaxError, match=r"deletions\.salt is gone; without it"):
    ledger.is_deleted(workdir, 10)
  assert not (workdir / ledger.SALT).exists()
  (workdir / ledger.SALT).write_bytes(b"\xff\xfe")
  with pytest.raises(CljaxError, match=r"deletions\.salt is damaged"):
    ledger.is_deleted(workdir, 10)
  (workdir / ledger.SALT).write_bytes(salt)
  assert ledger.is_deleted(workdir, 10)
  assert not ledger.is_deleted(tmp_path_factory.mktemp("empty"), 10)


def test_another_salt_does_not_answer(workdir):
  """A well-formed one, of another run: its hashes match nothing, which would say that nothing was deleted."""
  (workdir / ledger.SALT).write_text("0" * 32 + "\n")
  with pytest.raises(
    CljaxError, match=r"deletions\.salt is not the salt that the records of deletions\.jsonl are made"
  ):
    ledger.is_deleted(workdir, 10)


@pytest.mark.parametrize("kept", [0, 1])
def test_a_ledger_that_lost_whole_records_is_told(workdir, kept):
  first = lines(workdir)[0] + b"\n"
  (workdir / ledger.LEDGER).write_bytes(first if kept else b"")
  said = "its records speak of 2" if kept else "it has no bytes"
  with pytest.raises(CljaxError, match=rf"deletions\.jsonl holds {kept} records, but {said}"):
    ledger.is_deleted(workdir, 12)


def test_a_run_that_was_killed_before_its_first_record_goes_on(tmp_path):
  salt = ledger.salt_of(tmp_path)
  assert ledger.read(tmp_path) == []
  assert ledger.is_deleted(tmp_path, 10) is False
  split = Split(np.zeros((1, 1)), np.zeros(1, int), np.asarray([10]), np.zeros(1, int))
  (tmp_path / ledger.SALT).unlink()  # killed between the two files
  assert ledger.salt_of(tmp_path) != salt
  ledger.record(tmp_path, 1, cljax.Forget(ids=(10, 10)), split, np.asarray([0]))
  assert ledger.read(tmp_path)[0]["request"]["ids"] == 1, "an id that is given twice is one"
  assert ledger.is_deleted(tmp_path, 10)


def test_two_records_of_one_event_are_damage(workdir):
  first, second = lines(workdir)
  again = second.replace(b'"event": 3', b'"event": 1')
  assert again != second
  (workdir / ledger.LEDGER).write_bytes(first + b"\n" + again + b"\n")
  with pytest.raises(CljaxError, match=r"record 2 of .*deletions\.jsonl is damaged: it is the second of event 1$"):
    ledger.is_deleted(workdir, 10)


@pytest.mark.parametrize("status", ['"Done"', '""', "null", "[]", "7"])
def test_an_unknown_status_is_damage(workdir, status):
  first, second = lines(workdir)
  whole = json.loads(second) | {"status": json.loads(status)}
  (workdir / ledger.LEDGER).write_bytes(first + b"\n" + json.dumps(whole).encode() + b"\n")
  with pytest.raises(CljaxError, match=r"record 2 of .* is damaged: status .*; expected requested or done$"):
    ledger.is_deleted(workdir, 11)


LOST = {
  "emptied": lambda workdir: (workdir / ledger.LEDGER).write_bytes(b"\n"),
  "both gone": lambda workdir: [(workdir / name).unlink() for name in (ledger.LEDGER, ledger.SALT)],
}


@pytest.mark.parametrize("lose", LOST.values(), ids=LOST)
def test_a_ledger_that_is_gone_is_told_by_the_result(workdir, lose):
  """Requests that the result says were answered are the ledger's to know."""
  result = workdir / "result.json"
  result.write_text(json.dumps({"forgotten": [{"event": 1}, {"event": 3}]}))
  assert ledger.is_deleted(workdir, 10) is True
  lose(workdir)
  split = Split(np.zeros((1, 1)), np.zeros(1, int), np.asarray([10]), np.zeros(1, int))
  said = r"deletions\.jsonl names no record of events 1, 3, which result\.json says were answered; bring the whole file"
  for call in (
    lambda: ledger.is_deleted(workdir, 10),
    lambda: ledger.salt_of(workdir),
    lambda: ledger.record(workdir, 5, cljax.Forget(ids=(10,)), split, np.asarray([0])),
  ):
    with pytest.raises(CljaxError, match=said):
      call()
  result.write_text(json.dumps({"forgotten": []}))
  assert ledger.is_deleted(workdir, 10) is False
  result.write_text("{")  # says nothing, as to all who read it
  assert ledger.is_deleted(workdir, 10) is False


def test_an_older_ledger_is_told_by_the_result(workdir):
  """As a copy from before the last request: its own count of records is right."""
  kept = (workdir / ledger.LEDGER).read_bytes()
  split = Split(np.zeros((1, 1)), np.zeros(1, int), np.asarray([11]), np.zeros(1, int))
  ledger.record(workdir, 5, cljax.Forget(ids=(11,)), split, np.asarray([0]))
  (workdir / "result.json").write_text(json.dumps({"forgotten": [{"event": e} for e in (1, 3, 5)]}))
  assert ledger.is_deleted(workdir, 11) is True
  (workdir / ledger.LEDGER).write_bytes(kept)
  with pytest.raises(CljaxError, match=r"names no record of event 5, which result\.json says was answered"):
    ledger.is_deleted(workdir, 11)


def test_of_a_row_of_a_sweep_the_ledger_is_its_populations(tmp_path):
  row = tmp_path / "runs" / "er"
  row.mkdir(parents=True)
  (tmp_path / "groups").mkdir()
  (row / "result.json").write_text(json.dumps({"forgotten": [{"event": 1}]}))
  assert ledger.read(row) == []
  assert len(ledger.salt_of(row)) == 32


def test_a_ledger_that_is_gone_is_told_by_a_checkpoint(tmp_path, class_stream, small_model):
  """A run of ``cljax.run`` has no ``result.json``."""
  row = int(class_stream.dataset.train.id[class_stream.train[0][0]])
  events = (cljax.Learn(0), cljax.Forget(ids=(row,)), *class_stream.events[1:])
  stream = class_stream._replace(events=events)
  recipe = cljax.Recipe(batch_size=8, epochs=1)
  cljax.run(stream, small_model, "finetune", forget="random_labels", training=recipe, workdir=str(tmp_path))
  assert ledger.is_deleted(tmp_path, row) is True
  for lose in LOST.values():
    lose(tmp_path)
    with pytest.raises(CljaxError, match=r"names no record of event 1, which a checkpoint says was answered"):
      ledger.is_deleted(tmp_path, row)
