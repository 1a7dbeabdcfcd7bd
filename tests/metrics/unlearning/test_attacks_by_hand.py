"""Attacks and summaries against NumPy, SciPy and scikit-learn, each written from its definition."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import norm
from sklearn.model_selection import StratifiedShuffleSplit
from sklearn.svm import SVC

from cljax.metrics import unlearning


def softmax(z):
  e = np.exp(z - z.max(1, keepdims=True))
  return e / e.sum(1, keepdims=True)


def rows(n, sharpness, seed, k=3, right=0.7):
  rng = np.random.default_rng(seed)
  y = rng.integers(0, k, n)
  said = np.where(rng.random(n) < right, y, (y + 1) % k)
  return rng.normal(size=(n, k)) + sharpness * np.eye(k)[said], y


def entropy(z):
  p = softmax(z)
  return -(p * np.log(p)).sum(1)


def logistic(x, y, weight):
  """``(slope, intercept)`` of ``1/2 slope^2 + sum_i weight_i ln(1 + exp(-(2 y_i - 1) (slope x_i + intercept)))``."""
  sign = 2 * y - 1
  return minimize(lambda b: 0.5 * b[0] ** 2 + (weight * np.logaddexp(0, -sign * (b[0] * x + b[1]))).sum(), [0, 0]).x


def test_the_entropy_attack_is_a_threshold_of_a_balanced_fit():
  retain, test, forget = rows(40, 3, 0)[0], rows(15, 1, 1)[0], rows(60, 2, 2)[0]
  x, y = np.r_[entropy(retain), entropy(test)], np.r_[np.ones(40), np.zeros(15)]
  slope, intercept = logistic(x, y, 55 / 2 / np.where(y == 1, 40, 15))
  want = (slope * entropy(forget) + intercept > 0).mean()
  assert 0.1 < want < 0.9
  assert unlearning.entropy_attack(retain, test, forget) == pytest.approx(want)


@pytest.mark.parametrize("seed", [0, 3])
def test_the_loss_attack_by_five_fits(seed):
  forget, test = rows(40, 4, 4), rows(90, 1, 5)
  forget[1][:] = forget[1] % 2  # two classes are forgotten; the third of the test rows takes no part
  loss = [-np.log(softmax(z)[np.arange(len(y)), y]) for z, y in (forget, test)]
  rng, chosen = np.random.default_rng(seed), ([], [])
  for c in (0, 1):
    own = [np.flatnonzero(y == c) for _, y in (forget, test)]
    for kept, at in zip(chosen, own, strict=True):
      kept.extend(rng.permutation(at)[: min(map(len, own))])
  n = len(chosen[0])
  x, y = np.r_[loss[0][chosen[0]], loss[1][chosen[1]]], np.r_[np.ones(n), np.zeros(n)]
  right = []
  for fit, held in StratifiedShuffleSplit(5, test_size=n // 5, random_state=seed).split(x[:, None], y):
    slope, intercept = logistic(x[fit], y[fit], np.ones(len(fit)))
    right.append(((slope * x[held] + intercept > 0) == y[held]).mean())
  assert 0.3 < np.mean(right) < 1
  assert unlearning.loss_attack(*forget, *test, seed=seed) == pytest.approx(np.mean(right))


def test_svc_attacks_on_each_feature_alone():
  """As many rows on either side, so that all are fitted."""
  sets = retain, test, forget = rows(50, 3, 6, right=0.9), rows(50, 1, 7, right=0.4), rows(80, 2, 8)
  names = ("correctness", "confidence", "entropy", "modified_entropy")

  def features(z, y):
    p = softmax(z)
    own = p[np.arange(len(y)), y]
    others = np.where(np.eye(3, dtype=bool)[y], 0, p)
    modified = -(1 - own) * np.log(own) - (others * np.log(1 - p)).sum(1)
    return dict(zip(names, ((z.argmax(1) == y).astype(float), own, entropy(z), modified), strict=True))

  held = [features(*s) for s in sets]
  got = unlearning.svc_attacks(*retain, *test, *forget)
  for name in names:
    x = np.r_[held[0][name], held[1][name]][:, None]
    model = SVC(C=3, gamma=1.0, kernel="rbf").fit(x, np.r_[np.ones(50), np.zeros(50)])
    want = 1 - model.predict(held[2][name][:, None]).mean()
    assert 0 < want < 1
    assert getattr(got, name) == pytest.approx(want, abs=1e-9), name


@pytest.mark.parametrize(("most", "n"), [(5000, 12), (8, 8)])
def test_svc_attacks_cut_both_sides_alike(most, n):
  """To the shorter one and to ``most``, at random; retain rows first."""
  (z, y), (other, other_y), (forget, forget_y) = rows(30, 2, 9), rows(12, 1, 10), rows(200, 1.5, 11)
  rng = np.random.default_rng(1)
  at = rng.permutation(30)[:n], rng.permutation(12)[:n]
  own = lambda z, y: softmax(z)[np.arange(len(y)), y][:, None]
  x = np.r_[own(z[at[0]], y[at[0]]), own(other[at[1]], other_y[at[1]])]
  want = 1 - SVC(C=3, gamma=1.0).fit(x, np.r_[np.ones(n), np.zeros(n)]).predict(own(forget, forget_y)).mean()
  assert 0.1 < want < 0.9
  got = unlearning.svc_attacks(z, y, other, other_y, forget, forget_y, most=most, seed=1)
  assert got.confidence == pytest.approx(want, abs=1e-9)


def test_u_lira_against_scipy():
  """Every model by all the others: each with the row's own Gaussians of the rest, unbiased."""
  rng = np.random.default_rng(2)
  a, b = rng.normal(size=(5, 3)) + 1, 2 * rng.normal(size=(4, 3))
  rest = lambda v, i: np.delete(v, i, 0) if i < len(v) else v
  score = lambda phi, i: (
    norm.logpdf(phi, rest(a, i).mean(0), rest(a, i).std(0, ddof=1))
    - norm.logpdf(phi, rest(b, i).mean(0), rest(b, i).std(0, ddof=1))
  )
  inside, outside = unlearning.u_lira(a, b)
  np.testing.assert_allclose(inside, [score(phi, i) for i, phi in enumerate(a)])
  np.testing.assert_allclose(outside, [score(phi, i) for i, phi in enumerate(b)])


def test_the_three_numbers_of_an_attack_by_hand():
  inside, outside = np.array([[3.0, -1.0], [1.0, 0.5]]), np.array([[0.2, -2.0], [-1.0, np.nan], [0.5, 0.0]])
  got = unlearning.attack(inside, outside, fpr=0.2)
  a, b = [3.0, -1.0, 1.0, 0.5], [0.2, -2.0, -1.0, 0.5, 0.0]
  assert got.auc == pytest.approx(np.mean([(x > y) + (x == y) / 2 for x in a for y in b]))
  assert got.tpr == pytest.approx(3 / 4)  # at the threshold 0.5, which one of the five others reaches
  assert unlearning.attack(inside, outside, fpr=0.1).tpr == pytest.approx(2 / 4)  # none of the five is a tenth
  first, second = (1 + 1 / 3) / 2, (1 / 2 + (1 + 1 / 2) / 2) / 2
  assert got.accuracy == pytest.approx((first + second) / 2)
  np.testing.assert_allclose(unlearning.attack_accuracy(inside, outside), [first, second])
  assert unlearning.attack(inside, outside).tpr == pytest.approx(2 / 4)  # none of five is a hundredth


def divergences(ours, oracles, bins, eps=1e-5):
  out = []
  for a, b in zip(ours.T, oracles.T, strict=True):
    span = min(a.min(), b.min()), max(a.max(), b.max())
    p, q = np.histogram(a, bins, span)[0] / len(a), np.histogram(b, bins, span)[0] / len(b)
    q = np.where(p > 0, np.maximum(q, eps), q)
    q = q / q.sum()
    out.append(sum(u * np.log(u / v) for u, v in zip(p, q, strict=True) if u > 0))
  return out


def test_klom_and_its_floor_by_histograms():
  rng = np.random.default_rng(0)
  ours, oracles = rng.normal(size=(12, 9)) + 1, rng.normal(size=(15, 9))
  each = np.sort(divergences(ours, oracles, 5))
  upper = each[7] + 0.6 * (each[8] - each[7])  # 95 % of the way through nine points, 7.6 of 0 to 8
  assert unlearning.klom(ours, oracles, bins=5) == pytest.approx((each.mean(), upper))
  halves = np.sort(divergences(oracles[::2], oracles[1::2], 5))
  upper = halves[7] + 0.6 * (halves[8] - halves[7])
  assert unlearning.klom_floor(oracles, bins=5) == pytest.approx((halves.mean(), upper))


def standardised(fit, features):
  return ((v - fit.mean(0)) / fit.std(0) for v in (fit, features))


def ridge(X, T, H, decay):
  """The least-squares map from standardised ``X`` to ``T`` with ``decay |W|^2``, at the rows ``H``."""
  S, Z = standardised(X, H)
  n, d = S.shape
  stacked = np.r_[S / np.sqrt(n), np.sqrt(decay) * np.eye(d)]
  W = np.linalg.lstsq(stacked, np.r_[(T - T.mean(0)) / np.sqrt(n), np.zeros((d, T.shape[1]))], rcond=None)[0]
  return Z @ W + T.mean(0)


def test_recovery_attacks_by_least_squares():
  rng = np.random.default_rng(3)
  y, truth = rng.integers(0, 3, 60) + 5, rng.integers(0, 3, 50) + 5
  centres = rng.normal(size=(3, 4))
  X, H = (centres[v - 5] + 0.8 * rng.normal(size=(len(v), 4)) for v in (y, truth))
  original, W = X @ rng.normal(size=(4, 6)) + 0.5 * rng.normal(size=(60, 6)), rng.normal(size=(6, 8))
  for decay in (0.5, 1e-4):
    answers = (ridge(X, original, H, decay) @ W).argmax(1)
    named = rng.permutation(np.where(rng.random(50) < 0.5, answers, 0))
    named[:20] = answers[:20]
    got = unlearning.feature_mapping_attack(X, original, lambda h: h @ W, H, named, ridge=decay)
    assert got == pytest.approx((answers == named).mean())
    answers = ridge(X, np.eye(3)[y - 5], H, decay).argmax(1) + 5
    assert 0.4 < (answers == truth).mean() < 1
    assert unlearning.head_recovery_attack(X, y, H, truth, ridge=decay) == pytest.approx((answers == truth).mean())


def test_feature_cka_is_one_minus_the_angle_of_centred_kernels():
  rng = np.random.default_rng(4)
  X, Y = rng.normal(size=(11, 3)) + 2, rng.normal(size=(11, 5))
  H = np.eye(11) - 1 / 11
  K, L = H @ X @ X.T @ H, H @ Y @ Y.T @ H
  want = (K * L).sum() / np.linalg.norm(K) / np.linalg.norm(L)
  assert unlearning.feature_cka(X, Y) == pytest.approx(want)


def test_h_mean_by_hand():
  got = unlearning.h_mean([0.9, 0.4, 0.8, 0.0], [0.3, 0.5, 0.8, 0.0], [0.75, 0.7, 0.9, 0.0])
  np.testing.assert_allclose(got, [2 * 0.6 * 0.75 / 1.35, 0, 0, 0])
