"""LiRA and U-LiRA: margins, Gaussians against SciPy, the attack's curve by brute force, and both fixed points."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cljax.core.types import UsageError
from cljax.metrics import unlearning


def test_margin_of_a_population():
  z = np.random.default_rng(0).normal(size=(2, 3, 5, 4))
  y = np.array([0, 3, 1, 1, 2])
  p = np.exp(z) / np.exp(z).sum(-1, keepdims=True)
  py = np.stack([p[..., i, c] for i, c in enumerate(y)], -1)
  np.testing.assert_allclose(unlearning.logit_margin(z, y), np.log(py / (1 - py)), rtol=1e-9)
  # Where float32 softmax has long saturated.
  extreme = np.array([[90, 0, 0], [0, 90, -5], [0, -np.inf, -np.inf]], np.float32)
  want = [90 - np.log(2), -90 - np.log1p(np.exp(-95)), np.inf]
  np.testing.assert_allclose(unlearning.logit_margin(extreme, np.array([0, 0, 0])), want, rtol=1e-12)


def test_lira_is_the_ratio_of_two_gaussians():
  from scipy.stats import norm

  rng = np.random.default_rng(1)
  phi, a, b = rng.normal(size=(2, 5)), rng.normal(size=(7, 5)) + 2, rng.normal(size=(6, 5)) * 3
  want = norm.logpdf(phi, a.mean(0), a.std(0, ddof=1)) - norm.logpdf(phi, b.mean(0), b.std(0, ddof=1))
  np.testing.assert_allclose(unlearning.lira(phi, a, b), want)
  np.testing.assert_allclose(unlearning.lira(phi, b, a), -want)
  # Each row has its own models: NaN is as if the model were not there.
  holes = np.concatenate([a, np.full((2, 5), np.nan)])
  np.testing.assert_allclose(unlearning.lira(phi, holes, b), want)
  holes[:6, 0] = np.nan
  assert np.isnan(unlearning.lira(phi, holes, b)[:, 0]).all()
  assert np.isfinite(unlearning.lira(phi, np.ones((3, 5)), np.zeros((3, 5)))).all()


def test_u_lira_scores_a_model_by_the_others():
  rng = np.random.default_rng(2)
  a, b = rng.normal(size=(6, 3)) + 1, rng.normal(size=(4, 3))
  inside, outside = unlearning.u_lira(a, b)
  assert inside.shape == (6, 3)
  assert outside.shape == (4, 3)
  np.testing.assert_allclose(inside[1], unlearning.lira(a[1], a[[0, 2, 3, 4, 5]], b[[0, 2, 3]]))
  np.testing.assert_allclose(outside[1], unlearning.lira(b[1], a[[0, 2, 3, 4, 5]], b[[0, 2, 3]]))
  np.testing.assert_allclose(inside[5], unlearning.lira(a[5], a[:5], b))
  # As one set of shadow models, each IN for some rows and OUT for the others.
  member = rng.random((8, 3)) < 0.5
  member[:3], member[3:6] = True, False
  m = rng.normal(size=(8, 3)) + member
  inside, outside = unlearning.u_lira(np.where(member, m, np.nan), np.where(member, np.nan, m))
  np.testing.assert_array_equal(np.isnan(inside), ~member)
  np.testing.assert_array_equal(np.isnan(outside), member)
  keep = np.delete(np.arange(8), 2)
  a, b = m[keep][member[keep, 0]][:, :1], m[keep][~member[keep, 0]][:, :1]
  np.testing.assert_allclose(inside[2, 0], unlearning.lira(m[2, :1], a, b)[0])


def test_exact_unlearning_is_blind_and_none_is_not():
  rng = np.random.default_rng(3)
  spread = rng.uniform(0.2, 3, size=40)  # rows differ more than models do
  centre = rng.normal(size=40) * 5
  models = lambda n: spread * rng.normal(size=(n, 40)) + centre
  blind = [unlearning.attack(*unlearning.u_lira(models(16), models(16))) for _ in range(8)]
  auc, tpr, accuracy = np.mean(blind, 0)
  assert abs(auc - 0.5) < 0.02
  assert abs(accuracy - 0.5) < 0.02
  assert tpr < 0.03
  seen = unlearning.attack(*unlearning.u_lira(models(16) + 10 * spread, models(16)))
  assert min(seen) > 0.99
  # Where each row shifts a little, a threshold common to all rows sees less than the attack row by row.
  a, b = models(16) + 2 * spread, models(16)
  assert unlearning.attack(*unlearning.u_lira(a, b)).auc > unlearning.auc(a, b) + 0.15


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(-3, 3), min_size=1, max_size=9), st.lists(st.integers(-3, 3), min_size=1, max_size=9))
def test_curve_by_brute_force(members, others):
  a, b = np.array(members, float), np.array(others, float)
  auc = unlearning.auc(a, b)
  assert auc == pytest.approx(np.mean([(x > y) + (x == y) / 2 for x in a for y in b]))
  assert auc == pytest.approx(1 - unlearning.auc(b, a))
  for fpr in (0.0, 0.2, 0.5, 1.0):
    thresholds = [-np.inf, *b, *a, np.inf]
    best = max((a >= t).mean() for t in thresholds if (b >= t).mean() <= fpr + 1e-12)
    assert unlearning.tpr_at_fpr(a, b, fpr) == pytest.approx(best)
  by_row = unlearning.attack_accuracy(a[:, None], b[:, None])
  share = lambda s: (s > 0).mean() + (s == 0).mean() / 2
  np.testing.assert_allclose(by_row, [(share(a) + share(-b)) / 2])


def test_edges():
  nan = np.full((3, 2), np.nan)
  assert np.isnan(unlearning.auc(nan, [1.0]))
  assert np.isnan(unlearning.tpr_at_fpr([1.0], nan))
  assert unlearning.auc([1.0, np.nan, 2.0], [[0.0, np.nan]]) == 1
  assert np.isnan(unlearning.attack(nan, nan)).all()
  with pytest.raises(UsageError, match="fpr"):
    unlearning.tpr_at_fpr([1.0], [0.0], 1.5)
  with pytest.raises(UsageError, match="inside"):
    unlearning.lira(np.zeros(2), np.full((2, 2), np.inf), np.zeros((2, 2)))
  with pytest.raises(UsageError, match="observed"):
    unlearning.lira(np.zeros(3), np.zeros((2, 2)), np.zeros((2, 2)))
  with pytest.raises(UsageError, match="outside_scores"):
    unlearning.attack_accuracy(np.zeros((2, 2)), np.zeros((2, 3)))
