"""The user's own data: ``.npz`` files, precomputed embeddings, and folders of pictures by class."""

from __future__ import annotations

import functools
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cljax.data import images, types
from cljax.types import UsageError

SPLIT_DEFAULTS: dict[str, Any] = {"test_fraction": 0.2, "seed": 0}
FOLDER_DEFAULTS: dict[str, Any] = {**SPLIT_DEFAULTS, "size": None}
_KEYS = "x_train, y_train, x_test, y_test, or x, y (and group_train, group_test, or group)"


def check_split(given: Mapping[str, Any], defaults: Mapping[str, Any] = SPLIT_DEFAULTS) -> dict[str, Any]:
  """``test_fraction`` and ``seed`` of a held-out split, checked."""
  o = {**defaults, **given}
  fraction, seed = o["test_fraction"], o["seed"]
  if isinstance(fraction, bool) or not isinstance(fraction, int | float | np.number) or not 0 < fraction < 1:
    raise UsageError(f"test_fraction: got {fraction!r}; allowed: a number between 0 and 1, both excluded")
  if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
    raise UsageError(f"seed: got {seed!r}; allowed: a whole number of at least 0")
  return o | {"test_fraction": float(fraction), "seed": int(seed)}


def _inputs(key: str, x: np.ndarray) -> np.ndarray:
  """uint8 and floats pass, floats as float32; ``[N, H, W]`` uint8 gets its channel axis."""
  if x.dtype != np.uint8 and not np.issubdtype(x.dtype, np.floating):
    raise UsageError(f"{key}: dtype is {x.dtype}; allowed: uint8 or a float type")
  if x.ndim < 2:
    raise UsageError(f"{key}: shape is {x.shape}; allowed: [N, ...] with at least one axis of features")
  if x.dtype == np.uint8:
    return x[..., None] if x.ndim == 3 else x
  with np.errstate(over="ignore"):
    return x.astype(np.float32)  # what overflows becomes infinite and is refused by types.dataset


def _integers(key: str, values: np.ndarray, rows: int) -> np.ndarray:
  if not np.issubdtype(values.dtype, np.integer):
    raise UsageError(f"{key}: dtype is {values.dtype}; allowed: an integer type")
  if values.shape != (rows,):
    raise UsageError(f"{key}: shape is {values.shape}; allowed: ({rows},), one for each row of x")
  if len(values) and (values.min() < 0 or values.max() >= 2**31):
    raise UsageError(f"{key}: values span {values.min()}..{values.max()}; allowed: 0..2147483647")
  return values.astype(np.int32)


def _dense(key: str, values: np.ndarray) -> int:
  """The number of classes; every one of them must have a training row."""
  present = np.unique(values)
  if len(present) != present[-1] + 1:
    first = int(np.flatnonzero(present != np.arange(len(present)))[0])
    raise UsageError(
      f"{key}: labels span 0..{present[-1]} but {first} has no row; allowed: 0..C-1, each with a row in train"
    )
  return len(present)


def from_arrays(name: str, arrays: Mapping[str, np.ndarray], given: Mapping[str, Any]) -> types.Dataset:
  """A dataset from ``x_train, y_train, x_test, y_test``, or from ``x, y`` with a stratified held-out split."""
  options = check_split(given)
  parts = []
  both = "x_train" in arrays
  for end in ("_train", "_test") if both else ("",):
    for key in (f"x{end}", f"y{end}"):
      if key not in arrays:
        raise UsageError(f"{name}: lacks {key!r}, has {', '.join(arrays) or 'nothing'}; allowed: {_KEYS}")
    x = _inputs(f"x{end}", arrays[f"x{end}"])
    y = _integers(f"y{end}", arrays[f"y{end}"], len(x))
    group = arrays.get(f"group{end}")
    parts.append(types.split(x, y, None if group is None else _integers(f"group{end}", group, len(x))))
  if not len(parts[0].y):
    raise UsageError(f"{'x_train' if both else 'x'}: has no rows; at least one is needed")
  if not both:
    parts = _hold_out(parts[0], options)
  else:
    options = {}  # the split is given, so the options that would make one are not part of the contents
  classes = _dense("y_train" if both else "y", parts[0].y)
  groups = 1 + max(int(p.group.max(initial=0)) for p in parts)
  names = [str(c) for c in range(classes)]
  return types.dataset(name, parts[0], parts[-1], names, group_names=[str(g) for g in range(groups)], options=options)


def _hold_out(every: types.Split, options: Mapping[str, Any]) -> list[types.Split]:
  test = types.held_out(every.y, options["test_fraction"], options["seed"])
  if not test.any():
    raise UsageError("y: no class has two rows, so none can be held out; allowed: give x_test and y_test")
  return [types.split(every.x[m], every.y[m], every.group[m]) for m in (~test, test)]


def read_npz(path: Path) -> dict[str, np.ndarray]:
  """All arrays of an ``.npz`` file; pickled objects are refused."""
  try:
    archive = np.load(path, allow_pickle=False)
    if not isinstance(archive, np.lib.npyio.NpzFile):
      raise ValueError("it is one array, not an archive of arrays")
    with archive:
      return {k: _array(k, functools.partial(archive.__getitem__, k)) for k in archive.files}
  except (OSError, EOFError, ValueError, zipfile.BadZipFile) as e:
    if isinstance(e, UsageError):
      raise
    raise UsageError(
      f"{path}: cannot be read as .npz ({str(e).splitlines()[0] if str(e) else type(e).__name__})"
    ) from None


def _array(key: str, read: Callable[[], np.ndarray]) -> np.ndarray:
  try:
    return read()
  except ValueError as e:
    if "allow_pickle" in str(e):
      raise UsageError(f"{key}: holds Python objects, which are never unpickled; allowed: numeric arrays") from None
    raise


def load_npz(path: Path, given: Mapping[str, Any]) -> types.Dataset:
  """An ``.npz`` file: x uint8 (scaled by 1/255) or float (kept as float32), y integers 0..C-1."""
  return from_arrays(path.name, read_npz(path), given)


def load_embeddings(path: Path, given: Mapping[str, Any]) -> types.Dataset:
  """Precomputed embeddings ``x [N, D]`` float: an ``.npz`` file, or a folder of ``.npy`` files named by those keys."""
  if path.is_dir():
    found = {p.stem: _npy(p) for p in sorted(path.glob("*.npy"))}
    if not found:
      raise UsageError(f"{path}: holds no .npy file; allowed: files called {_KEYS}")
  else:
    found = read_npz(path)
  for key in ("x", "x_train", "x_test"):
    if key in found and (found[key].ndim != 2 or not np.issubdtype(found[key].dtype, np.floating)):
      raise UsageError(f"{key}: is {found[key].dtype} {found[key].shape}; allowed for embeddings: float [N, D]")
  return from_arrays(path.name, found, given)


def _npy(path: Path) -> np.ndarray:
  try:
    return _array(path.name, lambda: np.load(path, allow_pickle=False))
  except (OSError, EOFError, ValueError) as e:
    if isinstance(e, UsageError):
      raise
    raise UsageError(f"{path}: cannot be read as .npy ({e})") from None


def _pictures(root: Path) -> dict[str, list[str]]:
  """``{class: [files]}`` of the sub-folders of ``root`` that hold pictures, sorted."""
  out = {}
  for folder in sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")):
    files = sorted(str(p) for p in folder.rglob("*") if p.suffix.lower() in images.SUFFIXES and p.name[0] != ".")
    if files:
      out[folder.name] = files
  return out


def load_folder(path: Path, given: Mapping[str, Any]) -> types.Dataset:
  """Pictures by class: ``PATH/train/CLASS/*`` and ``PATH/test/CLASS/*``, or ``PATH/CLASS/*`` with a held-out split.

  Classes are the folder names in sorted order. If any picture has colour all become RGB. ``size`` resizes them.
  """
  options = check_split(given, FOLDER_DEFAULTS)
  size = images.check_size(options["size"])
  options["size"] = size
  both = (path / "train").is_dir() and (path / "test").is_dir()
  parts = [_pictures(path / p) for p in (("train", "test") if both else (".",))]
  for part, where in zip(parts, ("train", "test") if both else ("",), strict=True):
    if not part:
      raise UsageError(f"{path / where}: no pictures; allowed: CLASS/*{{{','.join(images.SUFFIXES)}}}")
  names = list(parts[0])
  extra = sorted(set(parts[-1]) - set(names))
  if extra:
    raise UsageError(f"{path / 'test'}: class {extra[0]!r} is not in train; allowed: {', '.join(names)}")
  # all at once, so that both splits agree on colour and size
  files = [f for part in parts for c in part for f in part[c]]
  x = images.decode_all(files, lambda f: Path(f).read_bytes(), size=size)
  y = np.asarray([names.index(c) for part in parts for c in part for _ in part[c]], np.int32)
  first = sum(map(len, parts[0].values()))
  if both:
    splits = [types.split(x[:first], y[:first]), types.split(x[first:], y[first:])]
    options = {"size": size}
  else:
    splits = _hold_out(types.split(x, y), options)
  return types.dataset(path.name, splits[0], splits[1], names, options=options)
