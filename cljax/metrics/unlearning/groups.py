"""What a deletion that falls on one group does to the groups: accuracies, odds, and an attack on losses.

The numbers of "Group-robust Machine Unlearning" (arXiv 2503.09330; read in code, spec B13). Targets are the retrained
model's, as everywhere.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from cljax.core.types import UsageError
from cljax.metrics.unlearning._inputs import as_labels, as_logits
from cljax.metrics.unlearning.membership import CLIP, cross_entropy

TREES = 100


def group_accuracies(logits: ArrayLike, y: ArrayLike, group: ArrayLike, num_groups: int | None = None) -> np.ndarray:
  """``mean_{n of group g} [argmax_k z_nk = y_n]``: ``[..., G]`` of logits ``[..., N, K]``; NaN for a group of no row.

  ``group [N]`` are numbers from 0; ``num_groups`` is by default one more than the largest. The forget group's is the
  GA of MIU.
  """
  z = as_logits(logits, population=True)
  y, group = as_labels(y, z), _groups(group, z)
  count = int(group.max()) + 1 if num_groups is None else num_groups
  if group.max() >= count:
    raise UsageError(f"group: holds {group.max()}; expected 0..{count - 1}")
  right = z.argmax(-1) == y
  mean = lambda mine: right[..., mine].mean(-1) if mine.any() else np.full(right.shape[:-1], np.nan)
  return np.stack([mean(group == g) for g in range(count)], -1)


def equalized_odds(logits: ArrayLike, y: ArrayLike, group: ArrayLike) -> float:
  """``mean_y max_{g, g'} 1/2 sum_k |P(k | y, g) - P(k | y, g')|``, P the shares of answers k: 0 where odds are equal.

  In ``[0, 1]``. Of two classes and two groups it is the mean of the gaps in true and in false positive rates. A label
  that rows of fewer than two groups have is passed over; NaN where all are. Logits ``[N, K]``, ``y`` and ``group``
  ``[N]``.
  """
  z = as_logits(logits)
  y, group = as_labels(y, z), _groups(group, z)
  answer = np.eye(z.shape[-1])[z.argmax(-1)]
  gaps = []
  for label in np.unique(y):
    shares = [answer[(y == label) & (group == g)].mean(0) for g in np.unique(group[y == label])]
    if len(shares) > 1:
      gaps.append(max(np.abs(a - b).sum() / 2 for a in shares for b in shares))
  return float(np.mean(gaps)) if gaps else float("nan")


def forest_attack(
  retain: ArrayLike, retain_y: ArrayLike, test: ArrayLike, test_y: ArrayLike, forget: ArrayLike, forget_y: ArrayLike,
  *, trees: int = TREES, seed: int = 0,
) -> float:  # fmt: skip
  """Share of the forget rows that a random forest on the loss, retain (1) against test (0), calls members.

  Logits ``[N, K]`` and labels ``[N]`` of one model; losses are clipped to 100 nats and both sides cut to the shorter
  one. A grown tree on one number answers with the nearest loss of its bootstrap sample (the smaller of two as near),
  by the share of members among rows of that loss; the forest by the mean over ``trees``, above 1/2. In ``[0, 1]``; the
  target is the retrained model's value. The attack of MIU (spec B13; compare :func:`entropy_attack`).
  """
  if trees < 1:
    raise UsageError(f"trees: is {trees}; expected 1 or more")
  rng = np.random.default_rng(seed)
  member, other, asked = (
    np.minimum(cross_entropy(z, y), CLIP) for z, y in ((retain, retain_y), (test, test_y), (forget, forget_y))
  )
  n = min(len(member), len(other))
  loss = np.concatenate([a[rng.permutation(len(a))[:n]] for a in (member, other)])
  label = np.repeat([1.0, 0.0], n)
  said = np.zeros(len(asked))
  for _ in range(trees):
    drawn = rng.integers(0, 2 * n, 2 * n)
    values, place, count = np.unique(loss[drawn], return_inverse=True, return_counts=True)
    share = np.bincount(place, label[drawn]) / count
    said += share[np.searchsorted((values[1:] + values[:-1]) / 2, asked, side="left")]
  return float((said > trees / 2).mean())


def _groups(group, z) -> np.ndarray:
  group = np.asarray(group)
  if group.shape != z.shape[-2:-1] or group.dtype.kind not in "iu" or group.min() < 0:
    raise UsageError(
      f"group: has shape {group.shape}, dtype {group.dtype}; expected {z.shape[-2:-1]} group numbers from 0"
    )
  return group
