"""What a dataset is: rows, labels, ids and groups as NumPy arrays, checked at the edge."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from cljax.core.types import UsageError


def first_line(e: Exception) -> str:
  """What an exception of another library says, in one line."""
  return str(e).splitlines()[0][:200] if str(e) else type(e).__name__


def are_classes(y) -> bool:
  """Whether targets are class numbers, one a row."""
  return isinstance(y, np.ndarray) and y.ndim == 1 and np.issubdtype(y.dtype, np.integer)


MOST_CLASSES = 10**6  # each has a name


class Split(NamedTuple):
  """Rows of one split."""

  x: np.ndarray  # [N, ...] uint8 or float32, as stored
  y: np.ndarray  # [N] int32 labels in 0..num_classes-1; real targets: float32 [N] or [N, K]
  id: np.ndarray  # [N] int32 row ids, 0..N-1 in the stored order
  group: np.ndarray  # [N] int32 group or domain of each row (glyphs: the style), else 0


class Dataset(NamedTuple):
  """A dataset in memory; ``x.astype(float32) * scale`` is what a model eats."""

  name: str
  train: Split
  test: Split
  num_classes: int
  class_names: tuple[str, ...]
  group_names: tuple[str, ...]
  scale: float | None  # None: inputs go in as they are (tokens)
  digest: str  # sha256 of contents and options
  held: np.ndarray | None = None  # [N] bool: training rows that the data set itself keeps for validation, or None

  @property
  def has_classes(self) -> bool:
    """Whether a target is a class number; else it is what the objective says: tokens, real numbers."""
    return are_classes(self.train.y)


def split(x, y, group=None) -> Split:
  """Builds a :class:`Split` with ids ``0..N-1`` from ``x [N, ...]``, ``y [N]`` (real targets ``[N]`` or ``[N, K]``) and
  ``group [N]`` (default zeros)."""
  n, y = len(y), np.asarray(y)
  return Split(
    np.ascontiguousarray(x),
    np.asarray(y, np.float32 if np.issubdtype(y.dtype, np.floating) else np.int32),
    np.arange(n, dtype=np.int32),
    np.zeros(n, np.int32) if group is None else np.asarray(group, np.int32),
  )


def held_out(y: np.ndarray, fraction: float, seed: int) -> np.ndarray:
  """A stratified split: a bool mask with ``round(fraction * n_c)`` rows of each class, at least 1, true for test.

  Rows are ranked within their class by uniform draws of PCG64(seed). No class gives all its rows away.
  """
  draw = np.random.Generator(np.random.PCG64(seed)).random(len(y))
  mask = np.zeros(len(y), bool)
  for c in np.unique(y):
    rows = np.flatnonzero(y == c)
    take = min(max(1, round(fraction * len(rows))), len(rows) - 1)
    mask[rows[np.argsort(draw[rows], kind="stable")[:take]]] = True
  return mask


def digest(name: str, options: Mapping[str, Any], train: Split, test: Split, class_names, group_names) -> str:
  """The sha256, in hex, of the contents (values, shapes, dtypes, order) and of the options that made them."""
  head = {"name": name, "options": dict(options), "classes": list(class_names), "groups": list(group_names)}
  h = hashlib.sha256(json.dumps(head, sort_keys=True, default=list).encode())
  for part in (*train, *test):
    h.update(f"{part.dtype.str}{part.shape}".encode())
    h.update(np.ascontiguousarray(part).data)
  return h.hexdigest()


def _check_split(where: str, part: Split, num_classes: int, num_groups: int) -> None:
  n = len(part.x)
  if n == 0:
    raise UsageError(f"{where}: has no rows; at least one is needed")
  if part.x.dtype not in (np.uint8, np.float32):
    raise UsageError(f"{where}.x: dtype is {part.x.dtype}; allowed: uint8, float32")
  real = np.issubdtype(part.y.dtype, np.floating)
  if real and (len(part.y) != n or not np.isfinite(part.y).all()):
    raise UsageError(f"{where}.y: is {part.y.dtype}{list(part.y.shape)}; expected {n} rows of finite numbers")
  for field, top in (("group", num_groups),) if real else (("y", num_classes), ("group", num_groups)):
    values = getattr(part, field)
    if values.shape != (n,):
      raise UsageError(f"{where}.{field}: shape is {values.shape}; x has {n} rows, so it must be ({n},)")
    low, high = int(values.min()), int(values.max())
    if low < 0 or high >= top:
      raise UsageError(f"{where}.{field}: values span {low}..{high}; allowed: 0..{top - 1}")
  if part.x.dtype == np.float32:
    block = max(1, 2**22 // max(1, part.x[0].size))  # a mask of all of it would be a quarter of the data again
    bad = sum(
      int((~np.isfinite(part.x[i : i + block])).any(axis=tuple(range(1, part.x.ndim))).sum())
      for i in range(0, n, block)
    )
    if bad:
      raise UsageError(f"{where}.x: {bad} of {n} rows hold NaN or infinity; every value must be finite")


def dataset(
  name: str,
  train: Split,
  test: Split,
  class_names: Sequence[str],
  *,
  group_names: Sequence[str] = ("all",),
  scale: float | None = None,
  options: Mapping[str, Any] | None = None,
  held: np.ndarray | None = None,
) -> Dataset:
  """Checks the parts and puts them together; real targets have no ``class_names``.

  ``scale`` defaults to 1/255 for uint8 and 1 for float32. Raises :class:`UsageError` for wrong shapes or dtypes, labels
  out of range, NaN or infinity, and an empty split.
  """
  for where, part in (("train", train), ("test", test)):
    _check_split(where, part, len(class_names), len(group_names))
  if train.x.shape[1:] != test.x.shape[1:] or train.x.dtype != test.x.dtype:
    raise UsageError(
      f"test.x: rows are {test.x.dtype} {test.x.shape[1:]}; train.x has {train.x.dtype} {train.x.shape[1:]}"
    )
  if train.y.dtype != test.y.dtype or train.y.shape[1:] != test.y.shape[1:]:
    raise UsageError(
      f"test.y: is {test.y.dtype}{list(test.y.shape)}; train.y is {train.y.dtype}{list(train.y.shape)}, rows must agree"
    )
  if scale is None:
    scale = 1 / 255 if train.x.dtype == np.uint8 else 1.0
  names, groups = tuple(map(str, class_names)), tuple(map(str, group_names))
  more = {} if held is None else {"held": hashlib.sha256(np.packbits(held).tobytes()).hexdigest()}
  sha = digest(name, {**(options or {}), **more}, train, test, names, groups)
  return Dataset(name, train, test, len(names), names, groups, float(scale), sha, held)
