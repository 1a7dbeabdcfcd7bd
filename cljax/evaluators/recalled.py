"""What a model of tokens can say by heart of the rows that it learned."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from cljax import metrics
from cljax.core.checks import check_count, check_scalar
from cljax.core.types import Learn, UsageError
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
      _continued(predict, stream.dataset.train, np.asarray(stream.train[0])[:1], 0, given, rows)
      return found
    gone = deleted_pairs(stream, event + 1)
    for task in dict.fromkeys(e.task for e in stream.events[: event + 1] if isinstance(e, Learn)):
      sides = {"recall": (stream.dataset.train, np.asarray(stream.train[task])[~gone[task]]),
               "unseen": (stream.dataset.test, np.asarray(stream.test[task]))}  # fmt: skip
      for side, (split, there) in sides.items():
        chosen = there[np.linspace(0, len(there) - 1, min(rows, len(there))).astype(int)]
        pairs = _continued(predict, split, chosen, task, given, rows) if len(chosen) else []
        each = np.asarray([metrics.recall(said, rest, n) for said, rest in pairs], np.float64)
        if not np.isnan(each).all():
          found[side][task] = np.nanmean(each)
    return found

  return Evaluator("recall", recall, {})


def _continued(predict: Predict, split, rows, task: int, given: float, size: int) -> list[tuple[list, list]]:
  """``(said, rest)`` of each row; always ``size`` rows at a time, so that it is compiled once."""
  at = np.concatenate([rows, np.repeat(rows[:1], size - len(rows))]) if len(rows) < size else rows
  stored = lambda tree: jax.tree.map(lambda a: np.stack([a[r] for r in at]), tree)
  x, y = stored(split.x), stored(split.y)
  tokens: Any = x["token"] if isinstance(x, dict) and "token" in x else x
  target, there = (y["token"], y["weight"] > 0) if isinstance(y, dict) and {"token", "weight"} <= set(y) else (y, None)
  if isinstance(tokens, dict) or isinstance(target, dict) or np.ndim(tokens) != 2 or np.shape(target) != tokens.shape:
    raise UsageError("needs rows of tokens [L] with a target at each place")
  there = target >= 0 if there is None else there
  tokens = np.array(tokens)
  places = [np.flatnonzero(t) for t in there]  # of each row, where a token is asked for
  starts = [max(0, int(np.ceil(given * len(p))) - 1) for p in places]
  said: list[list[int]] = [[] for _ in places]
  first = min((p[s] for p, s in zip(places, starts, strict=True) if len(p)), default=0)
  for place in range(first, max((p[-1] + 1 for p in places if len(p)), default=0)):
    shown = {**x, "token": tokens} if isinstance(x, dict) else tokens
    logits = predict.outputs(shown, task).logits
    if getattr(logits, "ndim", 0) != 3 or logits.shape[:2] != tokens.shape:
      raise UsageError("needs a model that gives logits [B, L, V] for tokens [B, L]")
    best = np.asarray(logits)[:, place].argmax(-1)
    for row, (own, start) in enumerate(zip(places, starts, strict=True)):
      if len(own) and place >= own[start] and there[row, place]:
        said[row].append(int(best[row]))
        if place + 1 < tokens.shape[1]:
          tokens[row, place + 1] = best[row]
  rest = [target[row, own[start:]].tolist() if len(own) else [] for row, (own, start) in
          enumerate(zip(places, starts, strict=True))]  # fmt: skip
  return list(zip(said, rest, strict=True))[: len(rows)]


register(recall())
