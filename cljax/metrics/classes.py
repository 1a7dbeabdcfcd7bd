"""What is taken for what: confusion counts, accuracy by class, and which classes are forgotten."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from cljax.core.types import UsageError


def confusion(labels: ArrayLike, predicted: ArrayLike, num_classes: int) -> np.ndarray:
  """``M[a, b]``: how many rows of class ``a`` were taken for ``b``; int ``[C, C]`` of labels and predictions ``[N]``.

  Raises UsageError for lengths that differ and classes outside ``0..C-1``.
  """
  labels, predicted = np.asarray(labels), np.asarray(predicted)
  if labels.shape != predicted.shape or labels.ndim != 1:
    raise UsageError(f"predicted: has shape {predicted.shape}; labels has {labels.shape}; expected both [N]")
  for name, values in (("labels", labels), ("predicted", predicted)):
    if values.size and (values.min() < 0 or values.max() >= num_classes):
      raise UsageError(f"{name}: span {values.min()}..{values.max()}; expected 0..{num_classes - 1}")
  counts = np.zeros((num_classes, num_classes), np.int64)
  np.add.at(counts, (labels, predicted), 1)
  return counts


def per_class_accuracy(confusions: ArrayLike) -> np.ndarray:
  """``M[c, c] / sum_b M[c, b]`` of confusion counts ``[..., C, C]``: ``[..., C]``, NaN where a class has no rows."""
  M = _counts(confusions)
  rows = M.sum(-1)
  with np.errstate(invalid="ignore", divide="ignore"):
    return np.where(rows > 0, np.diagonal(M, 0, -2, -1) / rows, np.nan)


def per_class_forgetting(confusions: ArrayLike) -> np.ndarray:
  """``max_{k<K} a[k, c] - a[K, c]`` of the accuracies by class at ``K`` moments, ``[K, C, C]`` counts: ``[C]``.

  The forgetting of Chaudhry et al. 2018, by class instead of by task; negative where a class is known better now than
  ever before. NaN for a class without rows now or at every moment before. Over streams in which every task has all
  classes, a class stands for the rows of all tasks that were counted at each moment.
  """
  a = per_class_accuracy(confusions)
  if a.ndim != 2:
    raise UsageError(f"confusions: has shape {np.shape(confusions)}; expected [K, C, C]")
  before = np.where(np.isnan(a[:-1]), -np.inf, a[:-1]).max(0, initial=-np.inf)
  return np.where(np.isinf(before), np.nan, before) - a[-1]


def recency_bias(counts: ArrayLike, old: ArrayLike, new: ArrayLike) -> float:
  """The share of the wrong predictions on rows of the classes ``old`` that name one of the classes ``new``.

  ``counts [C, C]``; ``old`` and ``new [C]`` bool. NaN where nothing of the old classes is wrong. Chance gives the new
  classes' share of the other classes.
  """
  M, old, new = _counts(counts), np.asarray(old, bool), np.asarray(new, bool)
  wrong = M[old] * ~np.eye(M.shape[-1], dtype=bool)[old]
  return float(wrong[:, new].sum() / wrong.sum()) if wrong.sum() else float("nan")


def matched_clusters(labels: ArrayLike, predicted: ArrayLike) -> np.ndarray:
  """``[N] bool``: ``m[labels] == predicted`` with the one-to-one m from classes to clusters by which most are right.

  labels and predicted ``[N]`` int from 0. The mean is the accuracy of clusters; of rows of some classes, theirs under
  the same m (one assignment over all rows, as generalised category discovery has it, Vaze et al. 2022). m is found by
  the Hungarian method; of several as good it is one. Raises UsageError for shapes that differ and negative numbers.
  """
  from scipy.optimize import linear_sum_assignment

  labels, predicted = np.asarray(labels), np.asarray(predicted)
  counts = confusion(labels, predicted, int(max(labels.max(initial=0), predicted.max(initial=0))) + 1)
  return linear_sum_assignment(counts, maximize=True)[1][labels] == predicted


def _counts(confusions) -> np.ndarray:
  M = np.asarray(confusions, np.float64)
  if M.ndim < 2 or M.shape[-1] != M.shape[-2]:
    raise UsageError(f"confusions: has shape {M.shape}; expected [..., C, C]")
  return M
