"""What a dataset is: rows, labels, ids and groups as NumPy arrays, checked at the edge."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from cljax.core.types import UsageError


def first_line(e: Exception) -> str:
  """What an exception of another library says, in one line."""
  return str(e).splitlines()[0][:200] if str(e) else type(e).__name__


def are_classes(y) -> bool:
  """Whether targets are class numbers, one a row."""
  return isinstance(y, np.ndarray) and y.ndim == 1 and np.issubdtype(y.dtype, np.integer)


def count(rows) -> int:
  """How many rows an array or a tree of arrays has."""
  return len(jax.tree.leaves(rows)[0])


MOST_CLASSES = 10**6  # each has a name


class Split(NamedTuple):
  """Rows of one split."""

  x: Any  # [N, ...] uint8 or float32, as stored; tokens and ids int32; or a dict of such
  y: Any  # [N] int32 labels in 0..num_classes-1; real targets: float32 [N] or [N, K]; tokens: int32 [N, L]; or a dict
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
  scale: float | None  # None: inputs go in as they are (tokens); of a dict the input 'x' alone is scaled
  digest: str  # sha256 of contents and options
  held: np.ndarray | None = None  # [N] bool: training rows that the data set itself keeps for validation, or None
  tokenizer: str = ""  # of rows of text: 'bytes' or a folder, for cljax.data.tokens.named; else ''

  @property
  def has_classes(self) -> bool:
    """Whether a target is a class number; else it is what the objective says: tokens, real numbers."""
    return are_classes(self.train.y)


def split(x, y, group=None) -> Split:
  """Builds a :class:`Split` with ids ``0..N-1`` from ``x [N, ...]``, ``y [N]`` (real targets ``[N]`` or ``[N, K]``),
  either a dict of such, and ``group [N]`` (default zeros)."""
  number = lambda a: np.asarray(a, np.float32 if np.issubdtype(np.asarray(a).dtype, np.floating) else np.int32)
  y = {k: number(a) for k, a in y.items()} if isinstance(y, dict) else number(y)
  n = count(y)
  return Split(
    jax.tree.map(np.ascontiguousarray, x) if isinstance(x, dict) else np.ascontiguousarray(x),
    y,
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
  sha = _with_contents(head, train, test)
  _HEADS[sha] = head
  return sha


_HEADS: dict[str, dict[str, Any]] = {}  # digest -> what it covers beside the contents, of data sets of this process


def _with_contents(head: Mapping[str, Any], train: Split, test: Split) -> str:
  h = hashlib.sha256(json.dumps(head, sort_keys=True, default=list).encode())
  for part in (*train, *test):
    for key, a in sorted(part.items()) if isinstance(part, dict) else (("", part),):
      h.update(f"{key}{a.dtype.str}{a.shape}".encode())
      h.update(np.ascontiguousarray(a).data)
  return h.hexdigest()


def changed_contents(data: Dataset) -> str:
  """The digest of what the data set holds, where that is no longer what its ``digest`` was made of; else ''.

  Files that are mapped are not read again: nobody writes to them through the data set.
  """
  arrays = jax.tree.leaves((tuple(data.train), tuple(data.test)))
  if data.digest not in _HEADS or any(isinstance(a, np.memmap) for a in arrays):
    return ""
  now = _with_contents(_HEADS[data.digest], data.train, data.test)
  return "" if now == data.digest else now


def first_rows(data: Dataset, train: int, test: int, classes: int, groups: int) -> Dataset:
  """The data set as it was before rows were appended: its first ``train`` and ``test`` rows, ``classes`` and
  ``groups``; with the digest that it had then, where those rows are what they were. UsageError where it has fewer."""
  there = {"training rows": (train, data.train.id), "test rows": (test, data.test.id),
           "classes": (classes, data.class_names), "groups": (groups, data.group_names)}  # fmt: skip
  for what, (had, now) in ((what, (had, len(of))) for what, (had, of) in there.items()):
    if had > now:
      raise UsageError(f"data: has {now} {what}; expected the {had} that there were, or more")
  cut = lambda part, rows: Split(*jax.tree.map(lambda a: a[:rows], tuple(part)))
  held = None if data.held is None else data.held[:train]
  more = {} if held is None else {"held": _of_held(held)}
  options = {**_HEADS.get(data.digest, {}).get("options", {}), **more}
  parts = cut(data.train, train), cut(data.test, test)
  names = data.class_names[:classes], data.group_names[:groups]
  sha = digest(data.name, options, *parts, *names)
  return Dataset(data.name, *parts, classes, *names, data.scale, sha, held, data.tokenizer)


def _of_held(held: np.ndarray) -> str:
  return hashlib.sha256(np.packbits(held).tobytes()).hexdigest()


def _named(where: str, part) -> list[tuple[str, Any]]:
  """``(where, array)`` of an array, or of each of a dict."""
  return [(f"{where}/{k}", a) for k, a in sorted(part.items())] if isinstance(part, dict) else [(where, part)]


def _check_split(where: str, part: Split, num_classes: int, num_groups: int) -> None:
  n = len(part.id)
  if n == 0:
    raise UsageError(f"{where}: has no rows; at least one is needed")
  for name, a in (*_named(f"{where}.x", part.x), *_named(f"{where}.y", part.y)):
    if len(a) != n:
      raise UsageError(f"{name}: shape is {a.shape}; there are {n} rows, so it must be ({n}, ...)")
  for name, x in _named(f"{where}.x", part.x):
    # Whole numbers are tokens or ids: of a dict, or where targets are no classes.
    tokens = () if not isinstance(part.x, dict) and are_classes(part.y) else (np.int32,)
    if x.dtype not in (np.uint8, np.float32, *tokens):
      raise UsageError(f"{name}: dtype is {x.dtype}; allowed: uint8, float32")
  for name, y in _named(f"{where}.y", part.y):
    if np.issubdtype(y.dtype, np.floating) and not np.isfinite(y).all():
      raise UsageError(f"{name}: is {y.dtype}{list(y.shape)}; expected {n} rows of finite numbers")
  for field, top in (("y", num_classes), ("group", num_groups)) if are_classes(part.y) else (("group", num_groups),):
    values = getattr(part, field)
    if values.shape != (n,):
      raise UsageError(f"{where}.{field}: shape is {values.shape}; x has {n} rows, so it must be ({n},)")
    low, high = int(values.min()), int(values.max())
    if low < 0 or high >= top:
      raise UsageError(f"{where}.{field}: values span {low}..{high}; allowed: 0..{top - 1}")
  for name, x in _named(f"{where}.x", part.x):
    _check_finite(name, x)


def _check_finite(name: str, x: np.ndarray) -> None:
  if x.dtype != np.float32:
    return
  n, axes = len(x), tuple(range(1, x.ndim))
  block = max(1, 2**22 // max(1, x[0].size))  # a mask of all of it would be a quarter of the data again
  bad = sum(int((~np.isfinite(x[i : i + block])).any(axis=axes).sum()) for i in range(0, n, block))
  if bad:
    raise UsageError(f"{name}: {bad} of {n} rows hold NaN or infinity; every value must be finite")


def _check_alike(train: Split, test: Split) -> None:
  """Rows of both splits have the same names, shapes and dtypes."""
  for field in ("x", "y"):
    a, b = getattr(train, field), getattr(test, field)
    if isinstance(a, dict) != isinstance(b, dict) or (isinstance(a, dict) and set(a) != set(b)):
      raise UsageError(f"test.{field}: has other arrays than train.{field}; rows must agree")
  for (own, x), (other, given) in zip(_named("train.x", train.x), _named("test.x", test.x), strict=True):
    if x.shape[1:] != given.shape[1:] or x.dtype != given.dtype:
      raise UsageError(f"{other}: rows are {given.dtype} {given.shape[1:]}; {own} has {x.dtype} {x.shape[1:]}")
  for (own, y), (other, given) in zip(_named("train.y", train.y), _named("test.y", test.y), strict=True):
    if y.dtype != given.dtype or y.shape[1:] != given.shape[1:]:
      raise UsageError(
        f"{other}: is {given.dtype}{list(given.shape)}; {own} is {y.dtype}{list(y.shape)}, rows must agree"
      )


def _scale(x) -> float | None:
  """1/255 of bytes, 1 of real numbers, None of tokens and ids; of a dict that of the input 'x'."""
  if isinstance(x, dict):
    return _scale(x["x"]) if "x" in x else None
  return 1 / 255 if x.dtype == np.uint8 else 1.0 if x.dtype == np.float32 else None


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

  ``scale`` defaults to 1/255 for uint8, 1 for float32 and none for whole numbers; of a dict it is that of 'x'.
  Raises :class:`UsageError` for wrong shapes or dtypes, labels out of range, NaN or infinity, and an empty split.
  """
  for where, part in (("train", train), ("test", test)):
    _check_split(where, part, len(class_names), len(group_names))
  _check_alike(train, test)
  scale = _scale(train.x) if scale is None else float(scale)
  names, groups = tuple(map(str, class_names)), tuple(map(str, group_names))
  more = {} if held is None else {"held": _of_held(held)}
  sha = digest(name, {**(options or {}), **more}, train, test, names, groups)
  return Dataset(name, train, test, len(names), names, groups, scale, sha, held)
