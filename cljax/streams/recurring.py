"""Hundreds of tasks that come back: SCoLe."""

from __future__ import annotations

from typing import Any

import numpy as np

from cljax.core.types import UsageError
from cljax.streams.options import is_integer, is_number, plain


def drawn_subsets(classes: int, draws: int, size: Any, weights: Any, seed: int) -> tuple[list[np.ndarray], list[int]]:
  """``(subsets, order)`` of SCoLe (Lesort et al. 2023): each of ``draws`` events learns ``size`` classes drawn anew.

  Without replacement, uniformly or by ``weights [C]`` (the paper skews them by a parameter whose formula we have not
  read). ``subsets`` are the distinct draws in the order first met, ascending within, and ``order`` says which of them
  each event learns: a subset that is drawn again is a task that comes back. With ``size == classes`` all draws are
  one. A draw is the same however many follow.
  """
  size, weights = plain(size), plain(weights)
  size = 2 if isinstance(size, list | tuple) and not size else size
  if not is_integer(size, 1, classes):
    raise UsageError(f"stream.classes_per_task: got {repr(size)[:80]}; scole expects one integer of 1..{classes}")
  sound = isinstance(weights, list | tuple) and all(map(is_number, weights))
  shares = np.asarray(weights or [1.0] * classes, np.float64) if sound else np.zeros(0)
  if shares.shape != (classes,) or (shares < 0).any() or (shares > 0).sum() < size or not np.isfinite(shares.sum()):
    expected = f"{classes} numbers of at least 0, {size} or more above 0"
    raise UsageError(f"stream.class_weights: got {repr(weights)[:80]}; expected {expected}")
  rng = np.random.default_rng(np.random.SeedSequence([seed, 0x5C01E]))
  met: dict[tuple, int] = {}
  order = []
  for _ in range(draws):
    drawn = tuple(sorted(rng.choice(classes, size, replace=False, p=shares / shares.sum()).tolist()))
    order.append(met.setdefault(drawn, len(met)))
  return [np.asarray(s) for s in met], order
