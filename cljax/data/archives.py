"""The official archives, read where they lie: MNIST (IDX), CIFAR-10 and CIFAR-100 (binary version), Tiny-ImageNet.

Nothing is unpickled and nothing is extracted: members are picked by their known names and read into memory.
"""

from __future__ import annotations

import gzip
import math
import tarfile
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import NoReturn

import numpy as np

from cljax.core.types import UsageError
from cljax.data import images, limits, store, types

_IDX = {
  ("train", "x"): ("train-images-idx3-ubyte", "train-images.idx3-ubyte"),
  ("train", "y"): ("train-labels-idx1-ubyte", "train-labels.idx1-ubyte"),
  ("test", "x"): ("t10k-images-idx3-ubyte", "t10k-images.idx3-ubyte"),
  ("test", "y"): ("t10k-labels-idx1-ubyte", "t10k-labels.idx1-ubyte"),
}


def _missing(name: str, where: Sequence[Path], wanted: str) -> NoReturn:
  folders = ", ".join(str(p) for p in where)
  get = store.how_to_get(name, where[0])
  raise UsageError(f"data_dir: files of {name!r} not found; looked for {wanted} in {folders}; {get}")


def read_idx(path: Path) -> np.ndarray:
  """An IDX file of unsigned bytes, plain or gzip. Raises :class:`UsageError` if it is not one or is cut short."""
  try:
    with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as f:
      head = f.read(4)
      dims = f.read(4 * head[3]) if len(head) == 4 else b""
      if head[:3] != b"\0\0\x08" or len(head) < 4 or len(dims) < 4 * head[3]:
        raise UsageError(f"data_dir: {path} is no IDX file of unsigned bytes (it starts with {head!r})")
      shape = tuple(int(n) for n in np.frombuffer(dims, ">u4"))
      size = math.prod(shape)
      limits.check_memory(f"data_dir: {path}", size, "is its header damaged?")
      data = f.read(size + 1)
  except UsageError:
    raise
  except (OSError, ValueError, *images.DAMAGED) as e:
    raise UsageError(f"data_dir: {path} cannot be read ({types.first_line(e)})") from None
  if len(data) != size:
    held = len(data) if len(data) < size else f"more than {size}"
    raise UsageError(f"data_dir: {path} holds {held} bytes; its header says {shape}")
  return np.frombuffer(data, np.uint8).reshape(shape)


def mnist(root: Path, name: str = "mnist") -> types.Dataset:
  """MNIST, or any set under the same file names (Fashion-MNIST, KMNIST): IDX files, plain or ``.gz``."""
  where = (root, root / name, root / "MNIST" / "raw")
  found = {}
  for key, stems in _IDX.items():
    files = [f / (s + end) for f in where for s in stems for end in ("", ".gz")]
    path = next((f for f in files if f.is_file()), None)
    if path is None:
      _missing(name, where, f"{stems[0]}[.gz]")
    found[key] = read_idx(path)
  parts = {}
  for s in ("train", "test"):
    x, y = found[s, "x"], found[s, "y"]
    if x.ndim != 3 or y.shape != x.shape[:1]:
      raise UsageError(f"data_dir: {s} images are {x.shape} and labels {y.shape}; needed: [N, H, W] and [N]")
    parts[s] = types.split(x[..., None], y)
  return types.dataset(name, parts["train"], parts["test"], [str(c) for c in range(10)])


def _members(name: str, root: Path, archive: str, folder: str, wanted: Iterable[str]) -> dict[str, bytes]:
  """The files called ``wanted``, from a folder (``root`` itself, or ``folder`` in it) or from the tar archive."""
  wanted = tuple(wanted)
  for place in (root / folder, root):
    if all((place / w).is_file() for w in wanted):
      try:
        return {w: (place / w).read_bytes() for w in wanted}
      except OSError as e:
        raise UsageError(f"data_dir: {e.filename} cannot be read ({e.strerror})") from None
  path = root / archive
  if not path.is_file():
    _missing(name, (root,), f"{archive}, or {folder}/ with {', '.join(wanted)}")
  out = {}
  try:
    with tarfile.open(path) as tar:
      for member in tar:
        base = PurePosixPath(member.name).name
        if member.isfile() and base in wanted:
          handle = tar.extractfile(member)
          out[base] = handle.read() if handle else b""
  except (OSError, ValueError, *images.DAMAGED) as e:
    raise UsageError(f"data_dir: {path} cannot be read ({types.first_line(e)})") from None
  lacking = [w for w in wanted if w not in out]
  if lacking:
    raise UsageError(f"data_dir: {path} lacks {', '.join(lacking)}")
  return out


def _records(file: str, data: bytes, labels: int) -> np.ndarray:
  """``[N, labels + 3072]`` bytes."""
  size = labels + 3072
  if not data or len(data) % size:
    raise UsageError(f"data_dir: {file} holds {len(data)} bytes; needed: a multiple of {size}")
  return np.frombuffer(data, np.uint8).reshape(-1, size)


def _pictures(records: np.ndarray, labels: int) -> np.ndarray:
  """``[N, 32, 32, 3]`` from records that hold the red, green and blue planes one after another."""
  return records[:, labels:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)


def _lines(data: bytes) -> list[str]:
  return data.decode("utf-8", "replace").split()


def cifar10(root: Path) -> types.Dataset:
  """CIFAR-10, binary version: ``cifar-10-binary.tar.gz`` or the folder ``cifar-10-batches-bin``."""
  train = [f"data_batch_{i}.bin" for i in range(1, 6)]
  wanted = (*train, "test_batch.bin", "batches.meta.txt")
  files = _members("cifar10", root, "cifar-10-binary.tar.gz", "cifar-10-batches-bin", wanted)
  rows = np.concatenate([_records(f, files[f], 1) for f in train])
  test = _records("test_batch.bin", files["test_batch.bin"], 1)
  names = _lines(files["batches.meta.txt"])
  return types.dataset(
    "cifar10", types.split(_pictures(rows, 1), rows[:, 0]), types.split(_pictures(test, 1), test[:, 0]), names
  )


def cifar100(root: Path) -> types.Dataset:
  """CIFAR-100, binary version: ``cifar-100-binary.tar.gz`` or its folder. Labels are fine, groups are superclasses."""
  wanted = ("train.bin", "test.bin", "fine_label_names.txt", "coarse_label_names.txt")
  files = _members("cifar100", root, "cifar-100-binary.tar.gz", "cifar-100-binary", wanted)
  train, test = (
    types.split(_pictures(r, 2), r[:, 1], r[:, 0])
    for r in (_records(f, files[f], 2) for f in ("train.bin", "test.bin"))
  )
  fine, coarse = (_lines(files[f"{k}_label_names.txt"]) for k in ("fine", "coarse"))
  return types.dataset("cifar100", train, test, fine, group_names=coarse)


_TINY = "tiny-imagenet-200"


def tiny_imagenet(root: Path) -> types.Dataset:
  """Tiny-ImageNet: ``tiny-imagenet-200.zip`` or its folder; the test split is ``val`` (``test`` has no labels).

  Classes are WordNet ids in the order of ``wnids.txt``. Gray pictures become RGB.
  """
  folder = next((p for p in (root / _TINY, root) if (p / "wnids.txt").is_file()), None)
  archive = root / f"{_TINY}.zip"
  if folder is not None:
    files = (p.relative_to(folder).as_posix() for part in ("train", "val") for p in folder.glob(f"{part}/**/*.JPEG"))
    return _tiny(folder, sorted(files), lambda f: (folder / f).read_bytes())
  if not archive.is_file():
    _missing("tiny_imagenet", (root,), f"{archive.name} or {_TINY}/wnids.txt")
  try:
    with zipfile.ZipFile(archive) as z:
      files = (n.removeprefix(f"{_TINY}/") for n in z.namelist() if n.endswith(".JPEG"))
      return _tiny(archive, sorted(files), lambda f: z.read(f"{_TINY}/{f}"))
  except UsageError:
    raise
  except (OSError, ValueError, *images.DAMAGED) as e:
    raise UsageError(f"data_dir: {archive} cannot be read ({types.first_line(e)})") from None


def _tiny(source: Path, files: list[str], read) -> types.Dataset:
  def text(name: str) -> str:
    try:
      return read(name).decode()
    except (OSError, ValueError, *images.DAMAGED):
      raise UsageError(f"data_dir: {source} lacks {name}, or it is damaged") from None

  wnids = text("wnids.txt").split()
  label = {w: i for i, w in enumerate(wnids)}
  notes = [line.split("\t") for line in text("val/val_annotations.txt").splitlines() if line.strip()]
  class_of = {n[0]: n[1] for n in notes if len(n) > 1}
  parts = []
  for part in ("train", "val"):
    mine = [f for f in files if f.startswith(f"{part}/")]
    # train/<wnid>/images/<file>, val/images/<file>
    wnid = [f.split("/")[1] if part == "train" else class_of.get(f.split("/")[-1], "") for f in mine]
    for f, w in zip(mine, wnid, strict=True):
      if w not in label:
        raise UsageError(f"data_dir: {f} in {source} has the class {w!r}; allowed: the {len(wnids)} of wnids.txt")
    if not mine:
      raise UsageError(f"data_dir: {source} has no {part}/**/*.JPEG")
    x = images.decode_all(mine, read, colour=True)
    parts.append(types.split(x, [label[w] for w in wnid]))
  return types.dataset("tiny_imagenet", parts[0], parts[1], wnids)
