"""Labels that are withheld from training: what is learned from has none, what is measured on keeps its own.

A withheld label is not in the run's training rows at all: these are of one more class of the data set, :data:`NAME`,
which has label -1 in every task. So no step, memory or boundary pass can read it. Neither does it decide anything: of
rows without labels, validation rows and thinned rows are drawn by task, not by class. What classes a task is made of is
known, as the field's protocols have it (how many classes are new is given).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from cljax.core.types import UsageError
from cljax.streams.options import is_integer, is_number

NAME = "unlabelled"


def check_labelled(labelled, tasks: int, dataset) -> None:
  """Raises UsageError for a number that is none of tasks, and for a class that has the name of none."""
  if not is_integer(labelled, 0, tasks):
    raise UsageError(f"stream.labelled: got {repr(labelled)[:80]}; expected a number of tasks up to {tasks} (0: all)")
  if labelled and NAME in dataset.class_names:
    raise UsageError(
      f"stream.labelled: the data set has a class {NAME!r}, which is what rows without labels are called"
    )


def check_returning(returning, tasks: int) -> None:
  """Raises UsageError unless the share leaves the first task rows of its own."""
  if not is_number(returning) or returning < 0 or returning * (tasks - 1) >= 1:
    raise UsageError(
      f"stream.returning: got {repr(returning)[:80]}; expected a share of at least 0, below 1 in {tasks - 1} tasks "
      "together"
    )


def returned(train: Sequence[np.ndarray], y, groups, labels, share: float, seed: int) -> tuple[list, np.ndarray]:
  """``(train, labels)`` in which each task has ``floor(share n)`` of the n rows of each class of the tasks before it,
  drawn by the seed, no row in two tasks; the tasks' tables have these classes too."""
  rng = np.random.default_rng(np.random.SeedSequence([seed, 0x2E702]))
  parts: list[list[np.ndarray]] = [[] for _ in groups]
  labels = labels.copy()
  for t, group in enumerate(groups):
    for c in group:
      mine = rng.permutation(train[t][y[train[t]] == c])
      each = int(share * len(mine))
      for later in range(t + 1, len(groups)):
        start = (later - t - 1) * each
        parts[later].append(mine[start : start + each])
        labels[later, c] = labels[t, c]
      parts[t].append(mine[(len(groups) - t - 1) * each :])
  return [np.sort(np.concatenate(part)) for part in parts], labels


def unread(y, train: Sequence[np.ndarray], labelled: int) -> np.ndarray:
  """``[N]``: the classes of rows whose labels are known, and of the others a number of their task's."""
  y, above = np.array(y), int(np.max(y, initial=0)) + 1
  for t in range(labelled, len(train)):
    y[train[t]] = above + t
  return y


def withhold(dataset, train: Sequence[np.ndarray], labels, labelled: int) -> tuple[Any, np.ndarray]:
  """``(dataset, labels [T, C + 1])`` whose training rows of the tasks from ``labelled`` on are of class C, which no
  task labels."""
  y, classes = np.array(dataset.train.y), dataset.num_classes
  for rows in train[labelled:]:
    y[rows] = classes
  digest = hashlib.sha256(dataset.digest.encode() + y.tobytes()).hexdigest()
  made = dataset._replace(
    train=dataset.train._replace(y=y), num_classes=classes + 1, class_names=(*dataset.class_names, NAME), digest=digest
  )
  return made, np.pad(labels, ((0, 0), (0, 1)), constant_values=-1)


def has_label(stream, rows, task) -> np.ndarray:
  """``[N] bool``: whether training rows ``[N]``, as their tasks (``[N]``, or one for all) show them, have a label."""
  if not stream.dataset.has_classes:
    return np.ones(len(rows), bool)
  return np.asarray(stream.labels)[task, stream.dataset.train.y[rows]] >= 0


def unlabelled(stream, t: int) -> np.ndarray:
  """``[len(stream.train[t])] bool``: the training rows of a task that have no label."""
  return ~has_label(stream, stream.train[t], t)


def withheld(stream) -> tuple[int, ...]:
  """The tasks that have training rows without a label."""
  if not stream.dataset.has_classes or not (stream.labels < 0).all(0).any():  # no class is nobody's
    return ()
  return tuple(t for t in range(stream.num_tasks) if unlabelled(stream, t).any())
