"""What a linear classifier can read from a model's features."""

from __future__ import annotations

from collections.abc import Callable

import jax
import numpy as np

from cljax.core.checks import check_count, check_scalar
from cljax.core.types import Learn, UsageError
from cljax.evaluators.registry import Evaluator, Predict, register
from cljax.streams.fates import deleted_tests
from cljax.streams.labels import withheld
from cljax.streams.requests import deleted_pairs

BLOCK = 256


def linear_probe(ridge: float = 1e-3, block: int = BLOCK) -> Evaluator:
  """Accuracy ``[T]`` on each task's test rows of ``argmax_c [ybar + (f - fbar) W]_c``: a ridge classifier on features.

  ``W = (S + ridge tr(S)/D I)^-1 F'(Y - ybar)/n`` with ``S = F'F/n``: F ``[n, D]`` are the features f, less their mean
  fbar, of all training rows of the tasks learned so far, each as its task shows it, less those that were deleted and
  those held out; Y ``[n, C]`` is one-hot, as the tasks label them, with mean ybar. Sums and the solution are float64 on
  the host; features are the model's ``Outputs.features`` in evaluation, flattened, ``block`` rows at a time. So the
  frozen representation of what learned without labels can be judged too (Chen et al. 2020 fit a logistic one, by SGD).
  Where the stream tells the task at test, its own classes compete. A task of whose classes no row was learned has NaN,
  as all have before the first event. Raises UsageError for a wrong argument; when it is called for a model without
  features, and for data without classes.
  """
  check_scalar("linear_probe", "ridge", ridge, above=True)
  check_count("linear_probe: block", block)

  def linear_probe(learner, predict: Predict, stream, event: int) -> dict[str, np.ndarray]:
    del learner
    if not stream.dataset.has_classes:
      raise UsageError("needs class labels, which the data do not have")
    if withheld(stream):
      raise UsageError("needs the labels of training rows, which stream.labelled withholds")
    features = _features(predict, block)
    if event < 0:  # refused before the first step, not after it
      features(stream.dataset.train.x, np.asarray(stream.train[0])[:1], 0)
      return {"accuracy": np.full(stream.num_tasks, np.nan)}
    done = stream.events[: event + 1]
    gone = deleted_pairs(stream, event + 1)
    split = stream.dataset.train
    total = None
    for task in dict.fromkeys(e.task for e in done if isinstance(e, Learn)):
      rows = np.asarray(stream.train[task])[~gone[task]]
      for at in range(0, len(rows), block):
        part = rows[at : at + block]
        own = _sums(features(split.x, part, task), stream.labels[task][split.y[part]], stream.num_classes)
        total = own if total is None else tuple(a + b for a, b in zip(total, own, strict=True))
    found = np.full(stream.num_tasks, np.nan)
    if total is None or not all(np.isfinite(part).all() for part in total):  # all was deleted, or a number is none
      return {"accuracy": found}
    weights, bias, met = _solved(ridge, *total)
    test = stream.dataset.test
    left = (np.asarray(r)[~mine] for r, mine in zip(stream.test, deleted_tests(stream, event + 1), strict=True))
    for task, rows in enumerate(left):
      open_ = met & stream.classes_of_task[task]
      competing = open_ if stream.task_id_given else met
      if not open_.any() or not len(rows):
        continue
      right = 0
      for at in range(0, len(rows), block):
        part = rows[at : at + block]
        values = np.where(competing, features(test.x, part, task) @ weights + bias, -np.inf)
        right += int((values.argmax(1) == stream.labels[task][test.y[part]]).sum())
      found[task] = right / len(rows)
    return {"accuracy": found}

  return Evaluator("linear_probe", linear_probe, {"accuracy": "higher"})


def _features(predict: Predict, block: int) -> Callable:
  """``(x, rows, task) -> [len(rows), D] float64``, always ``block`` rows at a time, so that it is compiled once."""

  def features(x, rows: np.ndarray, task: int) -> np.ndarray:
    padded = np.concatenate([rows, np.repeat(rows[:1], block - len(rows))])
    out = predict.outputs(jax.tree.map(lambda a: np.stack([a[r] for r in padded]), x), task).features
    if out is None:
      raise UsageError("needs a model that returns features (Outputs.features is None)")
    out = np.asarray(out).astype(np.float64)
    return out.reshape(block, -1)[: len(rows)]

  return features


def _sums(features: np.ndarray, y: np.ndarray, classes: int) -> tuple:
  """``(n, sum f, sum f f', sum f y', sum y)`` of a block."""
  hot = np.eye(classes)[y]
  return len(y), features.sum(0), features.T @ features, features.T @ hot, hot.sum(0)


def _solved(ridge: float, count, first, second, cross, labels):
  """``(W [D, C], bias [C], met [C])`` from sums over all rows: ``f W + bias`` is ``ybar + (f - fbar) W``."""
  mean, share = first / count, labels / count
  spread = second / count - np.outer(mean, mean)
  size = len(mean)
  level = np.trace(spread) / size
  if level > 0:
    weights = np.linalg.solve(spread + ridge * level * np.eye(size), cross / count - np.outer(mean, share))
  else:  # features that are all alike say nothing
    weights = np.zeros((size, len(share)))
  return weights, share - mean @ weights, labels > 0


register(linear_probe())
