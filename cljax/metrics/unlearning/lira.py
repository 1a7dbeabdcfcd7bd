"""LiRA and U-LiRA: attacks that compare a row's margin with those of models that knew the row and models that did not.

U-LiRA (Hayes et al. 2024): IN models were trained with the row and then unlearned it, by the same hyper-parameters for
each; OUT models were never trained on it. With the trained models themselves as IN it is LiRA (Carlini et al. 2022).
The formulas are UNVERIFIED reconstructions from memory and a third-party reproduction, but the margin's identity was
checked (spec E5). Scores are higher for members.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from cljax.core.types import UsageError
from cljax.metrics.unlearning._inputs import as_labels, as_logits, of_label

LEAST_STD = 1e-6  # of a margin; equal margins in every model would otherwise give an infinite density


def logit_margin(logits: ArrayLike, y: ArrayLike) -> np.ndarray:
  """``z_y - logsumexp_{k != y} z_k = ln(p_y / (1 - p_y))``: ``[..., N]`` of logits ``[..., N, K]`` and labels ``[N]``.

  In float64 and log-space: exact where ``p_y`` rounds to 0 or 1. Leading axes are models.
  """
  z = as_logits(logits, population=True)
  y = as_labels(y, z)
  others = np.where(np.arange(z.shape[-1]) == y[:, None], -np.inf, z)
  top = others.max(-1)
  shift = np.where(np.isneginf(top), 0.0, top)
  with np.errstate(divide="ignore"):
    return of_label(z, y) - (np.log(np.exp(others - shift[..., None]).sum(-1)) + shift)


def lira(observed: ArrayLike, inside: ArrayLike, outside: ArrayLike) -> np.ndarray:
  """``ln N(phi; mu_in, sigma_in) - ln N(phi; mu_out, sigma_out)`` of each row: the shape of ``observed [..., N]``.

  Margins: ``observed`` of the attacked models, ``inside [M, N]`` and ``outside [M', N]`` of others, NaN where a model
  does not belong (each row has its own IN and OUT models); the Gaussians are fitted row by row, unbiased, with a
  standard deviation of at least 1e-6. NaN where fewer than 2 models are left on a side or ``observed`` is NaN.
  """
  phi, a, b = np.asarray(observed, np.float64), _population(inside, "inside"), _population(outside, "outside")
  if not phi.ndim or phi.shape[-1] != a.shape[1] or a.shape[1] != b.shape[1]:
    raise UsageError(f"observed, inside, outside: have shapes {phi.shape}, {a.shape}, {b.shape}; expected [.., N] each")
  return _log_normal(phi, a) - _log_normal(phi, b)


def u_lira(inside: ArrayLike, outside: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
  """The scores of the IN models and of the OUT models, ``[M, N]`` and ``[M', N]``, each by the others' margins.

  Margins as in :func:`lira`. Model i is left out of both sides when row i of either is scored, so that neither side
  has one model more: give models of one seed, and the two halves of a shadow model, the same index.
  """
  a, b = _population(inside, "inside"), _population(outside, "outside")
  scores = np.full_like(a, np.nan), np.full_like(b, np.nan)
  for i in range(max(len(a), len(b))):
    rest = np.delete(a, i, 0) if i < len(a) else a, np.delete(b, i, 0) if i < len(b) else b
    for kept, population in zip(scores, (a, b), strict=True):
      if i < len(population):
        kept[i] = lira(population[i], *rest)
  return scores


def auc(members: ArrayLike, others: ArrayLike) -> float:
  """``P(s > s') + P(s = s') / 2`` of a member's and a non-member's score: 1 separates them, 0.5 does not.

  Scores of any shape, pooled; NaN entries do not count. NaN where a side is empty.
  """
  a, b = _scores(members), _scores(others)
  if not len(a) or not len(b):
    return float("nan")
  b = np.sort(b)
  below, upto = np.searchsorted(b, a, "left"), np.searchsorted(b, a, "right")
  return float(((below + upto) / 2).sum() / (len(a) * len(b)))


def tpr_at_fpr(members: ArrayLike, others: ArrayLike, fpr: float = 0.01) -> float:
  """The largest share of members found by a threshold that takes at most the share ``fpr`` of the others for members.

  No interpolation: with fewer than ``1/fpr`` others it allows no false positive at all. Scores as in :func:`auc`.
  """
  if not 0 <= fpr <= 1:
    raise UsageError(f"fpr: is {fpr}; expected 0..1")
  a, b = _scores(members), _scores(others)
  if not len(a) or not len(b):
    return float("nan")
  allowed = int(np.floor(fpr * len(b) + 1e-9))  # 0.29 * 100 is 28.999...
  return float((a > np.sort(b)[::-1][allowed]).mean()) if allowed < len(b) else 1.0


def attack_accuracy(inside_scores: ArrayLike, outside_scores: ArrayLike) -> np.ndarray:
  """``(P(s_in > 0) + P(s_out < 0)) / 2`` of each row, ties half: ``[N]`` of scores ``[M, N]`` and ``[M', N]``.

  The balanced accuracy of guessing the likelier side, row by row: a pooled attack overstates what is known of a row.
  """
  a, b = _population(inside_scores, "inside_scores"), _population(outside_scores, "outside_scores")
  if a.shape[1] != b.shape[1]:
    raise UsageError(f"outside_scores: has {b.shape[1]} rows; inside_scores has {a.shape[1]}")

  def share(s):
    count = (~np.isnan(s)).sum(0)
    hits = np.where(s > 0, 1.0, np.where(s == 0, 0.5, 0.0)).sum(0)
    return np.where(count > 0, hits / np.maximum(count, 1), np.nan)

  return (share(a) + share(-b)) / 2


class Attack(NamedTuple):
  """``auc`` and ``tpr`` of the pooled scores, and the mean over rows of the ``accuracy`` of each."""

  auc: Any
  tpr: Any
  accuracy: Any


def attack(inside_scores: ArrayLike, outside_scores: ArrayLike, fpr: float = 0.01) -> Attack:
  """The three numbers of a pair of score arrays, such as :func:`u_lira` returns; ideal 0.5, ``fpr`` and 0.5."""
  accuracy = attack_accuracy(inside_scores, outside_scores)
  mean = float(np.nanmean(accuracy)) if not np.isnan(accuracy).all() else float("nan")
  return Attack(auc(inside_scores, outside_scores), tpr_at_fpr(inside_scores, outside_scores, fpr), mean)


def _population(values, name: str) -> np.ndarray:
  m = np.asarray(values, np.float64)
  if m.ndim != 2 or not m.size or np.isinf(m).any():
    raise UsageError(f"{name}: has shape {m.shape}; expected [models, rows] without inf")
  return m


def _log_normal(phi, population) -> np.ndarray:
  there = ~np.isnan(population)
  n = there.sum(0)
  mean = np.where(there, population, 0.0).sum(0) / np.maximum(n, 1)
  var = np.where(there, population - mean, 0.0) ** 2
  std = np.maximum(np.sqrt(var.sum(0) / np.maximum(n - 1, 1)), LEAST_STD)
  return np.where(n >= 2, -0.5 * ((phi - mean) / std) ** 2 - np.log(std), np.nan)


def _scores(values) -> np.ndarray:
  s = np.asarray(values, np.float64).ravel()
  return s[~np.isnan(s)]
