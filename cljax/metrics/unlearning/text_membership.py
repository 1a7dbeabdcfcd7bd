"""Membership attacks on text by the probabilities of its tokens, and how far their success is from retraining's.

Scores as in OpenUnlearning: high means no member. The AUC is that of the holdout, rows of the same law that none of the
models saw, above the rows to forget: 1 where these look learned, below 1/2 where they look stranger than what was never
seen, which is a leak too. A retrained model need not have 1/2: compare with it.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from cljax.core.checks import check_scalar
from cljax.core.types import UsageError
from cljax.metrics.unlearning.answers import mean_log_probability, of_tokens
from cljax.metrics.unlearning.lira import auc

LEAST_VARIANCE = 1e-6


def loss_scores(log_p: ArrayLike, there: ArrayLike) -> np.ndarray:
  """``-sum_t log p_t / n``: ``[N]`` of ``[N, L]``, nats; NaN of a row without tokens."""
  return -mean_log_probability(log_p, there)


def zlib_scores(log_p: ArrayLike, there: ArrayLike, texts: Sequence[str], total: bool = False) -> np.ndarray:
  """``nll / len(zlib(text))``: ``[N]``, nats a byte, of each row's answer as text; NaN of a row without tokens.

  nll is the mean over tokens, as in the release, by which long texts look learned; with ``total`` their sum, as the
  idea was. Carlini et al. 2021; spec language_unlearning X7. Raises UsageError for as many texts as there are not rows.
  """
  v, mask = of_tokens(log_p, there)
  if len(texts) != len(v):
    raise UsageError(f"texts: got {len(texts)}; expected one of each of {len(v)} rows")
  nll = loss_scores(v, mask) * (mask.sum(-1) if total else 1)
  return nll / np.asarray([len(zlib.compress(text.encode())) for text in texts], np.float64)


def min_k_scores(log_p: ArrayLike, there: ArrayLike, share: float = 0.4) -> np.ndarray:
  """Minus the mean of the ``max(1, floor(share n))`` smallest ``log p_t``: ``[N]`` of ``[N, L]``.

  NaN of a row without tokens, which the release gives 0: the surest of members. Shi et al. 2024; spec
  language_unlearning X7. Raises UsageError for a share outside (0, 1].
  """
  check_scalar("min_k_scores", "share", share, 0.0, 1.0, above=True)
  v, mask = of_tokens(log_p, there)
  n = mask.sum(-1)
  count = np.maximum(1, np.floor(share * n + 1e-9)).astype(int)
  ordered = np.sort(np.where(mask, v, np.inf), -1)
  least = np.where(np.arange(v.shape[1]) < count[:, None], ordered, 0.0)
  return np.where(n > 0, -np.where(np.isfinite(least), least, 0.0).sum(-1) / count, np.nan)


def min_k_plus_scores(
  log_p: ArrayLike, mean: ArrayLike, variance: ArrayLike, there: ArrayLike, share: float = 0.4
) -> np.ndarray:
  """:func:`min_k_scores` of ``(log p_t - mu_t) / sigma_t``, of the vocabulary's mean and variance of log p at t.

  ``mean``, ``variance`` ``[N, L]`` as of :func:`cljax.metrics.unlearning.token_scores`; sigma^2 is at least 1e-6, as in
  OpenUnlearning (RWKU's has no such bound). Zhang et al. 2024 (Min-K%++); spec language_unlearning X7.
  """
  v, mask = of_tokens(log_p, there)
  center, spread = (np.asarray(a, np.float64) for a in (mean, variance))
  if center.shape != v.shape or spread.shape != v.shape:
    raise UsageError(f"mean, variance: have shapes {center.shape}, {spread.shape}; expected {v.shape}")
  return min_k_scores((v - center) / np.sqrt(np.maximum(spread, LEAST_VARIANCE)), mask, share)


def membership_auc(forget: ArrayLike, holdout: ArrayLike) -> float:
  """``P(holdout > forget) + P(holdout = forget) / 2`` of scores that are low of members; NaN where a side is empty.

  0.5 where all are equal. Its deviation by chance is 0.09, 0.05 and 0.02 of 20, 80 and 400 rows a side.
  """
  return auc(holdout, forget)


def priv_leak(auc: float, retrained: float) -> float:
  """``100 ((1 - auc) - (1 - retrained)) / (1 - retrained)``: 0 as retrained, -100 fully exposed, above 0 forgotten
  beyond what was never seen.

  Of :func:`membership_auc` of the model and of a retrained one; NaN where the latter is 1, where the release, which
  adds 1e-10, has up to 1e12; without a retrained model it silently takes 1/2. Shi et al. 2024 (MUSE); spec
  language_unlearning X8. Raises UsageError outside [0, 1].
  """
  _shares(auc, retrained)
  return float("nan") if retrained == 1 else 100 * (retrained - auc) / (1 - retrained)


def relative_difference(auc: float, retrained: float) -> float:
  """``100 (auc - retrained) / retrained``; NaN where the latter is 0. Raises UsageError outside [0, 1]."""
  _shares(auc, retrained)
  return float("nan") if retrained == 0 else 100 * (auc - retrained) / retrained


def _shares(*values: float) -> None:
  if any(v < 0 or v > 1 for v in values):  # NaN passes, of an empty side
    raise UsageError(f"auc: got {', '.join(f'{v:g}' for v in values)}; expected 0..1")
