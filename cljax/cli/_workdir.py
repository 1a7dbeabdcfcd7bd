"""A workdir belongs to one configuration, and is changed by one process at a time."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from etils import epath

from cljax import UsageError
from cljax.io import checkpoint, files, folders, formats, ledger

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def check_kind(workdir: epath.Path, name: str) -> None:
  """UsageError where the folder holds something else than what keeps ``name``."""
  for other, what in folders.KINDS.items():
    if other != name and (workdir / other).exists():
      raise UsageError(f"workdir: {workdir} holds {what}; expected another folder")


def check_overwrite(workdir: epath.Path) -> None:
  """UsageError where something was deleted from what is to be trained anew: it would learn the rows again."""
  rows = sorted((workdir / "runs").iterdir()) if (workdir / "runs").exists() else []
  for place in (workdir, *rows):
    if (place / ledger.LEDGER).exists():
      raise UsageError(
        f"overwrite: {place} has a ledger of deletions, and what is trained anew would learn those rows again; give "
        "another workdir"
      )


def claim(
  workdir: epath.Path,
  name: str,
  identity: dict,
  overwrite: bool,
  left: Sequence[str],
  essence: Callable[[dict], dict] = lambda identity: identity,
  failed: bool = False,
) -> dict:
  """Makes ``workdir`` this configuration's: writes it to ``name``, or refuses where another one is there already.

  ``overwrite`` first discards the files ``left`` by an earlier run, and another configuration's are discarded where its
  run has ``failed``, so that nothing can go on with it. Two identities are the same where what ``essence``
  leaves of them is. Returns the identity that is written there. Raises UsageError where it cannot be written.
  """
  check_kind(workdir, name)
  if overwrite:
    check_overwrite(workdir)
  try:
    for file in left if overwrite else ():
      discard(workdir / file)
    held = read_json(workdir / name)
    if held is not None:
      if "code" not in held:  # it began when nobody noted what the user's own code was
        identity = {k: v for k, v in identity.items() if k != "code"}
      keys = {line.partition(": ")[0] for line in checkpoint.differences(essence(held), essence(identity))}
      if keys and failed:
        return claim(workdir, name, identity, True, left, essence)
      if keys:
        # Told as both have them, defaults included.
        differing = [d for d in checkpoint.differences(held, identity) if d.partition(": ")[0] in keys]
        differing = list(filter(None, (_of_code(d, held, identity) for d in differing)))
        raise UsageError(
          f"workdir: {workdir} holds a run of another configuration; differing keys: {'; '.join(differing)}; "
          f"give another workdir, or --overwrite{_of_data(keys)}{_of_version(workdir / name, held, keys)}"
        )
      return held
    write_json(workdir / name, identity)
    return identity
  except OSError as error:
    if error.errno in FULL:
      raise
    text = error.strerror or error
    raise UsageError(f"workdir: cannot write to {workdir}: {text}; expected a writable folder") from error


def _of_data(keys) -> str:
  """What there is to do where only the data are others, such as a file that has grown."""
  return ", or --extend, which ends the run on the rows that it had" if keys == {"data.digest"} else ""


def _of_version(path, held: dict, keys) -> str:
  """What there is to do where only options differ that version 0.1 did not have."""
  if format_of(path) > 1:
    return ""
  flags = formats.unsaid(held, sorted(keys))
  return f"; 0.1.0 had no such option, and meant: {' '.join(flags)}" if flags else ""


def _of_code(difference: str, held: dict, identity: dict) -> str:
  """A difference, told as what was edited where it is one of the user's own code; '' where another one was chosen,
  which its name says."""
  section, dot, part = difference.partition(": ")[0].partition(".")
  if section != "code" or not dot:
    return difference
  of = identity.get(part, {})
  named = lambda of: of.get("name") or ", ".join(of.get("names", ())) if isinstance(of, dict) else ""
  name = named(of)
  if name != named(held.get(part, {})):
    return ""
  return f"the code of {part} {name!r}, or what it reaches, was edited"


def in_path(name: str) -> str:
  """A name as one part of a path."""
  return name.replace("/", "%2F")


def read_json(path) -> dict[str, Any] | None:
  """The object that a file of JSON holds, without its format; None where there is no file, or none that can be read.

  Raises CljaxError where its format is newer than this version reads.
  """
  path = epath.Path(path)
  try:
    found = files.loads(path.read_bytes()) if path.exists() else None
  except ValueError:
    return None
  return formats.bare(path, found) if isinstance(found, dict) else None


def format_of(path) -> int:
  """The format of a file of JSON that can be read; this version's where there is none."""
  path = epath.Path(path)
  return formats.of(files.loads(path.read_bytes()), path) if path.exists() else formats.FORMAT


def write_json(path, content: Mapping[str, Any]) -> None:
  """An object as a file of JSON that says of which format it is."""
  files.write_text(path, files.dumps({**formats.noted(), **content}, indent=1) + "\n")


def discard(path: epath.Path) -> None:
  """Removes a file or a folder; nothing where there is none."""
  if path.is_dir():
    path.rmtree()
  else:
    path.unlink(missing_ok=True)


def is_local(workdir) -> bool:
  """Whether it lies in a file system, not in an object store."""
  return "://" not in os.fspath(workdir)


@contextlib.contextmanager
def exclusive(workdir):
  """Held by one process at a time, for the moments in which files that several write are read and written.

  The kernel lets go of it when its holder dies. In an object store, and where a file system has no locks, it does
  nothing.
  """
  if not is_local(workdir):
    yield
    return
  import fcntl

  with open(os.path.join(os.fspath(workdir), ".lock"), "a") as file:
    with contextlib.suppress(OSError):
      fcntl.flock(file, fcntl.LOCK_EX)
    yield
