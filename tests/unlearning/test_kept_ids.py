"""A run that keeps no ids: no file names a row, a group or a label that was asked to be forgotten, and it resumes."""

from __future__ import annotations

import json
import pathlib

import pytest

import cljax
from cljax import engine, streams
from cljax.cli import analyze, forget, train
from cljax.io import checkpoint, history, ledger
from experiments import _planted

FIRST = 730_415_100  # ids that stand in no other number


@pytest.fixture(scope="module")
def data():
  noise = _planted.noise()
  names = ("aardvark", "zebra", "yak", "wombat")
  return noise._replace(train=noise.train._replace(id=noise.train.id + FIRST - 100), class_names=names)


def prepared(data, keep_ids: bool, last=("zebra",)):
  """Rows, then what is of a group and a class, then a class are forgotten."""
  asked = [
    (1, cljax.Forget(ids=(FIRST, FIRST + 1))),
    (1, cljax.Forget(groups=(0,), classes=("aardvark",), match="all")),
    (2, cljax.Forget(classes=last)),
  ]
  stream = streams.build(data, "class", tasks=2, validation=0, forget=asked)
  options = cljax.Options(chunk_steps=2, checkpoint_keep_ids=keep_ids)
  training = cljax.Recipe(batch_size=8, epochs=1)
  model = cljax.models.build("mlp", _planted.SHAPE, 4, hidden=(8,))
  return engine.prepare(stream, model, "er", {"capacity": 24}, forget="ssd", training=training, options=options)


def naming(folder, words) -> dict[str, list[str]]:
  """``{file: words}`` of those that stand in a file below a folder, also as the value of a key."""
  found = {}
  for path in pathlib.Path(folder).rglob("*"):
    if path.is_file() and path.name != ledger.SALT:
      content = path.read_bytes()
      here = [w for w in words if w.encode() in content]
      if here:
        found[str(path.relative_to(folder))] = here
  return found


WORDS = [str(FIRST), str(FIRST + 1), "aardvark", "zebra", "groups=(0", '"groups": [', '"classes": [', '"ids": [']


def test_no_file_names_what_was_forgotten(data, tmp_path):
  kept, none = (prepared(data, keep).run(str(tmp_path / str(keep))) for keep in (True, False))
  assert none.params_sha256 == kept.params_sha256
  assert {"history.json", "deletions.jsonl"} <= set(naming(tmp_path / "True", WORDS)), "the search finds what is there"
  assert naming(tmp_path / "False", WORDS) == {}
  lines = ledger.read(tmp_path / "False")
  assert [line["request"]["classes"] for line in lines] == [0, 1, 1]
  assert ledger.is_deleted(tmp_path / "False", FIRST) is True
  assert ledger.is_deleted(tmp_path / "False", FIRST + 5_000) is False
  assert all(e.startswith(("Learn(", "sealed:")) for e in history.read(tmp_path / "False")[0]["events"])


def test_it_resumes_with_the_request_given_again_and_no_other(data, tmp_path):
  whole, made = prepared(data, False).run(), prepared(data, False)
  chunks = []
  with pytest.raises(cljax.Stopped):
    made.run(str(tmp_path), report=chunks.append, stop=lambda: sum(m["kind"] == "event" for m in chunks) > 1)
  with pytest.raises(cljax.UsageError, match=r"differing keys: events.*sealed:"):
    prepared(data, False, ("wombat",)).run(str(tmp_path))
  with pytest.raises(cljax.UsageError, match="differing keys: events"):
    prepared(data, True).run(str(tmp_path))
  assert prepared(data, False).run(str(tmp_path)).params_sha256 == whole.params_sha256
  with pytest.raises(cljax.UsageError, match=r"extend: got it with checkpoint\.keep_ids=False"):
    prepared(data, False).run(str(tmp_path), extend=True)
  with pytest.raises(cljax.UsageError, match="keeps no ids"):
    prepared(data, True).run(str(tmp_path), extend=True)
  (tmp_path / ledger.SALT).unlink()
  with pytest.raises(cljax.CljaxError, match="is gone"):
    prepared(data, False).run(str(tmp_path))


def test_a_launched_run_names_nobody_either(tmp_path, capsys):
  fast = ["--config=experiments/forget_digits.py", "--config.train.epochs=1", "--config.model.hidden=(8,)", "--seeds=1",
          "--compilation_cache=", f"--workdir={tmp_path}", "--config.checkpoint.keep_ids=false"]  # fmt: skip
  asked = "--config.stream.forget=2:class=3 + ids=1234; 5:ids=1011-1013,1236"
  words = ["class=3", "1234", "1011", "1236"]
  assert train.main(["train", *fast, asked]) == 0
  text = capsys.readouterr().out
  numbers = {p: w for p, w in naming(tmp_path, words).items() if not _in_numbers(tmp_path / p, w)}
  assert numbers == {}
  assert train.main(["train", *fast, asked]) == 0  # read back
  assert capsys.readouterr().out.splitlines()[0] == text.splitlines()[0]
  assert train.main(["train", *fast, asked.replace("1236", "1237")]) == 2
  assert "another configuration; differing keys: stream.forget" in capsys.readouterr().err
  again = ["forget", "--request=ids=1", "--method=ssd"]
  for main, given in ((analyze.main, ["analyze"]), (forget.main, again)):
    assert main([*given, f"--workdir={tmp_path}"]) == 2
    assert "keeps no ids" in capsys.readouterr().err
  assert forget.main(["forget", str(tmp_path), "--list"]) == 0
  told = capsys.readouterr().out
  requests = [" ".join(line.split()[1:]) for line in told.splitlines() if line.strip().startswith("request ")]
  assert [line.partition(", not named (checkpoint.keep_ids=false)")[0] for line in requests] == [
    "1 classes + 1 ids",
    "4 ids",
  ]
  assert "1236" not in told
  assert "sealed" not in told
  assert "a salted hash of the request in config.json" in " ".join(told.split())
  meta = checkpoint.read_meta(tmp_path / "checkpoints", checkpoint.numbers(tmp_path / "checkpoints")[-1])
  assert meta["config"]["stream"]["forget"].startswith("sealed:")
  assert json.loads((tmp_path / "result.json").read_text())["events"][2] == {"kind": "forget"}


def _in_numbers(path: pathlib.Path, words) -> bool:
  """Whether these words are but digits inside longer numbers, hashes or bytes of arrays of a file."""
  import re

  text = path.read_bytes().decode("latin-1")
  return not any(re.search(rf"(?<![0-9a-f.]){w}(?![0-9a-f])", text) for w in words)
