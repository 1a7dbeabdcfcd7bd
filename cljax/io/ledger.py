"""The deletion ledger: what was asked to be forgotten, what was done about it, and what was measured.

``deletions.jsonl`` holds one record for each Forget event of a run: ``status`` is ``requested`` until the state without
the rows is committed and what is to be purged is gone from the disk, then ``done``. Rows and groups are named by salted
hashes of the caller's own keys: who holds the salt (``deletions.salt``, readable by its owner alone) can check whether
a row was deleted; without it the ledger names nobody. The salt is no protection against someone who has it and can
guess keys. Each record also says how many there are and of which salt they are, so that neither a ledger that lost
whole records nor another salt answers for what it does not know; nor does one that is gone, where other files of the
run (``result.json``, a checkpoint) say that a request was answered.
A record is evidence of what was measured, not a proof of privacy.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import os
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath

from cljax.core import tree
from cljax.core.types import CljaxError, Forget, UsageError
from cljax.io import checkpoint, formats
from cljax.io.files import dumps, loads, numbered_rows, write_text

LEDGER, SALT = "deletions.jsonl", "deletions.salt"
REQUESTED, DONE = "requested", "done"  # the status of a record


def salted(salt: str, kind: str, keys: Sequence) -> list[str]:
  """``sha256(salt : kind : key)``, the first 32 hex digits, sorted: the order tells nothing."""
  return sorted(hashlib.sha256(f"{salt}:{kind}:{key}".encode()).hexdigest()[:32] for key in keys)


def _check(salt: str) -> str:
  """What a record says of the salt that its names are made with."""
  return hashlib.sha256(f"{salt}:salt".encode()).hexdigest()[:16]


def salt_of(workdir) -> str:
  """The workdir's salt, made at its first use, behind an empty ledger: a salt alone says that a ledger was lost.

  Raises CljaxError where it is gone, damaged, or another one than that of the records.
  """
  path = epath.Path(workdir) / SALT
  lines = read(workdir)
  if not path.exists():
    if lines:
      raise CljaxError(f"workdir: {path} is gone; without it {LEDGER} names nobody, and new records would not match")
    write_text(path.parent / LEDGER, "\n")  # not a file of no bytes, which one that was cut off is
    write_text(path, secrets.token_hex(16) + "\n")
    with contextlib.suppress(OSError):  # object stores have no file modes
      os.chmod(os.fspath(path), 0o600)
  text = path.read_bytes().strip()
  if not text.isalnum():
    raise CljaxError(f"workdir: {path} is damaged; expected a line of hexadecimal digits")
  salt = text.decode()
  if any(line.get("salt_mark", _check(salt)) != _check(salt) for line in lines):
    raise CljaxError(f"workdir: {path} is not the salt that the records of {LEDGER} are made with; bring that one back")
  return salt


_LISTS = ("row_hashes", "group_hashes")
_MAY = ("row_hashes_partly", "group_hashes_whole")  # of records since they say how much of a row or group went


def read(workdir) -> list[dict]:
  """The records of a workdir's ledger, oldest first; none where there is no ledger.

  Raises CljaxError where a record is damaged, or where a salt or ``result.json`` shows that there was a ledger: passed
  over, that would say that a deleted row was never asked for.
  """
  path = epath.Path(workdir) / LEDGER
  if not path.exists() and (path.parent / SALT).exists():
    raise CljaxError(f"workdir: {path} is gone, but not its {SALT}; what was deleted here is not known without it")
  try:
    found = numbered_rows(path)
  except OSError as error:
    raise CljaxError(f"workdir: cannot read {path}: {error.strerror or error}") from None
  out, seen = [], set()
  for number, line in enumerate(found, 1):
    whole = line is not None and isinstance(line.get("event"), int)
    words = lambda v: isinstance(v, list) and all(isinstance(w, str) for w in v)
    formats.check(path, line or {})
    if line is None or not whole or not all(words(line.get(k)) for k in _LISTS + tuple(k for k in _MAY if k in line)):
      raise CljaxError(f"workdir: record {number} of {path} is damaged; expected one as a Forget event writes it")
    if line.get("status", DONE) not in (REQUESTED, DONE):
      status = repr(line["status"])[:40]
      raise CljaxError(
        f"workdir: record {number} of {path} is damaged: status {status}; expected {REQUESTED} or {DONE}"
      )
    if line["event"] in seen:
      raise CljaxError(f"workdir: record {number} of {path} is damaged: it is the second of event {line['event']}")
    out.append(line)
    seen.add(line["event"])
  if any(line.get("records", len(out)) != len(out) for line in out) or (
    path.exists() and not (out or path.read_bytes())
  ):
    said = f"its records speak of {max(line['records'] for line in out)}" if out else "it has no bytes"
    raise CljaxError(f"workdir: {path} holds {len(out)} records, but {said}; bring the whole file back")
  _check_known(path, out, _in_result(path.parent), _RESULT)
  return out


_RESULT = "result.json"


def _in_result(workdir: epath.Path) -> list[int]:
  """The Forget events that were answered by what ``result.json`` says; none where there is none that can be read.

  None of a row of a sweep: what its stream asked is in the ledger of the population that it was trained in.
  """
  path = workdir / _RESULT
  if not path.exists() or _is_row(workdir):
    return []
  try:
    return [int(r["event"]) for r in loads(path.read_bytes())["forgotten"]]
  except (ValueError, LookupError, TypeError):
    return []


def _in_checkpoint(workdir: epath.Path) -> list[int]:
  """The same by the newest checkpoint that can be read: a run of ``cljax.run`` has no other file that says so."""
  directory = workdir / "checkpoints"
  for number in () if _is_row(workdir) else reversed(checkpoint.numbers(directory)):
    try:
      return [int(r["event"]) for r in checkpoint.read_meta(directory, number)["position"]["forgotten"]]
    except (checkpoint.DamagedError, LookupError, TypeError, ValueError):
      continue
  return []


def _is_row(workdir: epath.Path) -> bool:
  path = epath.Path(os.path.abspath(workdir)) if "://" not in os.fspath(workdir) else workdir
  return path.parent.name == "runs" and (path.parent.parent / "groups").exists()


def _check_known(path: epath.Path, lines: Sequence[Mapping], answered: Sequence[int], by: str) -> None:
  lost = sorted({*answered} - {line["event"] for line in lines})
  if lost:
    told = f"event {lost[0]}" if len(lost) == 1 else f"events {', '.join(map(str, lost))}"
    was = "was" if len(lost) == 1 else "were"
    raise CljaxError(f"workdir: {path} names no record of {told}, which {by} says {was} answered; bring the whole file "
                     "back")  # fmt: skip


def changes(before, after) -> dict[str, float]:
  """``{path: largest absolute change}`` of the parameters that an event moved, over all members."""
  out = {}
  for path, a, b in zip(tree.paths(before), jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.size and (a != b).any():
      out[path] = float(np.abs(a - b).max())
  return out


# Fates of the rows that a request names (``cljax.streams.fates``).
_DELETED = ("forgotten", "not yet learned", "held out", "never trained")  # by the request itself


def record(
  workdir, event: int, request: Forget, split, rows: np.ndarray, *, partly: Sequence[int] = (),
  fates: Mapping[str, Sequence[int]] | None = None, keep_ids: bool = True, **more: Any,
) -> dict:  # fmt: skip
  """Writes the record of event ``event`` over what an interrupted try may have left; returns it.

  ``rows [n]`` are positions in ``split``, whose ``id`` and ``group`` are the caller's own keys. ``partly``: those of
  them that another task, which the request does not name, still shows. ``fates {fate: positions}`` says what became of
  each row that is named; what was neither learned nor gone before is deleted by this request too.
  ``status="requested"`` says that the disk does not hold it yet; a record without one counts as done. Without
  ``keep_ids`` the classes and tasks of the request are counted, not named.
  """
  salt = salt_of(workdir)
  kept = [line for line in read(workdir) if line["event"] != event]
  hashed = lambda at: salted(salt, "id", np.asarray(split.id)[np.asarray(at, int)].tolist())
  rows = np.asarray(rows, int)
  fates = {"forgotten": rows.tolist(), **(fates or {})}
  gone = np.unique(np.concatenate([np.asarray(fates[f], int) for f in _DELETED if f in fates]))
  names, parts = hashed(gone), hashed(partly)
  before = {h for line in kept if line["event"] < event for h in _whole(line)} | (set(names) - set(parts))
  group = np.asarray(split.group)
  groups = np.unique(group[gone])
  whole = [g for g in groups.tolist() if before.issuperset(hashed(np.flatnonzero(group == g)))]
  shown = (lambda names: names) if keep_ids else len
  entry = {
    "event": event,
    "at": _now(),
    "request": {
      "classes": shown(request.classes), "tasks": shown(request.tasks), "ids": len(set(request.ids)),
      "groups": len(set(request.groups)), "match": request.match, "holds": request.holds,
    },
    "rows": len(rows),
    "row_hashes": names,
    "row_hashes_partly": parts,
    "group_hashes": salted(salt, "group", groups.tolist()),
    "group_hashes_whole": salted(salt, "group", whole),
    "fates": {name: hashed(at) for name, at in fates.items() if len(at)},
    **more,
  }  # fmt: skip
  _write(workdir, [*kept, entry])
  return entry


def _now() -> str:
  return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _whole(line: dict) -> set[str]:
  return set(line["row_hashes"]) - set(line.get("row_hashes_partly", ()))


def _write(workdir, lines: Sequence[dict]) -> None:
  """All records, each with their number and the mark of their salt."""
  known = {**formats.noted(), "records": len(lines), "salt_mark": _check(salt_of(workdir))}
  write_text(epath.Path(workdir) / LEDGER, "".join(dumps({**line, **known}) + "\n" for line in lines))


def pending(workdir, upto: int) -> list[dict]:
  """The records of events before ``upto`` that are requested and not done."""
  return [line for line in read(workdir) if line["event"] < upto and line.get("status") == REQUESTED]


def done(workdir, upto: int, **more: Any) -> None:
  """Marks what is requested before event ``upto`` as done, with what else there is to say of it."""
  waiting = [line["event"] for line in pending(workdir, upto)]
  new = {"status": DONE, "done_at": _now(), **more}
  if waiting:
    _write(workdir, [{**line, **new} if line["event"] in waiting else line for line in read(workdir)])


def reopen(workdir, event: int) -> None:
  """What is done from event ``event`` on is requested again: the run has gone back to a state from before it."""
  lines = read(workdir)
  back = lambda line: line["event"] >= event and line.get("status", DONE) == DONE
  if any(map(back, lines)):
    _write(workdir, [{**line, "status": REQUESTED} if back(line) else line for line in lines])


def update(workdir, event: int, **more: Any) -> None:
  """Adds fields to the record of an event, where there is one."""
  lines = read(workdir)
  if any(line["event"] == event for line in lines):
    _write(workdir, [{**line, **more} if line["event"] == event else line for line in lines])


def is_deleted(workdir, key: int, kind: str = "id") -> bool | None:
  """Whether the row (or ``kind='group'``) of a caller's key is deleted, by the ledger of a workdir.

  True: a request that is done took it whole. False: none that is done names it; one that is still to be carried out on
  the disk does not count. None: only a part of it went: some rows of a group, or a row as some of its tasks show it; or
  it is a group of a ledger that does not say how much of it went.
  Raises UsageError for another kind, a key that is no integer, and a folder that does not exist; CljaxError where the
  ledger is damaged, or it or its salt is gone.
  """
  if kind not in ("id", "group"):
    raise UsageError(f"kind: got {kind!r}; allowed: id, group")
  if isinstance(key, bool | np.bool_) or not isinstance(key, int | np.integer):
    raise UsageError(f"key: got {key!r}, a {type(key).__name__}; keys of rows and groups are integers")
  if not epath.Path(workdir).is_dir():
    raise UsageError(f"workdir: {workdir} does not exist")
  lines = read(workdir)
  if not lines:
    folder = epath.Path(workdir)
    _check_known(folder / LEDGER, lines, _in_checkpoint(folder), "a checkpoint")
  found = [line for line in lines if line.get("status", DONE) == DONE]
  if not found:
    return False
  wanted = salted(salt_of(workdir), kind, [int(key)])[0]
  of = lambda line: _whole(line) if kind == "id" else line.get("group_hashes_whole", ())
  if any(wanted in of(line) for line in found):
    return True
  return None if any(wanted in line["row_hashes" if kind == "id" else "group_hashes"] for line in found) else False
