"""Folders of text: windows, blocks held out, budgets, lines of JSON, and what is refused."""

import json

import numpy as np
import pytest

from cljax import data, streams
from cljax.core.types import UsageError


def write(path, text):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_bytes(text if isinstance(text, bytes) else text.encode())


def said(split, made, learned=False):
  """The text of each row's inputs and last target, or of what is learned of it."""
  rows = []
  for token, mask, target, weight in zip(
    split.x["token"], split.x["mask"], split.y["token"], split.y["weight"], strict=True
  ):
    n = int(mask.sum())
    assert (mask == [1] * n + [0] * (len(mask) - n)).all()
    assert not token[n:].any()
    assert not target[n:].any()
    assert not weight[n:].any()
    np.testing.assert_array_equal(token[1:n], target[: n - 1])
    ids = target[weight > 0] if learned else [*token[:n], target[n - 1]]
    rows.append(made.decode(ids, special=True))
  return rows


def test_a_text_is_asked_for_once_in_windows(tmp_path):
  """Each byte but the first is a target once, in order; the last block of each group is for tests."""
  texts = {"b": "abcdefghijklmnopqrstuvwxyz\n" * 2, "a": "日本語 text\nand more of it, to the end\n"}
  for name, text in texts.items():
    write(tmp_path / f"{name}.txt", text)
  write(tmp_path / "notes.md", "no text")
  found = data.load(f"text:{tmp_path}", length=8, unique_lines=False)
  made = data.byte_tokenizer()
  assert found.group_names == ("a", "b")
  assert not found.has_classes
  assert found.scale is None
  for number, name in enumerate(found.group_names):
    stored = texts[name].encode()
    targets, counts = b"", []
    for part in (found.train, found.test):
      mine = part.group == number
      counts.append(mine.sum())
      targets += bytes(part.y["token"][mine][part.y["weight"][mine] > 0].tolist())
    assert targets == stored[1:]
    assert counts[1] == round(0.2 * sum(counts))
  first = said(found.train, made)[list(found.train.group).index(1)]
  assert first == "abcdefghi"
  assert found.digest == data.load(f"text:{tmp_path}", length=8, unique_lines=False).digest


def test_lines_that_stood_before_are_left_out(tmp_path):
  """In their own group; empty lines stay, as one."""
  write(tmp_path / "one" / "1.txt", "first line\nagain\n\n\n\nagain\nlast line\n")
  write(tmp_path / "one" / "2.txt", "again\nmore of it\n")
  write(tmp_path / "two" / "1.txt", "again\nother\n")
  found = data.load(f"text:{tmp_path}", length=4)
  made = data.byte_tokenizer()
  bare = lambda group: bytes(
    int(i)
    for part in (found.train, found.test)
    for i in part.y["token"][part.group == group][part.y["weight"][part.group == group] > 0]
  )
  assert bare(0) == b"first line\nagain\n\nlast line\nmore of it\n"[1:]
  assert bare(1) == b"again\nother\n"[1:]
  assert made.encode("") == []


def test_budgets_and_lengths(tmp_path):
  write(tmp_path / "long.txt", "".join(f"line {i}\n" for i in range(100)))
  write(tmp_path / "short.txt", "".join(f"word {i}\n" for i in range(20)))
  whole = data.load(f"text:{tmp_path}", length=10)
  less = data.load(f"text:{tmp_path}", length=10, tokens=65)
  count = lambda found, group: sum(float(p.y["weight"][p.group == group].sum()) for p in (found.train, found.test))
  assert count(whole, 0) == len("".join(f"line {i}\n" for i in range(100))) - 1
  assert (count(less, 0), count(less, 1)) == (60, 60), "whole rows within the budget"
  assert less.digest != whole.digest


def test_lines_of_json_are_rows(tmp_path):
  """Of a prompt and an answer the answer is learned and its end; groups are a field's, or the file's."""
  rows = [
    {"prompt": "2 + 2 =", "answer": " 4", "group": "sums"}, {"prompt": "1 + 2 =", "answer": " 3", "group": "sums"},
    {"text": "a whole line"}, {"text": "another"},
  ]  # fmt: skip
  write(tmp_path / "facts.jsonl", "\n".join(map(json.dumps, rows)) + "\n\n")
  found = data.load(f"text:{tmp_path / 'facts.jsonl'}", length=16)
  made = data.byte_tokenizer()
  assert found.group_names == ("facts", "sums")
  assert said(found.train, made) == ["a whole line<end>", "2 + 2 = 4<end>"]
  assert said(found.test, made) == ["another<end>", "1 + 2 = 3<end>"]
  assert said(found.train, made, learned=True) == [" whole line<end>", " 4<end>"]
  named = [{"q": "Q?", "a": "A", "of": 3}, {"q": "R?", "a": "B", "of": 3}]
  write(tmp_path / "named.jsonl", "\n".join(map(json.dumps, named)))
  found = data.load(f"text:{tmp_path / 'named.jsonl'}", prompt="q", answer="a", group="of")
  assert found.group_names == ("3",)
  assert said(found.train, made, learned=True) == ["A<end>"]


def test_a_stream_of_groups_with_its_own_tokens(tmp_path):
  """A tokenizer of all bytes: any text comes back; rows are its tokens, and a group is a task."""
  texts = {"en": "the cat sat on the mat. the dog sat too. ", "de": "die Katze saß auf der Matte. der Hund auch. "}
  for name, text in texts.items():
    write(tmp_path / "texts" / f"{name}.txt", text * 6)
  made = data.train_tokenizer(tmp_path / "tokens", [t * 6 for t in texts.values()], 280)
  assert (made.vocabulary, made.end, made.pad) == (280, 0, 0)
  assert made.decode(made.encode("日本語 naïve")) == "日本語 naïve"
  assert len(made.encode(texts["en"])) < len(texts["en"])
  found = data.load(f"text:{tmp_path / 'texts'}", tokenizer=str(tmp_path / "tokens"), length=8)
  assert said(found.train, made)[0] == made.decode(made.encode(texts["de"] * 6)[:9])
  assert found.train.y["token"].max() < 280
  stream = streams.build(found, "group", tasks=2, validation=0.0)
  assert [sorted(set(found.train.group[rows])) for rows in stream.train] == [[0], [1]]
  with pytest.raises(UsageError, match="vocabulary: got 256; expected an integer of at least 257"):
    data.train_tokenizer(tmp_path, [], 256)


def test_bytes_are_tokens():
  made = data.byte_tokenizer()
  assert made.encode("aß") == [97, 195, 159]
  assert made.spans("aß") == [(0, 1), (1, 2), (1, 2)]
  assert made.decode([97, 195, 159, 256]) == "aß"
  assert made.decode([97, 256], special=True) == "a<end>"
  assert data.answered(made, "a", "ß") == ([97, 195, 159, 256], [False, True, True, True])
  with pytest.raises(UsageError, match="bytes have no chat template"):
    made.chat([])


WRONG = [
  ("a.txt", b"ab\xffcd", {}, r"a\.txt is not UTF-8 \(byte 0xff at 2\)"),
  ("a.jsonl", '{"text": "ab"}\n{"text"', {}, r"a\.jsonl, line 2 is no JSON"),
  ("a.jsonl", "[1]", {}, "line 1 holds list; expected an object"),
  ("a.jsonl", '{"words": "a"}', {}, "line 1: has words; expected 'text', or 'prompt' and 'answer'"),
  ("a.jsonl", '{"prompt": "a", "answer": ""}', {}, "line 1: answer is ''; expected text that is not empty"),
  ("a.jsonl", '{"text": 3}', {}, "line 1: text is 3; expected text"),
  ("a.jsonl", '{"text": "abcdef"}', {"length": 4}, "line 1: has 7 tokens; length is 4, so at most 5"),
  ("a.jsonl", '{"text": "a"}', {}, "text: a has 1 rows of 128 tokens; expected two or more"),
  ("a.txt", "short", {}, "text: a has 1 rows of 128 tokens; expected two or more, one for tests"),
  ("a.txt", "", {}, "text: a has 0 rows"),
  ("a.md", "x", {}, r"holds no file that ends in \.txt or \.jsonl"),
  ("a.txt", "x" * 99, {"length": 0}, "length: got 0"),
  ("a.txt", "x" * 99, {"tokens": -1}, "tokens: got -1"),
  ("a.txt", "x" * 99, {"test_fraction": 1.0}, "test_fraction: got 1.0; allowed: a number between 0 and 1"),
  ("a.txt", "x" * 99, {"unique_lines": 1}, "unique_lines: got 1; allowed: true or false"),
  ("a.txt", "x" * 99, {"group": ""}, "group: got ''; expected text that is not empty"),
  ("a.txt", "x" * 99, {"tokenizer": "none"}, "none has no tokenizer.json"),
  ("a.txt", "x" * 99, {"size": 1}, "size: not an option of dataset"),
]


@pytest.mark.parametrize(("name", "content", "given", "message"), WRONG, ids=[m for *_, m in WRONG])
def test_what_is_no_text_is_refused(tmp_path, name, content, given, message):
  write(tmp_path / "in" / name, content)
  with pytest.raises(UsageError, match=message) as error:
    data.load(f"text:{tmp_path / 'in'}", **given)
  assert "\n" not in str(error.value)
  with pytest.raises(UsageError, match=r"name: text:.* not found"):
    data.load(f"text:{tmp_path / 'nowhere'}")
