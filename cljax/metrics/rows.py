"""Metrics of single test rows, from the raw log that every run keeps: nothing is run or restored.

A row metric is ``metric(log) -> array [S] or [S, C], or None`` where the log has not what it needs. ``log``
(:class:`cljax.io.row_log.RowLog`) has ``task, label, group, row, present [N]`` of its entries (a test row as a task
shows it) and ``numerator(member)``, ``denominator(member)``, ``right(member)``, ``predicted(member)`` ``[R, N]`` of the
evaluations, row 0 before the first event. Put into :data:`ROW_METRICS`, one applies to every run that has a log.

All are taken after the last event over the entries that are there of tasks that were learned by then ("seen").
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from cljax.core.types import UsageError
from cljax.metrics.classes import confusion, recency_bias
from cljax.metrics.examples import forgetting_events


def seen_rows(log: Any) -> np.ndarray:
  """``[N] bool``: entries that the last evaluation speaks of, of tasks that were learned by then."""
  if not len(log.records):
    return np.zeros(len(log.present), bool)
  return log.there()[-1] & np.isin(log.task, log.learned())


def row_weighted(log: Any) -> np.ndarray | None:
  """``finish(sum_n a_n / sum_n b_n)`` of the main score over all seen rows, each counting once: ``[S]``.

  Accuracy over rows, where ACC weighs tasks alike. None where nothing was seen.
  """
  return _over(log, seen_rows(log))


def class_scores(log: Any) -> np.ndarray | None:
  """The main score over the seen rows of each class: ``[S, C]``, NaN of a class without rows. None without classes."""
  if not log.classes or not seen_rows(log).any():
    return None
  return _by(log, log.label, range(log.classes))


def worst_class(log: Any) -> np.ndarray | None:
  """The worst of :func:`class_scores`: ``[S]``."""
  found = class_scores(log)
  return None if found is None else _worst(log, found)


def worst_group(log: Any) -> np.ndarray | None:
  """The main score of the group of seen rows where it is worst: ``[S]`` (Sagawa et al., ICLR 2020). None where the rows
  are of one group."""
  groups = np.unique(log.group[seen_rows(log)])
  return None if len(groups) < 2 else _worst(log, _by(log, log.group, groups))


def examples_forgotten(log: Any) -> np.ndarray | None:
  """The share of the seen rows that were right after some event since their task was learned, and are wrong now:
  ``[S]``. None where rows are not right or wrong."""
  return _of_right(log, lambda right, since: (right & since)[:-1].any(0) & ~right[-1])


def examples_shaken(log: Any) -> np.ndarray | None:
  """Mean transitions from right to wrong of a seen row from one evaluation to the next, since its task was learned:
  ``[S]``. Of test rows between events: no forgetting events of training."""
  return _of_right(log, lambda right, since: forgetting_events(right, since).forgetting)


def error_recency(log: Any) -> np.ndarray | None:
  """Of the wrong predictions on seen rows of classes that the last learned task lacks, the share that names one of its
  classes: ``[S]``, :func:`cljax.metrics.recency_bias`. None without predictions, or where no class is old."""
  seen = seen_rows(log)
  if not log.has_predictions or not seen.any():
    return None
  classes = lambda tasks: np.isin(np.arange(log.classes), log.label[seen & np.isin(log.task, tasks)])
  last = next(t for kind, t in reversed(log.events[: len(log.records) - 1]) if kind == "learn")
  new = classes([last])
  old = classes(log.learned()) & ~new
  if not old.any():
    return None
  tables = (confusion(log.label[seen], log.predicted(m)[-1][seen], log.classes) for m in range(len(log.seeds)))
  return np.asarray([recency_bias(table, old, new) for table in tables])


def ensemble_accuracy(log: Any) -> np.ndarray | None:
  """Accuracy of the majority vote of all members over the seen rows: ``[1]``; of classes with equal votes the one of
  the lowest number. None without predictions, or for one member."""
  seen = seen_rows(log)
  if not log.has_predictions or not seen.any() or len(log.seeds) < 2:
    return None
  votes = np.zeros((int(seen.sum()), log.classes), np.int64)
  for member in range(len(log.seeds)):
    votes[np.arange(len(votes)), log.predicted(member)[-1][seen]] += 1
  return np.asarray([np.mean(votes.argmax(1) == log.label[seen])])


ROW_METRICS: dict[str, Callable[[Any], np.ndarray | None]] = {
  f.__name__: f
  for f in (row_weighted, class_scores, worst_class, worst_group, examples_forgotten, examples_shaken, error_recency,
            ensemble_accuracy)
}  # fmt: skip


def of_rows(log: Any) -> dict[str, np.ndarray]:
  """Every metric of :data:`ROW_METRICS` that the log allows; UsageError with the name of one that fails."""
  found = {}
  for name, metric in ROW_METRICS.items():
    try:
      value = metric(log)
      if value is not None:
        found[name] = np.asarray(value, np.float64)
    except Exception as error:
      raise UsageError(f"metrics: {name!r} raised {type(error).__name__}: {' '.join(str(error).split())}") from error
  return found


def _over(log: Any, rows: np.ndarray) -> np.ndarray | None:
  return _by(log, np.where(rows, 0, -1), [0])[:, 0] if rows.any() else None


def _by(log: Any, key: np.ndarray, values) -> np.ndarray:
  """``[S, len(values)]``: the main score over the seen rows of each value of ``key [N]``; NaN of none."""
  seen, out = seen_rows(log), np.full((len(log.seeds), len(values)), np.nan)
  for member in range(len(log.seeds)):
    above, below = (np.asarray(a[-1], np.float64) for a in (log.numerator(member), log.denominator(member)))
    for at, value in enumerate(values):
      mine = seen & (key == value)
      if below[mine].sum():
        out[member, at] = log.finish(above[mine].sum() / below[mine].sum())
  return out


def _worst(log: Any, found: np.ndarray) -> np.ndarray:
  """The worst of each member's values, of those that there are."""
  lower = log.scores[log.main]["better"] == "lower"
  filled = np.where(np.isnan(found), -np.inf if lower else np.inf, found)
  out = filled.max(1) if lower else filled.min(1)
  return np.where(np.isinf(out) & np.isnan(found).all(1), np.nan, out)


def _of_right(log: Any, each: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> np.ndarray | None:
  """The mean over seen rows of ``each(right [R, N], since [R, N]) [N]``: which evaluations count since a row's task was
  learned."""
  seen = seen_rows(log)
  if not log.scores[log.main]["bits"] or not seen.any():
    return None
  count = len(log.records)
  since = np.stack([np.isin(log.task, log.learned(r)) for r in range(count)]) & log.there()
  return np.asarray([np.mean(each(log.right(m)[:, seen], since[:, seen])) for m in range(len(log.seeds))])


__all__ = [
  "ROW_METRICS", "class_scores", "ensemble_accuracy", "error_recency", "examples_forgotten", "examples_shaken",
  "of_rows", "row_weighted", "seen_rows", "worst_class", "worst_group",
]  # fmt: skip
