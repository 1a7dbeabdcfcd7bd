"""KLoM: do the margins of unlearned models follow the law of those of retrained ones, point by point?"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from cljax.core.types import UsageError

DIRECTIONS = ("ours||oracles", "oracles||ours")


class Klom(NamedTuple):
  """Over the points: the ``mean`` and the 95th ``percentile`` of the divergence, nats."""

  mean: float
  percentile: float


def klom_points(
  ours: ArrayLike, oracles: ArrayLike, *, bins: int = 20, clip: float = 100.0, eps: float = 1e-5,
  direction: str = "ours||oracles",
) -> np.ndarray:  # fmt: skip
  """``KL(histogram of ours || histogram of oracles)`` of each point's margins, nats: ``[P]``.

  ``ours [M, P]`` are the margins (``logit_margin``) of M unlearned models at P points, ``oracles [M', P]`` those of M'
  retrained models. Margins are clipped to ``+-clip``; ``bins`` equal bins span the joint range of each point, its
  maximum included; where the first law has mass, the second is at least ``eps`` and is then normalised again. 0 for
  identical samples, at most about ``ln(1/eps)``. Few models bias it upwards: quote :func:`klom_floor` beside it, and
  take fewer bins for 20 to 30 models (8).

  Georgiev et al. 2024 (arXiv 2410.23232) and the code of EasyDUB (arXiv 2602.16400; spec E13). That code drops the
  joint maximum, and its runner computes ``direction='oracles||ours'``, which differs much. Raises UsageError for
  shapes that do not fit, NaN margins and a wrong option.
  """
  a, b = _margins(ours, "ours"), _margins(oracles, "oracles")
  if a.shape[1] != b.shape[1]:
    raise UsageError(f"oracles: has margins of {b.shape[1]} points; ours has {a.shape[1]}")
  if bins < 1 or not eps > 0 or not clip > 0:
    raise UsageError(f"bins, eps, clip: are {bins}, {eps}, {clip}; expected bins >= 1, eps > 0, clip > 0")
  if direction not in DIRECTIONS:
    raise UsageError(f"direction: is {direction!r}; expected one of {DIRECTIONS}")
  a, b = np.clip(a, -clip, clip), np.clip(b, -clip, clip)
  edges = np.linspace(np.minimum(a.min(0), b.min(0)), np.maximum(a.max(0), b.max(0)), bins + 1)  # [bins + 1, P]
  p, q = _histogram(a, edges), _histogram(b, edges)
  if direction == "oracles||ours":
    p, q = q, p
  q = np.where(p > 0, np.maximum(q, eps), q)
  q = q / q.sum(0)
  return np.where(p > 0, p * np.log(np.where(p > 0, p, 1.0) / np.where(p > 0, q, 1.0)), 0.0).sum(0)


def klom(ours: ArrayLike, oracles: ArrayLike, **options: Any) -> Klom:
  """Mean and 95th percentile of :func:`klom_points` over the points; once each for forget, retain and test points."""
  each = klom_points(ours, oracles, **options)
  return Klom(float(each.mean()), float(np.percentile(each, 95)))


def klom_floor(oracles: ArrayLike, **options: Any) -> Klom:
  """KLoM of the even oracles against the odd ones: what exact retraining itself scores, above 0.

  Half the models on a side bias a histogram more than all of them: for a fair comparison give :func:`klom` as many
  unlearned models and oracles as a half has here.
  """
  b = _margins(oracles, "oracles")
  if len(b) < 2:
    raise UsageError(f"oracles: has {len(b)} models; a floor needs two halves")
  return klom(b[::2], b[1::2], **options)


def klom_resampled(
  ours, oracles, *, resamples: int = 999, bins: int = 20, clip: float = 100.0, eps: float = 1e-5, seed: int = 0
) -> np.ndarray:
  """Mean KLoM ``[resamples]`` of groups of these sizes that are drawn at random from both, without replacement.

  If unlearned models are as retrained ones, which is whose makes no difference: then ``(1 + how many of these are as
  large as klom(ours, oracles)) / (1 + resamples)`` is the chance of as large a number, a permutation test (Fisher
  1935). Of the halves of an ensemble of oracles it gives the law of the floor. Whole members are drawn, so it is exact
  however margins of different points depend on each other. Arguments and errors as for :func:`klom_points`.
  """
  klom_points(ours, oracles, bins=bins, clip=clip, eps=eps)  # checks
  a, b = (np.clip(_margins(m, "margins"), -clip, clip) for m in (ours, oracles))
  whole = np.concatenate([a, b])
  edges = np.linspace(whole.min(0), whole.max(0), bins + 1)  # as for each division of the same members
  at = (whole[:, None] >= edges[1:-1]).sum(1)  # [M + M', P]
  inside = (at[:, None] == np.arange(bins)[:, None]).astype(np.float32).reshape(len(whole), -1)  # [M + M', bins P]
  draw = np.random.default_rng(seed)
  first = np.argsort(draw.random((resamples, len(whole))), 1) < len(a)  # [resamples, M + M']
  total, out = inside.sum(0), []
  for start in range(0, resamples, 64):
    counts = first[start : start + 64].astype(np.float32) @ inside
    p, q = (c.reshape(len(counts), bins, -1).astype(np.float64) for c in (counts / len(a), (total - counts) / len(b)))
    q = np.where(p > 0, np.maximum(q, eps), q)
    q = q / q.sum(1, keepdims=True)
    each = np.where(p > 0, p * np.log(np.where(p > 0, p, 1.0) / np.where(p > 0, q, 1.0)), 0.0)
    out.append(each.sum(1).mean(-1))
  return np.concatenate(out)


def klom_chance(ours, oracles, **options) -> float:
  """The chance of a KLoM as large, were unlearned models as retrained ones: by :func:`klom_resampled`, whose options
  it takes; at least ``1 / (1 + resamples)``."""
  given = {k: v for k, v in options.items() if k in ("bins", "clip", "eps")}
  others = klom_resampled(ours, oracles, **options)
  return float((1 + (others >= klom(ours, oracles, **given).mean - 1e-6).sum()) / (1 + len(others)))


def _margins(margins, name: str) -> np.ndarray:
  m = np.asarray(margins, np.float64)
  if m.ndim != 2 or not m.size:
    raise UsageError(f"{name}: has shape {m.shape}; expected margins [models, points]")
  if np.isnan(m).any():
    raise UsageError(f"{name}: holds NaN; a model diverged")
  return m


def _histogram(values, edges) -> np.ndarray:
  """Shares ``[bins, P]`` of ``values [M, P]``; the last bin is closed on both sides, the others on the left."""
  inner = edges[1:-1]
  at = (values[:, None] >= inner).sum(1)  # [M, P]
  return np.stack([(at == i).mean(0) for i in range(len(inner) + 1)])
