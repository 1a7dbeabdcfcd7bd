"""The user's own arrays: in memory, in ``.npz`` files, and precomputed embeddings."""

from __future__ import annotations

import functools
import math
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cljax import _old_names
from cljax.core.types import UsageError
from cljax.data import limits, named, types

SPLIT_DEFAULTS: dict[str, Any] = {"test_fraction": 0.2, "seed": 0}
MOST_GROUPS = 10**6  # each has a name
_KEYS = (
  "x_train, y_train, x_test, y_test, or x, y (and group_train, group_test, or group); x_train/NAME and the like for "
  "several arrays"
)


def check_split(given: Mapping[str, Any], defaults: Mapping[str, Any] = SPLIT_DEFAULTS) -> dict[str, Any]:
  """``test_fraction`` and ``seed`` of a held-out split, checked."""
  if not isinstance(given, Mapping) or set(given) - set(defaults):
    shown = ", ".join(map(str, given)) if isinstance(given, Mapping) else f"a {type(given).__name__}"
    raise UsageError(f"options of the split: got {shown[:80]}; allowed: {', '.join(defaults)}")
  o = {**defaults, **given}
  fraction, seed = o["test_fraction"], o["seed"]
  if isinstance(fraction, bool) or not isinstance(fraction, int | float | np.number) or not 0 < fraction < 1:
    raise UsageError(f"test_fraction: got {fraction!r}; allowed: a number between 0 and 1, both excluded")
  if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
    raise UsageError(f"seed: got {seed!r}; allowed: a whole number of at least 0")
  return o | {"test_fraction": float(fraction), "seed": int(seed)}


def _inputs(key: str, given) -> np.ndarray:
  """uint8 and floats pass, floats as float32; ``[N, H, W]`` uint8 gets its channel axis."""
  x = _as_array(key, given)
  if x.dtype != np.uint8 and not np.issubdtype(x.dtype, np.floating):
    raise UsageError(f"{key}: dtype is {x.dtype}; allowed: uint8 or a float type")
  if x.ndim < 2:
    raise UsageError(f"{key}: shape is {x.shape}; allowed: [N, ...] with at least one axis of features")
  if len(x) and not x.size:
    raise UsageError(f"{key}: shape is {x.shape}; allowed: axes of at least 1")
  if x.dtype == np.uint8:
    return x[..., None] if x.ndim == 3 else x
  if x.dtype == np.float32:
    return x
  limits.check_memory(f"{key}: as float32", 4 * x.size, "store it as float32")
  with np.errstate(over="ignore"):
    return x.astype(np.float32)  # what overflows becomes infinite and is refused by types.dataset


def _integers(key: str, given, rows: int) -> np.ndarray:
  values = _as_array(key, given)
  if not np.issubdtype(values.dtype, np.integer):
    raise UsageError(f"{key}: dtype is {values.dtype}; allowed: an integer type")
  if values.shape != (rows,):
    several = "; several targets a row are floats, labels 0.0 or 1.0" if key.startswith("y") and values.ndim > 1 else ""
    raise UsageError(f"{key}: shape is {values.shape}; allowed: ({rows},), one for each row of x{several}")
  if len(values) and (values.min() < 0 or values.max() >= 2**31):
    raise UsageError(f"{key}: values span {values.min()}..{values.max()}; allowed: 0..2147483647")
  return values.astype(np.int32)


def _targets(key: str, given, rows: int) -> np.ndarray:
  """Class numbers, one a row; or real numbers, ``[N]`` or ``[N, ...]`` float."""
  values = _as_array(key, given)
  if np.issubdtype(values.dtype, np.integer):
    return _integers(key, values, rows)
  if not np.issubdtype(values.dtype, np.floating):
    raise UsageError(
      f"{key}: dtype is {values.dtype}; allowed: whole numbers or words (classes), or floats (real targets, or labels "
      "0.0 and 1.0)"
    )
  if len(values.shape) < 1 or len(values) != rows or not values.size:
    raise UsageError(f"{key}: shape is {values.shape}; allowed: ({rows}, ...), real numbers for each row of x")
  bad = int((~np.isfinite(values)).reshape(rows, -1).any(1).sum())
  if bad:
    raise UsageError(f"{key}: {bad} of {rows} rows hold NaN or infinity; every value must be finite")
  return values.astype(np.float32)


def _as_array(key: str, given) -> np.ndarray:
  try:
    return np.asarray(given)
  except Exception as e:  # rows of several lengths, and what other libraries' arrays raise
    raise UsageError(f"{key}: got a {type(given).__name__} that is no array ({types.first_line(e)})") from None


def _numbered(ends, arrays: Mapping[str, Any]) -> tuple[Mapping[str, Any], list[str]]:
  """Labels that are words, or whole numbers other than 0..C-1, as places in their sorted list, which names the classes;
  ``[]`` where labels are places already, or no classes."""
  found = {f"y{end}": _as_array(f"y{end}", arrays[f"y{end}"]) for end in ends}
  values = found[f"y{ends[0]}"]
  words = all(v.dtype.kind == "U" or (v.dtype.kind == "O" and all(isinstance(s, str) for s in v.flat))
              for v in found.values())  # fmt: skip
  whole = all(np.issubdtype(v.dtype, np.integer) for v in found.values())
  if not (words or whole) or any(v.ndim != 1 or not v.size for v in found.values()):
    return arrays, []
  present = np.unique(values.astype(str) if words else values)
  if whole and (present[0] < 0 or np.array_equal(present, np.arange(len(present)))):
    return arrays, []
  out = dict(arrays)
  for key, given in found.items():
    given = given.astype(str) if words else given
    place = np.minimum(np.searchsorted(present, given), len(present) - 1)
    lost = given[present[place] != given]
    if len(lost):
      raise UsageError(f"{key}: {str(lost[0])!r} has no row in y{ends[0]}; allowed: classes that are trained on")
    out[key] = place.astype(np.int32)
  return out, [str(v) for v in present]


def _dense(key: str, values: np.ndarray) -> int:
  """The number of classes; every one of them must have a training row."""
  present = np.unique(values)
  if len(present) != present[-1] + 1:
    first = int(np.flatnonzero(present != np.arange(len(present)))[0])
    raise UsageError(
      f"{key}: labels span 0..{present[-1]} but {first} has no row; allowed: 0..C-1, each with a row in train"
    )
  return len(present)


def from_arrays(name: str, arrays: Mapping[str, Any], given: Mapping[str, Any] | None = None) -> types.Dataset:
  """A dataset from ``x_train, y_train, x_test, y_test``, or from ``x, y`` with a stratified held-out split.

  Each is an array or what NumPy makes one of (plain lists; inputs as floats, since whole numbers would be read as
  int64); ``group`` likewise. A ``y`` of floats, ``[N]`` or ``[N, K]``, holds real targets: there are no classes, and
  what is held out is the same share of each group. Labels that are words, or whole numbers other than 0..C-1, are
  classes in sorted order, which keep their names. ``given``: options of the split, ``test_fraction`` and ``seed``.

  Keys ``x_train/NAME`` or ``y_train/NAME`` make a dict of arrays with equal numbers of rows. Whole numbers stay so
  (tokens, ids): in a dict, and as one array where targets are no classes. Rows of uneven length, lists of whole numbers
  or one flat array with ``KEY.lengths [N]``, are padded to the longest (:func:`cljax.data.named.sides`): inputs get a
  ``mask``, targets of a dict a ``weight``, targets of one array -1 where there is no token.
  """
  if not isinstance(name, str):
    raise UsageError(
      f"name: got a {type(name).__name__}; allowed: a text, before the arrays: from_arrays('mine', arrays)"
    )
  if not isinstance(arrays, Mapping):
    raise UsageError(f"{name}: got a {type(arrays).__name__}; allowed: a mapping of {_KEYS}")
  options = check_split({} if given is None else given)
  both = named.there("x_train", arrays)
  ends = ("_train", "_test") if both else ("",)
  for key in (f"{side}{end}" for end in ends for side in "xy"):
    if not named.there(key, arrays):
      raise UsageError(f"{name}: lacks {key!r}, has {', '.join(arrays) or 'nothing'}; allowed: {_KEYS}")
  class_names: list[str] = []
  if named.several(arrays):
    xs, ys = ([*_forms(side, ends, arrays)] for side in "xy")
  else:
    arrays, class_names = _numbered(ends, arrays)
    xs = [_inputs(f"x{end}", arrays[f"x{end}"]) for end in ends]
    ys = [_targets(f"y{end}", arrays[f"y{end}"], len(x)) for end, x in zip(ends, xs, strict=True)]
  parts = []
  for end, x, y in zip(ends, xs, ys, strict=True):
    rows, group = types.count(x), arrays.get(f"group{end}")
    if types.count(y) != rows:
      raise UsageError(f"y{end}: has {types.count(y)} rows; x{end} has {rows}")
    parts.append(types.split(x, y, None if group is None else _integers(f"group{end}", group, rows)))
  if not len(parts[0].id):
    raise UsageError(f"{'x_train' if both else 'x'}: has no rows; at least one is needed")
  if both and types.are_classes(parts[0].y) != types.are_classes(parts[1].y):
    raise UsageError(
      f"y_test: dtype is {parts[1].y.dtype}; y_train has {parts[0].y.dtype}: both integers, or both floats"
    )
  if not both:
    parts = hold_out(parts[0], options)
  else:
    options = {}  # the split is given, so the options that would make one are not part of the contents
  classes = _dense("y_train" if both else "y", parts[0].y) if types.are_classes(parts[0].y) else 0
  groups = 1 + max(int(p.group.max(initial=0)) for p in parts)
  if groups > MOST_GROUPS:
    raise UsageError(f"group: values go up to {groups - 1}; allowed: below {MOST_GROUPS}, such as 0..G-1")
  names = class_names or [str(c) for c in range(classes)]
  return types.dataset(name, parts[0], parts[-1], names, group_names=[str(g) for g in range(groups)], options=options)


def _forms(side: str, ends, arrays: Mapping[str, Any]) -> list[Any]:
  """The sides of :mod:`cljax.data.named`; class numbers and the input 'x' are checked as they are elsewhere."""
  out = []
  for end, found in zip(ends, named.sides(side, ends, arrays), strict=True):
    key = f"{side}{end}"
    if isinstance(found, dict):
      found = {**found, "x": _ids(f"{key}/x", found["x"])} if side == "x" and "x" in found else found
    elif side == "x":
      found = _ids(key, found)
    elif found.ndim == 1 or not named.whole(found):
      found = _targets(key, found, len(found))
    out.append(found)
  return out


def _ids(key: str, x: np.ndarray) -> np.ndarray:
  """Whole numbers as they are (tokens, ids), beside targets that are no classes; all else as elsewhere."""
  if x.dtype == np.uint8 or not named.whole(x):
    return _inputs(key, x)
  if x.ndim < 2:
    raise UsageError(f"{key}: shape is {x.shape}; allowed: [N, ...] with at least one axis of features")
  return x


def hold_out(every: types.Split, options: Mapping[str, Any]) -> list[types.Split]:
  size = sum(a.nbytes for a in jax.tree.leaves(every.x))
  limits.check_memory("x: divided into train and test", size, "give x_train and x_test")
  named = types.are_classes(every.y)
  test = types.held_out(every.y if named else every.group, options["test_fraction"], options["seed"])
  if not test.any():
    raise UsageError(
      f"y: no {'class' if named else 'group'} has two rows, so none can be held out; allowed: give x_test and y_test"
    )
  cut = lambda m: jax.tree.map(lambda a: a[m], (every.x, every.y, every.group))
  return [types.split(*cut(m)) for m in (~test, test)]


MAPPED = 2**28  # bytes from which on a file's array is mapped, not read


def read_npz(path: Path) -> dict[str, np.ndarray]:
  """All arrays of an ``.npz`` file; pickled objects are refused.

  Large arrays that are stored uncompressed (``np.savez``) are mapped: their pages are read as rows are.
  """
  try:
    archive = np.load(path, allow_pickle=False)
    if not isinstance(archive, np.lib.npyio.NpzFile):
      raise ValueError("it is one array, not an archive of arrays")
    with archive:
      return {k: _member(path, archive, k) for k in archive.files}
  except UsageError:
    raise
  except Exception as e:  # a damaged file makes zip and NumPy raise whatever they come upon
    raise UsageError(f"{path}: cannot be read as .npz ({types.first_line(e)})") from None


def _member(path: Path, archive, key: str) -> np.ndarray:
  info = archive.zip.getinfo(key if key in archive.zip.namelist() else f"{key}.npy")
  if info.compress_type == zipfile.ZIP_STORED and info.file_size >= MAPPED:
    return _mapped(path, info)
  limits.check_memory(f"{path}: {key}", info.file_size, "store it with np.savez, uncompressed, so that it is mapped")
  return _array(key, functools.partial(archive.__getitem__, key))


def _mapped(path: Path, info: zipfile.ZipInfo) -> np.ndarray:
  """An uncompressed member, mapped; its checksum is verified as ``zipfile`` would."""
  with open(path, "rb") as f:
    f.seek(info.header_offset + 26)
    name, extra = struct.unpack("<HH", f.read(4))
    begin = info.header_offset + 30 + name + extra
    f.seek(begin)
    version = np.lib.format.read_magic(f)
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = header(f)
    at = f.tell()
  if dtype.hasobject:
    raise UsageError(f"{info.filename}: holds Python objects, which are never unpickled; allowed: numeric arrays")
  whole = np.memmap(path, np.uint8, "r", begin, (info.file_size,))
  crc = 0
  for i in range(0, len(whole), 2**24):
    crc = zlib.crc32(whole[i : i + 2**24].data, crc)
  if crc != info.CRC or at - begin + math.prod(shape) * dtype.itemsize != info.file_size:
    raise ValueError(f"{info.filename} has a bad checksum or size")
  return np.memmap(path, dtype, "r", at, shape, "F" if fortran else "C")


def _array(key: str, read: Callable[[], np.ndarray]) -> np.ndarray:
  try:
    return read()
  except ValueError as e:
    if "allow_pickle" in str(e):
      raise UsageError(f"{key}: holds Python objects, which are never unpickled; allowed: numeric arrays") from None
    raise


def load_npz(path: Path, given: Mapping[str, Any]) -> types.Dataset:
  """An ``.npz`` file: x uint8 (scaled by 1/255) or float (kept as float32), y integers 0..C-1 or floats (real
  targets)."""
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
    mode: Any = "r" if path.stat().st_size >= MAPPED else None
    return _array(path.name, lambda: np.load(path, mmap_mode=mode, allow_pickle=False))
  except UsageError:
    raise
  except Exception as e:
    raise UsageError(f"{path}: cannot be read as .npy ({types.first_line(e)})") from None


__getattr__ = _old_names.from_module(__name__)
