"""Noisy training rows: wrong labels and perturbed inputs. What a run is measured on stays clean."""

from __future__ import annotations

import hashlib

import numpy as np

from cljax.core.types import UsageError
from cljax.streams.options import is_number, plain


def corrupt(dataset, train, labels, label_noise, input_noise, seed: int):
  """The dataset with noise on the training rows of the tasks; the dataset itself where there is none.

  Of ``n`` rows exactly ``round(label_noise * n)`` get another class, drawn uniformly from the others of their task
  (symmetric noise); inputs get ``input_noise * N(0, 1)``, in units of ``x * scale``; uint8 is rounded and clipped.
  A row that several tasks share is as noisy in all of them. Costs one copy of the labels or of the inputs. Raises
  UsageError for values outside [0, 1] or below 0, for one value a task where tasks share rows, and for label noise
  where they share rows but not classes.
  """
  tasks = len(train)
  flips, spreads = _levels("label_noise", label_noise, tasks), _levels("input_noise", input_noise, tasks)
  if max(flips) > 1:
    raise UsageError(f"stream.label_noise: got {max(flips)}; expected a share between 0 and 1")
  if not any(flips) and not any(spreads):
    return dataset
  parts = _parts(train, labels, flips, spreads)
  rng = np.random.default_rng(np.random.SeedSequence([seed, 0x2015E]))
  split = dataset.train
  digest = hashlib.sha256(dataset.digest.encode())
  if any(flips):
    y = split.y.copy()
    for rows, classes, flip, _ in parts:
      wrong = rng.permutation(rows)[: round(flip * len(rows))]
      if len(wrong) and len(classes) < 2:
        raise UsageError(f"stream.label_noise: a task has {len(classes)} class; a wrong label needs another one")
      place = np.searchsorted(classes, y[wrong])
      y[wrong] = classes[(place + rng.integers(1, max(2, len(classes)), len(wrong))) % len(classes)]
    split = split._replace(y=y)
    digest.update(y.tobytes())
  if any(spreads):
    if not hasattr(split.x, "shape") or dataset.scale is None:
      raise UsageError("stream.input_noise: is added to inputs that are one array of numbers; these are others")
    x = np.array(split.x)
    for rows, _, _, spread in parts:
      shown = x[rows] + spread / dataset.scale * rng.standard_normal((len(rows), *x.shape[1:]), np.float32)
      x[rows] = np.clip(np.round(shown), 0, 255) if x.dtype == np.uint8 else shown
    split = split._replace(x=x)
    digest.update(x.tobytes())
  return dataset._replace(train=split, digest=digest.hexdigest())


def _levels(name: str, given, tasks: int) -> list[float]:
  """The noise of each task."""
  given = plain(given)
  levels = [given] * tasks if is_number(given) else list(given) if isinstance(given, list | tuple) else [given]
  levels = levels or [0.0] * tasks
  if len(levels) != tasks or not all(is_number(v) and v >= 0 for v in levels):
    said = f"got {repr(given)[:80]}; expected a number of at least 0, or one for each of {tasks} tasks"
    raise UsageError(f"stream.{name}: {said}")
  return levels


def _parts(train, labels, flips, spreads):
  """``(rows, their task's dataset classes, label noise, input noise)`` of disjoint sets of rows."""
  classes = [np.flatnonzero(row >= 0) for row in labels]
  every = np.unique(np.concatenate(list({id(rows): rows for rows in train}.values())))
  if sum(len(rows) for rows in train) == len(every):
    return list(zip(train, classes, flips, spreads, strict=True))
  for name, levels in (("label_noise", flips), ("input_noise", spreads)):
    if len(set(levels)) > 1:
      raise UsageError(f"stream.{name}: got {levels}; the tasks share rows, so expected one number")
  if any(flips) and any(not np.array_equal(c, classes[0]) for c in classes):
    raise UsageError("stream.label_noise: the tasks share rows but not classes, so no wrong label fits them all")
  return [(every, classes[0], flips[0], spreads[0])]
