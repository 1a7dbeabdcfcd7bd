"""Membership attacks on one model: can its outputs tell the forgotten rows from rows it never saw?

Read each number beside the retrained model's, which is the target; a model that answers uniformly scores "perfectly"
on several of them and stands out all the same. Per-example attacks with populations are in ``lira``; an attack that
fails here proves no privacy. scikit-learn is imported on use. Subsamples follow from ``seed``.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from cljax.core.extras import needed
from cljax.core.types import UsageError
from cljax.metrics.unlearning._inputs import as_labels, as_logits, log_softmax, of_label

CLIP = 100.0  # nats; a loss of gradient ascent would otherwise dominate the fit, and an infinite one break it


def entropy(logits: ArrayLike) -> np.ndarray:
  """``-sum_k p_k ln p_k`` of the softmax, nats: ``[N]`` of logits ``[N, K]``."""
  log_p = log_softmax(as_logits(logits))
  return _entropy_sum(np.exp(log_p), log_p)


def correctness(logits: ArrayLike, y: ArrayLike) -> np.ndarray:
  """``[argmax_k z_nk = y_n]``: bool ``[N]``."""
  z = as_logits(logits)
  return z.argmax(-1) == as_labels(y, z)


def confidence(logits: ArrayLike, y: ArrayLike) -> np.ndarray:
  """``p_y``: ``[N]``."""
  z = as_logits(logits)
  return np.exp(of_label(log_softmax(z), as_labels(y, z)))


def cross_entropy(logits: ArrayLike, y: ArrayLike) -> np.ndarray:
  """``-ln p_y``, nats: ``[N]``."""
  z = as_logits(logits)
  return -of_label(log_softmax(z), as_labels(y, z))


def modified_entropy(logits: ArrayLike, y: ArrayLike) -> np.ndarray:
  """``-(1 - p_y) ln p_y - sum_{i != y} p_i ln(1 - p_i)``, nats, of logits ``[N, K]`` and labels: ``[N]``, at least 0.

  0 as ``p_y`` tends to 1; it grows where the model is sure of a wrong class (Song & Mittal 2021). The ``m_entropy`` of
  the UUEF code takes ``ln p`` for ``ln(1 - p)`` and indexes columns by all labels (spec E4): not followed.
  """
  z = as_logits(logits)
  y = as_labels(y, z)
  log_p, log_rest = log_softmax(z), _log_complement(z)
  others = np.where(np.arange(z.shape[-1]) == y[:, None], 0.0, np.exp(log_p))
  of_y = _entropy_sum(np.exp(of_label(log_rest, y)), of_label(log_p, y), axis=None)
  return of_y + _entropy_sum(others, log_rest)


def entropy_attack(retain: ArrayLike, test: ArrayLike, forget: ArrayLike) -> float:
  """Share of the forget rows that a logistic regression on the entropy, retain (1) against test (0), calls members.

  Logits ``[N, K]`` of one model on each set. In ``[0, 1]``; the target is the retrained model's value, not 0. Balanced
  class weights, lbfgs, the feature as it is: with a single feature it is a threshold. The attack in the code of SSD,
  after bad teaching, which first had an SVC there (spec E2; compare :func:`svc_attacks`, which counts the other way).
  """
  with needed("a membership attack"):
    from sklearn.linear_model import LogisticRegression

  member, other = entropy(retain), entropy(test)
  label = np.r_[np.ones(len(member)), np.zeros(len(other))]
  model = LogisticRegression(class_weight="balanced").fit(np.r_[member, other][:, None], label)
  return float(model.predict(entropy(forget)[:, None]).mean())


def loss_attack(forget: ArrayLike, forget_y: ArrayLike, test: ArrayLike, test_y: ArrayLike, *, seed: int = 0) -> float:
  """Accuracy of a logistic regression on the loss, forget rows (1) against test rows of the same classes (0).

  Logits ``[N, K]`` and labels ``[N]`` of one model; losses are clipped to ``+-100`` nats. Mean over 5 stratified
  splits that hold out a tenth; ideal 0.5. SCRUB's attack (Kurmanji et al. 2023, arXiv 2302.09880; spec E3), whose
  balanced subsample is drawn here class by class, so that the mix of classes tells nothing. Even clipped, a few
  diverged losses pull the fit away and make it see nothing; ``auc(-cross_entropy(forget, ..), -cross_entropy(test,
  ..))`` does not suffer so. UsageError where fewer than 4 rows a side are left.
  """
  with needed("a membership attack"):
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedShuffleSplit, cross_val_score

  losses = np.minimum(cross_entropy(forget, forget_y), CLIP), np.minimum(cross_entropy(test, test_y), CLIP)
  chosen = _same_classes(np.asarray(forget_y), np.asarray(test_y), np.random.default_rng(seed))
  n = len(chosen[0])
  if n < 4:
    raise UsageError(f"test_y: leaves {n} rows of the forgotten classes on each side; the attack needs 4 or more")
  feature = np.r_[losses[0][chosen[0]], losses[1][chosen[1]]][:, None]
  splits = StratifiedShuffleSplit(5, test_size=max(2, n // 5), random_state=seed)
  member = np.r_[np.ones(n), np.zeros(n)]
  return float(cross_val_score(LogisticRegression(), feature, member, cv=splits, scoring="accuracy").mean())


class SvcAttacks(NamedTuple):
  """Shares of the forget rows that are called non-members: higher means more forgotten, unlike :func:`entropy_attack`.

  The released code runs the first two only.
  """

  correctness: Any
  confidence: Any
  entropy: Any
  modified_entropy: Any


def svc_attacks(
  retain: ArrayLike, retain_y: ArrayLike, test: ArrayLike, test_y: ArrayLike, forget: ArrayLike, forget_y: ArrayLike,
  *, most: int = 5000, seed: int = 0,
) -> SvcAttacks:  # fmt: skip
  """``1 - mean predict(D_f)`` of an SVC (rbf, C 3, gamma auto) on one feature each, retain (1) against test (0).

  Logits ``[N, K]`` and labels ``[N]`` of one model on each set; at most ``most`` rows a side are fitted, because an
  SVC is quadratic in them. Shares in ``[0, 1]``; the target is the retrained model's. The attacks of the SalUn family
  (spec E4). Both sides must weigh alike: they are cut to the shorter one, where the code leaves that to its caller.
  """
  with needed("a membership attack"):
    from sklearn.svm import SVC

  rng = np.random.default_rng(seed)
  features = [
    np.stack([correctness(z, y), confidence(z, y), entropy(z), np.minimum(modified_entropy(z, y), CLIP)], -1)
    for z, y in ((retain, retain_y), (test, test_y), (forget, forget_y))
  ]
  n = min(len(features[0]), len(features[1]), most)
  member, other = (h[rng.permutation(len(h))[:n]] for h in features[:2])
  label = np.r_[np.ones(n), np.zeros(n)]

  def share(i: int) -> float:
    model = SVC(C=3, gamma="auto", kernel="rbf").fit(np.r_[member, other][:, i : i + 1], label)
    return float(1.0 - model.predict(features[2][:, i : i + 1]).mean())

  return SvcAttacks(*(share(i) for i in range(4)))


def _entropy_sum(p, log_p, axis: int | None = -1):
  """``-p log_p``, summed over an axis unless None, with ``0 log 0 = 0``."""
  with np.errstate(invalid="ignore"):
    each = -np.where(p > 0, p * log_p, 0.0)
  return each if axis is None else each.sum(axis)


def _log_complement(z) -> np.ndarray:
  """``ln(1 - p_i)``, exact where ``p_i`` rounds to 1: ``[N, K]``."""
  rows, top = np.arange(len(z)), z.argmax(-1)
  e = np.exp(z - z[rows, top][:, None])
  e[rows, top] = 0.0
  rest = e.sum(-1, keepdims=True)  # of all but the largest, whose own term is 1
  total = np.log1p(rest)
  with np.errstate(divide="ignore"):
    log_p = np.log1p(np.maximum(rest - e, 0.0)) - total
    shadowed = np.where(np.arange(z.shape[-1]) == top[:, None], -np.inf, z)
    high = shadowed.max(-1, keepdims=True)
    alone = np.isneginf(high)
    tail = np.log(np.exp(shadowed - np.where(alone, 0.0, high)).sum(-1, keepdims=True)) + high
  log_p[rows, top] = (tail - z[rows, top][:, None] - total)[:, 0]
  return log_p


def _same_classes(forget_y, test_y, rng) -> tuple[np.ndarray, np.ndarray]:
  """Indices into both sides, as many of each forgotten class here as there."""
  chosen: tuple[list, list] = [], []
  for c in np.unique(forget_y):
    sides = [np.flatnonzero(y == c) for y in (forget_y, test_y)]
    n = min(map(len, sides))
    for kept, rows in zip(chosen, sides, strict=True):
      kept.append(rng.permutation(rows)[:n])
  return np.concatenate(chosen[0]), np.concatenate(chosen[1])
