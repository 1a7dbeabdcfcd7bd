"""What happens to single examples: forgetting events, and recognition and recall of what was shown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from cljax.core.types import UsageError


class Events(NamedTuple):
  """For each example ``[..., N]``, over its presentations."""

  forgetting: np.ndarray  # transitions from right to wrong
  learning: np.ndarray  # transitions from wrong to right
  first_learned: np.ndarray  # index of the first right presentation among the example's own; -1 if never
  presentations: np.ndarray
  unforgettable: np.ndarray  # bool: right at least once, and never forgotten


def forgetting_events(correct: ArrayLike, presented: ArrayLike | None = None) -> Events:
  """Counts right-to-wrong transitions between consecutive presentations of an example (Toneva et al., ICLR 2019).

  ``correct [..., P, N]`` says whether example ``n`` was right at time ``p``, read from the training batch before its
  update; ``presented [..., P, N]`` whether it was in the batch at all (default always). Training predictions depend on
  batch order and augmentation, and so do these counts.
  """
  correct = np.asarray(correct).astype(bool)
  if correct.ndim < 2:
    raise UsageError(f"correct: has shape {correct.shape}; expected [..., P, N]")
  presented = np.ones_like(correct) if presented is None else np.asarray(presented).astype(bool)
  if presented.shape != correct.shape:
    raise UsageError(f"presented: has shape {presented.shape}; correct has {correct.shape}")
  counts = np.zeros((4, *correct.shape[:-2], correct.shape[-1]), int)
  forgot, learned, first, seen = counts
  first -= 1
  was = np.zeros(first.shape, bool)
  for p in range(correct.shape[-2]):
    now, here = correct[..., p, :], presented[..., p, :]
    again = here & (seen > 0)
    forgot += again & was & ~now
    learned += again & ~was & now
    first[here & now & (first < 0)] = seen[here & now & (first < 0)]
    was = np.where(here, now, was)
    seen += here
  return Events(forgot, learned, first, seen, (first >= 0) & (forgot == 0))


def forgetting_score(events: Events) -> np.ndarray:
  """The count to rank examples by, ``[..., N]``: a never-learned example counts its presentations (the largest score).

  Sum it over runs to rank over several of them, as the paper does.
  """
  return np.where(events.first_learned < 0, events.presentations, events.forgetting)


def recognition(seen_loss: ArrayLike, unseen_loss: ArrayLike) -> np.ndarray:
  """``mean_i [loss(seen_i) < loss(unseen_i)]``, paired by index; a tie is an error (Orhan 2023, arXiv id UNVERIFIED).

  ``[..., N]`` to ``[...]``; 0.5 is chance on exchangeable pairs. With a leading axis over checkpoints of later training
  on other text, this is the paper's retention curve.
  """
  seen, unseen = np.asarray(seen_loss, np.float64), np.asarray(unseen_loss, np.float64)
  if seen.shape != unseen.shape or seen.ndim < 1 or seen.shape[-1] == 0:
    raise UsageError(f"unseen_loss: has shape {unseen.shape}; seen_loss has {seen.shape}; expected equal [..., N]")
  return (seen < unseen).mean(-1)


def recall(generated: Sequence[Any], reference: Sequence[Any], n: int = 2) -> float:
  """ROUGE-n recall: the share of the reference's n-grams (with multiplicity) that the generated tokens hold.

  The score of recall experiments (Orhan 2023; that it is ROUGE-2 is UNVERIFIED). NaN where the reference has no n-gram.
  """
  if n < 1:
    raise UsageError(f"n: got {n}; expected at least 1")
  grams = lambda tokens: Counter(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))
  want, have = grams(list(reference)), grams(list(generated))
  total = sum(want.values())
  return sum((want & have).values()) / total if total else float("nan")
