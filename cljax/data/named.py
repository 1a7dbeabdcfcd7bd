"""Inputs and targets of other forms than one array a side: several arrays by name, rows of uneven length, tokens.

A side is what stands under ``x_train``, ``y_train``, ...: one array, or ``x_train/NAME`` for each array of a dict.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from cljax.core.types import UsageError
from cljax.data import limits, types

LENGTHS = ".lengths"


class Uneven(NamedTuple):
  """Rows of several lengths, one behind the other."""

  flat: np.ndarray  # [sum of lengths]
  lengths: np.ndarray  # [N]

  def __len__(self) -> int:
    return len(self.lengths)


def there(key: str, arrays: Mapping[str, Any]) -> bool:
  """Whether a side is given at all, in any form."""
  return key in arrays or any(k.startswith(f"{key}/") for k in arrays)


def several(arrays: Mapping[str, Any]) -> bool:
  """Whether any side is of one of the forms of this module."""
  keys = tuple(f"{s}{end}" for s in "xy" for end in ("", "_train", "_test"))
  if any(k.startswith(tuple(f"{s}/" for s in keys)) for k in arrays) or any(s + LENGTHS in arrays for s in keys):
    return True
  uneven = [s for s in keys if isinstance(arrays.get(s), list | tuple) and _uneven_list(arrays[s])]
  return bool(uneven) or any(_tokens(arrays, end) for end in ("", "_train"))


def _tokens(arrays: Mapping[str, Any], end: str) -> bool:
  """Whether inputs are whole numbers and targets no class numbers: tokens, ids."""
  try:
    x, y = (np.asarray(arrays[f"{side}{end}"]) for side in "xy")
  except Exception:  # what is not there or no array is refused where it is read
    return False
  return whole(x) and x.dtype != np.uint8 and (y.ndim > 1 or np.issubdtype(y.dtype, np.floating))


def whole(a) -> bool:
  return np.issubdtype(a.dtype, np.integer)


def _uneven_list(given: Sequence) -> bool:
  lengths = {len(row) if hasattr(row, "__len__") else -1 for row in given}
  return len(lengths) > 1


def sides(side: str, ends: Sequence[str], arrays: Mapping[str, Any]) -> list[Any]:
  """What stands under a side in each of ``ends`` ('_train', '_test'): an array or a dict, padded to one length.

  Of rows of uneven length inputs become ``{name: [N, L], 'mask': [N, L] uint8}`` with 0 behind a row's end and 1 in the
  mask where something stands; targets one array with -1 there, of a dict 0 with ``weight`` 0 there. One array of inputs
  becomes the dict's 'token'. UsageError for names that differ between ends, one array beside named ones, row counts
  that differ, and lengths that do not fit.
  """
  found = [_found(f"{side}{end}", arrays) for end in ends]
  first = found[0]
  for end, other in zip(ends[1:], found[1:], strict=True):
    if set(other) != set(first):
      shown = lambda names: ", ".join(n or "one array" for n in sorted(names))
      raise UsageError(
        f"{side}{end}: has {shown(other)}; {side}{ends[0]} has {shown(first)}: the same names are needed"
      )
  uneven = [n for n in first if any(isinstance(part[n], Uneven) for part in found)]
  rows = [{n: _as_uneven(f"{side}{end}", a) if n in uneven else a for n, a in part.items()}
          for end, part in zip(ends, found, strict=True)]  # fmt: skip
  width = max((int(part[n].lengths.max(initial=1)) for part in rows for n in uneven), default=0)
  return [_side(side, f"{side}{end}", part, uneven, width) for end, part in zip(ends, rows, strict=True)]


def _found(key: str, arrays: Mapping[str, Any]) -> dict[str, Any]:
  """``{name: array or Uneven}`` of a side; of one array the name is ''."""
  names = {k[len(key) + 1 :]: k for k in arrays if k.startswith(f"{key}/")}
  for name, whole_key in names.items():
    if not name.removesuffix(LENGTHS) or "/" in name:
      raise UsageError(f"{whole_key}: is no name; allowed: {key}/NAME, without a further slash")
  if key in arrays:
    if names:
      raise UsageError(f"{key}: stands beside {next(iter(names.values()))}; allowed: one array, or arrays by name")
    names = {"": key} | ({LENGTHS: key + LENGTHS} if key + LENGTHS in arrays else {})
  out: dict[str, Any] = {}
  for name, whole_key in names.items():
    if name.endswith(LENGTHS):
      if name.removesuffix(LENGTHS) not in names:
        raise UsageError(f"{whole_key}: are the lengths of {whole_key.removesuffix(LENGTHS)}, which is not there")
      continue
    lengths = names.get(name + LENGTHS)
    out[name] = _rows(whole_key, arrays[whole_key], None if lengths is None else arrays[lengths])
  counts = {n: len(a) for n, a in out.items()}
  for name, count in counts.items():
    if count != next(iter(counts.values())):
      raise UsageError(f"{key}/{name}: has {count} rows; {key}/{next(iter(counts))} has {next(iter(counts.values()))}")
  return dict(sorted(out.items()))


def _array(key: str, given) -> np.ndarray:
  try:
    a = np.asarray(given)
  except Exception as e:  # rows of several shapes, and what other libraries' arrays raise
    raise UsageError(f"{key}: got a {type(given).__name__} that is no array ({types.first_line(e)})") from None
  if not a.ndim or (len(a) and not a.size):
    raise UsageError(f"{key}: shape is {a.shape}; allowed: [N, ...] with axes of at least 1")
  if a.dtype == bool:
    return a.astype(np.uint8)
  if whole(a):
    return _int32(key, a) if a.dtype != np.uint8 else a
  if not np.issubdtype(a.dtype, np.floating):
    raise UsageError(f"{key}: dtype is {a.dtype}; allowed: an integer type, bool or a float type")
  with np.errstate(over="ignore"):
    return a.astype(np.float32, copy=False)  # what overflows becomes infinite and is refused by types.dataset


def _int32(key: str, a: np.ndarray) -> np.ndarray:
  if len(a) and (a.min() < -(2**31) or a.max() >= 2**31):
    raise UsageError(f"{key}: values span {a.min()}..{a.max()}; allowed: those of 32 bits")
  return a.astype(np.int32, copy=False)


def _rows(key: str, given, lengths) -> np.ndarray | Uneven:
  if lengths is None and isinstance(given, list | tuple) and _uneven_list(given):
    listed = [row if hasattr(row, "__len__") else [row] for row in given]
    parts = [_array(f"{key}[{i}]", row) if len(row) else np.zeros(0, np.int32) for i, row in enumerate(listed)]
    wrong = next((i for i, part in enumerate(parts) if part.ndim != 1), None)
    if wrong is not None:
      raise UsageError(f"{key}[{wrong}]: shape is {parts[wrong].shape}; allowed where rows are uneven: [L]")
    kind = np.float32 if any(part.dtype == np.float32 for part in parts) else np.int32
    return Uneven(np.concatenate(parts).astype(kind), np.array([*map(len, parts)]))
  a = _array(key, given)
  if lengths is None:
    return a
  sizes = np.asarray(lengths)
  if sizes.ndim != 1 or not whole(sizes) or (len(sizes) and sizes.min() < 0) or a.ndim != 1 or sizes.sum() != len(a):
    raise UsageError(
      f"{key}{LENGTHS}: are {sizes.dtype}{list(sizes.shape)} with the sum {sizes.sum()}; allowed: whole numbers of at "
      f"least 0, one for each row, that add up to the length of {key}, {a.shape}"
    )
  return Uneven(a.astype(np.int32) if a.dtype == np.uint8 else a, sizes.astype(np.int64))


def _as_uneven(key: str, a) -> Uneven:
  if isinstance(a, Uneven):
    return a
  if a.ndim != 2:
    raise UsageError(f"{key}: shape is {a.shape}; rows of the other split are of uneven length, so allowed: [N, L]")
  return Uneven(a.reshape(-1), np.full(len(a), a.shape[1]))


def _padded(key: str, rows: Uneven, width: int, fill) -> tuple[np.ndarray, np.ndarray]:
  """``([N, width], mask)``."""
  limits.check_memory(f"{key}: padded to {width}", 5 * width * len(rows), "cut long rows into several")
  mask = np.arange(width) < rows.lengths[:, None]
  out = np.full(mask.shape, fill, rows.flat.dtype)
  out[mask] = rows.flat
  return out, mask


def _side(side: str, key: str, rows: dict[str, Any], uneven: list[str], width: int) -> Any:
  if not uneven:
    return rows.get("", rows)
  lengths = rows[uneven[0]].lengths
  for name in uneven[1:]:
    if not np.array_equal(rows[name].lengths, lengths):
      row = int(np.flatnonzero(rows[name].lengths != lengths)[0])
      raise UsageError(
        f"{key}/{name}: row {row} has length {rows[name].lengths[row]}; in {key}/{uneven[0]} it has {lengths[row]}"
      )
  if "" in rows:
    if not whole(rows[""].flat):
      raise UsageError(f"{key}: rows of uneven length are {rows[''].flat.dtype}; allowed: whole numbers (tokens)")
    padded, mask = _padded(key, rows[""], width, -1 if side == "y" else 0)
    return padded if side == "y" else {"token": padded, "mask": mask.astype(np.uint8)}
  out = {n: _padded(f"{key}/{n}", a, width, 0)[0] if n in uneven else a for n, a in rows.items()}
  mask, name = np.arange(width) < lengths[:, None], "mask" if side == "x" else "weight"
  if side == "y" and name in out:
    if out[name].shape != mask.shape:
      raise UsageError(f"{key}/{name}: shape is {out[name].shape}; allowed: {mask.shape}, one for each token")
    return {**out, name: out[name].astype(np.float32) * mask}
  if name in out:
    raise UsageError(f"{key}/{name}: is made from the lengths of {key}/{uneven[0]}; leave it out")
  return dict(sorted({**out, name: mask.astype(np.uint8 if side == "x" else np.float32)}.items()))
