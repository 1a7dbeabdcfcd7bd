"""Early stopping (``train.patience``): a member ends a task when its validation score has not risen for some epochs.

At each border of its epochs the main score on the task's held-out rows, as it is judged then, is compared with the best
of the task so far; after ``patience`` epochs in a row without a better one (strictly, in the score's own direction) the
member takes no further step in this task. It keeps the parameters that it has, as Keras does without
``restore_best_weights``. Members stop each for itself, at the borders of chunks, in one program
(:mod:`cljax.engine.own_streams`); learning-rate schedules span the epochs that were planned. What is known of the task
is in each checkpoint, so a run that resumes stops where it would have.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cljax.core.types import Forget, UsageError

# State.watch: of the task that is being learned {"at": the step of the last look, "best": [S], "since": [S] epochs
# since then, "stopped": [S] the member's steps in it, or None}; all of it JSON.


def check(stream, streams: Sequence[Any], recipe, trains_on: str) -> None:
  """Raises UsageError where ``recipe.patience`` can not be had."""
  if not recipe.patience:
    return
  told = f"train.patience: got {recipe.patience}"
  if trains_on == "all":
    raise UsageError(f"{told}, but the method trains on all tasks at once, whose epochs are of no one task")
  if any(isinstance(e, Forget) for e in stream.events):
    raise UsageError(
      f"{told} with Forget events; a retraining repeats the steps that a run took, not when it would stop"
    )
  for t in {e.task for e in stream.events}:
    if not all(len(s.validation[t]) for s in streams or (stream,)):
      raise UsageError(f"{told}, but task {t} has no validation rows; give stream.validation")


def fresh(size: int) -> dict[str, Any]:
  """Nothing was looked at yet."""
  return {"at": 0, "best": [None] * size, "since": [0] * size, "stopped": [None] * size}


def epochs_of(recipe, first: bool) -> int:
  return recipe.first_task_epochs if first and recipe.first_task_epochs else recipe.epochs


def limits(watch, plans: Sequence[Any]) -> list[int]:
  """The steps of each member in this task, as far as is known."""
  if not watch:
    return [p.steps for p in plans]
  return [p.steps if s is None else s for p, s in zip(plans, watch["stopped"], strict=True)]


def next_border(watch, plans: Sequence[Any], epochs: int, done: int) -> int:
  """Steps to the next border of an epoch of a member that has not stopped."""
  each = [p.steps // epochs for p, s in zip(plans, watch["stopped"], strict=True) if s is None and p.steps > done]
  return min((e - done % e for e in each), default=1)


def look(
  watch: dict, plans: Sequence[Any], recipe, first: bool, done: int, score: Callable, sign: int
) -> dict[str, Any]:
  """What is known after ``done`` steps; ``score() -> [S]`` is asked where an epoch of some member ends there."""
  epochs = epochs_of(recipe, first)
  ends = [
    s is None and done <= p.steps and done % (p.steps // epochs) == 0
    for p, s in zip(plans, watch["stopped"], strict=True)
  ]
  if watch["at"] == done or not any(ends):
    return watch
  found = score()
  best, since, stopped = (list(watch[k]) for k in ("best", "since", "stopped"))
  for m in np.flatnonzero(ends):
    value = float(found[m])
    if not math.isnan(value) and (best[m] is None or sign * value > sign * best[m]):
      best[m], since[m] = value, 0
    else:
      since[m] += 1
    if since[m] >= recipe.patience:
      stopped[m] = done
  return {"at": done, "best": best, "since": since, "stopped": stopped}
