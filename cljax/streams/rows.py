"""Which rows and classes a task gets: subsets, splits by class, held-out rows, the order of tasks."""

from __future__ import annotations

import itertools
from typing import Any

import jax
import numpy as np

from cljax.core.types import UsageError
from cljax.data.types import are_classes, count
from cljax.streams.class_names import class_places
from cljax.streams.class_orders import known_order
from cljax.streams.options import is_integer, is_number

ACTIVE = ("all", "seen", "task")


def balanced(y, rows: int, seed: int) -> np.ndarray:
  """``rows`` row indices, ascending, as equal in number by class as there are rows of them; 0 means all. Of targets
  that are no classes, any rows."""
  size = count(y)
  if not rows or rows >= size:
    return np.arange(size)
  order = np.random.default_rng(np.random.SeedSequence([seed, 0x5AB5E7])).permutation(size)
  if not are_classes(y):
    return np.sort(order[:rows])
  rank = np.zeros(len(y), int)
  for c in np.unique(y):
    mine = order[y[order] == c]
    rank[mine] = np.arange(len(mine))
  return np.sort(np.lexsort((y, rank))[:rows])


def at_most(rows: np.ndarray, y: Any, most: int, seed: int) -> np.ndarray:
  """At most ``most`` of the positions ``rows``, ascending, drawn by class as :func:`balanced` does; ``y`` are the
  labels of all rows, and 0 means all."""
  rows = np.sort(np.asarray(rows))
  return rows[balanced(jax.tree.map(lambda a: np.asarray(a)[rows], y), most, seed)]


def strata(dataset) -> np.ndarray:
  """``[N]``: what training rows are held out by the same share of: their class, or their group where none has one."""
  return dataset.train.y if dataset.has_classes else dataset.train.group


def outputs(dataset) -> int:
  """What a model gives: a number for each class, else for each token up to the largest, else for each target of a
  row."""
  if dataset.num_classes:
    return dataset.num_classes
  whole = lambda a: np.issubdtype(a.dtype, np.integer)
  targets = jax.tree.leaves((dataset.train.y, dataset.test.y))
  if not any(map(whole, targets)):
    return sum(int(np.prod(a.shape[1:])) for a in jax.tree.leaves(dataset.train.y))
  inputs = [s.x.get("token", s.x.get("x")) if isinstance(s.x, dict) else s.x for s in (dataset.train, dataset.test)]
  return 1 + max(int(a.max()) for a in (*targets, *inputs) if a is not None and whole(a) and a.dtype != np.uint8)


def domains(stream) -> list[str]:
  """Of each task the name of the dataset's group that its test rows are of; empty unless each has one of its own."""
  names, group = stream.dataset.group_names, stream.dataset.test.group
  of_tasks = [np.unique(group[np.asarray(rows, int)]) for rows in stream.test]
  if len(names) < 2 or any(len(own) != 1 for own in of_tasks) or len({int(own[0]) for own in of_tasks}) < len(of_tasks):
    return []
  return [str(names[int(own[0])]) for own in of_tasks]


def of_classes(y, pool, classes) -> np.ndarray:
  """The rows of ``pool`` that are of the given classes, in its order."""
  return pool[np.isin(y[pool], classes)]


def check_edge(validation: float, active: str) -> None:
  if not is_number(validation) or not 0 <= validation < 1:
    raise UsageError(f"stream.validation: got {repr(validation)[:80]}; expected 0 <= validation < 1")
  if not isinstance(active, str) or active not in ACTIVE:
    raise UsageError(f"stream.active: unknown {repr(active)[:80]}; allowed: {', '.join(ACTIVE)}")


def check_order(order, tasks: int) -> list[int]:
  """The tasks in the order in which they are learned; those that are left out never are."""
  order = list(order) if isinstance(order, list | tuple | range) else [order]
  if not order:
    return list(range(tasks))
  if not all(is_integer(t, 0) for t in order) or not set(order) <= set(range(tasks)):
    raise UsageError(f"stream.order: got {repr(order)[:80]}; expected tasks of 0..{tasks - 1}, such as 1,0,1,2")
  return [int(t) for t in order]


def class_groups(names, tasks: int, classes_per_task, class_order) -> list[np.ndarray]:
  """The classes of each task; ``names [C]`` are what the data set calls them."""
  total = len(names)
  class_order = known_order(names, class_order) or class_order
  if class_order is None or (isinstance(class_order, list | tuple | str) and not class_order):
    order = np.arange(total)
  elif isinstance(class_order, int | np.integer) and not isinstance(class_order, bool):
    if class_order < 0:
      raise UsageError(f"stream.class_order: got {class_order}; expected a seed of at least 0, or a list of classes")
    order = np.random.default_rng(np.random.SeedSequence([int(class_order), 0xC1A55])).permutation(total)
  else:
    if not isinstance(class_order, list | tuple | str):
      raise UsageError(
        f"stream.class_order: got {repr(class_order)[:80]}; expected a list of classes, or an integer seed"
      )
    order = np.asarray(class_places(names, class_order, "stream.class_order"))
    if len(set(order.tolist())) != len(order):
      raise UsageError(f"stream.class_order: got {repr(class_order)[:80]}; expected distinct classes")
  if is_integer(classes_per_task, -(2**63)):
    sizes = [int(classes_per_task)] * tasks if classes_per_task else []
  else:
    sizes = list(classes_per_task) if isinstance(classes_per_task, list | tuple) else [classes_per_task]
    if not all(is_integer(k, -(2**63)) for k in sizes):
      raise UsageError(f"stream.classes_per_task: got {repr(sizes)[:80]}; expected an integer, or one for each task")
  if not sizes:
    if len(order) % tasks:
      each = len(order) // tasks
      fits = f", such as {each} ({len(order) - each * tasks} left out)" if each else ""
      raise UsageError(
        f"stream.tasks: {len(order)} classes do not divide into {tasks} tasks; give classes_per_task{fits}"
      )
    sizes = [len(order) // tasks] * tasks
  if len(sizes) != tasks or min(sizes) < 1:
    raise UsageError(f"stream.classes_per_task: got {sizes}; expected {tasks} positive sizes")
  if sum(sizes) > len(order):
    given = f"{tasks} tasks of {sizes[0]} classes" if len(set(sizes)) == 1 else f"tasks of {sizes} classes"
    raise UsageError(f"stream.classes_per_task: {given} need {sum(sizes)} classes; there are {len(order)}")
  return np.split(order[: sum(sizes)], np.cumsum(sizes)[:-1])


def held_rows(dataset, pool, share: float, seed: int, appended=(), y=None) -> np.ndarray:
  """[N] bool: the validation rows, the same share of each class of ``pool`` but never all of one, fixed by the seed;
  or those that the data set keeps itself. Rows from each place of ``appended`` on are drawn by themselves. ``y [N]``:
  what counts as a row's class (default: :func:`strata`)."""
  y = strata(dataset) if y is None else y
  held = np.zeros(len(y), bool)
  if not share:
    return held
  if dataset.held is not None:
    held[pool] = dataset.held[pool]
    return held
  for low, high in itertools.pairwise([0, *appended, len(y)]):
    part = pool[(pool >= low) & (pool < high)]
    rng = np.random.default_rng(np.random.SeedSequence([seed, 0x7A11D, low] if low else [seed, 0x7A11D]))
    order = part[rng.permutation(len(part))]
    for c in np.unique(y[part]):
      rows = order[y[order] == c]
      held[rows[: min(round(share * len(rows)), len(rows) - 1)]] = True
  return held


def check_appended(given, count: int) -> tuple[int, ...]:
  """Ascending numbers of rows below ``count``; UsageError for anything else."""
  listed = list(given) if isinstance(given, list | tuple) else [given]
  sound = all(isinstance(n, int) and not isinstance(n, bool) and 0 < n < count for n in listed)
  if not sound or sorted(set(listed)) != listed:
    raise UsageError(f"stream.appended: got {str(given)[:80]}; expected ascending numbers of rows, below {count}")
  return tuple(listed)


def keep_one(held, y, train) -> np.ndarray:
  """``held`` less the first row of each class of which a task (``train``: its rows) would have none left to learn."""
  held = held.copy()
  for rows in {id(r): r for r in train}.values():
    classes, first = np.unique(y[rows], return_index=True)
    left = np.isin(classes, y[rows[~held[rows]]])
    held[rows[first[~left]]] = False
  return held


def numeric(values) -> bool:
  """Whether these are finite numbers in a flat sequence."""
  return isinstance(values, list | tuple) and all(map(is_number, values))


def thin(train, shown, fractions, seed):
  """The share of its rows that each task keeps, drawn at random, at least one of each of its labels ``shown``."""
  if isinstance(fractions, list | tuple) and not fractions:
    return train
  if not numeric(fractions) or len(fractions) != len(train) or not all(0 < f <= 1 for f in fractions):
    raise UsageError(f"stream.task_fractions: got {repr(fractions)[:80]}; expected {len(train)} values in (0, 1]")
  rng = np.random.default_rng(np.random.SeedSequence([seed, 0xF4AC]))
  out = []
  for rows, labels, f in zip(train, shown, fractions, strict=True):
    order = rng.permutation(len(rows))
    most = min(max(1, round(f * len(rows))), len(rows))
    _, first = np.unique(labels[order], return_index=True)
    short = first[first >= most]
    spare = np.setdiff1d(np.arange(most), first)[::-1]  # a class's later rows give way to another's first
    stay = np.setdiff1d(np.arange(most), spare[: len(short)])
    out.append(np.sort(rows[order[np.concatenate([stay, short])]]))
  return out
