"""Representation metrics against kernels and scikit-learn; recovery of features that were distorted, not erased."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cljax import metrics
from cljax.core.types import UsageError
from cljax.metrics import unlearning


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10**6), st.floats(0.1, 10))
def test_cka(seed, c):
  rng = np.random.default_rng(seed)
  X, Y = rng.normal(size=(14, 4)), rng.normal(size=(14, 3))
  X, Y = X + 5, Y + Y.mean()
  Q = np.linalg.qr(rng.normal(size=(4, 4)))[0]
  assert unlearning.feature_cka(X, Y) == metrics.linear_cka(X, Y)
  order = rng.permutation(14)
  for debiased in (False, True):
    cka = lambda a, b, d=debiased: unlearning.feature_cka(a, b, debiased=d)
    assert cka(X, c * X @ Q + 3) == pytest.approx(1)
    assert cka(X, Y) == pytest.approx(cka(Y, X))
    assert cka(X, Y) == pytest.approx(cka(X[order], Y[order]))
    assert cka(X, Y) <= 1
  # The estimator as it is written, over [N, N] kernels without their diagonals.
  n, one = 14, np.ones(14)
  off = lambda Z: (Z @ Z.T) * (1 - np.eye(n))
  hsic = lambda K, L: (
    np.trace(K @ L) + one @ K @ one * (one @ L @ one) / ((n - 1) * (n - 2)) - 2 / (n - 2) * (one @ K @ L @ one)
  )
  K, L = off(X), off(Y)
  want = hsic(K, L) / np.sqrt(hsic(K, K) * hsic(L, L))
  assert unlearning.feature_cka(X, Y, debiased=True) == pytest.approx(want, abs=1e-9)


def test_debiased_cka_of_independent_wide_features_is_near_0():
  rng = np.random.default_rng(0)
  pairs = rng.normal(size=(20, 2, 30, 60))
  biased, debiased = ([unlearning.feature_cka(x, y, debiased=d) for x, y in pairs] for d in (False, True))
  assert np.mean(biased) > 0.6  # fewer rows than dimensions: all look alike
  assert abs(np.mean(debiased)) < 0.02


def clusters(n, seed, d=6, k=4, spread=0.3):
  rng = np.random.default_rng(seed)
  y = rng.integers(0, k, n)
  centres = np.random.default_rng(99).normal(size=(k, d))
  return centres[y] + spread * rng.normal(size=(n, d)), y + 10


@pytest.mark.parametrize("k", [1, 4, 5])
def test_knn_probe_is_that_of_scikit_learn(k):
  from sklearn.neighbors import KNeighborsClassifier

  (X, y), (Z, truth) = clusters(60, 1, spread=0.9), clusters(50, 2, spread=0.9)
  want = KNeighborsClassifier(k, metric="cosine").fit(X, y).score(Z, truth)
  assert 0.4 < want < 1
  assert unlearning.knn_probe(X, y, Z, truth, k) == pytest.approx(want)
  tiny = 10.0 ** np.random.default_rng(0).uniform(-200, 3, (60, 1))  # a direction has no length
  assert unlearning.knn_probe(X * tiny, y, 1e-200 * Z, truth, k) == pytest.approx(want)


def test_knn_probe_of_zero_features():
  (X, y), (Z, truth) = clusters(60, 1), clusters(50, 2)
  whole = unlearning.knn_probe(X, y, Z, truth)
  assert whole > 0.95
  assert unlearning.knn_probe(np.r_[X, np.zeros((90, 6))], np.r_[y, np.full(90, 3)], Z, truth) == whole
  assert unlearning.knn_probe(X, y, np.r_[Z, 0 * Z], np.r_[truth, truth]) == whole / 2
  with pytest.raises(UsageError, match="k: is 5"):
    unlearning.knn_probe(0 * X, y, Z, truth)


@pytest.fixture(scope="module")
def original():
  """Features of the original model on rows to fit by and rows to attack, and its head, right on nine rows in ten."""
  (X, y), (H, truth) = clusters(120, 1, spread=0.5), clusters(80, 2, spread=0.5)
  W = np.linalg.lstsq(np.c_[X, np.ones(120)], np.eye(14)[y], rcond=None)[0]
  head = lambda h: np.c_[h, np.ones(len(h))] @ W
  return X, y, H, truth, head


def test_recovery_of_the_original_is_its_own_accuracy(original):
  X, _, H, truth, head = original
  own = (head(H).argmax(1) == truth).mean()
  assert 0.8 < own < 1
  assert unlearning.feature_mapping_attack(X, X, head, H, truth) == own
  np.testing.assert_allclose(unlearning.map_features(X, X, H), H, atol=2e-3)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10**6), st.floats(-30, 3), st.floats(-3, 3))
def test_an_affine_distortion_is_undone(original, seed, magnitude, shift):
  """A contraction by 30 decades to another point hides nothing: the features are standardised first."""
  X, y, H, truth, head = original
  own = (head(H).argmax(1) == truth).mean()
  rng = np.random.default_rng(seed)
  A = np.linalg.qr(rng.normal(size=(6, 6)))[0] * rng.uniform(0.5, 2, 6) * 10.0**magnitude
  b = shift * 10.0**magnitude * rng.normal(size=6)
  assert abs(unlearning.feature_mapping_attack(X @ A + b, X, head, H @ A + b, truth) - own) <= 2 / 80
  assert unlearning.head_recovery_attack(X @ A + b, y, H @ A + b, truth) > 0.85


def test_erased_features_stay_erased(original):
  X, y, H, truth, head = original
  most = np.bincount(truth).max() / len(truth)
  for erased, after in ((0 * X, 0 * H), (np.full_like(X, 0.1), np.full_like(H, 0.1))):
    assert unlearning.feature_mapping_attack(erased, X, head, after, truth) <= most  # one answer for all
    assert unlearning.head_recovery_attack(erased, y, after, truth) <= most
  noise = np.random.default_rng(0).normal(size=(200, 6))
  # A column that is constant where the map is fitted stays out, whatever the mean's rounding leaves of it.
  dead = lambda Z, value: np.c_[Z, np.full(len(Z), value)]
  mapped = unlearning.map_features(dead(X, 0.1), X, dead(H, 0.7))
  np.testing.assert_allclose(mapped, unlearning.map_features(X, X, H), rtol=1e-9)
  assert unlearning.feature_mapping_attack(noise[:120], X, head, noise[120:], truth) < 0.5


def test_head_recovery_without_the_forgotten_class(original):
  X, y, H, truth, _ = original
  keep, gone = y != 11, truth == 11
  assert unlearning.head_recovery_attack(X[keep], y[keep], H[gone], truth[gone]) == 0
  assert unlearning.head_recovery_attack(X, y, H[gone], truth[gone]) > 0.8


def test_ridge_solution(original):
  X, _, H, _, _ = original
  T = np.random.default_rng(1).normal(size=(120, 3))
  S, Z = (X - X.mean(0)) / X.std(0), (H - X.mean(0)) / X.std(0)
  rows = np.r_[S / np.sqrt(120), np.sqrt(0.5) * np.eye(6)]
  W = np.linalg.lstsq(rows, np.r_[(T - T.mean(0)) / np.sqrt(120), np.zeros((6, 3))], rcond=None)[0]
  np.testing.assert_allclose(unlearning.map_features(X, T, H, ridge=0.5), Z @ W + T.mean(0))


def test_refusals(original):
  X, y, H, truth, head = original
  calls = {
    "reference": lambda: unlearning.feature_cka(X, H),
    "features": lambda: unlearning.feature_cka(X * np.nan, X),
    "debiased": lambda: unlearning.feature_cka(X[:3], X[:3], debiased=True),
    "test": lambda: unlearning.knn_probe(X, y, H[:, :2], truth),
    "train_y": lambda: unlearning.knn_probe(X, y[:5], H, truth),
    "fit_original": lambda: unlearning.map_features(X, H, H),
    "dimensions": lambda: unlearning.map_features(X, X, H[:, :2]),
    "ridge": lambda: unlearning.map_features(X, X, H, ridge=0.0),
    "y: has": lambda: unlearning.feature_mapping_attack(X, X, head, H, truth[:3]),
    "fit_y": lambda: unlearning.head_recovery_attack(X, np.eye(14)[y], H, truth),
  }
  for name, call in calls.items():
    with pytest.raises(UsageError, match=name):
      call()


def test_closest_classes_by_counting():
  """Each downstream row by itself goes to the class mean of the smallest angle; classes by how many came."""
  rng = np.random.default_rng(8)
  y, means = rng.integers(0, 5, 60) * 2 + 1, rng.normal(size=(10, 4))
  X, Z = means[y] + 0.5 * rng.normal(size=(60, 4)), rng.normal(size=(50, 4))
  unit = lambda v: v / np.linalg.norm(v)
  taken = dict.fromkeys(range(1, 10, 2), 0)
  for z in Z:
    taken[max(taken, key=lambda c: unit(z) @ unit(sum(unit(x) for x in X[y == c])))] += 1
  found = unlearning.closest_classes(X, y, Z)
  assert found.tolist() == sorted(taken, key=lambda c: (-taken[c], c))
  assert len(set(taken.values())) > 2
  assert unlearning.closest_classes(X * 1e-200, y, np.r_[Z, 0 * Z]).tolist() == found.tolist()
  with pytest.raises(UsageError, match="downstream: has 3 features; features have 4"):
    unlearning.closest_classes(X, y, Z[:, :3])
