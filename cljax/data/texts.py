"""Text as rows of tokens: folders of ``.txt`` and ``.jsonl`` files, each of a group."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cljax.core.checks import check_integer
from cljax.core.types import UsageError
from cljax.data import tokens, types

DEFAULTS: dict[str, Any] = {
  "tokenizer": "bytes", "length": 128, "tokens": 0, "test_fraction": 0.2, "unique_lines": True, "text": "text",
  "prompt": "prompt", "answer": "answer", "group": "group",
}  # fmt: skip
ENDS = (".txt", ".jsonl")


class Row(NamedTuple):
  """Tokens, and which of them are learned."""

  ids: list[int]
  learned: list[bool]


def files(path: Path) -> list[tuple[str, Path]]:
  """``(group, file)`` in order: a file by itself, those of a folder (each a group, by its stem), and those of its
  folders (each a group). UsageError where there is none."""
  if path.is_file():
    found = [(path.stem, path)]
  else:
    inside = sorted(path.iterdir())
    found = [(p.stem, p) for p in inside if p.is_file()]
    found += [(d.name, p) for d in inside if d.is_dir() for p in sorted(d.iterdir()) if p.is_file()]
  found = [(group, p) for group, p in found if p.suffix in ENDS]
  if not found:
    raise UsageError(f"text: {path} holds no file that ends in {' or '.join(ENDS)}")
  return found


def read(path: Path) -> str:
  """A file's text; UsageError where it is not UTF-8, with the place."""
  try:
    return path.read_bytes().decode("utf-8-sig")
  except UnicodeDecodeError as error:
    byte = error.object[error.start]
    raise UsageError(f"text: {path} is not UTF-8 (byte 0x{byte:02x} at {error.start})") from None
  except OSError as error:
    raise UsageError(f"text: {path} cannot be read ({error.strerror})") from None


def unique(text: str, seen: set[str]) -> str:
  """The lines that stand in none of ``seen``, which they join; empty lines stay, one behind another as one."""
  kept: list[str] = []
  for line in text.splitlines():
    bare = line.strip()
    if bare in seen or (not bare and kept[-1:] == [""]):
      continue
    if bare:
      seen.add(bare)
    kept.append(line if bare else "")
  return "".join(line + "\n" for line in kept)


def windows(ids: list[int], length: int) -> Iterable[Row]:
  """Windows of ``length`` targets: each token but the first is asked for once; the last may be shorter."""
  for start in range(0, max(len(ids) - 1, 0), length):
    part = ids[start : start + length + 1]
    yield Row(part, [True] * len(part))


def objects(path: Path) -> Iterable[tuple[str, dict[str, Any]]]:
  """``(place, object)`` of each line of a ``.jsonl`` file; empty lines are passed over."""
  for number, line in enumerate(read(path).split("\n"), 1):
    if not line.strip():
      continue
    place = f"text: {path}, line {number}"
    try:
      found = json.loads(line)
    except ValueError as error:
      raise UsageError(f"{place} is no JSON ({types.first_line(error)})") from None
    if not isinstance(found, dict):
      raise UsageError(f"{place} holds {type(found).__name__}; expected an object")
    yield place, found


def _field(place: str, found: Mapping[str, Any], name: str) -> str:
  value = found[name]
  if not isinstance(value, str) or not value:
    raise UsageError(f"{place}: {name} is {value!r:.40}; expected text that is not empty")
  return value


def row_of(place: str, found: Mapping[str, Any], made: tokens.Tokenizer, o: Mapping[str, Any]) -> Row:
  """A line as tokens: of a prompt and an answer the answer is learned; of a text all, with the end token behind it."""
  if o["prompt"] in found and o["answer"] in found:
    prompt, answer = (_field(place, found, o[k]) for k in ("prompt", "answer"))
    row = Row(*tokens.answered(made, prompt, answer, end=made.end is not None))
  elif o["text"] in found:
    ids = made.encode(_field(place, found, o["text"])) + ([] if made.end is None else [made.end])
    row = Row(ids, [True] * len(ids))
  else:
    raise UsageError(
      f"{place}: has {', '.join(map(str, found)) or 'nothing'}; expected {o['text']!r}, or {o['prompt']!r} and "
      f"{o['answer']!r}"
    )
  if len(row.ids) > o["length"] + 1:
    raise UsageError(f"{place}: has {len(row.ids)} tokens; length is {o['length']}, so at most {o['length'] + 1}")
  if not any(row.learned[1:]):
    raise UsageError(f"{place}: has nothing to learn; expected two tokens or more")
  return row


def load_text(path: Path, given: Mapping[str, Any]) -> types.Dataset:
  """Rows of tokens for :func:`cljax.objectives.sequence`: inputs ``{token, mask} [N, L]``, targets ``{token, weight}``,
  the inputs one place further.

  A ``.txt`` file is one text, cut into windows of ``length`` targets; with ``unique_lines`` a line that stood in its
  group before is left out (collections repeat themselves). A line of a ``.jsonl`` file is a row by itself, in the
  fields ``text``, or ``prompt`` and ``answer``, of which the answer alone is learned; ``group`` names its group, else
  the file does. A file is a group by its stem, a folder in the folder by its name. The last ``test_fraction`` of each
  group's rows, one block, are for tests. ``tokens``: the budget of a group, 0 for none. ``tokenizer``: 'bytes' (0..255,
  256 is the end), 'own' (``tokenizer.json`` in the folder of the texts), or a folder for
  :func:`cljax.data.tokenizer`. Raises UsageError for what is not UTF-8 or no JSON, a line without text or with nothing
  to learn, one that is longer than ``length``, and a group of fewer than two rows.
  """
  o = _checked({**DEFAULTS, **given})
  told = str(path if path.is_dir() else path.parent) if o["tokenizer"] == "own" else o["tokenizer"]
  made = tokens.named(told)
  groups: dict[str, list[Row]] = {}
  seen: dict[str, set[str]] = {}
  texts: dict[str, str] = {}
  for group, file in files(path):
    if file.suffix == ".jsonl":
      for place, found in objects(file):
        own = str(found.get(o["group"], group))
        groups.setdefault(own, []).append(row_of(place, found, made, o))
      continue
    text = read(file)
    if o["unique_lines"]:
      text = unique(text, seen.setdefault(group, set()))
    texts[group] = texts.get(group, "") + text
  for group, text in texts.items():
    groups.setdefault(group, []).extend(windows(made.encode(text), o["length"]))
  names = sorted(groups)
  parts: tuple[list, list] = ([], [])
  for number, name in enumerate(names):
    rows = _within(groups[name], o["tokens"])
    if len(rows) < 2:
      raise UsageError(
        f"text: {name} has {len(rows)} rows of {o['length']} tokens; expected two or more, one for tests"
      )
    held = min(max(1, round(o["test_fraction"] * len(rows))), len(rows) - 1)
    for part, chosen in zip(parts, (rows[:-held], rows[-held:]), strict=True):
      part += [(number, row) for row in chosen]
  width = max(len(row.ids) for part in parts for _, row in part) - 1
  train, test = (_split(part, width) for part in parts)
  whole = types.dataset(path.name, train, test, (), group_names=names, options={**o, "tokenizer": str(o["tokenizer"])})
  return whole._replace(tokenizer=told)


def _within(rows: list[Row], budget: int) -> list[Row]:
  """The first rows that have ``budget`` tokens together; all for 0."""
  ends = np.cumsum([len(row.ids) - 1 for row in rows])
  return rows[: int(np.searchsorted(ends, budget, side="right"))] if budget else rows


def _split(part: list[tuple[int, Row]], width: int) -> types.Split:
  inputs, targets = (np.zeros((len(part), width), np.int32) for _ in range(2))
  mask, weight = np.zeros(inputs.shape, np.uint8), np.zeros(inputs.shape, np.float32)
  for i, (_, row) in enumerate(part):
    n = len(row.ids) - 1
    inputs[i, :n], targets[i, :n], mask[i, :n], weight[i, :n] = row.ids[:-1], row.ids[1:], 1, row.learned[1:]
  x, y = {"token": inputs, "mask": mask}, {"token": targets, "weight": weight}
  return types.split(x, y, np.array([group for group, _ in part], np.int32))


def _checked(o: dict[str, Any]) -> dict[str, Any]:
  check_integer("length", o["length"], 1)
  check_integer("tokens", o["tokens"], 0)
  fraction = o["test_fraction"]
  if isinstance(fraction, bool) or not isinstance(fraction, int | float) or not 0 < fraction < 1:
    raise UsageError(f"test_fraction: got {fraction!r}; allowed: a number between 0 and 1, both excluded")
  if not isinstance(o["unique_lines"], bool):
    raise UsageError(f"unique_lines: got {o['unique_lines']!r}; allowed: true or false")
  fields: tuple[str, ...] = ("text", "prompt", "answer", "group", "tokenizer")
  for name in fields:
    if not isinstance(o[name], str) or not o[name]:
      raise UsageError(f"{name}: got {o[name]!r}; expected text that is not empty")
  return o
