"""What a model of tokens can say by heart of the rows that it learned."""

from __future__ import annotations

import numpy as np

from cljax import metrics
from cljax.core.checks import check_count, check_scalar
from cljax.core.types import Learn, UsageError
from cljax.evaluators.continuing import continued, spread
from cljax.evaluators.registry import Evaluator, Predict, register
from cljax.streams.requests import deleted_pairs


def recall(rows: int = 16, given: float = 0.5, n: int = 2) -> Evaluator:
  """Recall ``[T]`` of rows by heart: mean ROUGE-n recall of a row's rest, continued greedily from its first tokens.

  Of a row with targets ``y_0 .. y_{k-1}`` (those of weight) the inputs up to ``p = ceil(given k)`` stay and the model
  says one token after another, ``argmax`` of its logits at each place; what it says is held against ``y_{p-1} ..
  y_{k-1}`` by :func:`cljax.metrics.recall`. Of each task learned so far ``rows`` training rows that were not deleted,
  evenly spread; ``unseen``: the same of its test rows, which says how much of it is no memory (Orhan 2023, whose
  recall experiments those of the metric are). NaN for tasks not learned and where no rest has ``n`` tokens. Raises
  UsageError for a wrong argument, and for a model whose logits are not ``[B, L, V]`` for tokens ``[B, L]``.
  """
  check_count("recall: rows", rows)
  check_count("recall: n", n)
  check_scalar("recall", "given", given, above=True)
  if given >= 1:
    raise UsageError(f"recall: given: got {given}; expected a share above 0 and below 1")

  def recall(learner, predict: Predict, stream, event: int) -> dict[str, np.ndarray]:
    del learner
    found: dict[str, np.ndarray] = {side: np.full(stream.num_tasks, np.nan) for side in ("recall", "unseen")}
    if event < 0:  # refused before the first step, not after it
      continued(predict, stream.dataset.train, np.asarray(stream.train[0])[:1], 0, given, rows)
      return found
    gone = deleted_pairs(stream, event + 1)
    for task in dict.fromkeys(e.task for e in stream.events[: event + 1] if isinstance(e, Learn)):
      sides = {"recall": (stream.dataset.train, np.asarray(stream.train[task])[~gone[task]]),
               "unseen": (stream.dataset.test, np.asarray(stream.test[task]))}  # fmt: skip
      for side, (split, there) in sides.items():
        chosen = spread(there, rows)
        found_rows = continued(predict, split, chosen, task, given, rows) if len(chosen) else []
        each = np.asarray([metrics.recall(row.said, row.rest, n) for row in found_rows], np.float64)
        if not np.isnan(each).all():
          found[side][task] = np.nanmean(each)
    return found

  return Evaluator("recall", recall, {})


register(recall())
