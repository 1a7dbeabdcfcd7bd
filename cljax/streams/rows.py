"""Which rows and classes a task gets: subsets, splits by class, held-out rows, the order of tasks."""

from __future__ import annotations

import numpy as np

from cljax.types import UsageError


def balanced(y, rows: int, seed: int) -> np.ndarray:
  """``rows`` row indices, ascending, as equal in number by class as there are rows of them; 0 means all."""
  if not rows or rows >= len(y):
    return np.arange(len(y))
  order = np.random.default_rng(np.random.SeedSequence([seed, 0x5AB5E7])).permutation(len(y))
  rank = np.zeros(len(y), int)
  for c in np.unique(y):
    mine = order[y[order] == c]
    rank[mine] = np.arange(len(mine))
  return np.sort(np.lexsort((y, rank))[:rows])


def of_classes(y, pool, classes) -> np.ndarray:
  """The rows of ``pool`` that are of the given classes, in its order."""
  return pool[np.isin(y[pool], classes)]


def check_edge(validation: float, active: str) -> None:
  if not 0 <= validation < 1:
    raise UsageError(f"stream.validation: got {validation}; expected 0 <= validation < 1")
  if active not in ("all", "seen", "task"):
    raise UsageError(f"stream.active: unknown {active!r}; allowed: all, seen, task")


def check_order(order, tasks: int) -> list[int]:
  """The tasks in the order in which they are learned; each at least once, first met in the order 0, 1, 2, ...

  Methods count tasks, so a task's number has to be that of the tasks met before it.
  """
  order = list(order)
  if not order:
    return list(range(tasks))
  whole = all(isinstance(t, int | np.integer) and not isinstance(t, bool) for t in order)
  if not whole or list(dict.fromkeys(order)) != list(range(tasks)):
    raise UsageError(
      f"stream.order: got {order}; expected each of the tasks 0..{tasks - 1}, first met in that order, such as 0,1,0,2"
    )
  return [int(t) for t in order]


def class_groups(total: int, tasks: int, classes_per_task, class_order) -> list[np.ndarray]:
  """The classes of each task."""
  if class_order is None or (isinstance(class_order, list | tuple) and not len(class_order)):
    order = np.arange(total)
  elif isinstance(class_order, int | np.integer):
    order = np.random.default_rng(np.random.SeedSequence([int(class_order), 0xC1A55])).permutation(total)
  else:
    order = np.asarray(class_order)
    if order.ndim != 1 or len(set(order.tolist())) != len(order) or not np.isin(order, np.arange(total)).all():
      raise UsageError(f"stream.class_order: got {list(class_order)}; expected distinct classes of 0..{total - 1}")
  if isinstance(classes_per_task, int | np.integer):
    sizes = [int(classes_per_task)] * tasks if classes_per_task else []
  else:
    sizes = [int(k) for k in classes_per_task]
  if not sizes:
    if len(order) % tasks:
      raise UsageError(f"stream.tasks: {len(order)} classes do not divide into {tasks} tasks; give classes_per_task")
    sizes = [len(order) // tasks] * tasks
  if len(sizes) != tasks or min(sizes) < 1:
    raise UsageError(f"stream.classes_per_task: got {sizes}; expected {tasks} positive sizes")
  if sum(sizes) > len(order):
    given = f"{tasks} tasks of {sizes[0]} classes" if len(set(sizes)) == 1 else f"tasks of {sizes} classes"
    raise UsageError(f"stream.classes_per_task: {given} need {sum(sizes)} classes; there are {len(order)}")
  return np.split(order[: sum(sizes)], np.cumsum(sizes)[:-1])


def held_rows(y, pool, share: float, seed: int) -> np.ndarray:
  """[N] bool: the validation rows, the same share of each class of ``pool``, fixed by the seed."""
  held = np.zeros(len(y), bool)
  if not share:
    return held
  rng = np.random.default_rng(np.random.SeedSequence([seed, 0x7A11D]))
  order = pool[rng.permutation(len(pool))]
  for c in np.unique(y[pool]):
    rows = order[y[order] == c]
    held[rows[: round(share * len(rows))]] = True
  return held


def thin(train, fractions, seed):
  """The share of its rows that each task keeps."""
  fractions = tuple(fractions)
  if not fractions:
    return train
  if len(fractions) != len(train) or not all(0 < f <= 1 for f in fractions):
    raise UsageError(f"stream.task_fractions: got {fractions}; expected {len(train)} values in (0, 1]")
  rng = np.random.default_rng(np.random.SeedSequence([seed, 0xF4AC]))
  return [
    np.sort(rng.permutation(rows)[: max(1, round(f * len(rows)))]) for rows, f in zip(train, fractions, strict=True)
  ]
