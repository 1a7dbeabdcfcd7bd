"""Streams from datasets: the three scenarios, permuted and rotated inputs, domains by group."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from cljax.streams.requests import parse_forget, resolve
from cljax.streams.views import View, identity, permuted, rotated
from cljax.types import Forget, Learn, UsageError

KINDS = ("class", "task", "domain", "group", "permuted", "rotated")


class Stream(NamedTuple):
  """A sequence of events over one dataset.

  ``train``, ``validation`` and ``test`` hold a row-index array for each task (into ``dataset.train``, ``dataset.train``
  and ``dataset.test``). ``labels [T, C]`` maps a dataset class to the label it has in a task, -1 where it has none.
  """

  name: str
  dataset: Any
  events: tuple
  train: tuple
  validation: tuple
  test: tuple
  labels: np.ndarray
  view: View
  num_classes: int  # outputs of the model
  active: str  # classes in a training row's softmax: 'all', 'seen' or 'task'
  task_id_given: bool  # whether the scenario tells the task at test time

  @property
  def num_tasks(self) -> int:
    return len(self.train)

  @property
  def classes_of_task(self) -> np.ndarray:
    """[T, num_classes] bool: labels that occur in each task."""
    table = np.zeros((self.num_tasks, self.num_classes), bool)
    for t in range(self.num_tasks):
      table[t, np.unique(self.labels[t][self.labels[t] >= 0])] = True
    return table


def build(
  dataset,
  kind: str = "class",
  *,
  tasks: int = 5,
  classes_per_task=(),
  class_order=None,
  task_fractions=(),
  validation: float = 0.1,
  active: str = "",
  angles=(),
  seed: int = 0,
  forget="",
) -> Stream:
  """Splits a dataset into a stream of ``tasks`` tasks.

  ``kind``: ``'class'`` (class-incremental: one head, task unknown at test), ``'task'`` (task-incremental: the same
  split, the task's classes known), ``'domain'`` (the same split, labels are positions within the task), ``'group'``
  (one domain for each dataset group), ``'permuted'`` and ``'rotated'`` (all classes in every task; ``angles`` in
  degrees, default evenly spaced over 180). ``classes_per_task``: an int or a list; default: an even split.
  ``class_order``: a list of classes, an int seed, or None for 0, 1, 2, ... ``task_fractions``: share of its training
  rows that each task keeps, for uneven tasks. ``validation``: share of the training rows of each class held out for
  selection. ``active``: classes in the training softmax, ``'all'``, ``'seen'`` or ``'task'``; default ``'task'`` for
  kind ``'task'``, else ``'all'``. ``forget``: text of :func:`parse_forget`, or a list of ``(after_tasks, Forget)``.
  Raises UsageError on an impossible split.
  """
  if kind not in KINDS:
    raise UsageError(f"stream.kind: unknown {kind!r}; allowed: {', '.join(KINDS)}")
  if not isinstance(tasks, int) or tasks < 1:
    raise UsageError(f"stream.tasks: got {tasks!r}; expected an integer of at least 1")
  if not 0 <= validation < 1:
    raise UsageError(f"stream.validation: got {validation}; expected 0 <= validation < 1")
  active = active or ("task" if kind == "task" else "all")
  if active not in ("all", "seen", "task"):
    raise UsageError(f"stream.active: unknown {active!r}; allowed: all, seen, task")
  total = dataset.num_classes
  view = identity()
  labels = np.tile(np.arange(total, dtype=np.int32), (tasks, 1))
  num_classes = total
  if kind in ("class", "task", "domain"):
    groups = _class_groups(total, tasks, classes_per_task, class_order)
    labels = np.full((tasks, total), -1, np.int32)
    for t, group in enumerate(groups):
      labels[t, group] = np.arange(len(group)) if kind == "domain" else group
    if kind == "domain":
      num_classes = max(len(g) for g in groups)
    train = [np.flatnonzero(np.isin(dataset.train.y, g)) for g in groups]
    test = [np.flatnonzero(np.isin(dataset.test.y, g)) for g in groups]
  elif kind == "group":
    names = np.unique(dataset.train.group)
    if len(names) < tasks:
      raise UsageError(f"stream.tasks: {tasks} tasks by group, but the dataset has {len(names)} groups")
    train = [np.flatnonzero(dataset.train.group == g) for g in names[:tasks]]
    test = [np.flatnonzero(dataset.test.group == g) for g in names[:tasks]]
  else:
    train = [np.arange(len(dataset.train.y))] * tasks
    test = [np.arange(len(dataset.test.y))] * tasks
    shape = dataset.train.x.shape[1:]
    if kind == "permuted":
      view = permuted(tasks, shape, seed)
    else:
      angles = tuple(angles) or tuple(180.0 * t / tasks for t in range(tasks))
      if len(angles) != tasks:
        raise UsageError(f"stream.angles: got {len(angles)} angles for {tasks} tasks")
      view = rotated(angles, shape)
  held = _held_out(dataset.train.y, validation, seed)
  train, val = [t[~held[t]] for t in train], [t[held[t]] for t in train]
  train = _thin(train, task_fractions, seed)
  for t, rows in enumerate(train):
    if not len(rows) or not len(test[t]):
      raise UsageError(f"stream: task {t} has {len(rows)} training and {len(test[t])} test rows; both must be positive")
  stream = Stream(
    f"{dataset.name}/{kind}/{tasks}",
    dataset,
    tuple(Learn(t) for t in range(tasks)),
    tuple(train),
    tuple(val),
    tuple(test),
    labels,
    view,
    num_classes,
    active,
    kind == "task",
  )
  return with_forget(stream, forget)


def from_tasks(dataset, train, test, *, validation=None, labels=None, events=None, name="custom", **fields) -> Stream:
  """A stream from row-index arrays of your own, one for each task; see :class:`Stream` for the fields."""
  tasks = len(train)
  if len(test) != tasks:
    raise UsageError(f"test: got {len(test)} tasks; train has {tasks}")
  labels = np.tile(np.arange(dataset.num_classes, dtype=np.int32), (tasks, 1)) if labels is None else np.asarray(labels)
  validation = [np.zeros(0, int)] * tasks if validation is None else validation
  events = tuple(Learn(t) for t in range(tasks)) if events is None else tuple(events)
  values = {
    "view": identity(),
    "num_classes": int(labels.max()) + 1,
    "active": "all",
    "task_id_given": False,
    **fields,
  }
  arrays = lambda split: tuple(np.asarray(rows) for rows in split)
  return Stream(name, dataset, events, arrays(train), arrays(validation), arrays(test), labels, **values)


def with_forget(stream: Stream, forget) -> Stream:
  """Puts Forget events after the given numbers of learned tasks; each is checked against the data at once."""
  requests = parse_forget(forget) if isinstance(forget, str) else [(int(after), r) for after, r in forget]
  if not requests:
    return stream
  events: list[Any] = []
  for after, request in requests:
    if not 1 <= after <= stream.num_tasks:
      raise UsageError(f"stream.forget: after {after} tasks; the stream has 1..{stream.num_tasks}")
    if not isinstance(request, Forget):
      raise UsageError(f"stream.forget: got {request!r}; expected cljax.Forget")
    mask = resolve(request, stream.dataset.train, stream.train, stream.dataset.num_classes)
    learned = np.zeros_like(mask)
    for rows in stream.train[:after]:
      learned[rows] = True
    if not (mask & learned).any():
      raise UsageError(f"stream.forget: request after {after} tasks names no row that was learned by then: {request}")
  for event in stream.events:
    events.append(event)
    done = sum(isinstance(e, Learn) for e in events)
    events.extend(r for after, r in requests if after == done)
  return stream._replace(events=tuple(events))


def _class_groups(total, tasks, classes_per_task, class_order) -> list[np.ndarray]:
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


def _held_out(y, share, seed) -> np.ndarray:
  """[N] bool: the validation rows, the same share of each class, fixed by the seed."""
  held = np.zeros(len(y), bool)
  rng = np.random.default_rng(np.random.SeedSequence([seed, 0x7A11D]))
  order = rng.permutation(len(y))
  for c in np.unique(y):
    rows = order[y[order] == c]
    held[rows[: round(share * len(rows))]] = True
  return held


def _thin(train, fractions, seed):
  fractions = tuple(fractions)
  if not fractions:
    return train
  if len(fractions) != len(train) or not all(0 < f <= 1 for f in fractions):
    raise UsageError(f"stream.task_fractions: got {fractions}; expected {len(train)} values in (0, 1]")
  rng = np.random.default_rng(np.random.SeedSequence([seed, 0xF4AC]))
  return [
    np.sort(rng.permutation(rows)[: max(1, round(f * len(rows)))]) for rows, f in zip(train, fractions, strict=True)
  ]
