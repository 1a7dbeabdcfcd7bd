"""Folders of pictures by class."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cljax.core.types import UsageError
from cljax.data import images, types
from cljax.data.arrays import SPLIT_DEFAULTS, check_split, hold_out

DEFAULTS: dict[str, Any] = {**SPLIT_DEFAULTS, "size": None}
_SPLITS = {
  **dict.fromkeys(("train", "training"), "train"),
  **dict.fromkeys(("test", "testing"), "test"),
  **dict.fromkeys(("val", "valid", "validation"), "val"),
}


def _skipped(name: str) -> bool:
  """Names that systems put beside pictures: hidden files, and thumbnails of file servers and archives."""
  return name.startswith(".") or name in ("@eaDir", "__MACOSX")


def _folders(root: Path) -> list[Path]:
  try:
    return sorted(p for p in root.iterdir() if p.is_dir() and not _skipped(p.name))
  except OSError as e:
    raise UsageError(f"{root}: cannot be read ({e.strerror})") from None


def _files(root: Path) -> Iterator[Path]:
  """All files under ``root``, through links to folders too, each folder once."""

  def refuse(e: OSError):
    raise UsageError(f"{e.filename}: cannot be read ({e.strerror})") from None

  seen = set()
  for here, folders, files in os.walk(root, followlinks=True, onerror=refuse):
    real = os.path.realpath(here)
    folders[:] = [] if real in seen else sorted(f for f in folders if not _skipped(f))
    if real not in seen:
      yield from (Path(here, f) for f in files if not _skipped(f))
    seen.add(real)


def _pictures(root: Path) -> list[str]:
  """The pictures under ``root``, sorted."""
  found = []
  for path in _files(root):
    suffix = path.suffix.lower()
    if suffix in images.OTHER_SUFFIXES:
      raise UsageError(f"{path}: {suffix} pictures are not read; convert it to one of {', '.join(images.SUFFIXES)}")
    if suffix in images.SUFFIXES:
      if not path.is_file():
        raise UsageError(f"{path}: is a broken link, or no regular file")
      found.append(str(path))
  return sorted(found)


def _order(name: str) -> tuple:
  """Names that are numbers sort as numbers, before the others."""
  number = name.isascii() and name.isdigit()
  return (0, int(name), name) if number else (1, 0, name)


def _classes(root: Path) -> dict[str, list[str]]:
  """``{class: [files]}`` of the folders in ``root``."""
  out: dict[str, list[str]] = {}
  for folder in _folders(root):
    name = unicodedata.normalize("NFC", folder.name)  # some systems store letters and accents apart
    if name in out:
      raise UsageError(f"{root}: holds two folders that are both called {name!r}")
    out[name] = _pictures(folder)
  return {c: out[c] for c in sorted(out, key=_order)}


def _layout(root: Path) -> dict[str, Path]:
  """``{'train': folder, 'test': ..., 'val': ...}`` of a folder that holds splits; ``{'': root}`` of one by class."""
  folders = _folders(root)
  splits: dict[str, Path] = {}
  for folder in folders:
    split = _SPLITS.get(folder.name.lower())
    if split is None or not any(_pictures(inner) for inner in _folders(folder)):
      continue
    if split in splits:
      raise UsageError(f"{root}: {splits[split].name} and {folder.name} both look like the {split} split; keep one")
    splits[split] = folder
  others = [f for f in folders if f not in splits.values() and (not splits or _pictures(f))]
  called = [f for f in folders if f.name.lower() in _SPLITS]
  if splits and others:
    raise UsageError(
      f"{root}: {next(iter(splits.values())).name} looks like a split with classes in it, but {others[0].name} stands "
      "beside it; expected splits alone, or classes alone"
    )
  if not splits and called and len(called) == len(folders):
    raise UsageError(f"{called[0]}: holds no class folders; allowed: {called[0].name}/CLASS/*.png")
  if splits and "train" not in splits:
    raise UsageError(f"{root}: has {', '.join(f.name for f in splits.values())} but no train folder")
  return splits or {"": root}


def load_folder(path: Path, given: Mapping[str, Any]) -> types.Dataset:
  """Pictures by class, ``PATH/CLASS/*``, with a held-out test split; or ``PATH/train/CLASS/*`` and the like.

  Splits are ``train`` (``training``), ``test`` (``testing``) and ``val`` (``valid``, ``validation``), in any case.
  ``val`` is the test split where there is no ``test``; where there is, its rows are the validation rows
  (``Dataset.held``); ``train`` alone is split as classes are. Classes are the folder names, numbers sorted as numbers,
  then the others by code point; a class's pictures may lie in folders of its own. Hidden files and files of other types
  are passed over. If any picture has colour all become RGB; transparent ones are laid on white, turned ones set upright
  (EXIF), of several frames the first is read. ``size`` stretches them to one size. Raises UsageError, which names the
  file, for what is damaged, has more than 8 bits a channel, or is of another size, and for class folders without
  pictures, classes of one split that ``train`` lacks, and mixtures of splits and classes.
  """
  options = check_split(given, DEFAULTS)
  size = images.check_size(options["size"])
  options["size"] = size
  layout = _layout(path)
  parts = {split: _classes(folder) for split, folder in layout.items()}
  train = next(s for s in ("train", "") if s in parts)
  names = list(parts[train])
  if not any(parts[train].values()):
    raise UsageError(f"{layout[train]}: no pictures; allowed: CLASS/*{{{','.join(images.SUFFIXES)}}}")
  for name, files in parts[train].items():
    if not files:
      raise UsageError(f"{layout[train] / name}: is a class folder without pictures; add some, or remove it")
  for split, classes in parts.items():
    extra = [c for c, files in classes.items() if files and c not in names]
    if extra:
      raise UsageError(f"{layout[split]}: class {extra[0]!r} is not in train; allowed: {', '.join(names)}")
  if len(names) == 1 and any(_pictures(f) for f in _folders(layout[train] / names[0])):
    inner = layout[train] / names[0]
    raise UsageError(f"{layout[train]}: holds one class, {names[0]!r}, with folders in it; if these are the classes, "
                     f"give {inner}")  # fmt: skip
  # All at once, so that the splits agree on colour and size; validation rows stand behind those to train on.
  rows = [(split, names.index(c), f) for split in (train, "val", "test") for c, files in parts.get(split, {}).items()
          for f in files]  # fmt: skip
  copies = 1 if len(parts) > 1 else 2
  x = images.decode_all([f for *_, f in rows], lambda f: Path(f).read_bytes(), size=size, copies=copies)
  y = np.asarray([c for _, c, _ in rows], np.int32)
  which = np.asarray([split for split, *_ in rows])
  tested = which == ("test" if "test" in parts else "val")
  if len(parts) == 1:
    learned, kept = hold_out(types.split(x, y), options)
    return types.dataset(path.name, learned, kept, names, options=options)
  first = int((~tested).sum())
  held = which[:first] == "val"
  both = types.split(x[:first], y[:first]), types.split(x[first:], y[first:])
  return types.dataset(path.name, *both, names, options={"size": size}, held=held if held.any() else None)
