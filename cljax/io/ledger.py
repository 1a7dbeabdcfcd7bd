"""The deletion ledger: what was asked to be forgotten, what was done about it, and what was measured.

``deletions.jsonl`` holds one record for each Forget event of a run. Rows and groups are named by salted hashes of the
caller's own keys: who holds the salt (``deletions.salt``, readable by its owner alone) can check whether a row was
deleted; without it the ledger names nobody. The salt is no protection against someone who has it and can guess keys.
A record is evidence of what was measured, not a proof of privacy.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import os
import secrets
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from etils import epath

from cljax.core import tree
from cljax.core.types import CljaxError, Forget
from cljax.io.files import dumps, numbered_rows, write_text

LEDGER, SALT = "deletions.jsonl", "deletions.salt"


def salted(salt: str, kind: str, keys: Sequence) -> list[str]:
  """``sha256(salt : kind : key)``, the first 32 hex digits, sorted: the order tells nothing."""
  return sorted(hashlib.sha256(f"{salt}:{kind}:{key}".encode()).hexdigest()[:32] for key in keys)


def salt_of(workdir) -> str:
  """The workdir's salt, made at its first use."""
  path = epath.Path(workdir) / SALT
  if not path.exists():
    if (path.parent / LEDGER).exists():
      raise CljaxError(f"workdir: {path} is gone; without it {LEDGER} names nobody, and new records would not match")
    write_text(path, secrets.token_hex(16) + "\n")
    with contextlib.suppress(OSError):  # object stores have no file modes
      os.chmod(os.fspath(path), 0o600)
  text = path.read_bytes().strip()
  if not text.isalnum():
    raise CljaxError(f"workdir: {path} is damaged; expected a line of hexadecimal digits")
  return text.decode()


_LISTS = ("row_hashes", "group_hashes")


def read(workdir) -> list[dict]:
  """The records of a workdir's ledger, oldest first; none where there is no ledger.

  Raises CljaxError where a record is damaged: passed over, it would say that a deleted row was never asked for.
  """
  path = epath.Path(workdir) / LEDGER
  try:
    found = numbered_rows(path)
  except OSError as error:
    raise CljaxError(f"workdir: cannot read {path}: {error.strerror or error}") from None
  out = []
  for number, line in enumerate(found, 1):
    whole = line is not None and isinstance(line.get("event"), int)
    words = lambda v: isinstance(v, list) and all(isinstance(w, str) for w in v)
    if line is None or not whole or not all(words(line.get(k)) for k in _LISTS):
      raise CljaxError(f"workdir: record {number} of {path} is damaged; expected one as a Forget event writes it")
    out.append(line)
  return out


def changes(before, after) -> dict[str, float]:
  """``{path: largest absolute change}`` of the parameters that an event moved, over all members."""
  out = {}
  for path, a, b in zip(tree.paths(before), jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.size and (a != b).any():
      out[path] = float(np.abs(a - b).max())
  return out


def record(workdir, event: int, request: Forget, split, rows: np.ndarray, **more: Any) -> dict:
  """Writes the record of event ``event`` over what an interrupted try may have left; returns it.

  ``rows [n]`` are positions in ``split``, whose ``id`` and ``group`` are the caller's own keys.
  """
  salt = salt_of(workdir)
  groups = np.unique(np.asarray(split.group)[rows])
  entry = {
    "event": event,
    "at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    "request": {
      "classes": request.classes, "tasks": request.tasks, "ids": len(request.ids), "groups": len(request.groups),
      "match": request.match, "holds": request.holds,
    },
    "rows": len(rows),
    "row_hashes": salted(salt, "id", np.asarray(split.id)[rows].tolist()),
    "group_hashes": salted(salt, "group", groups.tolist()),
    **more,
  }  # fmt: skip
  path = epath.Path(workdir) / LEDGER
  kept = [line for line in read(workdir) if line["event"] != event]
  write_text(path, "".join(dumps(line) + "\n" for line in [*kept, entry]))
  return entry


def update(workdir, event: int, **more: Any) -> None:
  """Adds fields to the record of an event, where there is one."""
  path = epath.Path(workdir) / LEDGER
  lines = read(workdir)
  if any(line["event"] == event for line in lines):
    write_text(path, "".join(dumps({**line, **more} if line["event"] == event else line) + "\n" for line in lines))


def is_deleted(workdir, key, kind: str = "id") -> bool:
  """Whether the ledger of a workdir names the row (or ``kind='group'``) of a caller's key; CljaxError where it is
  damaged."""
  found = read(workdir)
  if not found:
    return False
  wanted = salted(salt_of(workdir), kind, [key])[0]
  return any(wanted in line["row_hashes" if kind == "id" else "group_hashes"] for line in found)
