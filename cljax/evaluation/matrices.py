"""The metrics of a result, from its matrix of accuracy or of another score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cljax import metrics
from cljax.evaluation import scores

# Key in "metrics" -> heading in tables, of accuracy. Task-masked accuracy is there for class-incremental streams only.
METRICS = {
  "acc": "ACC",
  "task_acc": "ACC task-masked",
  "average_incremental_accuracy": "AIA",
  "bwt": "BWT",
  "fwt": "FWT",
  "forgetting": "forgetting",
  "acc_over_rows": "ACC over rows",
  "average_incremental_accuracy_over_rows": "AIA over rows",
  "never_learned": "ACC never learned",
  "acc_after_last_event": "ACC after last event",
}
OVER_ROWS = ("acc_over_rows", "average_incremental_accuracy_over_rows")
_CHANGES = ("bwt", "fwt", "forgetting")  # differences of entries; the others are means of them


def matrix_metrics(
  accuracy, events: Sequence[Mapping[str, Any]], better: str = "higher", beside=None, counts=None
) -> dict[str, dict[str, Any]]:
  """Metrics over seeds of a matrix ``[S, E+1, T]`` of accuracy, or of another score, whose row 0 comes before the first
  event.

  ACC, BWT, FWT, forgetting and average incremental accuracy are taken over the rows after Learn events, by
  :func:`cljax.metrics.over_events` where tasks come back or are never learned; where there are Forget events,
  ``acc_after_last_event`` is the mean of the last row of all. Where lower is ``better``, they are taken of ``-R``, so
  that forgetting > 0 and BWT < 0 mean worse as for accuracy; those that are means of entries keep the score's sign. Of
  a seed with an entry that is no number (an error of what diverged),
  here or in the matrix ``beside``, they are None. A task that came after a row, in a
  run that was extended, may have none there; without them forward transfer is None. ``counts [S, E+1, T]``: the rows
  that each entry is a mean over; with them the means over rows of :func:`cljax.metrics.over_rows` are there too.
  """
  sign = scores.sign(better)
  given = sign * np.asarray(accuracy, np.float64)
  learn = [i + 1 for i, e in enumerate(events) if e["kind"] == "learn"]
  learned = [e["task"] for e in events if e["kind"] == "learn"]
  first = {t: learn[i] for i, t in reversed(list(enumerate(learned)))}
  ahead = np.arange(given.shape[1])[:, None] < [first.get(t, 0) for t in range(given.shape[2])]
  gaps = np.isnan(given) & ahead
  sound = np.asarray((np.isfinite(given) | gaps).all((1, 2)))
  if beside is not None:
    sound &= (np.isfinite(beside) | ahead).all((1, 2))
  accuracy = np.where(sound[:, None, None], given, 0.0)
  # The least of a task says nothing: the metrics below take what is ahead in no mean but that of forward transfer.
  accuracy = np.where(np.isnan(accuracy), np.nanmin(accuracy, axis=1, keepdims=True), accuracy)
  R = accuracy[:, learn]
  if learned == list(range(accuracy.shape[-1])):
    values = {
      "acc": metrics.average_accuracy(R),
      "average_incremental_accuracy": metrics.average_incremental_accuracy(R),
      "bwt": metrics.backward_transfer(R),
      "fwt": metrics.forward_transfer(R, accuracy[:, 0]),
      "forgetting": metrics.forgetting(R),
    }
  else:
    values = metrics.over_events(R, learned, accuracy[:, 0])
  if counts is not None:
    values |= metrics.over_rows(R, learned, np.asarray(counts)[:, learn])
  if len(learn) < len(events):
    values["acc_after_last_event"] = accuracy[:, -1].mean(-1)
  values["fwt"] = np.where(gaps.any((1, 2)), np.nan, values["fwt"])
  signed = {k: v if k in _CHANGES else sign * v for k, v in values.items()}
  return {k: metrics.summarize(np.where(sound, v, np.nan)) for k, v in signed.items()}


def are_even(result: Mapping[str, Any]) -> bool:
  """Whether all tasks of a ``result.json`` have as many test rows as one another, so that a mean over rows is the mean
  over tasks; also where it does not say."""
  counts = np.asarray(result.get("evaluated_rows", [[[0]]]))
  return bool((counts == counts[..., :1]).all())
