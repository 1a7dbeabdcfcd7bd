"""Forget requests: from text, and to rows."""

from __future__ import annotations

import numpy as np

from cljax.types import Forget, UsageError

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

  Several selections in one request are joined by ``+`` (their union) or by ``&`` (the rows that all of them name):
  ``'3:class=1+ids=5,6'``, ``'3:class=1&group=2'``. Raises UsageError on anything else.
  """
  events = []
  for part in filter(None, (p.strip() for p in text.split(";"))):
    where, _, what = part.partition(":")
    if not where.strip().isdigit() or not what:
      raise UsageError(f"stream.forget: got {part!r}; expected 'AFTER_TASKS:class=..|ids=..|task=..|group=..'")
    events.append((int(where), parse_request(what)))
  return events


def parse_request(text: str) -> Forget:
  """Parses one request such as ``'class=3'`` or ``'ids=17,20-39+task=0'``."""
  chosen: dict[str, tuple[int, ...]] = {}
  if "+" in text and "&" in text:
    raise UsageError(f"forget request: {text!r} mixes + and &; expected one of them")
  for selection in text.replace("&", "+").split("+"):
    key, _, values = selection.partition("=")
    field = _FIELDS.get(key.strip())
    if field is None:
      raise UsageError(f"forget request: unknown selector {key.strip()!r}; allowed: class, ids, task, group")
    chosen[field] = chosen.get(field, ()) + _integers(values, text)
  return Forget(**chosen, match="all" if "&" in text else "any")


def _integers(values: str, text: str) -> tuple[int, ...]:
  out: list[int] = []
  for item in values.split(","):
    low, dash, high = item.strip().partition("-")
    if not low.isdigit() or (dash and not high.isdigit()):
      raise UsageError(f"forget request: {item!r} in {text!r} is not a non-negative integer or a range LOW-HIGH")
    out.extend(range(int(low), int(high or low) + 1))
  return tuple(out)


def resolve(request: Forget, split, tasks, num_classes: int) -> np.ndarray:
  """The ``[N] bool`` mask over the training rows that a request names. Unknown ids, classes, tasks, groups:
  UsageError."""
  if request.match not in ("any", "all"):
    raise UsageError(f"forget request: match {request.match!r}; allowed: any, all")
  named = []
  for c in request.classes:
    if not 0 <= c < num_classes:
      raise UsageError(f"forget request: class {c} does not exist; classes are 0..{num_classes - 1}")
  if request.classes:
    named.append(np.isin(split.y, request.classes))
  if request.ids:
    wanted = np.asarray(request.ids)
    missing = wanted[~np.isin(wanted, split.id)]
    if len(missing):
      raise UsageError(f"forget request: row id {missing[0]} is not in the training data ({len(split.id)} rows)")
    named.append(np.isin(split.id, wanted))
  for t in request.tasks:
    if not 0 <= t < len(tasks):
      raise UsageError(f"forget request: task {t} does not exist; tasks are 0..{len(tasks) - 1}")
  if request.tasks:
    named.append(np.isin(np.arange(len(split.y)), np.concatenate([tasks[t] for t in request.tasks])))
  for g in request.groups:
    if not (split.group == g).any():
      raise UsageError(f"forget request: group {g} has no training rows; groups are {np.unique(split.group).tolist()}")
  if request.groups:
    named.append(np.isin(split.group, request.groups))
  combine = np.logical_and if request.match == "all" else np.logical_or
  mask = combine.reduce(named) if named else np.zeros(len(split.y), bool)
  if not mask.any():
    raise UsageError("forget request: names no rows; give class=, ids=, task= or group=")
  return mask
