"""Streams of a member's own (``stream.per_seed``): what a stream draws, each member draws from its seed.

The member with seed ``s`` has the stream that ``streams.build(..., seed=seed + s)`` makes, and where they are not
given, ``class_order=seed + s`` and angles of :func:`drawn_angles`. So class order, permutations, angles, parts and
held-out rows are its own; what is given (an order, angles) all members share. Its outputs are numbered by place in its
own order: the first task of every member has the outputs 0, 1, ..., whichever classes these are. That is what the
published protocols do that draw an order for each seed (van de Ven's), and their spread over seeds is mostly that of
orders.

Methods are sized by the largest task that any order can make, so that a member alone and one among others have the same
sizes, and so the same bits.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from cljax.core.types import Forget, UsageError
from cljax.streams.options import is_given
from cljax.streams.rows import class_groups

_BY_CLASS = ("class", "task", "domain")
# What would make other rows or other events of each member, and is refused.
_SHARED = {
  "label_noise": "members share the rows on the device",
  "input_noise": "members share the rows on the device",
  "labelled": "members share the rows on the device",
  "returning": "which classes return depends on a member's order, and tasks have to be alike",
  "appended": "rows are appended to one stream",
  "forget": "whether the rows that it names were learned by then depends on a member's order; ask it of the stream of "
  "one seed, by stream.seed and stream.class_order",
}


def drawn_angles(tasks: int, seed: int) -> tuple[float, ...]:
  """Degrees for each task, uniform over [0, 180), as Mammoth's rotated MNIST draws them."""
  rng = np.random.default_rng(np.random.SeedSequence([seed, 0xA4613]))
  return tuple(float(a) for a in rng.uniform(0.0, 180.0, tasks))


def seeded(make: Callable, dataset, kind: str, options: Mapping[str, Any]):
  """The stream of seed 0 with ``of_seed``; ``make(kind, **options)`` builds one. Raises UsageError for options that
  members can not have apart."""
  for name, why in _SHARED.items():
    given = options[name]
    if is_given(given, ()) and (name in ("forget", "appended") or np.any(given)):
      raise UsageError(f"stream.{name}: got {repr(given)[:80]} with stream.per_seed=True; {why}")
  first = make(kind, **options)
  room = max(first.row_room, _largest(make, dataset, kind, options, first))

  @functools.cache
  def of_seed(seed: int):
    mine = {**options, "seed": options["seed"] + seed}
    if kind in _BY_CLASS and not is_given(options["class_order"], None):
      mine["class_order"] = options["seed"] + seed
    if kind == "rotated" and not is_given(options["angles"], ()):
      mine["angles"] = drawn_angles(options["tasks"], options["seed"] + seed)
    made = make(kind, **mine)
    drawn: dict[str, Any] = {"seed": seed}
    if kind in _BY_CLASS:
      groups = class_groups(dataset.class_names, mine["tasks"], mine["classes_per_task"], mine["class_order"])
      drawn["classes"] = [group.tolist() for group in groups]
      made = made if kind == "domain" else made._replace(labels=_numbered(groups, dataset.num_classes))
    if kind == "rotated":
      drawn["angles"] = list(mine["angles"])
    return made._replace(name=f"{made.name}/per_seed", row_room=room, drawn=drawn)

  return of_seed(0)._replace(of_seed=of_seed, drawn=None)


def _largest(make: Callable, dataset, kind: str, options: Mapping[str, Any], first) -> int:
  """Training rows of the largest task that any seed can make."""
  if kind not in (*_BY_CLASS, "instance"):
    return max(map(len, first.train))  # of every seed
  whole = {"tasks": 1, "classes_per_task": (), "class_order": None, "task_fractions": (), "order": (), "active": ""}
  apart = {"reserve_tasks": 0, "reserve_rows": 0, "reserve_classes": 0}
  one = make("class" if kind in _BY_CLASS else kind, **{**options, **whole, **apart})
  if kind == "instance":  # before rows are held out: how many of a task's are differs
    return -(-(len(one.train[0]) + len(one.validation[0])) // first.num_tasks)
  rows = np.sort(np.bincount(dataset.train.y[one.train[0]], minlength=dataset.num_classes))[::-1]
  return int(rows[: int((first.labels >= 0).sum(1).max())].sum())


def _numbered(groups: Sequence[np.ndarray], classes: int) -> np.ndarray:
  """The table of labels that are places in the order of all tasks."""
  labels, place = np.full((len(groups), classes), -1, np.int32), 0
  for t, group in enumerate(groups):
    labels[t, group] = np.arange(place, place + len(group))
    place += len(group)
  return labels


def of_members(stream, seeds: Sequence[int]) -> tuple[Any, tuple]:
  """``(stream, streams)``: the stream of all members and ``()``; where each has its own, that of the first and those of
  all, ``()`` again where they have one seed. Raises UsageError where what was made of the stream since can not be of
  each."""
  if stream.of_seed is None:
    return stream, ()
  if any(isinstance(e, Forget) for e in stream.events):
    raise UsageError(f"stream.forget: got a request with stream.per_seed=True; {_SHARED['forget']}")
  apart = ("of_seed", "drawn")
  if any(getattr(stream, f) is not getattr(stream.of_seed(0), f) for f in stream._fields if f not in apart):
    raise UsageError("stream: one of stream.per_seed was changed by hand; change stream.of_seed(seed), of one seed")
  each = tuple(stream.of_seed(s) for s in seeds)
  check_alike(each)
  return each[0], each if len(set(seeds)) > 1 else ()


def check_alike(streams: Sequence[Any]) -> None:
  """Raises UsageError unless one program can have all: the same tasks, events, outputs and shapes of views."""
  first = streams[0]
  shapes = lambda s: [a.shape for a in jax.tree.leaves(s.view.tables)]
  held = lambda s: [bool(len(rows)) for rows in s.validation]
  for other in streams[1:]:
    alike = (
      other.events == first.events
      and np.array_equal(other.classes_of_task, first.classes_of_task)
      and shapes(other) == shapes(first)
      and held(other) == held(first)
    )
    if not alike:
      raise UsageError("stream.per_seed: the members' streams differ in more than their rows; expected tasks alike")
