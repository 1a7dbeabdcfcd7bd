"""What of an answer a model gives away: by heart, token by token, or in its own words."""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from cljax.metrics.unlearning.answers import of_tokens


class RougeL(NamedTuple):
  """By the longest common subsequence: its share of the reference, of what was said, and their harmonic mean."""

  recall: float
  precision: float
  f1: float


def exact_memorisation(correct: ArrayLike, there: ArrayLike) -> np.ndarray:
  """``mean_t c_t``, c_t whether the token is the likeliest given those before: ``[N]`` of ``[N, L]``; NaN of a row
  without tokens.

  Of answers in templates a model that never saw them is far above 0. The release drops the last token, taken for the
  end, which raw text does not have; here all that are asked for count. Spec language_unlearning X6.
  """
  c, mask = of_tokens(correct, there)
  n = mask.sum(-1)
  return np.where(n > 0, np.where(mask, c, 0.0).sum(-1) / np.maximum(n, 1), np.nan)


def extraction_strength(correct: ArrayLike, there: ArrayLike) -> np.ndarray:
  """``1 - k/n``, k the length of the shortest beginning behind which all tokens are the likeliest: ``[N]`` in [0, 1].

  0 where the last token is not; NaN of a row without tokens. The tokens before are the true ones, not the model's own.
  The release stops at k = n - 1, so that it is never below 1/n, a wrong answer of one token has 1, and a row without
  tokens 0. Carlini et al. 2021; spec language_unlearning X6.
  """
  c, mask = of_tokens(correct, there)
  wrong = mask & (c == 0)
  n = mask.sum(-1)
  # k counts the tokens up to the last wrong one.
  last = np.where(wrong.any(-1), c.shape[1] - 1 - np.argmax(wrong[:, ::-1], -1), -1)
  k = (mask & (np.arange(c.shape[1]) <= last[:, None])).sum(-1)
  return np.where(n > 0, 1 - k / np.maximum(n, 1), np.nan)


def rouge_words(text: str) -> list[str]:
  """Words as ROUGE has them: lower case, all but a-z and 0-9 as blanks; no stemmer.

  Text of other scripts has none, and so ROUGE 0: give :func:`rouge_l` tokens of your own.
  """
  return re.sub(r"[^a-z0-9]+", " ", text.lower()).split()


def rouge_l(reference: Sequence[Hashable], said: Sequence[Hashable]) -> RougeL:
  """ROUGE-L by the longest common subsequence of words or tokens: recall, precision, f1; 0 where a side is empty.

  Recall, TOFU's, rewards length; f1, MUSE's, does not. OpenUnlearning stems words, MUSE's own code does not, and RWKU
  counts sets of words: three numbers of one name. The release takes the prompt out of what was said as a string, so
  that where the answer repeats it, it is gone there too. Lin 2004; spec language_unlearning X5.
  """
  if not len(reference) or not len(said):
    return RougeL(0.0, 0.0, 0.0)
  row = np.zeros(len(said) + 1, int)
  for word in reference:
    before = row.copy()
    for j, other in enumerate(said):
      row[j + 1] = before[j] + 1 if word == other else max(before[j + 1], row[j])
  common = int(row[-1])
  recall, precision = common / len(reference), common / len(said)
  return RougeL(recall, precision, 2 * recall * precision / (recall + precision) if common else 0.0)
