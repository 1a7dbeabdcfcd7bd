"""Hundreds of tasks that come back: SCoLe."""

from __future__ import annotations

import numpy as np

from cljax.types import UsageError


def drawn_subsets(classes: int, draws: int, size, weights, seed: int):
  """``(subsets, order)`` of SCoLe (Lesort et al. 2023): each of ``draws`` events learns ``size`` classes drawn anew.

  Without replacement, uniformly or by ``weights [C]`` (the paper skews them by a parameter whose formula we have not
  read). ``subsets`` are the distinct draws in the order first met, ascending within, and ``order`` says which of them
  each event learns: a subset that is drawn again is a task that comes back. With ``size == classes`` all draws are
  one. A draw is the same however many follow.
  """
  size = 2 if not isinstance(size, int | np.integer) and not len(size) else size
  if not isinstance(size, int | np.integer) or isinstance(size, bool) or not 1 <= size <= classes:
    raise UsageError(f"stream.classes_per_task: got {size!r}; scole expects one integer of 1..{classes}")
  shares = np.ones(classes) if not len(weights) else np.asarray(weights, np.float64)
  if shares.shape != (classes,) or not np.isfinite(shares).all() or (shares < 0).any() or (shares > 0).sum() < size:
    raise UsageError(
      f"stream.class_weights: got {list(weights)}; expected {classes} numbers of at least 0, {size} or more above 0"
    )
  rng = np.random.default_rng(np.random.SeedSequence([seed, 0x5C01E]))
  met: dict[tuple, int] = {}
  order = []
  for _ in range(draws):
    drawn = tuple(sorted(rng.choice(classes, size, replace=False, p=shares / shares.sum()).tolist()))
    order.append(met.setdefault(drawn, len(met)))
  return [np.asarray(s) for s in met], order
