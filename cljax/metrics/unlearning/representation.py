"""What the features still know: similarity to another model's, a neighbour probe, and recovery without training.

Methods that match the retrained model's logits often keep the original model's features ("Are We Truly Forgetting?",
arXiv 2503.06991; spec E11). Features are the penultimate ones, ``[N, D]``.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from cljax.core.types import UsageError
from cljax.metrics.mechanism import linear_cka
from cljax.metrics.unlearning._inputs import as_features, as_logits

FLAT = 1e-12  # of a column's largest value: what a constant column's mean leaves by rounding


def feature_cka(features: ArrayLike, reference: ArrayLike, debiased: bool = False) -> float:
  """Linear CKA of two models' features ``[N, D]`` and ``[N, E]`` of the same rows, over the whole set at once.

  To the retrained model's features (more is better) and to the original's (on the forget rows, less is). In
  ``[0, 1]``; averaged over mini-batches, as the UUEF code does, or with fewer rows than dimensions, it is biased
  upwards: ``debiased`` takes unbiased estimates of each inner product (Song et al. 2012), is about 0 for independent
  features, and may be slightly negative; it needs 4 rows. NaN where one of them is constant.
  """
  X = as_features(features)
  Y = as_features(reference, "reference", len(X))
  if not debiased:
    return linear_cka(X, Y)
  if len(X) < 4:
    raise UsageError(f"features: have {len(X)} rows; the debiased estimate needs 4")
  X, Y = X - X.mean(0), Y - Y.mean(0)
  scale = _hsic(X, X) * _hsic(Y, Y)
  return float(_hsic(X, Y) / np.sqrt(scale)) if scale > 0 else float("nan")


def knn_probe(train: ArrayLike, train_y: ArrayLike, test: ArrayLike, test_y: ArrayLike, k: int = 5) -> float:
  """Accuracy of the ``k`` nearest neighbours under cosine similarity, by vote; ties go to the smallest class.

  Features ``[N, D]`` and ``[M, D]`` of one model with labels ``[N]``, ``[M]``: of the forget classes, or of a
  downstream set (80/20 split). A zero vector has no direction: it is nobody's neighbour, and as a test row it counts
  as wrong. UsageError where fewer than ``k`` training rows are left.
  """
  X, Z = as_features(train, "train"), as_features(test, "test")
  y, truth = np.asarray(train_y), np.asarray(test_y)
  if X.shape[1] != Z.shape[1]:
    raise UsageError(f"test: has {Z.shape[1]} features; train has {X.shape[1]}")
  if y.shape != X.shape[:1] or truth.shape != Z.shape[:1]:
    raise UsageError(f"train_y, test_y: have shapes {y.shape}, {truth.shape}; expected {X.shape[:1]}, {Z.shape[:1]}")
  X, exists = _directions(X)
  X, y = X[exists], y[exists]
  if not 1 <= k <= len(X):
    raise UsageError(f"k: is {k}; expected 1..{len(X)}, the training rows with non-zero features")
  Z, exists = _directions(Z)
  classes, y = np.unique(y, return_inverse=True)
  right = 0
  for start in range(0, len(Z), 1024):  # bounds the similarities held at once
    rows = slice(start, start + 1024)
    nearest = np.argsort(-(Z[rows] @ X.T), axis=1, kind="stable")[:, :k]
    votes = (y[nearest][:, :, None] == np.arange(len(classes))).sum(1)
    right += int(((classes[votes.argmax(1)] == truth[rows]) & exists[rows]).sum())
  return right / len(Z)


def closest_classes(features: ArrayLike, y: ArrayLike, downstream: ArrayLike) -> np.ndarray:
  """``[K]`` the classes of ``y``, those first that most ``downstream [M, D]`` rows are nearest to; then by number.

  A class stands at the mean of its ``features [N, D]``, each row at unit length; a downstream row goes to the mean of
  the largest cosine. What is closest to a downstream set is what its features are most likely to be kept for (the
  "top" forget classes of "Are We Truly Forgetting?", which takes the classes by their meaning; random ones are its
  other choice). A zero vector has no direction and is not counted. UsageError for other shapes.
  """
  X, Z = as_features(features), as_features(downstream, "downstream")
  labels = np.asarray(y)
  if X.shape[1] != Z.shape[1]:
    raise UsageError(f"downstream: has {Z.shape[1]} features; features have {X.shape[1]}")
  if labels.shape != X.shape[:1]:
    raise UsageError(f"y: has shape {labels.shape}; expected {X.shape[:1]}")
  (X, _), (Z, there) = _directions(X), _directions(Z)  # a zero vector's direction is 0, and adds nothing to a sum
  classes = np.unique(labels)
  means = np.stack([X[labels == c].sum(0) for c in classes])
  nearest = (Z[there] @ _directions(means)[0].T).argmax(1)
  taken = np.bincount(nearest, minlength=len(classes))
  return classes[np.argsort(-taken, kind="stable")]


def map_features(fit: ArrayLike, fit_original: ArrayLike, features: ArrayLike, ridge: float = 1e-4) -> np.ndarray:
  """``W* h + b*`` of ``features [N, D]``, ``W* = argmin mean_x ||W h(x) + b - h_0(x)||^2 + ridge ||W||^2``: ``[N, E]``.

  ``fit [M, D]`` and ``fit_original [M, E]`` are the unlearned and the original model's features of the same rows.
  ``h`` is standardised by ``fit``'s mean and deviation first, so that a contraction towards a point, which a ridge
  on raw features would leave, is undone; a constant column stays out.
  """
  X = as_features(fit, "fit")
  T = as_features(fit_original, "fit_original", len(X))
  H = as_features(features)
  if H.shape[1] != X.shape[1]:
    raise UsageError(f"features: have {H.shape[1]} dimensions; fit has {X.shape[1]}")
  if np.ndim(ridge) or not ridge > 0:
    raise UsageError(f"ridge: is {ridge}; expected a number above 0")
  mean, std = X.mean(0), X.std(0)
  varies = std > FLAT * np.abs(X).max(0)
  scale = np.where(varies, 1.0 / np.where(varies, std, 1.0), 0.0)
  X, H, centre = (X - mean) * scale, (H - mean) * scale, T.mean(0)
  W = np.linalg.solve(X.T @ X / len(X) + ridge * np.eye(X.shape[1]), X.T @ (T - centre) / len(X))
  return H @ W + centre


def feature_mapping_attack(
  fit: ArrayLike, fit_original: ArrayLike, head: Callable, features: ArrayLike, y: ArrayLike, *, ridge: float = 1e-4
) -> float:
  """Accuracy of ``head(W* h(x) + b*)`` on the rows ``features [N, D]``, ``y [N]``: what the original head recovers.

  FM of One-Point Contraction (arXiv 2507.07754, read in reviews only; spec E12): no training, a closed-form map
  (:func:`map_features`) back to the original model's features and ``head([N, E]) -> logits [N, K]`` of that model.
  On the original model itself it gives that model's accuracy; constant features give a constant answer.
  Fit rows are disjoint from ``features``: report one
  fit with rows of the forget classes and one on retain rows alone. The same attack on the retrained model is the base.
  """
  z = as_logits(np.asarray(head(map_features(fit, fit_original, features, ridge))), "head")
  return _share_right(z.argmax(1), y)


def head_recovery_attack(
  fit: ArrayLike, fit_y: ArrayLike, features: ArrayLike, y: ArrayLike, *, ridge: float = 1e-4
) -> float:
  """Accuracy on ``features [N, D]``, ``y [N]`` of a new least-squares head: ``fit [M, D]`` to one-hot ``fit_y [M]``.

  HR of One-Point Contraction: as :func:`feature_mapping_attack` without the original model. Classes absent from
  ``fit_y`` are never answered, so fitted on retain rows alone it cannot name a forgotten class.
  """
  y_fit = np.asarray(fit_y)
  if y_fit.ndim != 1:
    raise UsageError(f"fit_y: has shape {y_fit.shape}; expected [M]")
  classes = np.unique(y_fit)
  scores = map_features(fit, y_fit[:, None] == classes, features, ridge)
  return _share_right(classes[scores.argmax(1)], y)


def _share_right(answers, y) -> float:
  y = np.asarray(y)
  if y.shape != answers.shape:
    raise UsageError(f"y: has shape {y.shape}; expected {answers.shape}")
  return float((answers == y).mean())


def _directions(X) -> tuple[np.ndarray, np.ndarray]:
  """Unit rows, and which rows have a direction; scaled first, so that tiny rows do not underflow."""
  top = np.abs(X).max(1, keepdims=True)
  X = X / np.where(top > 0, top, 1.0)
  n = np.linalg.norm(X, axis=1, keepdims=True)
  return X / np.where(n > 0, n, 1.0), top[:, 0] > 0


def _hsic(X, Y) -> float:
  """``n (n - 3)`` times the unbiased HSIC of linear kernels, by products of features instead of ``[N, N]`` kernels."""
  n = len(X)
  a, b = (X * X).sum(1), (Y * Y).sum(1)  # the diagonals, which the estimate leaves out
  s, t = X @ X.sum(0) - a, Y @ Y.sum(0) - b  # row sums without them
  trace = np.linalg.norm(X.T @ Y) ** 2 - a @ b
  return trace + s.sum() * t.sum() / ((n - 1) * (n - 2)) - 2.0 / (n - 2) * (s @ t)
