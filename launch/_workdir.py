"""A workdir belongs to one configuration."""

from __future__ import annotations

import errno
from collections.abc import Sequence

from etils import epath

from cljax import UsageError, checkpoint, results, writers

FULL = (errno.ENOSPC, errno.EDQUOT)


def claim(workdir: epath.Path, name: str, identity: dict, overwrite: bool, left: Sequence[str]) -> None:
  """Makes ``workdir`` this configuration's: writes it to ``name``, or refuses where another one is there already.

  ``overwrite`` first discards the files ``left`` by an earlier run. Raises UsageError where it cannot be written.
  """
  try:
    for file in left if overwrite else ():
      _discard(workdir / file)
    held = results.read(workdir / name)
    if held is not None:
      differing = checkpoint.differences(held, identity)
      if differing:
        raise UsageError(
          f"workdir: {workdir} holds a run of another configuration; differing keys: {'; '.join(differing)}; "
          "give another workdir, or --overwrite"
        )
      return
    writers.write_text(workdir / name, writers.dumps(identity, indent=1) + "\n")
  except OSError as error:
    if error.errno in FULL:
      raise
    text = error.strerror or error
    raise UsageError(f"workdir: cannot write to {workdir}: {text}; expected a writable folder") from error


def _discard(path: epath.Path) -> None:
  if path.is_dir():
    path.rmtree()
  else:
    path.unlink(missing_ok=True)
