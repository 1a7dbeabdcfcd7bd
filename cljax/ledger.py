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

from cljax import tree
from cljax.types import Forget
from cljax.writers import dumps, read_lines, write_text

LEDGER, SALT = "deletions.jsonl", "deletions.salt"


def salted(salt: str, kind: str, keys: Sequence) -> list[str]:
  """``sha256(salt : kind : key)``, the first 32 hex digits, sorted: the order tells nothing."""
  return sorted(hashlib.sha256(f"{salt}:{kind}:{key}".encode()).hexdigest()[:32] for key in keys)


def salt_of(workdir) -> str:
  """The workdir's salt, made at its first use."""
  path = epath.Path(workdir) / SALT
  if not path.exists():
    write_text(path, secrets.token_hex(16) + "\n")
    with contextlib.suppress(OSError):  # object stores have no file modes
      os.chmod(os.fspath(path), 0o600)
  return path.read_text().strip()


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
  kept = [line for line in read_lines(path) if line.get("event") != event]
  write_text(path, "".join(dumps(line) + "\n" for line in [*kept, entry]))
  return entry


def update(workdir, event: int, **more: Any) -> None:
  """Adds fields to the record of an event, where there is one."""
  path = epath.Path(workdir) / LEDGER
  lines = read_lines(path)
  if any(line.get("event") == event for line in lines):
    write_text(path, "".join(dumps({**line, **more} if line.get("event") == event else line) + "\n" for line in lines))


def is_deleted(workdir, key, kind: str = "id") -> bool:
  """Whether the ledger of a workdir names the row (or ``kind='group'``) of a caller's key."""
  wanted = salted(salt_of(workdir), kind, [key])[0]
  field = "row_hashes" if kind == "id" else "group_hashes"
  return any(wanted in line.get(field, ()) for line in read_lines(epath.Path(workdir) / LEDGER))
