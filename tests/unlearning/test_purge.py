"""A purge killed anywhere: no file gives a deleted row back, and the ledger says no more than the disk holds."""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import sys

import pytest

import cljax
from cljax import CljaxError
from cljax.engine import saving
from cljax.io import checkpoint, ledger
from experiments import _planted
from experiments._crash_images import Images, copy


@pytest.fixture(scope="module")
def run():
  return _planted.prepared()


@pytest.fixture(scope="module")
def plain():
  return _planted.prepared(purge=False)


@pytest.fixture(scope="module")
def killed(run, tmp_path_factory):
  """``(whole, folder of images)``: a run that was let be, and what a kill before each change of a file left."""
  root = tmp_path_factory.mktemp("killed")
  images = Images()
  images.watch(root / "whole", root / "images", lambda n: True)
  whole = run.run(str(root / "whole"))
  assert images.rest() > 100
  return whole, root / "images"


def of(folder: pathlib.Path) -> list[int]:
  return sorted(int(p.name) for p in folder.iterdir())


def test_the_ledger_is_true_before_every_change_of_a_file(run, killed):
  stream = run.setup.stream
  held = [bool(_planted.holders(killed[1] / str(at), stream, _planted.asked_ids(stream))) for at in of(killed[1])]
  assert any(held), "the search finds what is there"
  assert not held[-1]
  assert [at for at in of(killed[1]) if _planted.untrue(killed[1] / str(at), stream)] == []


def test_a_run_killed_in_a_purge_ends_without_the_rows_and_on_the_same_bits(run, killed, tmp_path):
  """Resumed from states in which a folder was renamed, half-deleted or listed only."""
  whole, images = killed
  stream = run.setup.stream
  inside = [at for at in of(images) if list((images / str(at) / "checkpoints").glob("*.deleted"))]
  after = [at for at in of(images) if at > inside[0] and at not in inside]
  for at in [*inside[:: max(1, len(inside) // 6)], *after[:: max(1, len(after) // 3)]]:
    copy(images / str(at), tmp_path / str(at))
    again = run.run(str(tmp_path / str(at)))
    assert again.params_sha256 == whole.params_sha256, at
    assert _planted.unfinished(tmp_path / str(at), stream) == "", at
    (left,) = (tmp_path / str(at) / "checkpoints").iterdir()
    assert left.name.isdigit(), at


def test_what_no_reader_takes_for_a_checkpoint_is_purged_and_listed(run, plain, tmp_path):
  """Half-deleted and temporary folders, whatever their name, and a checkpoint that cannot be read."""
  whole = plain.run(str(tmp_path))
  stream, folder = run.setup.stream, tmp_path / "checkpoints"
  first, second, third, *_, last = checkpoint.numbers(folder)
  (folder / str(first) / "commit_success.txt").unlink()  # what a killed deletion of another version leaves
  (folder / str(second)).rename(folder / f"{second}.orbax-checkpoint-tmp")
  (folder / str(third)).rename(folder / "a copy")
  assert {p.split("/")[1] for p in _planted.holders(tmp_path, stream, _planted.asked_ids(stream))} >= {
    str(first), f"{second}.orbax-checkpoint-tmp", "a copy",
  }  # fmt: skip
  again = run.run(str(tmp_path))
  assert again.params_sha256 == whole.params_sha256
  assert [p.name for p in folder.iterdir()] == [str(last)]
  assert _planted.unfinished(tmp_path, stream) == ""
  told = ledger.read(tmp_path)[-1]["checkpoints_purged"]
  assert "a copy" in told
  assert last not in told


def test_leftovers_go_at_the_next_start_without_any_request(plain, tmp_path):
  """An ordinary drop of an old checkpoint that was killed: the rows would lie there when a request comes."""
  plain.run(str(tmp_path))
  folder = tmp_path / "checkpoints"
  first, second = checkpoint.numbers(folder)[:2]
  (folder / str(first)).rename(folder / f"{first}.deleted")
  (folder / str(second) / "commit_success.txt").unlink()
  plain.run(str(tmp_path))
  assert checkpoint.others(folder) == []
  assert not {first, second} & set(checkpoint.numbers(folder))


class Keeping(checkpoint.Writer):
  """A store that deletes nothing."""

  def discard(self, name):
    pass


def test_a_folder_that_cannot_be_deleted_is_told_and_the_request_stays_open(run, plain, tmp_path):
  plain.run(str(tmp_path))
  writer = Keeping(tmp_path / "checkpoints")
  ledger.reopen(tmp_path, 0)
  with pytest.raises(CljaxError, match=r"cannot delete .*checkpoints/[0-9]+, which may hold deleted rows"):
    saving.purge(run.setup, writer, tmp_path, len(run.setup.stream.events))
  ids = _planted.asked_ids(run.setup.stream)
  assert [ledger.is_deleted(tmp_path, i) for i in ids] == [False] * len(ids)
  assert ledger.read(tmp_path)[-1]["checkpoints_to_purge"]


def test_without_a_purge_the_ledger_names_the_checkpoints_that_hold_the_rows(plain, tmp_path):
  plain.run(str(tmp_path))
  stream = plain.setup.stream
  held = {int(p.split("/")[1]) for p in _planted.holders(tmp_path, stream, stream.events[1].ids)}
  line = ledger.read(tmp_path)[0]
  assert line["status"] == "done"
  assert held
  assert held <= set(line["checkpoints_kept"])


def test_gone_back_to_a_state_from_before_a_deletion_it_is_open_again(plain, tmp_path):
  """The newest checkpoints are damaged: what resumes has not forgotten, and the ledger must not say that it has."""
  plain.run(str(tmp_path))
  folder = tmp_path / "checkpoints"
  state = next(n for n in checkpoint.numbers(folder) if checkpoint.read_meta(folder, n)["position"]["event"] == 1)
  for number in checkpoint.numbers(folder):
    if number > state:
      for file in (folder / str(number) / "meta").rglob("*"):
        if file.is_file() and file.name != "commit_success.txt":
          file.write_bytes(b"")
  writer = checkpoint.Writer(folder)
  found = saving.resume(plain.setup, writer, plain.config(), lambda message: None)
  assert (found.event, found.step) == (1, 0)
  assert [line["status"] for line in ledger.read(tmp_path)] == ["requested", "requested"]
  assert not any(ledger.is_deleted(tmp_path, i) for i in _planted.asked_ids(plain.setup.stream))
  writer.close()


def test_sigkill_in_the_middle_of_a_purge(run, killed, tmp_path):
  """A real process, killed as soon as the folder of the purge is there."""
  command = [sys.executable, "-m", "experiments.kill_and_forget", f"--worker={tmp_path}", "--method=er"]
  process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
  folder = tmp_path / "checkpoints"
  while process.poll() is None and not (folder.exists() and list(folder.glob("*.deleted"))):
    pass
  os.killpg(process.pid, signal.SIGKILL)
  process.communicate()
  stream = run.setup.stream
  assert _planted.untrue(tmp_path, stream) == ""
  again = run.run(str(tmp_path))
  assert again.params_sha256 == killed[0].params_sha256
  assert _planted.unfinished(tmp_path, stream) == ""
  assert len(cljax.io.checkpoint.numbers(folder)) == 1
