"""Each training presentation of a run: whether a row was known when it came, before its update (Toneva et al. 2019).

The compiled step gives two bits for each row that the stream offers: whether it was in the batch that the loss was
taken of, and whether its largest logit there was its label's, among the classes that compete. They are read from the
step's own forward pass, so a recorded run takes no other step: with the augmentation and the dropout of training, and
with whatever the method does to the batch or to the parameters inside its gradient. Rows that a memory brings back are
no presentations. The host counts, as :func:`cljax.metrics.forgetting_events` does.

A pair is a row as a task shows it; pairs stand task after task, as ``stream.train`` lists their rows. What is deleted
has no record any more. Where a request is answered by training again, the record is that of the new training; where it
is answered by an edit, that of the rows that stay is of the training before it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from cljax import metrics
from cljax.core.types import UsageError
from cljax.io import checkpoint


class Presented(NamedTuple):
  """What a run has counted, for each member and pair ``[S, P]``: all that goes into :class:`cljax.metrics.Events`."""

  forgetting: Any  # int32
  learning: Any  # int32
  first: Any  # int32: the first right presentation among the pair's own; -1
  seen: Any  # int32
  right: Any  # bool: at its last presentation


class Presentations(NamedTuple):
  """The events of each pair ``[S, P]``, its ``task [P]`` and its place ``row [P]`` among the stored training rows."""

  events: metrics.Events
  task: np.ndarray
  row: np.ndarray


def bits(given, shown, logits):
  """``uint8 [2, ceil(B / 8)]``: of each row of ``given``, the batch as the stream offers it, whether it is in
  ``shown``, the batch of the loss, and whether ``logits`` are right there. Runs in the compiled step."""
  shape, rows = tuple(jnp.shape(logits)), shown.id.shape[0]
  if shape[:1] != (rows,) or len(shape) != 2:
    raise UsageError(f"train.presentations: the step has logits of shape {shape} for {rows} rows; expected [B, C]")
  alike = (given.id[:, None] == shown.id) & (given.task[:, None] == shown.task)
  alike &= (given.weight > 0)[:, None] & (shown.weight > 0)
  own = logits[jnp.argmax(alike, 1)]
  if given.class_mask is not None:
    own = jnp.where(given.class_mask, own, -jnp.inf)
  there = alike.any(1)
  return jnp.packbits(jnp.stack([there, there & (jnp.argmax(own, -1) == given.y)]), axis=-1)


def pairs(stream) -> tuple[np.ndarray, np.ndarray]:
  """``(task [P], row [P])``."""
  task = [np.full(len(rows), t) for t, rows in enumerate(stream.train)]
  return np.concatenate(task), np.concatenate([np.asarray(rows, np.int64) for rows in stream.train])


def fresh(setup) -> Presented | None:
  """Nothing was presented; None where nothing is recorded."""
  if not setup.options.presentations:
    return None
  shape = len(setup.population), sum(map(len, setup.stream.train))
  zeros = lambda dtype=np.int32: np.zeros(shape, dtype)
  return Presented(zeros(), zeros(), zeros() - 1, zeros(), zeros(bool))


def added(record: Presented, stream, rows, packed, count: int) -> Presented:
  """The record with ``count`` more steps: ``rows [S]`` of ``(index, task, offered)``, each ``[K, B]``; ``packed [S, K,
  2, ...]`` of :func:`bits`."""
  task, row = pairs(stream)
  key = task * (row.max(initial=0) + 1) + row
  order = np.argsort(key, kind="stable")
  ordered = key[order]
  out = Presented(*(a.copy() for a in record))
  for member, (index, tasks, _) in enumerate(rows):
    slots = order[np.minimum(np.searchsorted(ordered, tasks * (row.max(initial=0) + 1) + index), len(order) - 1)]
    there, right = np.moveaxis(np.unpackbits(np.asarray(packed[member]), axis=-1)[..., : index.shape[1]], 1, 0) > 0
    own = Presented(*(a[member] for a in out))
    for step in range(count):
      at = slots[step][there[step]]
      now = right[step][there[step]]
      again, was = own.seen[at] > 0, own.right[at]
      own.forgetting[at] += again & was & ~now
      own.learning[at] += again & ~was & now
      own.first[at] = np.where(now & (own.first[at] < 0), own.seen[at], own.first[at])
      own.right[at] = now
      own.seen[at] += 1
  return out


def without(record: Presented | None, gone) -> Presented | None:
  """The record without the pairs ``gone``, a mask over the rows of each task."""
  if record is None:
    return None
  left = ~np.concatenate([np.asarray(g, bool) for g in gone])
  clear = lambda a, empty: np.where(left, a, np.asarray(empty, a.dtype))
  return Presented(*(clear(a, -1 if name == "first" else 0) for name, a in zip(record._fields, record, strict=True)))


def widened(record: Presented | None, stream) -> Presented | None:
  """The record of a run's first tasks with places for those that came later."""
  if record is None:
    return None
  more = sum(map(len, stream.train)) - record.seen.shape[1]
  pad = lambda a, empty: np.pad(a, ((0, 0), (0, more)), constant_values=empty)
  named = zip(record._fields, map(np.asarray, record), strict=True)
  return Presented(*(pad(a, -1 if name == "first" else 0) for name, a in named))


def read(directory, number: int, meta) -> Presented | None:
  """The record in a checkpoint; None where it has none. Raises DamagedError."""
  paths = [checkpoint.COUNTED + name for name in Presented._fields]
  if not all(path in meta["leaves"] for path in paths):
    return None
  held = checkpoint.read_state(directory, number, meta)
  return Presented(*(np.array(held[path]) for path in paths))


def told(record: Presented | None, stream) -> Presentations | None:
  """The record as a result has it."""
  if record is None:
    return None
  forgot, learned, first, seen, _ = map(np.asarray, record)
  return Presentations(metrics.Events(forgot, learned, first, seen, (first >= 0) & (forgot == 0)), *pairs(stream))


def counted(found: Presentations) -> Presented:
  """What a run goes on with from a result: the last presentation was right where more was learned than forgotten."""
  e = found.events
  # Of a pair that was right at first, and of one that was not, what is learned and forgotten comes in turns.
  right = (e.first_learned >= 0) & np.where(e.first_learned == 0, e.forgetting == e.learning, e.learning > e.forgetting)
  forgetting, learning, first, seen = (np.array(a) for a in e[:4])
  return Presented(forgetting, learning, first, seen, right)


def summary(found: Presentations) -> dict[str, list[float]]:
  """Of each member, over the pairs that were presented: mean presentations and forgetting events of one, and the shares
  that were forgotten at least once, never (learned and unforgettable), and that were never right."""
  out: dict[str, list[float]] = {}
  e = found.events
  for forgot, first, seen in zip(e.forgetting, e.first_learned, e.presentations, strict=True):
    there = seen > 0
    mean = lambda a, there=there: float(a[there].mean()) if there.any() else float("nan")
    values = {
      "presentations": mean(seen), "forgetting_events": mean(forgot), "forgotten": mean(forgot > 0),
      "unforgettable": mean((forgot == 0) & (first >= 0)), "never_right": mean(first < 0),
    }  # fmt: skip
    for name, value in values.items():
      out.setdefault(name, []).append(value)
  return out
