"""A stream from rows that carry a time: earlier rows are learned before later ones."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from cljax.core.types import Forget, UsageError
from cljax.streams.blurry import occurring
from cljax.streams.build import MOST_TASKS, Layout, Stream, assemble
from cljax.streams.options import is_integer
from cljax.streams.rows import check_edge
from cljax.streams.tasks import as_array, check_name
from cljax.streams.views import identity


def from_timestamps(
  x: ArrayLike,
  y: ArrayLike,
  time: ArrayLike,
  *,
  tasks: int = 5,
  boundaries: ArrayLike = (),
  test_fraction: float = 0.2,
  validation: float = 0.1,
  active: str = "all",
  seed: int = 0,
  forget: str | Sequence[tuple[int, Forget]] = "",
  name: str = "timestamps",
) -> Stream:
  """Tasks by time: ``x [N, ...]`` (uint8 or float), labels ``y [N]`` of 0..C-1, ``time [N]`` numbers or datetime64.

  Task ``t`` holds ``boundaries[t-1] <= time < boundaries[t]``; ``boundaries`` are given, ascending, or the quantiles
  that split the rows into ``tasks`` parts as equal as ties allow (rows of one time stay together). ``test_fraction`` of
  each class of each task is its test data, at least one row where there are two. Row ids are positions in ``x``, so
  that ``cljax.Forget(ids=...)`` names the caller's own rows. Raises UsageError for lengths that differ, times that are
  not finite, boundaries that do not ascend, and a task without rows.
  """
  from cljax.data import arrays as data_arrays
  from cljax.data import types as data

  x, y, time = (as_array(what, given) for what, given in (("x", x), ("y", y), ("time", time)))
  x = x.astype(np.float32) if np.issubdtype(x.dtype, np.floating) else x
  if y.ndim != 1 or not np.issubdtype(y.dtype, np.integer) or not len(y) or y.min() < 0:
    raise UsageError(f"y: is {y.dtype}{list(y.shape)}; expected integers [N] of at least 0")
  for what, array in (("x", x), ("time", time)):
    if len(array) != len(y) or (what == "time" and array.ndim != 1):
      raise UsageError(f"{what}: has shape {array.shape}; y has {len(y)} rows")
  if y.max() >= data.MOST_CLASSES:
    raise UsageError(f"y: goes up to {y.max()}; expected labels 0..C-1 of at most {data.MOST_CLASSES} classes")
  check_edge(validation, active)
  data_arrays.check_split({"test_fraction": test_fraction, "seed": seed})
  check_name(name)
  given = isinstance(boundaries, str) or as_array("boundaries", boundaries).size
  when, cuts = _numbers(time, boundaries if given else time[:0])
  if given:
    if cuts.ndim != 1 or (np.diff(cuts) <= 0).any():
      raise UsageError(f"boundaries: got {str(boundaries)[:80]}; expected times that ascend")
  else:
    if not is_integer(tasks, 1, MOST_TASKS):
      raise UsageError(f"tasks: got {tasks!r}; expected an integer of at least 1, at most {MOST_TASKS}")
    # The value at the rank, not an interpolated one: 64-bit integer times would lose digits as floats.
    cuts = np.sort(when)[[-(-len(when) * k // tasks) for k in range(1, tasks)]]
  task = np.searchsorted(cuts, when, side="right")
  classes, count = int(y.max()) + 1, len(cuts) + 1
  in_test = data.held_out(task * classes + y, test_fraction, seed)
  learned, tested = (
    data.split(x[rows], y[rows])._replace(id=rows.astype(np.int32)) for rows in map(np.flatnonzero, (~in_test, in_test))
  )
  dataset = data.dataset(name, learned, tested, [str(c) for c in range(classes)])
  train, test = ([np.flatnonzero(task[part.id] == t) for t in range(count)] for part in (learned, tested))
  labels = occurring(y, [np.flatnonzero(task == t) for t in range(count)], classes)
  layout = Layout(dataset, train, test, labels, classes, identity())
  return assemble(f"{name}/time/{count}", layout, range(count), validation=validation, active=active, seed=seed,
                  forget=forget)  # fmt: skip


def _has_zone(value) -> bool:
  text = isinstance(value, str) and re.search(r"[T ]\d\d.*(Z|[+-]\d\d:?\d\d)$", value.strip()) is not None
  return text or getattr(value, "tzinfo", None) is not None


def _numbers(time: np.ndarray, boundaries) -> tuple[np.ndarray, np.ndarray]:
  """Times and boundaries as numbers that compare as they do, exactly."""
  zoned = [v for v in np.ravel(boundaries).tolist() if _has_zone(v)]
  if zoned:
    raise UsageError(f"boundaries: {str(zoned[0])[:60]} has a time zone, which time does not; expected the same clock")
  if time.dtype.kind == "M":
    try:
      cuts = np.asarray(boundaries)
      cuts = cuts if cuts.dtype.kind in "Mbiuf" else np.asarray(boundaries, "datetime64")
    except ValueError:
      raise UsageError(f"boundaries: got {str(boundaries)[:80]}; expected dates, as time has") from None
    if cuts.dtype.kind != "M":
      raise UsageError(f"boundaries: got {str(boundaries)[:80]}; expected dates, as time is {time.dtype}")
    # The finer of the two units: in the coarser one noon would be midnight.
    unit = np.promote_types(time.dtype, cuts.dtype)
    out = []
    for what, values in (("time", time), ("boundaries", cuts)):
      if np.isnat(values).any():
        raise UsageError(f"{what}: holds a value that is not finite")
      fine = values.astype(unit)
      if (fine.astype(values.dtype) != values).any():
        raise UsageError(f"{what}: holds a time that does not fit into {unit}; expected a coarser unit for both")
      out.append(fine.astype(np.int64))
    return out[0], out[1]
  cuts = np.asarray(boundaries)
  for what, values in (("time", time), ("boundaries", cuts)):
    if values.dtype.kind not in "iuf":
      raise UsageError(f"{what}: dtype is {values.dtype}; expected numbers or datetime64")
    if not np.isfinite(values).all():
      raise UsageError(f"{what}: holds a value that is not finite")
  if time.dtype.kind in "iu":  # in whole numbers, since floats drop digits of large ones: t >= 2.5 is t >= 3
    most = np.iinfo(np.int64).max
    whole = [[math.ceil(v) for v in values.ravel().tolist()] for values in (time, cuts)]
    if max(map(abs, whole[0] + whole[1]), default=0) > most:
      raise UsageError(f"time: holds a number beyond {most}; expected 64-bit integers")
    return np.asarray(whole[0], np.int64), np.asarray(whole[1], np.int64).reshape(cuts.shape)
  return time, cuts
