"""Rows of tokens continued from their beginning, by the predictions that an evaluator is given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from cljax.core.types import UsageError
from cljax.evaluators.registry import Predict

Pick = Callable[[np.ndarray, int, int], int]  # (logits [V], row id, place) -> token


class Continued(NamedTuple):
  """Of one row: the tokens that were given, those that were said, and those that stand there."""

  given: list[int]
  said: list[int]
  rest: list[int]


def greedy(logits: np.ndarray, row: int, place: int) -> int:
  """The likeliest token."""
  del row, place
  return int(logits.argmax())


def spread(there: np.ndarray, rows: int) -> np.ndarray:
  """At most ``rows`` of what is there, evenly from all of it."""
  return there[np.linspace(0, len(there) - 1, min(rows, len(there))).astype(int)]


def padded(split, rows: np.ndarray, size: int) -> tuple[Any, Any, np.ndarray]:
  """``(x, target [size, L], there [size, L])`` of stored rows, the first repeated up to ``size``, so that what is asked
  is compiled once. UsageError where they are no rows of tokens."""
  at = np.concatenate([rows, np.repeat(rows[:1], size - len(rows))]) if len(rows) < size else rows
  stored = lambda tree: jax.tree.map(lambda a: np.stack([a[r] for r in at]), tree)
  x, y = stored(split.x), stored(split.y)
  tokens: Any = x["token"] if isinstance(x, dict) and "token" in x else x
  target, there = (y["token"], y["weight"] > 0) if isinstance(y, dict) and {"token", "weight"} <= set(y) else (y, None)
  if isinstance(tokens, dict) or isinstance(target, dict) or np.ndim(tokens) != 2 or np.shape(target) != tokens.shape:
    raise UsageError("needs rows of tokens [L] with a target at each place")
  return x, target, np.asarray(target >= 0) if there is None else np.asarray(there)


def asked_logits(predict: Predict, x: Any, task: int) -> np.ndarray:
  """Logits ``[B, L, V]`` of the model; UsageError where they are none."""
  tokens = x["token"] if isinstance(x, dict) else x
  logits = predict.outputs(x, task).logits
  if getattr(logits, "ndim", 0) != 3 or logits.shape[:2] != tokens.shape:
    raise UsageError("needs a model that gives logits [B, L, V] for tokens [B, L]")
  return np.asarray(logits)


def continued(
  predict: Predict, split, rows: np.ndarray, task: int, given: float, size: int, pick: Pick = greedy
) -> list[Continued]:
  """Each of ``rows``, continued from the first ``ceil(given k)`` of its k tokens that have weight, one token after
  another, each chosen by ``pick``; always ``size`` rows at a time."""
  x, target, there = padded(split, rows, size)
  tokens = np.array(x["token"] if isinstance(x, dict) else x)
  whole = tokens.copy()
  places = [np.flatnonzero(t) for t in there]  # of each row, where a token is asked for
  starts = [max(0, int(np.ceil(given * len(p))) - 1) for p in places]
  said: list[list[int]] = [[] for _ in places]
  first = min((p[s] for p, s in zip(places, starts, strict=True) if len(p)), default=0)
  for place in range(first, max((p[-1] + 1 for p in places if len(p)), default=0)):
    logits = asked_logits(predict, {**x, "token": tokens} if isinstance(x, dict) else tokens, task)[:, place]
    for row, (own, start) in enumerate(zip(places, starts, strict=True)):
      if row < len(rows) and len(own) and place >= own[start] and there[row, place]:
        best = pick(logits[row], int(rows[row]), place)
        said[row].append(best)
        if place + 1 < tokens.shape[1]:
          tokens[row, place + 1] = best
  found = []
  for row, (own, start) in enumerate(zip(places[: len(rows)], starts, strict=False)):
    rest = target[row, own[start:]].tolist() if len(own) else []
    found.append(Continued(whole[row, : own[start] + 1].tolist() if len(own) else [], said[row], rest))
  return found
