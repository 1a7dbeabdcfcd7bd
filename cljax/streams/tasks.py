"""A stream from row indices of the caller's own, checked as those of ``build`` are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from numpy.typing import ArrayLike

from cljax.core.types import Forget, Learn, UsageError
from cljax.data import limits
from cljax.data.types import Dataset
from cljax.streams.build import Stream, named_request
from cljax.streams.options import is_integer
from cljax.streams.rows import ACTIVE, outputs
from cljax.streams.views import View, identity


def from_tasks(
  dataset: Dataset,
  train: Sequence[ArrayLike],
  test: Sequence[ArrayLike],
  *,
  validation: Sequence[ArrayLike] | None = None,
  labels: ArrayLike | None = None,
  events: Sequence[Learn | Forget] | None = None,
  name: str = "custom",
  view: View | None = None,
  num_classes: int | None = None,
  active: str = "all",
  task_id_given: bool = False,
  reserve_tasks: int = 0,
  reserve_rows: int = 0,
) -> Stream:
  """A stream from rows of your own; see :class:`Stream` for the fields.

  ``train``, ``test`` and ``validation`` (default: none) hold one entry for each task: positions in ``dataset.train``,
  ``dataset.test`` and ``dataset.train``, or boolean masks over their rows. ``labels [T, C]`` maps a class to its label
  in a task, -1 where it has none; by default a task has the classes of its rows, under their own numbers (with
  ``active`` 'seen' or 'task', which open them in training, each must have a training row).
  ``num_classes``: outputs of the model; default: the data set's classes, or the largest label given + 1; of real
  targets the number a row has. ``events``:
  :class:`cljax.Learn` of tasks in any order, also several times, and :class:`cljax.Forget`; default: each task once.
  ``reserve_tasks``, ``reserve_rows``: methods are sized for at least so many tasks, and rows of the largest, so that a
  run may be extended by them.
  Raises UsageError for rows that do not exist or stand twice, rows that any task trains on and any holds out, a row
  whose class has no label in its task, and events that ``build`` would refuse.
  """
  if not isinstance(dataset, Dataset):
    raise UsageError(f"dataset: got {type(dataset).__name__}; expected cljax.data.Dataset")
  check_name(name)
  if not isinstance(task_id_given, bool):
    raise UsageError(f"task_id_given: got {task_id_given!r}; expected True or False")
  for room, given, what in (("tasks", reserve_tasks, "tasks"), ("rows", reserve_rows, "rows of the largest task")):
    if not is_integer(given, 0):
      raise UsageError(f"reserve_{room}: got {given!r}; expected a number of {what}")
  # Lists keep what they hold: rows of an array are views, and a dead one's id is another's.
  train, test = _listed("train", train), _listed("test", test)
  tasks = len(train)
  validation = [()] * tasks if validation is None else _listed("validation", validation)
  parts = {"train": (train, dataset.train), "test": (test, dataset.test), "validation": (validation, dataset.train)}  # type: dict
  rows = {}
  for what, (given, split) in parts.items():
    if len(given) != tasks or not tasks:
      raise UsageError(
        f"{what}: got {len(given)} tasks; train has {tasks}" + ("" if tasks else "; expected one or more")
      )
    made: dict[int, np.ndarray] = {}  # tasks that share an array keep sharing it
    rows[what] = tuple(
      made[id(r)] if id(r) in made else made.setdefault(id(r), _rows(f"{what}[{t}]", r, len(split.id)))
      for t, r in enumerate(given)
    )
  trained = np.zeros(len(dataset.train.id), bool)
  for mine in {id(r): r for r in rows["train"]}.values():
    trained[mine] = True
  for t, held in enumerate(rows["validation"]):
    if trained[held].any():
      row = held[trained[held]][0]
      where = next(s for s, mine in enumerate(rows["train"]) if row in mine)
      raise UsageError(f"validation[{t}]: row {row} is in train[{where}] too; what is trained on can not be held out")
  named = dataset.has_classes
  classes = (
    [np.zeros(0, int)] * tasks
    if not named
    else [
      np.concatenate([split.y[rows[what][t]] for what, (_, split) in parts.items()]).astype(int) for t in range(tasks)
    ]
  )
  if not named:  # targets that are no class numbers pass through no table
    table = np.zeros((tasks, max(1, dataset.num_classes)), np.int32)
    num_classes = outputs(dataset) if num_classes is None else num_classes
  elif labels is None:
    table = np.full((tasks, dataset.num_classes), -1, np.int32)
    for t, mine in enumerate(classes):
      table[t, mine] = mine
    num_classes = dataset.num_classes if num_classes is None else num_classes
    if active in ("seen", "task"):
      _check_trained(dataset, rows, active)
  else:
    table = _labels(labels, tasks, dataset.num_classes)
    num_classes = int(table.max()) + 1 if num_classes is None else num_classes
  whole = isinstance(num_classes, int | np.integer) and not isinstance(num_classes, bool)
  if not whole or num_classes <= table.max():
    raise UsageError(f"num_classes: got {num_classes!r}; labels go up to {table.max()}, so at least {table.max() + 1}")
  limits.check_memory(f"num_classes: a table of {num_classes} outputs", tasks * int(num_classes), "ask for fewer")
  for t, mine in enumerate(classes):
    if (table[t, mine] < 0).any():
      lost = dataset.class_names[mine[table[t, mine] < 0][0]]
      raise UsageError(f"labels[{t}]: class {lost!r} has no label (-1), but task {t} has rows of it")
  if active not in ACTIVE:
    raise UsageError(f"active: unknown {active!r}; allowed: {', '.join(ACTIVE)}")
  if view is not None and not isinstance(view, View):
    raise UsageError(f"view: got {type(view).__name__}; expected cljax.streams.View")
  stream = Stream(
    name, dataset, (), rows["train"], rows["validation"], rows["test"], table, view or identity(), int(num_classes),
    active, bool(task_id_given), reserve_tasks, reserve_rows,
  )  # fmt: skip
  return stream._replace(events=_events(stream, events))


def _check_trained(dataset, rows, active: str) -> None:
  """A class that a task is measured on, but does not train, would stand open in its softmax without a word."""
  for t, mine in enumerate(rows["train"]):
    for what, split in (("validation", dataset.train), ("test", dataset.test)):
      lost = np.setdiff1d(split.y[rows[what][t]], dataset.train.y[mine])
      if len(mine) and len(lost):
        raise UsageError(
          f"{what}[{t}]: has class {dataset.class_names[lost[0]]!r}, of which train[{t}] has no row; active={active!r} "
          "would open it in training; give labels= where the task has it"
        )


def check_name(name) -> None:
  """Raises UsageError unless a stream's name is text that can be printed."""
  if not isinstance(name, str) or not name or not name.isprintable():
    raise UsageError(f"name: got {name!r}; expected text that can be printed")


def _listed(what: str, given) -> list:
  if not isinstance(given, Sequence | np.ndarray | jax.Array) or isinstance(given, str | bytes):
    raise UsageError(f"{what}: got {type(given).__name__}; expected a list with the rows of each task")
  if not getattr(given, "ndim", 1):
    raise UsageError(f"{what}: got one number; expected a list with the rows of each task")
  return list(given)


def as_array(what: str, given) -> np.ndarray:
  """``given`` as NumPy has it; UsageError where its parts are of several lengths."""
  try:
    return np.asarray(given)
  except ValueError:  # parts of several lengths
    raise UsageError(f"{what}: got {repr(given)[:60]}, which is no array") from None


def _rows(what: str, given, count: int) -> np.ndarray:
  """Positions below ``count``, from positions or a mask."""
  array = as_array(what, given)
  if array.dtype == bool:
    if array.shape != (count,):
      raise UsageError(f"{what}: is a mask of shape {array.shape}; the data have {count} rows")
    return np.flatnonzero(array)
  array = array.astype(np.int32) if not array.size else array
  if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
    raise UsageError(f"{what}: is {array.dtype}{list(array.shape)}; expected positions of rows, or a boolean mask")
  if len(array) and not 0 <= array.min() <= array.max() < count:
    raise UsageError(f"{what}: positions span {array.min()}..{array.max()}; the data have {count} rows")
  seen, often = np.unique(array, return_counts=True)
  if len(seen) < len(array):
    raise UsageError(f"{what}: row {seen[often > 1][0]} stands there {often.max()} times; expected each at most once")
  return array


def _labels(given, tasks: int, classes: int) -> np.ndarray:
  table = as_array("labels", given)
  if table.shape != (tasks, classes) or not np.issubdtype(table.dtype, np.integer):
    raise UsageError(
      f"labels: is {table.dtype}{list(table.shape)}; expected integers [{tasks} tasks, {classes} classes]"
    )
  if table.min() < -1 or table.max() < 0 or table.max() >= 2**31:
    raise UsageError(f"labels: span {table.min()}..{table.max()}; expected -1 (none) or labels of at least 0")
  return table.astype(np.int32)


def _events(stream: Stream, given) -> tuple:
  given = tuple(Learn(t) for t in range(stream.num_tasks)) if given is None else tuple(given)
  out: list[Any] = []
  for at, event in enumerate(given):
    if isinstance(event, Forget):
      done = [e.task for e in out if isinstance(e, Learn)]
      out.append(named_request(stream, event, done, f"events[{at}]"))
      continue
    task = event.task if isinstance(event, Learn) else None
    if not isinstance(task, int | np.integer) or isinstance(task, bool) or not 0 <= task < stream.num_tasks:
      raise UsageError(
        f"events[{at}]: got {str(event)[:80]}; expected Learn of a task 0..{stream.num_tasks - 1}, or Forget"
      )
    for what, rows in (("training", stream.train[task]), ("test", stream.test[task])):
      if not len(rows):
        raise UsageError(f"events[{at}]: learns task {task}, which has no {what} rows")
    out.append(Learn(int(task)))
  if not any(isinstance(e, Learn) for e in out):
    raise UsageError("events: learn no task; expected at least one Learn")
  return tuple(out)
