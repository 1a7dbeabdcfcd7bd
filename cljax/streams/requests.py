"""Forget requests: from text, and to what they name: rows as tasks show them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from cljax.core.types import Forget, Learn, UsageError
from cljax.data.types import Split, are_classes
from cljax.streams.class_names import class_places, cut, words
from cljax.streams.labels import unlabelled, withheld
from cljax.streams.options import is_integer, plain

_FIELDS = {
  "class": "classes",
  "classes": "classes",
  "id": "ids",
  "ids": "ids",
  "task": "tasks",
  "tasks": "tasks",
  "group": "groups",
  "groups": "groups",
}


def parse_forget(text: str) -> list[tuple[int, Forget]]:
  """Parses ``'2:class=3; 4:ids=17,20-39'`` into ``[(after_task, Forget), ...]``: forget once that many tasks were
  learned.

  Several selections in one request are joined by ``+`` (their union) or by ``&`` (what all of them name):
  ``'3:class=1+ids=5,6'``, ``'3:class=1&group=2'``, ``'3:ids=1-9&ids=5-20'``. A class is given by its name, quoted
  where it holds ``, + & ;`` or is a number, or by its place (:func:`class_places`): ``'2:class=cat,"1"'``. Raises
  UsageError on anything else.
  """
  events = []
  for part in filter(None, (p.strip() for p in cut(text, ";"))):
    where, _, what = part.partition(":")
    where = where.strip()
    if not (where.isascii() and where.isdigit() and len(where) < 10) or not what:
      raise UsageError(f"stream.forget: got {part!r}; expected 'AFTER_TASKS:class=..|ids=..|task=..|group=..'")
    events.append((int(where), parse_request(what)))
  if text.strip() and not events:
    raise UsageError(
      f"stream.forget: got {text!r}, which holds no request; expected 'AFTER_TASKS:class=..', or nothing"
    )
  return events


def forget_list(forget) -> list[tuple[int, Forget]]:
  """``[(after_tasks, Forget), ...]`` from such a list or from the text of :func:`parse_forget`."""
  if isinstance(forget, str):
    return parse_forget(forget)
  pairs = list(forget) if isinstance(forget, list | tuple) and not isinstance(forget, Forget) else [forget]
  for pair in pairs:
    sound = isinstance(pair, list | tuple) and len(pair) == 2 and isinstance(pair[1], Forget)
    if not sound or not isinstance(pair[0], int | np.integer) or isinstance(pair[0], bool):
      raise UsageError(f"stream.forget: got {repr(pair)[:80]}; expected text, or a list of (after_tasks, cljax.Forget)")
  return [(int(after), request) for after, request in pairs]


def parse_request(text: str) -> Forget:
  """Parses one request such as ``'class=3'`` or ``'ids=17,20-39+task=0'``."""
  chosen: dict[str, tuple[Any, ...]] = {}
  every = len(cut(text, "&")) > 1
  if every and len(cut(text, "+")) > 1:
    raise UsageError(f"forget request: {text!r} mixes + and &; expected one of them")
  for selection in cut(text, "+&"):
    key, _, values = selection.partition("=")
    field = _FIELDS.get(key.strip())
    if field is None:
      raise UsageError(f"forget request: unknown selector {key.strip()!r}; allowed: class, ids, task, group")
    given = _values(values, text, names=field == "classes")
    if every and field in chosen:
      if field == "classes":  # by name and by place alike: which of them are the same class is not known here
        raise UsageError(f"forget request: {text!r} gives class= twice with &; a row has one class")
      given = tuple(v for v in chosen[field] if v in set(given))
      if not given:
        raise UsageError(f"forget request: {text!r} names no rows: its {field} have none in common")
    elif field in chosen:
      given = chosen[field] + given
    chosen[field] = given
  return Forget(**chosen, match="all" if every else "any")


_MOST = 10_000_000  # of a range: more rows than an array of indices is worth


def _values(values: str, text: str, names: bool) -> tuple:
  """Whole numbers and ranges of them; other words too where they may be ``names``."""
  out: list[Any] = []
  for item in words(values):
    found = re.fullmatch(r"([0-9]{1,18})(?:-([0-9]{1,18}))?", item)
    if found is not None:
      low, high = int(found[1]), int(found[2] or found[1])
      if low > high or high - low >= _MOST:
        raise UsageError(f"forget request: the range {item} in {text!r} must ascend and hold at most {_MOST} numbers")
      out.extend(range(low, high + 1))
    elif names and item:
      out.append(item)
    else:
      raise UsageError(f"forget request: {item!r} in {text!r} is not a non-negative integer or a range LOW-HIGH")
  return tuple(out)


def resolve_pairs(request: Forget, stream: Any) -> tuple[np.ndarray, ...]:
  """Which rows a request names, as the tasks show them: for each task ``[len(stream.train[t])] bool``.

  A request is about (task, row) pairs. ``tasks`` names the pairs of these tasks and no others, also where other tasks
  show the same rows. ``classes`` (the data set's, by name or place), ``ids`` and ``groups`` name rows, in every task
  that shows them, learned or yet to be. Selections are joined as ``request.match`` says. Tasks that share rows share
  the mask where they can. Raises UsageError for what does not exist, and where no pair is named; a request may name
  held-out rows alone (:func:`held_pairs`).
  """
  out = _pairs(request, stream, stream.train)
  if not any(part.any() for part in out) and not any(part.any() for part in held_pairs(request, stream)):
    raise _nothing(request)
  return out


def held_pairs(request: Forget, stream) -> tuple[np.ndarray, ...]:
  """As :func:`resolve_pairs`, of rows held out for validation: for each task ``[len(stream.validation[t])] bool``."""
  return _pairs(request, stream, stream.validation)


def _pairs(request: Forget, stream, shown) -> tuple[np.ndarray, ...]:
  """``[len(shown[t])] bool`` for each task: the pairs that a request names."""
  split = stream.dataset.train
  rows, tasks = _selections(request, split, stream.num_tasks, stream.dataset.class_names)
  if len(request.classes) and withheld(stream):
    raise UsageError(
      "forget request: class= names rows by labels, which stream.labelled withholds; give ids=, task= or group="
    )
  every = request.match == "all"
  combine = np.logical_and if every else np.logical_or
  wanted = combine.reduce(rows) if rows else np.full(len(split.id), every)
  made: dict[Any, np.ndarray] = {}

  def named(t: int) -> np.ndarray:
    mine = shown[t]
    whole = None if tasks is None or (t in tasks) == every else not every
    if whole is not None:
      return np.broadcast_to(np.bool_(whole), len(mine))
    if id(mine) not in made:
      made[id(mine)] = wanted[mine]
    return made[id(mine)]

  if not (rows or tasks):
    return tuple(np.zeros(len(part), bool) for part in shown)
  return tuple(named(t) for t in range(stream.num_tasks))


def learned_tasks(events: Iterable[Learn | Forget]) -> list[int]:
  """The tasks that events learn, each once, in the order first met."""
  return list(dict.fromkeys(e.task for e in events if isinstance(e, Learn)))


def deleted_pairs(stream: Any, upto: int) -> tuple[np.ndarray, ...]:
  """The pairs that the Forget events before event ``upto`` name, in the form of :func:`resolve_pairs`."""
  gone = tuple(np.broadcast_to(np.bool_(False), len(rows)) for rows in stream.train)
  for event in stream.events[:upto]:
    if isinstance(event, Forget):
      named = resolve_pairs(event, stream)
      gone = tuple(b if not a.any() else a if not b.any() else a | b for a, b in zip(gone, named, strict=True))
  return gone


def forgotten_classes(stream: Any, upto: int) -> np.ndarray:
  """``[num_classes] bool``: labels that are forgotten whole after the first ``upto`` events.

  Labels are the model's outputs (``stream.labels``), not the data set's classes. One is gone if some pair of a task
  learned by then has it, and the requests by then name all of these: however a request spells the pairs, the answer is
  the same, and a label that another task or class still uses stays. A pair without a label may have any of its task's.
  What the request at event ``e`` took whole is
  ``forgotten_classes(stream, e + 1) & ~forgotten_classes(stream, e)``.
  """
  if not stream.dataset.has_classes:  # targets are tokens or numbers, of which none is forgotten whole
    return np.zeros(stream.num_classes, bool)
  gone = deleted_pairs(stream, upto)
  met, left = np.zeros((2, stream.num_classes), bool)
  for t in learned_tasks(stream.events[:upto]):
    label = stream.labels[t][stream.dataset.train.y[stream.train[t]]]
    named = label >= 0
    met[label[named]] = True
    left[label[named & ~gone[t]]] = True
    if not named.all():
      any_of = stream.classes_of_task[t]
      met |= any_of
      left |= any_of & (unlabelled(stream, t) & ~gone[t]).any()
  return met & ~left


def pair_table(stream: Any, named: Sequence[np.ndarray]) -> np.ndarray:
  """``[1, N]`` or ``[T, N]`` bool over rows of the training split: ``table[t % len(table), row]`` is whether the pair
  is named.

  One line where no two tasks of the stream share a row, so its shape depends on the stream alone.
  """
  alone = sum(map(len, stream.train)) == len(np.unique(np.concatenate(list({id(r): r for r in stream.train}.values()))))
  table = np.zeros((1 if alone else stream.num_tasks, len(stream.dataset.train.id)), bool)
  for t, (rows, mine) in enumerate(zip(stream.train, named, strict=True)):
    table[t % len(table), rows[mine]] = True
  return table


def _nothing(request: Forget) -> UsageError:
  """What a request that names no row is told."""
  if not any((request.classes, request.ids, request.tasks, request.groups)):
    return UsageError("forget request: names no rows; give class=, ids=, task= or group=")
  joined = "all of its selections" if request.match == "all" else "it"
  return UsageError(f"forget request: names no rows: none of the stream's training rows is in {joined}")


def resolve(
  request: Forget, split: Split, tasks: Sequence[np.ndarray], num_classes: int, names: Sequence[str] | None = None
) -> np.ndarray:
  """The ``[N] bool`` mask over the training rows that a request names in any task; see :func:`resolve_pairs`.

  Rows that no task trains on (held out, of no task) are named by class, id and group too.
  """
  rows, chosen = _selections(request, split, len(tasks), names or [str(c) for c in range(num_classes)])
  if chosen is not None:
    rows.append(np.zeros(len(split.id), bool))
    for t in chosen:
      rows[-1][tasks[t]] = True
  combine = np.logical_and if request.match == "all" else np.logical_or
  mask = combine.reduce(rows) if rows else np.zeros(len(split.id), bool)
  if not mask.any():
    raise _nothing(request)
  return mask


def _selections(request: Forget, split, num_tasks: int, names) -> tuple[list[np.ndarray], set[int] | None]:
  """``(masks over rows, tasks or None)`` of the fields that are given, checked."""
  if not isinstance(request.match, str) or request.match not in ("any", "all"):
    raise UsageError(f"forget request: match {repr(plain(request.match))[:60]}; allowed: any, all")
  for field in ("classes", "ids", "groups", "tasks"):
    values = getattr(request, field)
    if not isinstance(plain(values), list | tuple | set | range):
      raise UsageError(f"forget request: {field} {repr(values)[:60]}; expected a tuple")
  rows = []
  if len(request.classes):
    if not are_classes(split.y):
      raise UsageError("forget request: class= needs classes, which the data do not have; give ids=, task= or group=")
    rows.append(np.isin(split.y, class_places(names, request.classes, "forget request")))
  if len(request.ids):
    wanted = _integers("row id", request.ids)
    missing = wanted[~np.isin(wanted, split.id)]
    if len(missing):
      raise UsageError(f"forget request: row id {missing[0]} is not in the training data ({len(split.id)} rows)")
    rows.append(np.isin(split.id, wanted))
  if len(request.groups):
    wanted = _integers("group", request.groups)
    missing = wanted[~np.isin(wanted, split.group)]
    if len(missing):
      some = np.unique(split.group).tolist()
      raise UsageError(f"forget request: group {missing[0]} has no training rows; groups are {some}")
    rows.append(np.isin(split.group, wanted))
  if not len(request.tasks):
    return rows, None
  tasks = _integers("task", request.tasks)
  for t in tasks:
    if not 0 <= t < num_tasks:
      raise UsageError(f"forget request: task {t} does not exist; tasks are 0..{num_tasks - 1}")
  return rows, set(tasks.tolist())


def _integers(what: str, values) -> np.ndarray:
  values = plain(values)
  if not all(is_integer(v, -(2**63)) for v in values):
    raise UsageError(f"forget request: {what} {repr(values)[:60]}; expected integers")
  return np.asarray(list(values), np.int64)
