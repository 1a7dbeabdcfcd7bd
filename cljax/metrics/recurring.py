"""The accuracy matrix where tasks come back: any sequence of Learn events, not one event for each task.

``R [..., E, T]`` is the accuracy on task ``i`` after the ``e``-th Learn event, which learned task ``learned[e]``. For
``learned = 0, 1, ..., T-1`` every number is that of :mod:`cljax.metrics.matrix`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from cljax.core.types import UsageError


def over_events(R, learned, baseline) -> dict[str, np.ndarray]:
  """The metrics of the matrix over events; ``baseline [..., T]`` is the accuracy before the first.

  With ``first(i)`` and ``last(i)`` the first and last event that learned task ``i``, and ``E`` the last event:
  ``acc = mean_i R[E, i]``; ``average_incremental_accuracy``: the mean over events of the mean over tasks met so far;
  ``bwt = mean_i R[E, i] - R[last(i), i]`` and ``forgetting = mean_i max_{e<E} R[e, i] - R[E, i]`` over the tasks but
  the one learned at E; ``fwt = mean_i R[first(i) - 1, i] - baseline[i]`` over the tasks but the first. Tasks that no
  event learned stay out of all these; their mean ``R[E, i]`` is ``never_learned``, present where there are some. NaN
  where no task is left. Raises UsageError for other shapes, a task number outside 0..T-1 and NaN.
  """
  R, b, learned = np.asarray(R, np.float64), np.asarray(baseline, np.float64), list(learned)
  if R.ndim < 2 or R.shape[-2] != len(learned) or not learned:
    raise UsageError(f"R: has shape {R.shape}; expected [..., {len(learned)}, T], one row after each Learn event")
  if b.shape != (*R.shape[:-2], R.shape[-1]) or np.isnan(R).any() or np.isnan(b).any():
    raise UsageError(
      f"baseline: has shape {b.shape}; expected {(*R.shape[:-2], R.shape[-1])}, and no NaN in it or in R"
    )
  if min(learned) < 0 or max(learned) >= R.shape[-1]:
    raise UsageError(f"learned: got tasks {min(learned)}..{max(learned)}; expected 0..{R.shape[-1] - 1}")
  tasks = list(dict.fromkeys(learned))  # in the order first met
  first = np.asarray([learned.index(i) for i in tasks])
  last = np.asarray([len(learned) - 1 - learned[::-1].index(i) for i in tasks])
  end, before = R[..., -1, :], np.concatenate([b[..., None, :], R], -2)
  old = [k for k, i in enumerate(tasks) if i != learned[-1]]
  later = list(range(1, len(tasks)))
  mean = lambda parts: np.mean(parts, 0) if parts else np.full(R.shape[:-2], np.nan)
  met = [R[..., e, list(dict.fromkeys(learned[: e + 1]))].mean(-1) for e in range(len(learned))]
  out = {
    "acc": end[..., tasks].mean(-1),
    "average_incremental_accuracy": np.mean(met, 0),
    "bwt": mean([end[..., tasks[k]] - R[..., last[k], tasks[k]] for k in old]),
    "fwt": mean([before[..., first[k], tasks[k]] - b[..., tasks[k]] for k in later]),
    "forgetting": mean([R[..., :-1, tasks[k]].max(-1) - end[..., tasks[k]] for k in old]),
  }
  rest = [i for i in range(R.shape[-1]) if i not in tasks]
  return {**out, "never_learned": end[..., rest].mean(-1)} if rest else out


def over_rows(R, learned, rows) -> dict[str, np.ndarray]:
  """The accuracy over all test rows seen so far, each row counting once, where :func:`over_events` weighs tasks alike.

  With ``n[e, i]`` the test rows of task ``i`` evaluated after event ``e`` (``rows [..., E, T]`` as ``R``) and
  ``met(e)`` the tasks that events up to ``e`` learned, each once: ``A[e] = sum_i n[e, i] R[e, i] / sum_i n[e, i]``
  over ``i in met(e)``; ``acc_over_rows = A[E]`` and ``average_incremental_accuracy_over_rows = mean_e A[e]``. It is
  what PyCIL, PILOT and LUCIR report, whose "average incremental accuracy" rounds each ``A[e]`` to two digits first,
  in percent. For a score whose rows weigh alike within a task, such as accuracy. A task without rows, all of which
  were deleted, counts for nothing whatever its entry holds; NaN after an event without any row, and then of their
  mean. Raises UsageError for other shapes, negative or fractional counts, a task number outside 0..T-1 and NaN in an
  entry that has rows.
  """
  R, rows, learned = np.asarray(R, np.float64), np.asarray(rows, np.float64), list(learned)
  if R.ndim < 2 or R.shape[-2] != len(learned) or not learned:
    raise UsageError(f"R: has shape {R.shape}; expected [..., {len(learned)}, T], one row after each Learn event")
  if rows.shape != R.shape or not (rows >= 0).all() or (rows != np.floor(rows)).any():
    raise UsageError(f"rows: has shape {rows.shape}; expected counts of shape {R.shape}, whole and at least 0")
  if min(learned) < 0 or max(learned) >= R.shape[-1]:
    raise UsageError(f"learned: got tasks {min(learned)}..{max(learned)}; expected 0..{R.shape[-1] - 1}")
  first = np.asarray([learned.index(t) if t in learned else len(learned) for t in range(R.shape[-1])])
  count = np.where(first <= np.arange(len(learned))[:, None], rows, 0.0)
  if np.isnan(np.where(count > 0, R, 0.0)).any():
    raise UsageError("R: holds NaN for a task that was met and has rows; expected accuracies")
  seen = count.sum(-1)
  right = np.where(count > 0, count * R, 0.0).sum(-1)
  each = np.where(seen > 0, right / np.maximum(seen, 1.0), np.nan)
  return {"acc_over_rows": each[..., -1], "average_incremental_accuracy_over_rows": each.mean(-1)}


class Gap(NamedTuple):
  """``depth``: how far each old task fell below where it stood before; ``recovered``: how much of it came back."""

  depth: np.ndarray
  recovered: np.ndarray


def event_gap(before, inside) -> Gap:
  """``depth = before - min_n inside[n]`` and ``recovered = inside[-1] - min_n inside[n]``, for each old task.

  ``before [K]``: accuracies before an event; ``inside [N, K]``: those at each evaluation while it lasted, its end
  last. A stability gap is a depth that is regained: the task was not forgotten, it fell and came back (De Lange et al.
  2023). Depth is negative where a task only gained. Raises UsageError for other shapes or NaN.
  """
  before, inside = np.asarray(before, np.float64), np.asarray(inside, np.float64)
  if inside.ndim != 2 or not len(inside) or before.shape != inside.shape[1:]:
    raise UsageError(f"inside: has shape {inside.shape}; before has {before.shape}; expected [N, K] and [K]")
  if np.isnan(before).any() or np.isnan(inside).any():
    raise UsageError("inside: holds NaN; expected accuracies, and so in before")
  low = inside.min(0)
  return Gap(before - low, inside[-1] - low)
