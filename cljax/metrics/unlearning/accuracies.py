"""Accuracy on the forgotten, the kept and the test rows, and how far it is from the retrained reference.

The target is the retrained model, not zero: "lower forget accuracy is better" is wrong wherever the retained rows
teach the forgotten ones (random forgetting), and an accuracy below the retrained model's gives membership away.
Conventions of the unlearning literature, read in code (spec E1).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from cljax.core.types import UsageError
from cljax.metrics.unlearning._inputs import as_labels, as_logits


class Accuracies(NamedTuple):
  """Fractions: ``forget`` (FA), ``retain`` (RA) and ``test`` (TA); ``[...]`` each."""

  forget: Any
  retain: Any
  test: Any


def accuracy(logits: ArrayLike, y: ArrayLike, where: ArrayLike | None = None) -> np.ndarray:
  """``mean_n [argmax_k z_nk = y_n]`` of logits ``[..., N, K]`` and labels ``[N]``: a fraction for each leading index.

  ``where [N]`` bool chooses rows, such as those of the forgotten classes in the test set (``np.isin(y, classes)``),
  which class forgetting reports apart from the others; NaN where it chooses none.
  """
  z = as_logits(logits, population=True)
  y = as_labels(y, z)
  right = z.argmax(-1) == y
  if where is None:
    return right.mean(-1)
  where = np.asarray(where)
  if where.shape != y.shape or where.dtype != bool:
    raise UsageError(f"where: has shape {where.shape}, dtype {where.dtype}; expected bool of shape {y.shape}")
  return right[..., where].mean(-1) if where.any() else np.full(right.shape[:-1], np.nan)[()]


def accuracies(
  forget: tuple[ArrayLike, ArrayLike], retain: tuple[ArrayLike, ArrayLike], test: tuple[ArrayLike, ArrayLike]
) -> Accuracies:
  """The three accuracies; each argument is a pair ``(logits [..., N, K], y [N])``."""
  return Accuracies(*(accuracy(*pair) for pair in (forget, retain, test)))


def unlearning_accuracy(forget_accuracy: ArrayLike) -> np.ndarray:
  """``UA = 1 - FA`` of a fraction. Some papers print FA under this name: state which one a table holds."""
  return 1.0 - _fractions(np.asarray(forget_accuracy, np.float64), "forget_accuracy")


def average_gap(
  ours: ArrayLike | Mapping[str, ArrayLike], reference: ArrayLike | Mapping[str, ArrayLike]
) -> np.ndarray:
  """``mean_m |m(ours) - m(reference)|`` over the chosen metrics, in their units; 0 for the reference itself.

  Both are sequences with the metrics along the first axis (``Accuracies`` is one) or dicts of the same names; each
  metric is a number or ``[...]``, such as one for each seed, and so is the result.
  """
  a, b = _metrics(ours, reference)
  return np.abs(a - b).mean(0)


def tug_of_war(ours: ArrayLike | Mapping[str, ArrayLike], reference: ArrayLike | Mapping[str, ArrayLike]) -> np.ndarray:
  """``ToW = prod_S (1 - |acc_S(ours) - acc_S(reference)|)`` over the row sets S, in ``[0, 1]``; 1 for the reference.

  Of fractions; ``ours`` and ``reference`` as in :func:`average_gap`, usually ``Accuracies``. UsageError for percents.
  """
  a, b = _metrics(ours, reference)
  return (1.0 - np.abs(_fractions(a, "ours") - _fractions(b, "reference"))).prod(0)


def h_mean(before: ArrayLike, after: ArrayLike, retain: ArrayLike) -> np.ndarray:
  """``H = 2 Drop RA / (Drop + RA)``, ``Drop = max(FA before - FA after, 0)``; in the units given.

  0 where nothing was forgotten or nothing kept. GS-LoRA (Zhao et al. 2024, arXiv 2403.11530; read in code, spec B6),
  where a forget accuracy that grew makes H negative and, near ``-RA``, unbounded: here it counts as no drop.
  """
  before, after, retain = (np.asarray(v, np.float64) for v in (before, after, retain))
  drop = np.maximum(before - after, 0.0)
  total = drop + retain
  return (2.0 * drop * retain / np.where(total > 0, total, 1.0))[()]


def tradeoff_auc(forget: ArrayLike, utility: ArrayLike) -> np.ndarray:
  """``sum_i (x_{i+1} - x_i) (y_i + y_{i+1}) / 2`` over checkpoints by ``x = 1 - forget``, ``y = utility``; ``[...]``.

  ``forget [P, ...]`` and ``utility [P, ...]`` are fractions of the original model and of P - 1 checkpoints of an
  unlearning run, the checkpoints along the first axis: for classifiers the accuracy on the rows to forget, and on those
  to keep. In ``[0, 1]``; 1 where utility stays 1 on the whole way to forget 0. It is not divided by the range of x: a
  method that forgets nothing has 0, and one that goes beyond the retrained model's forget accuracy has more for it.
  Checkpoints of one x count as one of their mean y (the released code takes them as they come). UPCORE (arXiv
  2502.15082; read in code, spec B14). UsageError for other shapes, fewer than two checkpoints, and for percents.
  """
  f, y = (_fractions(np.asarray(v, np.float64), n) for v, n in ((forget, "forget"), (utility, "utility")))
  if f.shape != y.shape or not f.ndim or len(f) < 2:
    raise UsageError(f"utility: has shape {y.shape}; forget has {f.shape}; expected [P, ...] with P >= 2 of both")

  def area(x, y) -> float:
    x, place = np.unique(x, return_inverse=True)
    mean = np.bincount(place, y) / np.bincount(place)
    return float((np.diff(x) * (mean[1:] + mean[:-1]) / 2).sum())

  columns = zip(1.0 - f.reshape(len(f), -1).T, y.reshape(len(y), -1).T, strict=True)
  return np.asarray([area(*pair) for pair in columns]).reshape(f.shape[1:])[()]


def over_forgetting(forget_accuracy: ArrayLike, reference: ArrayLike) -> np.ndarray:
  """True where the forget accuracy lies below that of every retrained model: a leak, as high accuracy is one.

  ``reference`` is one model's accuracy or ``[M]``, several seeds', so that seed noise alone does not warn.
  """
  low = np.min(np.asarray(reference, np.float64))
  return (np.asarray(forget_accuracy, np.float64) < low)[()]


def _metrics(ours, reference) -> tuple[np.ndarray, np.ndarray]:
  if isinstance(ours, Mapping) or isinstance(reference, Mapping):
    if not (isinstance(ours, Mapping) and isinstance(reference, Mapping)) or set(ours) != set(reference):
      raise UsageError(f"reference: names {list(reference)}; ours names {list(ours)}")
    ours, reference = list(ours.values()), [reference[name] for name in ours]
  a, b = np.asarray(ours, np.float64), np.asarray(reference, np.float64)
  if not a.ndim or not len(a) or len(a) != len(b):
    raise UsageError(f"reference: has shape {b.shape}; ours has {a.shape}; expected the metrics along the first axis")
  # Seeds are trailing axes: one reference for several of them must not be broadcast along the metrics.
  a, b = (v.reshape(v.shape + (1,) * (max(a.ndim, b.ndim) - v.ndim)) for v in (a, b))
  return a, b


def _fractions(values: np.ndarray, name: str) -> np.ndarray:
  if (values < 0).any() or (values > 1).any():
    raise UsageError(f"{name}: spans {values.min()}..{values.max()}; expected fractions in 0..1")
  return values
