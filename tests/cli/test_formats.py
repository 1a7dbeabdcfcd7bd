"""What a run leaves says of which format it is; a newer one is refused in one line that names what wrote it."""

from __future__ import annotations

import json
import shutil

import pytest

import cljax
from cljax import CljaxError
from cljax.cli import sweep, train
from cljax.cli.sweeps import _units
from cljax.evaluation import results
from cljax.io import checkpoint, formats, history, ledger


@pytest.fixture(scope="module")
def run(command, tmp_path_factory):
  """A run with a request."""
  path = tmp_path_factory.mktemp("formats") / "run"
  given = ["--config.stream.forget=1:ids=0", "--config.forget.name=retrain"]
  assert train.main(command(*given, f"--workdir={path}")) == 0
  return path


@pytest.fixture(scope="module")
def swept(command, tmp_path_factory):
  path = tmp_path_factory.mktemp("formats") / "sweep"
  assert sweep.main(command("--methods=finetune", f"--workdir={path}")) == 0
  return path


def test_each_file_says_its_format_and_its_version(run, swept):
  (unit,) = swept.glob("groups/*/unit.json")
  for path in (run / "config.json", run / "result.json", run / "history.json", swept / "sweep.json", unit):
    assert json.loads(path.read_text()) | {"format": 2, "cljax": cljax.__version__} == json.loads(path.read_text()), (
      path
    )
  for path in (run / "deletions.jsonl", swept / "rows.jsonl"):
    for line in path.read_text().splitlines():
      assert (json.loads(line)["format"], json.loads(line)["cljax"]) == (2, cljax.__version__), path
  for number in checkpoint.numbers(run / "checkpoints"):
    meta = checkpoint.read_meta(run / "checkpoints", number)
    assert (meta["format"], meta["cljax"], meta["versions"]["cljax"]) == (2, cljax.__version__, cljax.__version__)


READERS = {
  "result.json": lambda folder: results.read(folder / "result.json"),
  "history.json": history.read,
  "deletions.jsonl": ledger.read,
  "rows.jsonl": lambda folder: _units.read_rows(folder / "rows.jsonl"),
}


@pytest.mark.parametrize("name", READERS)
def test_a_newer_format_is_one_line(run, swept, tmp_path, name):
  source = (swept if name == "rows.jsonl" else run) / name
  newer = source.read_text().replace('"format": 2', '"format": 3').replace(f'"{cljax.__version__}"', '"0.9.0"')
  assert newer != source.read_text()
  (tmp_path / name).write_text(newer)
  (tmp_path / ledger.SALT).write_bytes((run / ledger.SALT).read_bytes())
  with pytest.raises(CljaxError, match=rf"^.*{name} is of format 3, written by cljax 0\.9\.0; cljax .* up to 2: use"):
    READERS[name](tmp_path)


@pytest.mark.parametrize("name", ["config.json", "sweep.json"])
def test_a_launcher_tells_of_a_newer_folder(run, swept, command, tmp_path, capsys, name):
  shutil.copytree(run if name == "config.json" else swept, tmp_path / "copy")
  path = tmp_path / "copy" / name
  path.write_text(path.read_text().replace('"format": 2', '"format": 3'))
  main = train.main if name == "config.json" else sweep.main
  more = () if name == "config.json" else ("--methods=finetune",)
  assert main(command(*more, f"--workdir={tmp_path / 'copy'}")) == 1
  (line,) = [line for line in capsys.readouterr().err.splitlines() if "format" in line]
  assert f"{name} is of format 3" in line


def test_a_newer_checkpoint_is_no_damaged_one(tmp_path):
  """Taken for damaged, the one before it would be gone on from."""
  writer = checkpoint.Writer(tmp_path)
  content = {"config": {}, "position": {}}
  writer.save(1, {"a": jax_zeros()}, content)
  writer.save(2, {"a": jax_zeros()}, {**content, "format": 3, "cljax": "0.9.0"})
  writer.close()
  with pytest.raises(CljaxError, match=r"/2 is of format 3, written by cljax 0\.9\.0"):
    checkpoint.restore(tmp_path, lambda: {"a": jax_zeros()}, {})


def test_an_older_checkpoint_is_gone_on_from_where_nothing_is_left_to_learn(tmp_path):
  import jax.numpy as jnp

  writer = checkpoint.Writer(tmp_path)
  writer.save(1, {"a": jax_zeros()}, {"config": {}, "position": {}, "format": 1, "cljax": "0.1.0"})
  writer.close()
  like = lambda: {"a": jax_zeros()}
  assert checkpoint.restore(tmp_path, like, {}, lambda position: False).meta["format"] == 1
  with pytest.raises(CljaxError, match=r"trained by other rules; end it with that version"):
    checkpoint.restore(tmp_path, like, {})
  other = lambda: {"a": jnp.zeros(3)}
  with pytest.raises(CljaxError, match=r"its state is another one \(.*leaf a is float32\[2\].*\); end it with"):
    checkpoint.restore(tmp_path, other, {}, lambda position: False)


def jax_zeros():
  import jax.numpy as jnp

  return jnp.zeros(2)


def test_what_says_nothing_is_of_the_first_format():
  assert [formats.of(c) for c in ({}, {"format": 2})] == [1, 2]
  for wrong in (True, "x", "3", None, 2.0, 0, -1, []):
    with pytest.raises(CljaxError, match=r"^format: got .*; expected a number from 1 on; the file is damaged$"):
      formats.of({"format": wrong})
    with pytest.raises(CljaxError, match=r"^format: got .*; a/result.json is damaged$"):
      formats.check("a/result.json", {"format": wrong})
  assert formats.writer({}) == "cljax 0.1.0"
  assert formats.bare("f", {"format": 1, "cljax": "0.1.0", "a": 1}) == {"a": 1}
