"""Streams from datasets: one edge for every scenario."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from cljax.streams.blurry import blurry_rows, occurring
from cljax.streams.class_names import class_as_named, class_places
from cljax.streams.noise import corrupt
from cljax.streams.recurring import drawn_subsets
from cljax.streams.relabel import permuted_labels, random_labels
from cljax.streams.requests import parse_forget, resolve_pairs
from cljax.streams.rows import balanced, check_edge, check_order, class_groups, held_rows, of_classes, thin
from cljax.streams.views import View, identity, permuted, rotated
from cljax.types import Forget, Learn, UsageError

KINDS = (
  "class", "task", "domain", "group", "permuted", "rotated", "label_permuted", "label_random", "si_blurry", "i_blurry",
  "scole",
)  # fmt: skip


class Stream(NamedTuple):
  """A sequence of events over one dataset.

  ``train``, ``validation`` and ``test`` hold a row-index array for each task (into ``dataset.train``, ``dataset.train``
  and ``dataset.test``). ``labels [T, C]`` maps a dataset class to the label it has in a task, -1 where it has none. A
  task may be learned by several events, or by none.
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


class Layout(NamedTuple):
  """A scenario before rows are held out: what each task trains on and is tested on, and how it shows and labels it."""

  dataset: Any
  train: list
  test: list
  labels: np.ndarray
  num_classes: int
  view: View


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
  rows: int = 0,
  order=(),
  label_noise=(),
  input_noise=(),
  disjoint: int = 50,
  blurry: int = 10,
  class_weights=(),
) -> Stream:
  """Splits a dataset into a stream of ``tasks`` tasks.

  ``kind``, over the classes: ``'class'`` (class-incremental: one head, task unknown at test), ``'task'``
  (task-incremental: the same split, the task's classes known), ``'domain'`` (the same split, labels are positions
  within the task). Over the inputs, all classes in every task: ``'group'`` (one domain for each dataset group),
  ``'permuted'`` and ``'rotated'`` (``angles`` in degrees, default evenly spaced over 180). The same rows in every task,
  to measure plasticity over hundreds of tasks: ``'label_permuted'`` (each task renames the classes by a permutation of
  its own) and ``'label_random'`` (each task draws a label for each row; tested on the rows it trains on, no validation
  rows: random labels can be learned by heart only). Blurry borders (:func:`blurry_rows`): ``'si_blurry'`` and
  ``'i_blurry'``, ``disjoint`` percent of the classes in one task only, ``blurry`` percent of the others' rows anywhere;
  a task is tested on all classes that it holds rows of. ``'scole'`` (:func:`drawn_subsets`): ``tasks`` events, each of
  ``classes_per_task`` (an int, default 2) classes drawn anew by ``class_weights``; the softmax is over the task's
  classes unless ``active`` says otherwise; a last task, never learned, is the whole test set.

  ``classes_per_task``: an int or a list; default: an even split.
  ``class_order``: a list of classes, an int seed, or None for 0, 1, 2, ... ``task_fractions``: share of its training
  rows that each task keeps, for uneven tasks. ``validation``: share of the training rows of each class held out for
  selection. ``active``: classes in the training softmax, ``'all'``, ``'seen'`` or ``'task'``; default ``'task'`` for
  kinds ``'task'`` and ``'scole'``, else ``'all'``. ``forget``: text of :func:`parse_forget`, or a list of
  ``(after_tasks, Forget)``.
  ``rows``: use only so many training rows of the dataset, and at most as many test rows, balanced by class (0: all).
  ``order``: the tasks in the order in which they are learned, such as ``(0, 1, 0, 2)`` to come back to the first;
  default: each once. ``label_noise`` (share of labels replaced by another of the task's classes) and ``input_noise``
  (standard deviation, in units of what the model sees): a number, or one for each task; training rows only, what is
  measured stays clean. Raises UsageError on an impossible split.
  """
  if kind not in KINDS:
    raise UsageError(f"stream.kind: unknown {kind!r}; allowed: {', '.join(KINDS)}")
  if not isinstance(tasks, int) or tasks < 1:
    raise UsageError(f"stream.tasks: got {tasks!r}; expected an integer of at least 1")
  if not isinstance(rows, int) or rows < 0:
    raise UsageError(f"stream.rows: got {rows!r}; expected an integer of at least 0 (0: all)")
  active = active or ("task" if kind in ("task", "scole") else "all")
  check_edge(validation, active)
  if kind == "label_random" and np.any(label_noise):
    raise UsageError("stream.label_noise: the labels of kind 'label_random' are random already")
  if kind == "scole" and len(order):
    raise UsageError(f"stream.order: got {list(order)}; scole draws the order of its tasks")
  order = check_order(order, tasks)
  pool, test_pool = (balanced(part.y, rows, seed) for part in (dataset.train, dataset.test))
  validation = 0.0 if kind == "label_random" else validation
  if kind in ("class", "task", "domain"):
    groups = class_groups(dataset.num_classes, tasks, classes_per_task, class_order)
    layout = _split(dataset, kind, pool, test_pool, groups)
  elif kind == "scole":
    groups, order = drawn_subsets(dataset.num_classes, tasks, classes_per_task, class_weights, seed)
    layout = _split(dataset, kind, pool, test_pool, groups)
    whole = np.arange(dataset.num_classes, dtype=np.int32)
    layout = layout._replace(
      train=[*layout.train, pool],
      test=[*layout.test, test_pool],
      labels=np.concatenate([layout.labels, whole[None]]),
    )
  elif kind in ("si_blurry", "i_blurry"):
    keep = ~held_rows(dataset.train.y, pool, validation, seed)
    mine = blurry_rows(
      dataset.train.y, pool, keep, dataset.num_classes, tasks, disjoint, blurry, kind == "si_blurry", seed
    )
    labels = occurring(dataset.train.y, mine, dataset.num_classes)
    test = [of_classes(dataset.test.y, test_pool, np.flatnonzero(row >= 0)) for row in labels]
    layout = Layout(dataset, mine, test, labels, dataset.num_classes, identity())
  elif kind == "group":
    layout = _groups(dataset, pool, test_pool, tasks)
  else:
    layout = _shared(dataset, kind, pool, test_pool, tasks, angles, seed)
  requests = parse_forget(forget) if isinstance(forget, str) else list(forget)
  if kind == "label_random" and any(isinstance(r, Forget) and len(r.classes) for _, r in requests):
    raise UsageError("stream.forget: class= names nothing where labels are random; give ids=, task= or group=")
  again = f" in {len(order)} events" if kind != "scole" and len(order) > tasks else ""
  return assemble(
    f"{dataset.name}/{kind}/{tasks}{again}", layout, order, pool=pool, validation=validation, seed=seed,
    forget=requests, active=active, task_id_given=kind == "task", task_fractions=task_fractions,
    label_noise=label_noise, input_noise=input_noise,
  )  # fmt: skip


def assemble(
  name: str, layout: Layout, order, *, validation: float, active: str, seed: int, forget="", pool=None,
  task_id_given: bool = False, task_fractions=(), label_noise=(), input_noise=(),
) -> Stream:  # fmt: skip
  """A stream from a layout: holds validation rows out, thins and corrupts what is trained on, places Forget events."""
  if active == "seen" and len(set(order)) < len(order):
    raise UsageError("stream.active: 'seen' counts tasks upwards, but here tasks come back; allowed: all, task")
  y = layout.dataset.train.y
  held = held_rows(y, np.arange(len(y)) if pool is None else pool, validation, seed)
  train, val = _each(layout.train, lambda r: r[~held[r]]), _each(layout.train, lambda r: r[held[r]])
  train = [rows if t in order else rows[:0] for t, rows in enumerate(thin(train, task_fractions, seed))]
  for t, mine in enumerate(train):
    if (not len(mine) and t in order) or not len(layout.test[t]):
      raise UsageError(
        f"stream: task {t} has {len(mine)} training and {len(layout.test[t])} test rows; both must be positive"
      )
  stream = Stream(
    name,
    corrupt(layout.dataset, train, layout.labels, label_noise, input_noise, seed),
    tuple(Learn(t) for t in order),
    tuple(train),
    tuple(val),
    tuple(layout.test),
    layout.labels,
    layout.view,
    layout.num_classes,
    active,
    task_id_given,
  )
  return with_forget(stream, forget)


def _split(dataset, kind: str, pool, test_pool, groups) -> Layout:
  labels = np.full((len(groups), dataset.num_classes), -1, np.int32)
  for t, group in enumerate(groups):
    labels[t, group] = np.arange(len(group)) if kind == "domain" else group
  train = [of_classes(dataset.train.y, pool, g) for g in groups]
  test = [of_classes(dataset.test.y, test_pool, g) for g in groups]
  classes = max(len(g) for g in groups) if kind == "domain" else dataset.num_classes
  return Layout(dataset, train, test, labels, classes, identity())


def _same_labels(dataset, tasks: int) -> np.ndarray:
  return np.tile(np.arange(dataset.num_classes, dtype=np.int32), (tasks, 1))


def _groups(dataset, pool, test_pool, tasks: int) -> Layout:
  names = np.unique(dataset.train.group)
  if len(names) < tasks:
    raise UsageError(f"stream.tasks: {tasks} tasks by group, but the dataset has {len(names)} groups")
  train = [pool[dataset.train.group[pool] == g] for g in names[:tasks]]
  test = [test_pool[dataset.test.group[test_pool] == g] for g in names[:tasks]]
  return Layout(dataset, train, test, _same_labels(dataset, tasks), dataset.num_classes, identity())


def _shared(dataset, kind: str, pool, test_pool, tasks: int, angles, seed: int) -> Layout:
  """All rows in every task; what differs is the view or the labels."""
  shape, classes, view = dataset.train.x.shape[1:], dataset.num_classes, identity()
  labels = _same_labels(dataset, tasks)
  if kind == "label_permuted":
    labels = permuted_labels(classes, tasks, seed)
  elif kind == "label_random":
    dataset, labels = random_labels(dataset, pool, tasks, seed)
    test_pool = np.arange(len(pool))
  elif kind == "permuted":
    view = permuted(tasks, shape, seed)
  else:
    angles = tuple(angles) or tuple(180.0 * t / tasks for t in range(tasks))
    if len(angles) != tasks:
      raise UsageError(f"stream.angles: got {len(angles)} angles for {tasks} tasks")
    view = rotated(angles, shape)
  return Layout(dataset, [pool] * tasks, [test_pool] * tasks, labels, classes, view)


def _each(arrays, function) -> list:
  """``function`` of each array, once where tasks share one: hundreds of tasks over the same rows cost one array."""
  made: dict[int, Any] = {}
  for a in arrays:
    if id(a) not in made:
      made[id(a)] = function(a)
  return [made[id(a)] for a in arrays]


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
  order = [e.task for e in stream.events if isinstance(e, Learn)]
  events: list[Any] = []
  names = stream.dataset.class_names
  for at, (after, request) in enumerate(requests):
    if not 1 <= after <= len(order):
      raise UsageError(f"stream.forget: after {after} tasks; the stream has 1..{len(order)}")
    if not isinstance(request, Forget):
      raise UsageError(f"stream.forget: got {request!r}; expected cljax.Forget")
    named = resolve_pairs(request, stream)
    if not any(named[t].any() for t in set(order[:after])):
      raise UsageError(
        f"stream.forget: request after {after} tasks names no row that was learned by then: {str(request)[:200]}"
      )
    # By name: a place means nothing to whoever reads the ledger.
    called = tuple(class_as_named(names, p) for p in class_places(names, request.classes, "stream.forget"))
    requests[at] = (after, request._replace(classes=called))
  for event in stream.events:
    events.append(event)
    done = sum(isinstance(e, Learn) for e in events)
    events.extend(r for after, r in requests if after == done)
  return stream._replace(events=tuple(events))
