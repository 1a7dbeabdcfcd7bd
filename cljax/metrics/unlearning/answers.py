"""What a model of text still knows of answers: probabilities, truth ratios, and what is made of them.

Of a question and its answer only the answer's tokens count, its end among them. A row without any has NaN, which
:func:`row_mean` leaves out and counts. Put each number between that of the model that learned the rows and those of two
retrained models or more: templates alone make answers likely. Definitions as in OpenUnlearning (Dorna et al. 2025,
arXiv 2506.12618) and TOFU (Maini et al. 2024, arXiv 2401.06121); where their code has a fault it is said.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from cljax.core.checks import check_choice
from cljax.core.types import UsageError


class TokenScores(NamedTuple):
  """Of each place of ``[N, L]``: what the model makes of its token, and of the vocabulary there."""

  log_p: np.ndarray  # log p(y_l | x), nats; 0 where there is none
  correct: np.ndarray  # bool: the token is the likeliest, of equals the first
  mean: np.ndarray  # sum_v p_v log p_v
  variance: np.ndarray  # sum_v p_v (log p_v)^2 - mean^2
  there: np.ndarray  # bool: a token is asked for


class RowMean(NamedTuple):
  """The mean over the rows that have a value, and how many these are; NaN and 0 of none."""

  mean: float
  rows: int


class ForgetQuality(NamedTuple):
  """The test of two samples of truth ratios: ``p``, the distance ``statistic``, and the rows of either side."""

  p: float
  statistic: float
  ours: int
  reference: int

  @property
  def disjoint(self) -> bool:
    """Whether the samples do not overlap: p is then the least that so many rows can have, and orders nothing."""
    return self.statistic == 1.0


def token_scores(logits: ArrayLike, y: ArrayLike) -> TokenScores:
  """:class:`TokenScores` ``[N, L]`` of logits ``[N, L, V]`` and next tokens ``y [N, L]``, below 0 where none is asked.

  In float64. Raises UsageError for other shapes, tokens of V or more, NaN and +inf.
  """
  z, y = np.asarray(logits, np.float64), np.asarray(y)
  if z.ndim != 3 or not z.shape[-1] or y.shape != z.shape[:2] or y.dtype.kind not in "iu":
    raise UsageError(
      f"y: has shape {y.shape}, dtype {y.dtype}; logits {z.shape}; expected integers [N, L] of [N, L, V]"
    )
  if y.max(initial=-1) >= z.shape[-1]:
    raise UsageError(f"y: holds token {y.max()}; logits are of {z.shape[-1]}")
  if np.isnan(z).any() or np.isposinf(z).any():
    raise UsageError("logits: holds NaN or +inf; the model diverged")
  there = y >= 0
  z = z - z.max(-1, keepdims=True)
  log = z - np.log(np.exp(z).sum(-1, keepdims=True))
  p, at = np.exp(log), np.maximum(y, 0)[..., None]
  finite = np.where(p > 0, log, 0.0)
  mean, square = (p * finite).sum(-1), (p * np.square(finite)).sum(-1)
  log_p = np.where(there, np.take_along_axis(log, at, -1)[..., 0], 0.0)
  return TokenScores(log_p, there & (z.argmax(-1) == at[..., 0]), mean, np.maximum(square - mean**2, 0.0), there)


def row_mean(values: ArrayLike) -> RowMean:
  """Mean of ``values`` that are not NaN, and how many they are."""
  v = np.asarray(values, np.float64).ravel()
  v = v[~np.isnan(v)]
  return RowMean(float(v.mean()) if len(v) else float("nan"), len(v))


def mean_log_probability(log_p: ArrayLike, there: ArrayLike) -> np.ndarray:
  """``sum_t log p_t / n``, minus the loss of a token: ``[N]`` of ``[N, L]``; NaN of a row without tokens."""
  v, mask = of_tokens(log_p, there)
  n = mask.sum(-1)
  return np.where(n > 0, np.where(mask, v, 0.0).sum(-1) / np.maximum(n, 1), np.nan)


def answer_probability(log_p: ArrayLike, there: ArrayLike) -> np.ndarray:
  """``(prod_t p_t)^(1/n)``: ``[N]`` in [0, 1], of ``log p [N, L]`` and which of them are the answer's tokens.

  One wrong token of an answer of n lowers the log by 1/n of what it lacks: long templates hide it. The release's NaN of
  an answer without tokens spoils its mean; here it is left out. Spec language_unlearning X1.
  """
  return np.exp(mean_log_probability(log_p, there))


def choice_probability(right: ArrayLike, wrong: ArrayLike) -> np.ndarray:
  """``P / (P + sum_j P_j)``: ``[N]``, of mean log-probabilities ``right [N]`` and ``wrong [N, K]``; chance: 1/(1 + K).

  In logs, so that an answer and its rivals may all be unlikely; the release adds 1e-10 to the denominator. Spec X1.
  """
  a, b = _rivals(right, wrong)
  whole = np.concatenate([a[:, None], b], 1)
  top = whole.max(-1, keepdims=True)
  with np.errstate(invalid="ignore"):
    return np.exp(a - top[:, 0]) / np.exp(whole - top).sum(-1)


def value_probability(log_p: ArrayLike, value: ArrayLike) -> np.ndarray:
  """``prod_t p_t`` over the tokens of the value alone: ``[N]``; NaN of a row without. Ask it in a wording that was not
  trained: it is not diluted by a template as :func:`answer_probability` is."""
  v, mask = of_tokens(log_p, value)
  return np.where(mask.any(-1), np.exp(np.where(mask, v, 0.0).sum(-1)), np.nan)


def value_accuracy(correct: ArrayLike, value: ArrayLike) -> np.ndarray:
  """Whether all tokens of the value are the likeliest, given those before: 0 or 1 ``[N]``; NaN of a row without."""
  right, mask = of_tokens(correct, value)
  return np.where(mask.any(-1), np.where(mask, right, 1.0).min(-1), np.nan)


def truth_ratio(right: ArrayLike, wrong: ArrayLike, mean: str = "geometric") -> np.ndarray:
  """``mean_j P_wrong_j / P_right``: ``[N]`` above 0, of mean log-probabilities ``right [N]`` and ``wrong [N, K]``.

  P is a token's geometric mean; the ``mean`` over wrong answers is 'geometric', as in the scripts of TOFU and
  OpenUnlearning, or 'arithmetic', as in TOFU's utilities: three definitions go by this name, and differ. ``right`` is
  of the paraphrase (in the wrong answers' template: else it measures templates) or, where all wordings were trained, of
  the answer. In logs: the release adds 1e-10 to P_right, by which a collapsed model whose answers are all equally
  unlikely has 1e-8 or less in the place of 1. Not best near 1: compare with retrained models. Spec language_unlearning
  X2. Raises UsageError for another mean and shapes that do not fit.
  """
  check_choice("truth_ratio", "mean", mean, ("geometric", "arithmetic"))
  a, b = _rivals(right, wrong)
  if mean == "geometric":
    return np.exp(b.mean(-1) - a)
  top = b.max(-1, keepdims=True)
  return np.exp(np.log(np.exp(b - top).mean(-1)) + top[:, 0] - a)


def truth_ratio_score(ratio: ArrayLike, forget: bool) -> np.ndarray:
  """``min(R, 1/R)`` of rows to ``forget``, else ``max(0, 1 - R)``: each in [0, 1], of truth ratios ``[N]``."""
  r = np.asarray(ratio, np.float64)
  if (r < 0).any():
    raise UsageError(f"ratio: holds {r[r < 0].min():g}; expected numbers of at least 0")
  with np.errstate(divide="ignore"):
    return np.minimum(r, 1 / r) if forget else np.maximum(0.0, 1 - r)


def forget_quality(ratio: ArrayLike, reference: ArrayLike) -> ForgetQuality:
  """The p-value of the two-sample Kolmogorov-Smirnov test: the model's truth ratios against a retrained model's.

  Both ``[N]``, of the rows to forget; NaN rows are dropped. 1 of equal samples and of one row; NaN where a side is
  empty. It is a test, not a measure: 40 rows find a shift of a quarter of a deviation in a tenth of draws, 400 in most,
  and all models whose samples do not overlap (``disjoint``) share one p, the published 1.94e-119 (200 rows) and
  1.06e-239 (400), which orders nothing. A destroyed model may pass it. Rows of one author depend on each other, so that
  another retrained model can fail: give its p beside. TOFU's first 300 rows and OpenUnlearning's 400 are not
  comparable. Spec language_unlearning X3.
  """
  from scipy.stats import ks_2samp

  a, b = (np.asarray(v, np.float64).ravel() for v in (ratio, reference))
  a, b = a[~np.isnan(a)], b[~np.isnan(b)]
  if not len(a) or not len(b):
    return ForgetQuality(float("nan"), float("nan"), len(a), len(b))
  found = ks_2samp(a, b, method="exact" if max(len(a), len(b)) <= 10_000 else "asymp")
  return ForgetQuality(float(found.pvalue), float(found.statistic), len(a), len(b))


def model_utility(parts: Sequence[float] | np.ndarray) -> float:
  """Harmonic mean of ``parts [K]``: in TOFU nine, of probability, ROUGE-L recall and ``max(0, 1 - R)`` on retain rows,
  real authors and facts of the world.

  0 where one is 0; NaN where one is NaN or below 0, and of none. Parts at chance are not 0, so that ROUGE and truth
  ratios decide it, and easy sets carry it: put the nine beside it. Spec language_unlearning X4.
  """
  v = np.asarray(parts, np.float64).ravel()
  if not len(v) or np.isnan(v).any() or (v < 0).any():
    return float("nan")
  return 0.0 if (v == 0).any() else float(len(v) / (1 / v).sum())


def of_tokens(values: ArrayLike, there: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
  """``(values, there)`` as float64 and bool ``[N, L]``; UsageError for other shapes, and NaN where a token is."""
  v, mask = np.asarray(values, np.float64), np.asarray(there, bool)
  if v.ndim != 2 or v.shape != mask.shape:
    raise UsageError(f"there: has shape {mask.shape} for values {v.shape}; expected [N, L] both")
  if np.isnan(v[mask]).any():
    raise UsageError("values: holds NaN where a token is asked for; the model diverged")
  return v, mask


def _rivals(right: ArrayLike, wrong: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
  a, b = np.asarray(right, np.float64), np.asarray(wrong, np.float64)
  if a.ndim != 1 or b.ndim != 2 or len(a) != len(b) or not b.shape[1]:
    raise UsageError(f"wrong: has shape {b.shape} for right {a.shape}; expected [N, K] for [N], K at least 1")
  return a, b
