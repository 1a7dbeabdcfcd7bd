"""Values on the command line that Python can write but nothing can take: each is refused in one line."""

from __future__ import annotations

import types

import pytest

from cljax import UsageError, streams
from cljax.cli import _config, _grid, _shared, _values, sweep, train, unlearn

FILE = _config.File({"data": {"name": "digits"}}, {}, types.ModuleType("base"))


def resolve(**given):
  return _config.resolve(FILE, [_config.Override(k.replace("__", ".", 1), v, True) for k, v in given.items()])


HUGE = "1" + "0" * 400
BAD = [
  ("method.strength", "{[]:1}", r"method.strength: got '\{\[\]:1\}'; expected a number"),
  ("method.strength", HUGE, "method.strength: got '1000.*(401|403) characters.*; expected integers of at most 63 bits"),
  ("method.strength", "9" * 5000, r"method.strength: got '999.*\(5002 characters\); expected a number"),
  ("method.strength", "[" * 5000, r"method.strength: got '\[\[.*\(5002 characters\); expected a number"),
  ("method.strength", "-" * 3000 + "1", "method.strength: got '---.*; expected a number"),
  ("train.epochs", "9223372036854775808", "train.epochs: got '9223372036854775808'; expected integers of at most 63"),
  ("stream.order", "{1:2}", "stream.order: got '{1:2}'; expected numbers, words or lists"),
  ("stream.task_fractions", "[0.5,1e999]", "stream.task_fractions: got .*; expected a finite number"),
  ("stream.class_order", "{1,2}", r"stream.class_order: got '\{1,2\}'; expected numbers, words or lists"),
  ("stream.class_order", "b'x'", "stream.class_order: got .*; expected numbers, words or lists"),
  ("stream.class_weights", "{'cat':'x'}", "stream.class_weights: got .*; expected a number for each name"),
  ("stream.class_weights", "{(1,2):3}", "stream.class_weights: got .*; expected a number for each name"),
]


@pytest.mark.parametrize(("key", "value", "text"), BAD, ids=[f"{k}={v[:12]}" for k, v, _ in BAD])
def test_what_can_be_written_but_not_taken(command, tmp_path, capsys, key, value, text):
  beside = {"method__name": "ewc", **({"stream__kind": "scole"} if key == "stream.class_weights" else {})}
  given = [f"--config.{k.replace('__', '.')}={v}" for k, v in beside.items()]
  assert train.main(command(f"--workdir={tmp_path}", *given, f"--config.{key}={value}")) == 2
  error = capsys.readouterr().err
  assert len(error.splitlines()) == 1
  assert len(error) < 400
  with pytest.raises(UsageError, match=text):
    resolve(**{**beside, key.replace(".", "__", 1): value})


GRIDS = ["method.strength={[]:1}", "method.strength=" + "[" * 5000, "method.strength=[" + HUGE + "]", "x=[{}]",
         "method.strength=[[],{}]"]  # fmt: skip


@pytest.mark.parametrize("grid", GRIDS, ids=[g[:24] for g in GRIDS])
def test_grids(command, tmp_path, capsys, grid):
  assert sweep.main(command(f"--workdir={tmp_path}", "--config.method.name=ewc", f"--grid={grid}")) == 2
  error = capsys.readouterr().err
  assert len(error.splitlines()) == 1
  assert len(error) < 1200


def test_sizes_and_seeds_without_a_bound(command, tmp_path, capsys):
  for given, text in (
    (["--config.model.name=vit", "--config.model.depth=2147483648"], "model.depth: got 2147483648 layers; expected at"),
    (["--config.model.hidden=(99999999999,)"], "model: mlp with hidden=(99999999999,) would have about"),
    (["--seeds=99999999999"], "seeds: got '99999999999'; expected a number of at least 1 and at most 100,000"),
    (["--seeds=4294967296,1"], "seeds: got '4294967296,1'; expected"),
  ):
    assert train.main(command(f"--workdir={tmp_path}", *given)) == 2
    error = capsys.readouterr().err
    assert text in error
    assert len(error.splitlines()) == 1
  with pytest.raises(UsageError, match="max_bytes: got '1e999'"):
    sweep.parse_bytes("1e999")


def test_a_long_error_is_cut_and_half_a_character_is_shown(command, tmp_path, capsys):
  assert train.main(command(f"--workdir={tmp_path}", "--config.stream.kind=" + "x\ud800" * 4000)) == 2
  error = capsys.readouterr().err
  assert error.startswith("error: stream.kind: unknown 'x\\ud800")
  assert len(error) < 8000
  assert error.endswith("characters)\n")


def test_names_of_classes_pass_as_they_are_written(tmp_path, capsys, monkeypatch):
  assert resolve(stream__class_order="cat, dog,#3")["stream"]["class_order"] == ["cat", "dog", "#3"]
  assert resolve(stream__class_order="'3',cat")["stream"]["class_order"] == ["'3'", "cat"]
  assert resolve(stream__class_order="['cat','dog']")["stream"]["class_order"] == ["cat", "dog"]
  assert resolve(stream__class_order="3,1")["stream"]["class_order"] == [3, 1]
  assert resolve(stream__class_order="7")["stream"]["class_order"] == 7
  assert resolve(stream__class_weights="{'cat': 2, 3: 0.5}", stream__kind="scole")["stream"]["class_weights"] == {
    "cat": 2, "3": 0.5,
  }  # fmt: skip
  text = "2:class=cat,'a;b'; 3:class=\"1\"&group=2"
  assert resolve(stream__forget=text)["stream"]["forget"] == text
  config = resolve(stream__forget=text, stream__class_order="cat,dog")
  again = _config.from_identity(_config.identity(config, "digest"), {})
  assert again["stream"] == {**config["stream"]}
  # A colon in the name of a class makes no stream of requests.
  asked = []
  monkeypatch.setattr(streams, "parse_request", lambda text: asked.append(("one", text)))
  monkeypatch.setattr(streams, "parse_forget", lambda text: asked.append(("stream", text)))
  monkeypatch.setattr(unlearn._workdir, "claim", lambda *a: (_ for _ in ()).throw(UsageError("far enough")))
  for request in ("class='a:b'", "2:class='a:b'"):
    given = ["--config=experiments/unlearn_digits.py", f"--workdir={tmp_path}", f"--request={request}"]
    assert unlearn.main(["unlearn", *given]) == 2
  assert asked == [("one", "class='a:b'"), ("stream", "2:class='a:b'")]
  capsys.readouterr()


def test_what_is_shown_of_a_value():
  assert _values.short("x" * 500).endswith("... (502 characters)")
  assert _values.short(10**5000) == "a number of thousands of digits"
  assert _grid.parse("a=[1,(2,3)]") == [{"a": 1}, {"a": (2, 3)}]


@pytest.mark.parametrize(
  "error", [MemoryError("Unable to allocate 54.6 TiB"), RuntimeError("RESOURCE_EXHAUSTED: 64 GB")]
)
def test_what_memory_cannot_hold_is_one_line(error, capsys):
  def run(argv, stop):
    raise error

  assert _shared.guarded(run, ["x"]) == 1
  assert capsys.readouterr().err == f"error: out of memory: {error}; smaller sizes or fewer seeds at a time may fit\n"
  with pytest.raises(RuntimeError, match="another"):
    _shared.guarded(lambda argv, stop: (_ for _ in ()).throw(RuntimeError("another")), ["x"])
