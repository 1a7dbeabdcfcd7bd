"""What is wrong with what a model of text says: that it repeats itself, that it speaks another language."""

from __future__ import annotations

import collections
import math
from collections.abc import Mapping, Sequence

from cljax.core.checks import check_count
from cljax.core.types import UsageError


def repetition(tokens: Sequence[int], n: int = 4) -> float:
  """``1 - |distinct n-grams| / |n-grams|`` of one text, in [0, 1): 0 where none comes twice; NaN of fewer than n.

  Raises UsageError for ``n`` below 1. Welleck et al. 2020 (seq-rep-n).
  """
  check_count("repetition: n", n)
  grams = [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
  return 1 - len(set(grams)) / len(grams) if grams else math.nan


def ends_in_loop(tokens: Sequence[int], times: int = 3) -> bool:
  """Whether some span of tokens, of any length from 1, stands ``times`` times in a row at the end of a text.

  Raises UsageError for ``times`` below 2.
  """
  check_count("ends_in_loop: times", times, 2)
  own = list(tokens)
  return any(own[-times * size :] == own[-size:] * times for size in range(1, len(own) // times + 1))


def character_profile(text: str, n: int = 3) -> dict[str, int]:
  """How often each n-gram of characters stands in a text, lower case, white space as one blank.

  Raises UsageError for ``n`` below 1.
  """
  check_count("character_profile: n", n)
  plain = " ".join(text.lower().split())
  return dict(collections.Counter(plain[i : i + n] for i in range(len(plain) - n + 1)))


def language(text: str, profiles: Sequence[Mapping[str, int]]) -> int:
  """``argmax_l sum_g log((c_l(g) + 1) / (N_l + V))`` over the n-grams g of a text: which profile it is most like.

  ``profiles``: counts c_l of :func:`character_profile` of known texts, all of one n, N_l their sum, V the number of
  n-grams in any of them, and one for all others. Of equal ones the first; -1 for a text shorter than an n-gram. Raises
  UsageError where a profile is empty and where they are of more than one n. Naive Bayes, as Dunning 1994.
  """
  sizes = {len(gram) for profile in profiles for gram in profile}
  if len(sizes) != 1 or not all(profiles):
    raise UsageError(f"profiles: {len(profiles)} with n-grams of the lengths {sorted(sizes)}; expected one, none empty")
  known = len({gram for profile in profiles for gram in profile}) + 1
  found = character_profile(text, sizes.pop())
  if not found:
    return -1

  def likelihood(profile: Mapping[str, int]) -> float:
    whole = math.log(sum(profile.values()) + known)
    return sum(count * (math.log(profile.get(gram, 0) + 1) - whole) for gram, count in found.items())

  each = [likelihood(profile) for profile in profiles]
  return each.index(max(each))
