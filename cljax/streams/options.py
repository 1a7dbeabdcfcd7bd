"""Which options each kind of stream reads."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from cljax.core.types import UsageError

_ALL = ("tasks", "task_fractions", "active", "seed", "forget", "rows", "input_noise", "reserve_tasks", "reserve_rows")
_MEASURED = (*_ALL, "validation", "order", "label_noise")
_GROUPED = (*_MEASURED, "appended")
_CLASSES = (*_GROUPED, "classes_per_task", "class_order", "reserve_classes", "per_seed")
_BY_TASK = (*_CLASSES, "labelled", "returning")
_BLURRY = (*_MEASURED, "disjoint", "blurry", "reserve_classes")

READS: dict[str, tuple[str, ...]] = {
  "class": _BY_TASK,
  "task": _CLASSES,
  "domain": _CLASSES,
  "group": _GROUPED,
  "instance": (*_MEASURED, "per_seed"),
  "permuted": (*_MEASURED, "per_seed"),
  "rotated": (*_MEASURED, "angles", "per_seed"),
  "label_permuted": (*_MEASURED, "per_seed"),
  "label_random": (*_ALL, "order"),
  "si_blurry": _BLURRY,
  "i_blurry": _BLURRY,
  "scole": (*_ALL, "validation", "label_noise", "classes_per_task", "class_weights"),
}

WITHOUT_CLASSES = ("group", "instance", "permuted", "rotated")  # kinds that data without classes have, too
_BY_CLASS = ("label_noise",)


def check_classes(kind: str, options: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
  """Refuses what needs classes, of data that have none."""
  if kind not in WITHOUT_CLASSES:
    raise UsageError(
      f"stream.kind: {kind!r} needs classes, which the data do not have; allowed: {', '.join(WITHOUT_CLASSES)}"
    )
  for name in _BY_CLASS:
    if is_given(options[name], defaults[name]) and np.any(options[name]):
      raise UsageError(f"stream.{name}: got {repr(options[name])[:80]}; it needs classes, which the data do not have")


def plain(value: Any) -> Any:
  """NumPy's arrays and scalars as Python's lists and numbers: one kind of value to check, shown in one line."""
  return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


def is_number(value: Any) -> bool:
  """Whether this is a finite number, no bool."""
  if not isinstance(value, int | float | np.number) or isinstance(value, bool):
    return False
  try:
    return math.isfinite(value)
  except (OverflowError, TypeError):  # an int beyond floats; a complex one
    return False


def is_integer(value: Any, low: int, high: int = 2**63 - 1) -> bool:
  return isinstance(value, int | np.integer) and not isinstance(value, bool) and bool(low <= value <= high)


def is_given(value: Any, default: Any) -> bool:
  """Whether a value says anything: it is neither the default nor, where the default is nothing, empty or 0."""
  if default is None or default == () or default == "":
    empty = hasattr(value, "__len__") and not len(value)
    return not (value is None or empty or (default == () and not hasattr(value, "__len__") and not value))
  return hasattr(value, "__len__") or value != default


def check_read(kind: str, options: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
  """Refuses options that are given but not read by this kind of stream, with the kinds that read them."""
  for name, value in options.items():
    if name in READS[kind] or not is_given(value, defaults[name]):
      continue
    if name == "validation" and not hasattr(value, "__len__") and value == 0:
      continue  # as it is
    readers = ", ".join(k for k, read in READS.items() if name in read)
    raise UsageError(f"stream.{name}: got {repr(value)[:80]}, which kind {kind!r} does not read; read by: {readers}")
