"""Tasks that share their rows and differ in the labels: tables of labels, never copies of the data."""

from __future__ import annotations

import hashlib

import numpy as np


def permuted_labels(classes: int, tasks: int, seed: int) -> np.ndarray:
  """``[T, C]``: each task renames the classes by a permutation of its own, the first too."""
  rng = np.random.default_rng(np.random.SeedSequence([seed, 0x1AB315]))
  return np.stack([rng.permutation(classes) for _ in range(tasks)]).astype(np.int32)


def random_labels(dataset, pool, tasks: int, seed: int):
  """``(dataset, labels [T, R])``: each task draws one of the classes for each of the R rows of ``pool``, uniformly.

  A label by row needs a name for each row: in the returned dataset the class of a row is its place in ``pool``, so that
  a label table of 4 T R bytes is all that the tasks cost. Its test split are the rows of ``pool`` themselves. Rows
  outside the pool are of class 0 and in no task. Random-label tasks measure how much a network can still learn by
  heart (Lyle et al. 2023).
  """
  rng = np.random.default_rng(np.random.SeedSequence([seed, 0x7A2D03]))
  labels = rng.integers(dataset.num_classes, size=(tasks, len(pool)), dtype=np.int32)
  train = dataset.train
  y = np.zeros(len(train.y), np.int32)
  y[pool] = np.arange(len(pool))
  x = train.x if len(pool) == len(train.y) else np.stack([train.x[r] for r in pool])
  test = type(train)(x, np.arange(len(pool), dtype=np.int32), train.id[pool], train.group[pool])
  digest = hashlib.sha256(dataset.digest.encode() + pool.tobytes() + labels.tobytes()).hexdigest()
  names = tuple(f"row {i}" for i in train.id[pool])
  made = dataset._replace(train=train._replace(y=y), test=test, num_classes=len(pool), class_names=names, digest=digest)
  return made, labels
