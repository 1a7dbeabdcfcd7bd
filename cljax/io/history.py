"""The stages of a run's life: what it began with and what was appended to it, when, and of which data.

``history.json`` in a workdir holds one record for each stage: its configuration, its events, and for each task a digest
of what it consists of. The digests are of contents, not of whole data sets: rows appended to a file leave them.
"""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath

from cljax.core.types import CljaxError, UsageError
from cljax.data.types import first_rows
from cljax.io import formats
from cljax.io.files import dumps, loads, write_text

FILE = "history.json"


def read(workdir) -> list[dict[str, Any]]:
  """The stages of a workdir, oldest first; none where there is no file. CljaxError where it is damaged."""
  path = epath.Path(workdir) / FILE
  if not path.exists():
    return []
  try:
    found = loads(path.read_bytes())
    formats.check(path, found)
    stages = found["stages"]
    for stage in stages:
      stage["config"]["members"], stage["events"][0], stage["tasks"][0], stage["shape"]["num_classes"], stage["rows"]
  except (ValueError, LookupError, TypeError) as error:
    raise CljaxError(f"workdir: {path} is damaged; without it nothing can be appended to the run") from error
  return stages


def write(workdir, stages: Sequence[Mapping[str, Any]]) -> None:
  write_text(epath.Path(workdir) / FILE, dumps({**formats.noted(), "stages": list(stages)}, indent=1) + "\n")


def stage(stream, config: Mapping[str, Any], what: str, first: int, answers: Mapping[int, str]) -> dict[str, Any]:
  """The record of a stage that begins with event ``first``; ``answers`` are the methods of its Forget events."""
  return loads(
    dumps(
      {
        "what": what,
        "at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "first_event": first,
        "events": [repr(e) for e in stream.events],
        "answers": {str(event): name for event, name in answers.items()},
        "data_digest": stream.dataset.digest,
        "rows": len(stream.dataset.train.id),
        **_sizes(stream.dataset, config),
        "tasks": task_digests(stream),
        "shape": shape_of(stream),
        "config": config,
      }
    )
  )


def _sizes(dataset, config: Mapping[str, Any]) -> dict[str, dict[str, int]]:
  """How much there was of a data set: what tells it from what is appended to it later. Nothing of random labels, whose
  test rows and classes are the stream's own."""
  if isinstance(config.get("stream"), dict) and config["stream"].get("kind") == "label_random":
    return {}
  return {"sizes": {"train": len(dataset.train.id), "test": len(dataset.test.id), "classes": len(dataset.class_names),
                    "groups": len(dataset.group_names)}}  # fmt: skip


def as_held(dataset, digest: str, stages: Sequence[Mapping[str, Any]], stream_of: Callable):
  """The data of the stage whose ``data.digest`` this is: ``dataset``, or what it was before rows were appended.

  ``stream_of(dataset)`` makes the stage's stream. Raises UsageError where rows are not what they were, and names the
  tasks that they are of.
  """
  if dataset.digest == digest:
    return dataset
  held = next((s for s in reversed(stages) if s["config"].get("data", {}).get("digest") == digest), None)
  if held is None or "sizes" not in held:
    raise UsageError("it is other data than the run had; its digest differs")
  had = held["sizes"]
  try:
    found = first_rows(dataset, **had)
  except UsageError as error:
    raise UsageError(str(error).removeprefix("data: ")) from error
  if found.digest == digest:
    return found
  rows = f"its first {had['train']} training and {had['test']} test rows are not those that the run had"
  try:
    changed = [t for t, (a, b) in enumerate(zip(task_digests(stream_of(found)), held["tasks"], strict=True)) if a != b]
  except UsageError as error:
    raise UsageError(f"{rows}: {error}") from error
  of = f"task {', '.join(map(str, changed))} changed" if changed else "rows of no task, names or options changed"
  raise UsageError(f"{rows}: {of}; rows may be appended, but none changed, moved or removed")


def shape_of(stream) -> dict[str, Any]:
  """What every task of a stream shares, and a longer stream may not change."""
  x = jax.tree.map(lambda a: f"{a.dtype}{list(a.shape[1:])}", stream.dataset.train.x)
  scale = stream.dataset.scale
  return {"num_classes": stream.num_classes, "active": stream.active, "task_id_given": stream.task_id_given,
          "inputs": str(x), "scale": None if scale is None else float(scale)}  # fmt: skip


def task_digests(stream) -> list[str]:
  """For each task the SHA-256 of its rows, their places and labels, its held-out and test rows, and how it shows them.

  Of inputs that are mapped or read one by one, the places stand for the contents.
  """
  train, test = stream.dataset.train, stream.dataset.test
  seen: dict[Any, bytes] = {}

  def rows(split, which, places: bool) -> bytes:
    key = id(split), id(which)
    if key not in seen:  # hundreds of tasks may share one array of rows
      which = np.asarray(which)
      h = hashlib.sha256(which.astype(np.int64).tobytes() if places else b"")
      for part in (split.x, split.y, split.group):
        for a in jax.tree.leaves(part):
          small = isinstance(a, np.ndarray) and not isinstance(a, np.memmap)
          h.update(np.ascontiguousarray(a[which]).tobytes() if small else which.astype(np.int64).tobytes())
      seen[key] = h.digest()
    return seen[key]

  out = []
  for t in range(stream.num_tasks):
    h = hashlib.sha256(rows(train, stream.train[t], True) + rows(train, stream.validation[t], True))
    h.update(rows(test, stream.test[t], False))
    labels = np.asarray(stream.labels[t])
    h.update(repr([(int(c), int(labels[c])) for c in np.flatnonzero(labels >= 0)]).encode())
    for table in jax.tree.leaves(stream.view.tables):
      h.update(np.ascontiguousarray(table[t]).tobytes())
    out.append(h.hexdigest())
  return out


def check_prefix(held: Mapping[str, Any], stream) -> None:
  """Raises UsageError unless the stream begins with the events and tasks of the stage ``held``."""
  events = [repr(e) for e in stream.events]
  for at, (before, now) in enumerate(zip(held["events"], events, strict=False)):
    if before != now:
      raise UsageError(f"extend: event {at} was {before[:120]}; the given stream has {now[:120]} there")
  if len(events) <= len(held["events"]):
    raise UsageError(f"extend: the run has {len(held['events'])} events already; the given stream has {len(events)}")
  for key, now in shape_of(stream).items():
    before = held["shape"][key]
    if before != now:
      hint = f"; begin a run with stream.reserve_classes={now}" if key == "num_classes" else ""
      raise UsageError(f"extend: the run has {key} {before}, the given stream {now}{hint}")
  digests = task_digests(stream)
  for t, before in enumerate(held["tasks"]):
    if t >= len(digests) or digests[t] != before:
      raise UsageError(
        f"extend: task {t} is not what it was: other rows, labels, held-out or test rows, or another view; a longer "
        "stream must begin with the same tasks (give stream.classes_per_task: an even split changes with stream.tasks; "
        f"and stream.appended={held['rows']} where rows were appended)"
      )
