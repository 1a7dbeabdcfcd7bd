"""Several methods on several streams: Friedman's test of their ranks and Nemenyi's critical difference."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from cljax.core.types import UsageError


class Ranks(NamedTuple):
  """``names [k]`` in the order of their mean ``ranks [k]``, 1 is best, over ``streams``.

  ``chi2, p``: Friedman's statistic with its correction for ties, and its p by the chi-squared distribution of ``k - 1``
  degrees; NaN for two methods. ``difference``: what two mean ranks must differ by to be told apart at ``alpha``, for
  all pairs together. ``pairs [k, k]``: the p of each pair. ``groups``: from the first to the last (both included) of
  each longest run of methods that are not told apart.
  """

  names: tuple[str, ...]
  ranks: np.ndarray
  streams: int
  chi2: float
  p: float
  alpha: float
  difference: float
  pairs: np.ndarray
  groups: tuple[tuple[int, int], ...]


def mean_ranks(names: Sequence[str], scores, better: str | Sequence[str] = "higher", alpha: float = 0.05) -> Ranks:
  """Ranks of ``scores [N, k]``, a line a stream: ``R_j = mean_i rank_ij``; equal scores share the mean of their ranks.

  Friedman: ``chi2 = (12 N / (k (k + 1)) sum_j R_j^2 - 3 N (k + 1)) / (1 - sum (t^3 - t) / (N (k^3 - k)))`` with ``t``
  the sizes of ties. Nemenyi: ``CD = q_alpha sqrt(k (k + 1) / (6 N))``, ``q_alpha`` the quantile of the studentized
  range of ``k`` means and infinite degrees over ``sqrt(2)`` (Demsar, JMLR 2006). Both suppose many streams: of fewer
  than ten, or fewer than five methods, p is rough. ``better``: of all lines, or one for each. Raises UsageError for
  fewer than two methods or streams, other shapes, and what is no number.
  """
  from scipy import stats  # not for free: over half a second

  scores = np.asarray(scores, np.float64)
  count, of = scores.shape if scores.ndim == 2 else (0, 0)
  if of != len(names) or of < 2 or count < 2:
    raise UsageError(f"scores: have shape {scores.shape}; expected [N, {len(names)}], two streams and methods or more")
  if not np.isfinite(scores).all():
    raise UsageError("scores: hold what is no number; expected a score of every method on every stream")
  if not 0 < alpha < 1:
    raise UsageError(f"alpha: got {alpha!r}; expected 0 < alpha < 1")
  ways = [better] * count if isinstance(better, str) else list(better)
  if len(ways) != count or not set(ways) <= {"higher", "lower"}:
    raise UsageError(f"better: got {better!r}; expected higher or lower, one or {count}")
  signs = np.where(np.asarray(ways) == "lower", 1.0, -1.0)[:, None]
  each = stats.rankdata(signs * scores, axis=1)
  ranks = each.mean(0)
  order = np.argsort(ranks, kind="stable")
  error = math.sqrt(of * (of + 1) / (12 * count))
  difference = float(stats.studentized_range.ppf(1 - alpha, of, np.inf)) * error
  gaps = np.abs(ranks[order][:, None] - ranks[order])
  pairs = np.asarray(stats.studentized_range.sf(gaps / error, of, np.inf))
  np.fill_diagonal(pairs, 1.0)
  chi2, p = (math.nan, math.nan)
  if of > 2 and not (each == each[:, :1]).all():
    chi2, p = map(float, stats.friedmanchisquare(*(signs * scores).T))
  elif of > 2:  # all alike on every stream
    chi2, p = 0.0, 1.0
  return Ranks(
    tuple(names[i] for i in order), ranks[order], count, chi2, p, alpha, difference, pairs,
    _groups(ranks[order], difference),
  )  # fmt: skip


def _groups(ranks: np.ndarray, difference: float) -> tuple[tuple[int, int], ...]:
  """The longest runs ``(first, last)`` of sorted ranks that differ by less than ``difference``, of two at least."""
  ends = [int(np.flatnonzero(ranks - first < difference)[-1]) for first in ranks]
  return tuple((i, end) for i, end in enumerate(ends) if end > i and (i == 0 or end > ends[i - 1]))
