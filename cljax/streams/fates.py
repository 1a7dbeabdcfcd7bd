"""What becomes of every row that a Forget event names."""

from __future__ import annotations

import jax
import numpy as np

from cljax.core.types import Forget, Learn
from cljax.streams.class_names import class_places
from cljax.streams.requests import deleted_pairs, held_pairs, learned_tasks, resolve, resolve_pairs

# As the ledger has them, in the order in which a row is judged.
FATES = ("forgotten", "not yet learned", "already gone", "held out", "never trained")


def named_rows(request: Forget, stream) -> np.ndarray:
  """``[N] bool``: the rows of the training split that a request names, whoever shows them or held them out."""
  shown = [np.concatenate([a, b]) for a, b in zip(stream.train, stream.validation, strict=True)]
  return resolve(request, stream.dataset.train, shown, stream.num_classes, stream.dataset.class_names)


def fates(stream, at: int) -> dict[str, np.ndarray]:
  """``{fate: rows}`` of the Forget event ``at``: positions in the training split, each named row under one fate.

  ``forgotten``: some task learned by then shows it, and it was there until now. ``not yet learned``: only tasks that
  come later show it, and will do without. ``already gone``: earlier requests named it. ``held out``: it was kept for
  validation, and is no longer evaluated on. ``never trained``: no task of the stream has it. Fates of no row are left
  out.
  """
  event = stream.events[at]
  named, gone = resolve_pairs(event, stream), deleted_pairs(stream, at)
  learned = learned_tasks(stream.events[:at])
  size = len(stream.dataset.train.id)
  fresh, later, held, before = np.zeros((4, size), bool)
  for t, (rows, mine, old) in enumerate(zip(stream.train, named, gone, strict=True)):
    (fresh if t in learned else later)[rows[mine & ~old]] = True
  for rows, mine in zip(stream.validation, held_pairs(event, stream), strict=True):
    held[rows[mine]] = True
  for earlier in stream.events[:at]:
    if isinstance(earlier, Forget):
      before |= named_rows(earlier, stream)
  left, out = named_rows(event, stream) | fresh | later | held, {}
  for name, rows in zip(FATES, (fresh, later, before, held, left), strict=True):
    if (rows & left).any():
      out[name] = np.flatnonzero(rows & left)
    left = left & ~rows
  return out


def partly(stream, at: int, rows: np.ndarray) -> np.ndarray:
  """Those of ``rows`` that some task still shows after the Forget event ``at``: another view of them was named."""
  shown = [mine[~gone] for mine, gone in zip(stream.train, deleted_pairs(stream, at + 1), strict=True)]
  return rows[np.isin(rows, np.concatenate(shown))]


def deleted_held(stream, upto: int) -> tuple[np.ndarray, ...]:
  """``[len(stream.validation[t])] bool`` for each task: held-out rows that the Forget events before ``upto`` name."""
  gone = tuple(np.zeros(len(rows), bool) for rows in stream.validation)
  for event in stream.events[:upto]:
    if isinstance(event, Forget):
      gone = tuple(a | b for a, b in zip(gone, held_pairs(event, stream), strict=True))
  return gone


def deleted_tests(stream, upto: int) -> tuple[np.ndarray, ...]:
  """``[len(stream.test[t])] bool`` for each task: test rows that are training rows themselves (of one id and input, as
  those of ``label_random``), which the Forget events before ``upto`` delete from the task."""
  gone, (train, test) = deleted_pairs(stream, upto), stream.dataset[1:3]
  out: list[np.ndarray] = []
  place: dict[int, int] = {}
  for rows, mine, tests in zip(stream.train, gone, stream.test, strict=True):
    if mine.any() and not place:
      place = {int(i): at for at, i in enumerate(np.asarray(train.id))}
    named = set(np.asarray(rows)[mine].tolist())
    at = [place.get(int(test.id[r]), -1) if named else -1 for r in tests]
    out.append(np.asarray([p in named and _same(train.x, p, test.x, r) for p, r in zip(at, tests, strict=True)], bool))
  return tuple(out)


def reached_tests(stream, upto: int) -> tuple[np.ndarray, ...]:
  """``[len(stream.test[t])] bool`` for each task: test rows whose entries in a log go with the Forget events before
  ``upto``: those of :func:`deleted_tests`, and those of the groups that requests name.

  Where a request joins its selections by ``&``, the rows of these groups that its classes and tasks name too; ids are
  those of training rows, and name no test row. Test rows are evaluated on all the same.
  """
  test = stream.dataset.test
  gone = [np.array(mine) for mine in deleted_tests(stream, upto)]
  for event in stream.events[:upto]:
    every = isinstance(event, Forget) and event.match == "all"
    if not isinstance(event, Forget) or not event.groups or (every and event.ids):
      continue
    named = np.isin(test.group, np.asarray(list(event.groups), np.int64))
    if every and event.classes:
      named &= np.isin(test.y, class_places(stream.dataset.class_names, event.classes, "forget request"))
    for t, rows in enumerate(stream.test):
      if not every or not event.tasks or t in event.tasks:
        gone[t] |= named[np.asarray(rows, int)]
  return tuple(gone)


def _same(x, i: int, other, j: int) -> bool:
  """Whether row ``i`` of one input tree is row ``j`` of another."""
  return all(np.array_equal(a[i], b[j]) for a, b in zip(jax.tree.leaves(x), jax.tree.leaves(other), strict=True))


def moment(stream, at: int) -> str:
  """Event ``at`` in words that count as requests do: ``'task 3 (event 4)'``, ``'the request after 5 tasks (event
  6)'``."""
  event = stream.events[at] if at < len(stream.events) else None
  if isinstance(event, Learn):
    return f"task {event.task} (event {at})"
  done = sum(isinstance(e, Learn) for e in stream.events[:at])
  return f"the request after {done} tasks (event {at})" if event is not None else f"the end (event {at})"
