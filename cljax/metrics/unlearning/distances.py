"""How far a model's outputs on the same rows are from those of another: the retrained or an untrained one."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from cljax.core.types import UsageError
from cljax.metrics.unlearning._inputs import as_pair, log_softmax, softmax


def activation_distance(logits: ArrayLike, reference: ArrayLike) -> float:
  """``AD = mean_x ||softmax z(x) - softmax z_r(x)||_2`` of logits ``[N, K]``, in ``[0, sqrt 2]``.

  Symmetric, 0 for equal outputs. It is on probabilities, whatever its name says. The reference is the retrained
  model; give a second retrained seed's distance beside it. Read in the code of SSD (Foster et al. 2024; spec E8).
  """
  z, r = as_pair(logits, reference)
  return float(np.linalg.norm(softmax(z) - softmax(r), axis=-1).mean())


def js_divergence(logits: ArrayLike, reference: ArrayLike) -> float:
  """``mean_x 1/2 KL(p || m) + 1/2 KL(q || m)``, ``m = (p + q) / 2``, in nats: in ``[0, ln 2]``; logits ``[N, K]``."""
  z, r = as_pair(logits, reference)
  p, q = log_softmax(z), log_softmax(r)
  m = _log_mean(p, q)
  return float((0.5 * _kl(p, m) + 0.5 * _kl(q, m)).mean())


def zrf(logits: ArrayLike, random_logits: ArrayLike, variant: str = "proper") -> float:
  """``ZRF = 1 - JS(p, p_random)`` on the forget rows, logits ``[N, K]`` of the model and of an untrained one.

  In ``[1 - ln 2, 1]``; 1 where the model answers as the untrained one does (Chundawat et al. 2023, bad teaching; spec
  E9). ``variant='released'`` is what their code computes instead: ``1 - 1/K mean_x (1/2 KL(m || p) + 1/2 KL(m ||
  q))``. Its arguments are reversed, and dividing by K presses every score into about 0.95 to 1 from 20 classes on.
  """
  if variant not in ("proper", "released"):
    raise UsageError(f"variant: is {variant!r}; expected 'proper' or 'released'")
  z, r = as_pair(logits, random_logits, "random_logits")
  if variant == "proper":
    return 1.0 - js_divergence(z, r)
  p, q = log_softmax(z), log_softmax(r)
  m = _log_mean(p, q)
  return float(1.0 - (0.5 * _kl(m, p) + 0.5 * _kl(m, q)).mean() / z.shape[-1])


class Completeness(NamedTuple):
  """``agreement`` is the share of rows with the same prediction; ``jaccard [K]`` the overlap of each class's rows."""

  agreement: float
  jaccard: Any


def completeness(logits: ArrayLike, reference: ArrayLike) -> Completeness:
  """``mean_x [argmax z = argmax z_r]`` and, per class, ``|A_k and B_k| / |A_k or B_k|`` of the rows predicted as k.

  Logits ``[N, K]`` of the model and the retrained one; 1 for the retrained model, and a second retrained seed gives
  what can be reached. The Jaccard index is NaN for a class that neither predicts. After Cao & Yang 2015; no formula
  could be verified (spec E10), so this is stated rather than quoted.
  """
  z, r = as_pair(logits, reference)
  classes = np.arange(z.shape[-1])
  a, b = z.argmax(-1)[:, None] == classes, r.argmax(-1)[:, None] == classes
  union = (a | b).sum(0)
  jaccard = np.where(union > 0, (a & b).sum(0) / np.maximum(union, 1), np.nan)
  return Completeness(float((a & b).any(-1).mean()), jaccard)


def _log_mean(p, q):
  return np.logaddexp(p, q) - np.log(2.0)


def _kl(p, q):
  """``sum_k p log(p / q)`` of log-probabilities; a class that p rules out costs nothing."""
  with np.errstate(invalid="ignore"):
    return np.where(np.isneginf(p), 0.0, np.exp(p) * (p - q)).sum(-1)
