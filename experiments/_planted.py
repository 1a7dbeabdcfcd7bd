"""Rows that can be found again in any file: a data set of noise, runs that forget some of it, and the search."""

from __future__ import annotations

import contextlib
import pathlib

import numpy as np

import cljax
from cljax import engine, models, streams
from cljax.data import Dataset, Split
from cljax.io import ledger

SHAPE = (8, 8, 1)


def noise(classes: int = 4, rows: int = 12, seed: int = 0) -> Dataset:
  """Images of independent uniform bytes: no compression shortens them and no two rows are alike."""
  rng = np.random.default_rng(seed)

  def split(n: int, first: int) -> Split:
    y = np.tile(np.arange(classes, dtype=np.int32), n)
    x = rng.integers(0, 256, (len(y), *SHAPE), np.uint8)
    ids = np.arange(first, first + len(y), dtype=np.int32)
    return Split(x, y, ids, (ids % 4).astype(np.int32))

  names = tuple(f"class{c}" for c in range(classes))
  groups = tuple(f"group{g}" for g in range(4))
  return Dataset("noise", split(rows, 100), split(2, 900), classes, names, groups, 1.0, f"noise{seed}")


def prepared(
  method: str = "er", hyper=None, forget: str = "ssd", purge: bool = True, rows: int = 12,
) -> engine.Prepared:  # fmt: skip
  """Two tasks of ``2 rows`` rows; after each, rows of the first are forgotten."""
  data = noise(rows=rows)
  ids = data.train.id[streams.build(data, "class", tasks=2, validation=0).train[0]].tolist()
  asked = [(1, cljax.Forget(ids=tuple(ids[:4]))), (2, cljax.Forget(ids=tuple(ids[4:9])))]
  stream = streams.build(data, "class", tasks=2, validation=0, forget=asked)
  return engine.prepare(
    stream, models.build("mlp", SHAPE, 4, hidden=(8,)), method, {"capacity": 24} if hyper is None else hyper,
    forget=forget, training=cljax.Recipe(batch_size=8, epochs=1),
    options=cljax.Options(chunk_steps=2, checkpoint_every=1, checkpoint_purge_before_deletion=purge),
  )  # fmt: skip


def asked_ids(stream) -> list[int]:
  return sorted({i for event in stream.events if isinstance(event, cljax.Forget) for i in event.ids})


MAGIC = b"\x28\xb5\x2f\xfd"  # of a frame of Zstandard, in which orbax writes chunks of arrays


def opened(content: bytes) -> list[bytes]:
  """What the compressed frames in a file hold, as far as they can be read, wherever they begin."""
  import pyarrow

  out, at = [], content.find(MAGIC)
  while at >= 0:
    parts = []
    with contextlib.suppress(OSError, ValueError):  # what follows a frame is none
      frame = pyarrow.CompressedInputStream(pyarrow.BufferReader(content[at:]), "zstd")
      while part := frame.read(1 << 12):
        parts.append(part)
    out.append(b"".join(parts))
    at = content.find(MAGIC, at + 1)
  return out


def holders(folder, stream, ids) -> dict[str, list[int]]:
  """``{file: ids}`` of the rows whose bytes stand in a file below a folder, as they are or in a compressed chunk."""
  split, found = stream.dataset.train, {}
  rows = {i: split.x[int(np.flatnonzero(split.id == i)[0])].tobytes() for i in ids}
  for path in pathlib.Path(folder).rglob("*"):
    if path.is_file():
      content = path.read_bytes()
      parts = [content, *opened(content)]
      here = [i for i, row in rows.items() if any(row in part for part in parts)]
      if here:
        found[str(path.relative_to(folder))] = here
  return found


def untrue(folder, stream) -> str:
  """What the ledger of a folder says and the files there contradict; '' where it is true."""
  ids = asked_ids(stream)
  said = [i for i in ids if pathlib.Path(folder).is_dir() and ledger.is_deleted(folder, i)]
  held = holders(folder, stream, said)
  return f"rows said to be deleted are in {held}" if held else ""


def unfinished(folder, stream) -> str:
  """What is missing at the end of a run that purges: a row in some file, or one that the ledger does not name."""
  ids = asked_ids(stream)
  held, unsaid = holders(folder, stream, ids), [i for i in ids if ledger.is_deleted(folder, i) is not True]
  return f"rows in {held}" if held else f"not said to be deleted: {unsaid}" if unsaid else ""
