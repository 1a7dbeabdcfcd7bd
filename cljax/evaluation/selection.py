"""Choosing hyper-parameters on validation data, of all tasks or of the first few only; never on test data.

Accuracy stands for whatever the main score is; where lower is better, the lowest is chosen. Two protocols.
*Validation*: the configuration with the highest final accuracy on held-out training rows of all tasks,
which a learner that meets its tasks one by one does not have when it starts. *First tasks*: the configuration with the
highest validation accuracy after the first ``k`` tasks, on these tasks; test accuracy is then reported on the tasks
after them (Chaudhry et al., A-GEM, ICLR 2019, who also train the reported runs without the first ``k`` tasks: here they
are learned in the same run).
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from cljax.core.types import UsageError


def moment(events: Sequence[Mapping[str, Any]], first_tasks: int | None = None) -> tuple[int, list[int]]:
  """``(row, tasks)``: the row of an accuracy matrix to select by, and the tasks learned by then, in order.

  Row 0 comes before the first event. ``first_tasks=None``: the row after the last Learn event; ``k``: the row after the
  event that was the first to learn the ``k``-th task. Raises UsageError unless 1 <= k < number of tasks learned.
  """
  tasks: list[int] = []
  last = 0
  rows: list[int] = []
  for row, event in enumerate(events, 1):
    if event["kind"] != "learn":
      continue
    last = row
    if event["task"] not in tasks:
      tasks.append(event["task"])
      rows.append(row)
  if first_tasks is None:
    return last, tasks
  if not 1 <= first_tasks < len(tasks):
    raise UsageError(f"first_tasks: got {first_tasks}; expected 1 to {len(tasks) - 1}, of {len(tasks)} tasks learned")
  return rows[first_tasks - 1], tasks[:first_tasks]


def validation_accuracy(validation, events: Sequence[Mapping[str, Any]], first_tasks: int | None = None) -> np.ndarray:
  """``[S]``: ``mean_{i in tasks} V[row, i]`` at :func:`moment`; ``validation [S, E+1, T]``, fractions."""
  row, tasks = moment(events, first_tasks)
  return _matrix(validation, events, "validation")[:, row, tasks].mean(-1)


def reported_accuracy(accuracy, events: Sequence[Mapping[str, Any]], first_tasks: int | None = None) -> np.ndarray:
  """``[S]``: mean test accuracy after the last Learn event, on the tasks that were not selected on.

  All tasks learned for ``first_tasks=None``; those after the first ``k`` else. ``accuracy [S, E+1, T]``, fractions.
  """
  if first_tasks is not None:
    moment(events, first_tasks)  # refuses a count that leaves no task
  row, tasks = moment(events)
  return _matrix(accuracy, events, "accuracy")[:, row, tasks[first_tasks or 0 :]].mean(-1)


def _matrix(values, events, name: str) -> np.ndarray:
  values = np.asarray(values, np.float64)
  if values.ndim != 3 or values.shape[1] != len(events) + 1:
    raise UsageError(f"{name}: has shape {values.shape}; expected [S, {len(events) + 1}, T], a row before any event")
  return values


def best(names: Sequence[Hashable], scores: Sequence[float | None], better: str | Sequence[str] = "higher") -> set[int]:
  """For each name, the index of its highest score, or of its lowest where that is ``better`` (one word, or one for each
  score); None and NaN are passed over, the first of equals wins. Raises UsageError for other words."""
  words = [better] * len(names) if isinstance(better, str) else list(better)
  wrong = [w for w in words if w not in ("higher", "lower")]
  if wrong:
    raise UsageError(f"better: got {wrong[0]!r}; allowed: higher, lower")
  chosen: dict[Hashable, int] = {}
  for i, (name, score, word) in enumerate(zip(names, scores, words, strict=True)):
    if score is None or np.isnan(score):
      continue
    held = None if name not in chosen else scores[chosen[name]]
    if held is None or (score < held if word == "lower" else score > held):
      chosen[name] = i
  return set(chosen.values())
