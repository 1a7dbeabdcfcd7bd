"""Streams from datasets: one edge for every scenario."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from cljax import _old_names
from cljax.core.types import Forget, Learn, UsageError
from cljax.data import limits
from cljax.data.types import MOST_CLASSES, Dataset
from cljax.streams import per_seed as own
from cljax.streams.blurry import blurry_rows, occurring
from cljax.streams.class_names import class_as_named, class_places, class_values
from cljax.streams.instances import instance_rows
from cljax.streams.labels import check_labelled, check_returning, returned, unread, withhold
from cljax.streams.noise import corrupt
from cljax.streams.options import READS, check_classes, check_read, is_integer, plain
from cljax.streams.recurring import drawn_subsets
from cljax.streams.relabel import permuted_labels, random_labels
from cljax.streams.requests import forget_list, held_pairs, resolve_pairs
from cljax.streams.rows import (
  at_most,
  balanced,
  check_appended,
  check_edge,
  check_order,
  class_groups,
  held_rows,
  keep_one,
  numeric,
  of_classes,
  outputs,
  strata,
  thin,
)
from cljax.streams.views import View, identity, permuted, rotated

KINDS = tuple(READS)
MOST_TASKS = 10**5
MOST_ROWS = 10**9  # of a task that is to come: each is a number in the program of a task's boundary


class Stream(NamedTuple):
  """A sequence of events over one dataset.

  ``train``, ``validation`` and ``test`` hold a row-index array for each task (into ``dataset.train``, ``dataset.train``
  and ``dataset.test``). ``labels [T, C]`` maps a dataset class to the label it has in a task, -1 where it has none. A
  task may be learned by several events, or by none.
  """

  name: str
  dataset: Dataset
  events: tuple  # of Learn and Forget
  train: tuple[np.ndarray, ...]
  validation: tuple[np.ndarray, ...]
  test: tuple[np.ndarray, ...]
  labels: np.ndarray
  view: View
  num_classes: int  # outputs of the model
  active: str  # classes in a training row's softmax: 'all', 'seen' or 'task'
  task_id_given: bool  # whether the scenario tells the task at test time
  room: int = 0  # tasks that methods are sized for; at least those there are
  row_room: int = 0  # rows of a task that methods are sized for; at least those of the largest
  of_seed: Callable | None = None  # seed -> the stream of a member with that seed, where each has one of its own
  drawn: Mapping | None = None  # and what of such a stream its seed decided, JSON-ready

  @property
  def num_tasks(self) -> int:
    """How many tasks there are, learned or not."""
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
  dataset: Dataset,
  kind: str = "class",
  *,
  tasks: int = 5,
  classes_per_task: int | Sequence[int] = (),
  class_order: int | Sequence[int | str] | None = None,
  task_fractions: Sequence[float] = (),
  validation: float = 0.1,
  active: str = "",
  angles: Sequence[float] = (),
  seed: int = 0,
  forget: str | Sequence[tuple[int, Forget]] = "",
  rows: int = 0,
  order: Sequence[int] = (),
  label_noise: float | Sequence[float] = (),
  input_noise: float | Sequence[float] = (),
  disjoint: int = 50,
  blurry: int = 10,
  class_weights: Sequence[float] | Mapping[Any, float] = (),
  reserve_tasks: int = 0,
  reserve_rows: int = 0,
  reserve_classes: int = 0,
  appended: Sequence[int] = (),
  per_seed: bool = False,
  labelled: int = 0,
  returning: float = 0.0,
) -> Stream:
  """Splits a dataset into a stream of ``tasks`` tasks.

  ``kind``, over the classes: ``'class'`` (class-incremental: one head, task unknown at test), ``'task'``
  (task-incremental: the same split, the task's classes known), ``'domain'`` (the same split, labels are positions
  within the task). Over the inputs, all classes in every task: ``'group'`` (one domain for each dataset group),
  ``'permuted'`` and ``'rotated'`` (``angles`` in degrees, default evenly spaced over 180). Over the rows:
  ``'instance'`` (:func:`instance_rows`), a random part of every class in each task, tested on all test rows. The same
  rows in every task, to measure plasticity over hundreds of tasks: ``'label_permuted'`` (each task renames the
  classes by a permutation of its own) and ``'label_random'`` (each task draws a label for each row; tested on the
  rows it trains on, no validation rows: random labels can be learned by heart only). Blurry borders
  (:func:`blurry_rows`): ``'si_blurry'`` and ``'i_blurry'``, ``disjoint`` percent of the classes in one task only,
  ``blurry`` percent of the others' rows anywhere; a task is tested on all classes that it holds rows of. ``'scole'``
  (:func:`drawn_subsets`): ``tasks`` events, each of ``classes_per_task`` (an int, default 2) classes drawn anew by
  ``class_weights``; the softmax is over the task's classes unless ``active`` says otherwise; a last task, never
  learned, is the whole test set.

  ``classes_per_task``: classes of each task, an int or one for each; default: an even split of all classes. ``10`` over
  100 classes and 5 tasks leaves 50 classes out. ``class_order``: a list of classes by name or place
  (:func:`class_places`; those left out are in no task), the int seed of a random order, the name of one that papers
  share (``CLASS_ORDERS``: ``'icarl'``, ``'icarl_1993'``, ``'numpy_1993'``), or None for 0, 1, 2, ...; the first
  ``classes_per_task`` of them are task 0's, the next task 1's. ``class_weights``: C numbers, or a mapping by name or
  place (1 for the others). ``task_fractions``: share of its training rows that each task keeps, for uneven tasks.
  ``validation``: share of the training rows of each class held out for selection; a data set with validation rows of
  its own (``Dataset.held``) keeps those, or at 0 none. Neither takes the last training row that a task has of a class.
  ``active``: classes in the training softmax, ``'all'``, ``'seen'`` or ``'task'``; default
  ``'task'`` for kinds ``'task'`` and ``'scole'``, else ``'all'``. ``forget``: text of :func:`parse_forget`, or a list
  of ``(after_tasks, Forget)``; the events hold classes by name.
  ``rows``: use only so many training rows of the dataset, and at most as many test rows, balanced by class (0: all).
  ``order``: the tasks in the order in which they are learned, such as ``(1, 0, 1, 2)`` to come back to one; those
  left out are tested, never learned; default: each once. ``label_noise`` (share of labels replaced by another of the
  task's classes) and ``input_noise`` (standard deviation, in units of what the model sees): a number, or one for each
  task; training rows only, what is measured stays clean. ``reserve_tasks``, ``reserve_rows`` (of the largest task)
  and ``reserve_classes``: methods and
  the model's outputs are sized for at least so many (0: for those there are), so that a run may be extended by them
  later. ``appended``: how many training
  rows the data had each time before rows were appended; those that were there keep being held out, or not, as they were
  (``launch.train --extend`` gives it). ``per_seed``: each member of a population has a stream of its own, drawn from
  its seed (:mod:`cljax.streams.per_seed`). ``labelled``: only tasks 0 .. labelled - 1 have labels to learn from (0: all
  have); training rows of the others have label -1, whatever is held out or tested keeps its own
  (:mod:`cljax.streams.labels`). ``returning``: each later task shows this share of the training rows of each class that
  came before it, rows that the class's own task then does without. Raises UsageError on an impossible split, and for an
  option that is given (not the default) and that the kind does not read (``READS``). Data without classes have the
  kinds ``'group'``, ``'instance'``, ``'permuted'`` and ``'rotated'``; where classes are spoken of above, their groups
  count.
  """
  options = {k: plain(v) for k, v in locals().items() if k in _DEFAULTS}
  if not isinstance(kind, str) or kind not in READS:
    raise UsageError(f"stream.kind: unknown {kind!r}; allowed: {', '.join(KINDS)}")
  for name, low, high, note in (("tasks", 1, MOST_TASKS, f", at most {MOST_TASKS}"), ("rows", 0, 2**63, " (0: all)"),
                                ("seed", 0, 2**63, ""), ("reserve_tasks", 0, MOST_TASKS, " (0: none)"),
                                ("reserve_rows", 0, MOST_ROWS, f", at most {MOST_ROWS} (0: none)"),
                                ("reserve_classes", 0, MOST_CLASSES, " (0: none)")):  # fmt: skip
    value = options[name]
    if not is_integer(value, low, high):
      raise UsageError(f"stream.{name}: got {repr(value)[:80]}; expected an integer of at least {low}{note}")
  check_read(kind, options, _DEFAULTS)
  if not dataset.has_classes:
    check_classes(kind, options, _DEFAULTS)
  per_seed = options.pop("per_seed")
  if not isinstance(per_seed, bool):
    raise UsageError(f"stream.per_seed: got {repr(per_seed)[:80]}; expected True or False")
  if per_seed:
    return own.seeded(functools.partial(_build, dataset), dataset, kind, options)
  return _build(dataset, kind, **options)


_DEFAULTS = {k: p.default for k, p in inspect.signature(build).parameters.items() if p.kind is p.KEYWORD_ONLY}


def _build(
  dataset, kind, *, tasks, classes_per_task, class_order, task_fractions, validation, active, angles, seed, forget,
  rows, order, label_noise, input_noise, disjoint, blurry, class_weights, reserve_tasks, reserve_rows,
  reserve_classes, appended, labelled, returning,
) -> Stream:  # fmt: skip
  check_labelled(labelled, tasks, dataset)
  check_returning(returning, tasks)
  labelled = labelled if labelled < tasks else 0
  active = active or ("task" if kind in ("task", "scole") else "all")
  check_edge(validation, active)
  order = check_order(order, tasks)
  appended = check_appended(appended, len(dataset.train.id))
  kept = np.zeros(len(dataset.train.id), bool) if dataset.held is None else dataset.held
  pool = at_most(np.flatnonzero(~kept), dataset.train.y, rows, seed)
  test_pool = balanced(dataset.test.y, rows, seed)
  validation = 0.0 if kind == "label_random" else validation
  if dataset.held is not None:
    if validation not in (0.0, _DEFAULTS["validation"]):
      raise UsageError(f"stream.validation: got {validation}; the data set has validation rows of its own, so expected "
                       "0 (none) or nothing (those)")  # fmt: skip
    pool = np.sort(np.concatenate([pool, np.flatnonzero(kept)])) if validation else pool
  if kind in ("class", "task", "domain"):
    groups = class_groups(dataset.class_names, tasks, classes_per_task, class_order)
    layout = _split(dataset, kind, pool, test_pool, groups)
    if returning:
      train, labels = returned(layout.train, dataset.train.y, groups, layout.labels, returning, seed)
      layout = layout._replace(train=train, labels=labels)
  elif kind == "scole":
    if isinstance(class_weights, Mapping):
      class_weights = class_values(dataset.class_names, class_weights, 1, "stream.class_weights")
    groups, order = drawn_subsets(dataset.num_classes, tasks, classes_per_task, class_weights, seed)
    layout = _split(dataset, kind, pool, test_pool, groups)
    every = np.arange(dataset.num_classes, dtype=np.int32)
    layout = layout._replace(
      train=[*layout.train, pool],
      test=[*layout.test, test_pool],
      labels=np.concatenate([layout.labels, every[None]]),
    )
  elif kind in ("si_blurry", "i_blurry"):
    keep = ~held_rows(dataset, pool, validation, seed)
    mine = blurry_rows(
      dataset.train.y, pool, keep, dataset.num_classes, tasks, disjoint, blurry, kind == "si_blurry", seed
    )
    labels = occurring(dataset.train.y, mine, dataset.num_classes)
    test = [of_classes(dataset.test.y, test_pool, np.flatnonzero(row >= 0)) for row in labels]
    layout = Layout(dataset, mine, test, labels, dataset.num_classes, identity())
  elif kind == "instance":
    mine = instance_rows(strata(dataset), pool, tasks, seed)
    layout = Layout(dataset, mine, [test_pool] * tasks, _same_labels(dataset, tasks), outputs(dataset), identity())
  elif kind == "group":
    layout = _groups(dataset, pool, test_pool, tasks)
  else:
    layout = _shared(dataset, kind, pool, test_pool, tasks, angles, seed)
  layout = layout._replace(num_classes=max(layout.num_classes, reserve_classes))
  requests = forget_list(forget)
  if kind == "label_random" and any(len(r.classes) for _, r in requests):
    raise UsageError("stream.forget: class= names nothing where labels are random; give ids=, task= or group=")
  again = f" in {len(order)} events" if kind != "scole" and len(order) > tasks else ""
  return assemble(
    f"{dataset.name}/{kind}/{tasks}{again}", layout, order, pool=pool, validation=validation, seed=seed,
    forget=requests, active=active, task_id_given=kind == "task", task_fractions=task_fractions,
    label_noise=label_noise, input_noise=input_noise, room=reserve_tasks, row_room=reserve_rows,
    appended=appended, labelled=labelled,
  )  # fmt: skip


def assemble(
  name: str, layout: Layout, order, *, validation: float, active: str, seed: int, forget="", pool=None,
  task_id_given: bool = False, task_fractions=(), label_noise=(), input_noise=(), room: int = 0,
  row_room: int = 0, appended=(), labelled: int = 0,
) -> Stream:  # fmt: skip
  """A stream from a layout: holds validation rows out, thins and corrupts what is trained on, takes labels that are
  withheld out of it, places Forget events."""
  y = strata(layout.dataset)
  y = unread(y, layout.train, labelled) if labelled else y
  held = held_rows(layout.dataset, np.arange(len(y)) if pool is None else pool, validation, seed, appended, y)
  held = keep_one(held, y, layout.train)
  train, val = _each(layout.train, lambda r: r[~held[r]]), _each(layout.train, lambda r: r[held[r]])
  named = layout.dataset.has_classes and not labelled
  label = lambda t, rows: np.asarray(layout.labels[t])[y[rows]] if named else y[rows]
  shown = [label(t, rows) for t, rows in enumerate(train)] if task_fractions else []
  learned = set(order)
  train = [rows if t in learned else rows[:0] for t, rows in enumerate(thin(train, shown, task_fractions, seed))]
  for t, mine in enumerate(train):
    if (not len(mine) and t in learned) or not len(layout.test[t]):
      raise UsageError(
        f"stream: task {t} has {len(mine)} training and {len(layout.test[t])} test rows; both must be positive"
      )
  dataset, labels = corrupt(layout.dataset, train, layout.labels, label_noise, input_noise, seed), layout.labels
  if labelled:
    dataset, labels = withhold(dataset, train, labels, labelled)
  stream = Stream(
    name,
    dataset,
    tuple(Learn(t) for t in order),
    tuple(train),
    tuple(val),
    tuple(layout.test),
    labels,
    layout.view,
    layout.num_classes,
    active,
    task_id_given,
    room,
    row_room,
  )
  return with_forget(stream, forget)


def _split(dataset, kind: str, pool, test_pool, groups) -> Layout:
  for what, split, mine in (("training", dataset.train, pool), ("test", dataset.test, test_pool)):
    lost = np.setdiff1d(np.intersect1d(np.concatenate(groups), split.y), split.y[mine])
    if len(lost):
      name = dataset.class_names[lost[0]]
      raise UsageError(f"stream.rows: {len(mine)} {what} rows leave class {name!r} without one; give more")
  labels = np.full((len(groups), dataset.num_classes), -1, np.int32)
  for t, group in enumerate(groups):
    labels[t, group] = np.arange(len(group)) if kind == "domain" else group
  train = [of_classes(dataset.train.y, pool, g) for g in groups]
  test = [of_classes(dataset.test.y, test_pool, g) for g in groups]
  classes = max(len(g) for g in groups) if kind == "domain" else dataset.num_classes
  return Layout(dataset, train, test, labels, classes, identity())


def _same_labels(dataset, tasks: int) -> np.ndarray:
  """Of data without classes, a column that says nothing: real targets pass through no table."""
  return np.tile(np.arange(max(1, dataset.num_classes), dtype=np.int32), (tasks, 1))


def _groups(dataset, pool, test_pool, tasks: int) -> Layout:
  names = np.unique(dataset.train.group)
  if len(names) < tasks:
    raise UsageError(f"stream.tasks: {tasks} tasks by group, but the dataset has {len(names)} groups")
  train = [pool[dataset.train.group[pool] == g] for g in names[:tasks]]
  test = [test_pool[dataset.test.group[test_pool] == g] for g in names[:tasks]]
  return Layout(dataset, train, test, _same_labels(dataset, tasks), outputs(dataset), identity())


def _shared(dataset, kind: str, pool, test_pool, tasks: int, angles, seed: int) -> Layout:
  """All rows in every task; what differs is the view or the labels."""
  if not hasattr(dataset.train.x, "shape"):
    raise UsageError(f"stream.kind: {kind!r} needs inputs that are one array; these are {', '.join(dataset.train.x)}")
  shape, classes, view = dataset.train.x.shape[1:], outputs(dataset), identity()
  pixels = int(np.prod(shape))
  size = {"permuted": 4 * pixels, "rotated": 32 * pixels, "label_random": 4 * len(pool)}.get(kind, 4 * classes)
  limits.check_memory(f"stream.tasks: what makes {tasks} tasks of kind {kind!r}", tasks * size, "ask for fewer")
  labels = _same_labels(dataset, tasks)
  if kind == "label_permuted":
    labels = permuted_labels(classes, tasks, seed)
  elif kind == "label_random":
    dataset, labels = random_labels(dataset, pool, tasks, seed)
    test_pool = np.arange(len(pool))
  elif kind == "permuted":
    view = permuted(tasks, shape, seed)
  else:
    if not numeric(angles) or len(angles) not in (0, tasks):
      raise UsageError(f"stream.angles: got {str(angles)[:80]}; expected {tasks} numbers of degrees, one for each task")
    angles = tuple(map(float, angles)) or tuple(180.0 * t / tasks for t in range(tasks))
    view = rotated(angles, shape)
  return Layout(dataset, [pool] * tasks, [test_pool] * tasks, labels, classes, view)


def _each(arrays, function) -> list:
  """``function`` of each array, once where tasks share one: hundreds of tasks over the same rows cost one array."""
  made: dict[int, Any] = {}
  for a in arrays:
    if id(a) not in made:
      made[id(a)] = function(a)
  return [made[id(a)] for a in arrays]


def with_forget(stream: Stream, forget: str | Sequence[tuple[int, Forget]]) -> Stream:
  """Puts Forget events after the given numbers of learned tasks; each is checked against the data at once."""
  requests = forget_list(forget)
  if not requests:
    return stream
  order = [e.task for e in stream.events if isinstance(e, Learn)]
  events: list[Any] = []
  for at, (after, request) in enumerate(requests):
    if not 1 <= after <= len(order):
      raise UsageError(f"stream.forget: after {after} tasks; the stream has 1..{len(order)}")
    requests[at] = (after, named_request(stream, request, order[:after], "stream.forget"))
  for event in stream.events:
    events.append(event)
    done = sum(isinstance(e, Learn) for e in events)
    events.extend(r for after, r in requests if after == done)
  return stream._replace(events=tuple(events))


def named_request(stream: Stream, request, done: list[int], what: str) -> Forget:
  """The request with its classes by name; refused unless it names a row of the tasks ``done``."""
  if not isinstance(request, Forget):
    raise UsageError(f"{what}: got {str(request)[:80]}; expected cljax.Forget")
  named = resolve_pairs(request, stream)
  held = held_pairs(request, stream)
  if not any(named[t].any() or held[t].any() for t in set(done)):
    raise UsageError(
      f"{what}: request after {len(done)} tasks names no row that was learned by then: {str(request)[:200]}"
    )
  # By name: a place means nothing to whoever reads the ledger.
  names = stream.dataset.class_names
  return request._replace(classes=tuple(class_as_named(names, p) for p in class_places(names, request.classes, what)))


__getattr__ = _old_names.from_module(__name__)
