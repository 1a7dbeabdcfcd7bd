"""Distances between two models' outputs: against loops over NumPy, their bounds and fixed points."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cljax.core.types import UsageError
from cljax.metrics import unlearning


def two(seed, n=6, k=4, scale=2.0):
  return np.random.default_rng(seed).normal(size=(2, n, k)) * scale


def softmax(z):
  return np.exp(z) / np.exp(z).sum(-1, keepdims=True)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.floats(0.01, 30), st.permutations(range(6)))
def test_bounds_symmetry_and_fixed_points(seed, scale, order):
  z, r = two(seed, scale=scale)
  for f, top in ((unlearning.activation_distance, np.sqrt(2)), (unlearning.js_divergence, np.log(2))):
    d = f(z, r)
    assert 0 < d <= top + 1e-12
    assert d == pytest.approx(f(r, z))
    assert d == pytest.approx(f(z[order], r[order]))
    assert d == pytest.approx(f(z + 3, r - 50))  # softmax does not see a shift
    assert f(z, z) == pytest.approx(0, abs=1e-12)
  assert unlearning.zrf(z, z) == pytest.approx(1)
  assert unlearning.zrf(z, z, "released") == pytest.approx(1)
  agreement, jaccard = unlearning.completeness(z, r)
  assert 0 <= agreement <= 1
  assert ((jaccard >= 0) & (jaccard <= 1) | np.isnan(jaccard)).all()
  assert agreement == unlearning.completeness(z[order], r[order]).agreement
  agreement, jaccard = unlearning.completeness(z, z)
  assert agreement == 1
  assert np.nanmin(jaccard) == 1


def test_values():
  z, r = two(0)
  p, q = softmax(z), softmax(r)
  m = (p + q) / 2
  assert unlearning.activation_distance(z, r) == pytest.approx(
    np.mean([np.sqrt(((a - b) ** 2).sum()) for a, b in zip(p, q, strict=True)])
  )
  js = np.mean([0.5 * sum(a * np.log(a / c)) + 0.5 * sum(b * np.log(b / c)) for a, b, c in zip(p, q, m, strict=True)])
  assert unlearning.js_divergence(z, r) == pytest.approx(js)
  assert unlearning.zrf(z, r) == pytest.approx(1 - js)
  # As written: kl_div(log p, m), the mean over all elements.
  released = 0.5 * (m * (np.log(m) - np.log(p))).mean() + 0.5 * (m * (np.log(m) - np.log(q))).mean()
  assert unlearning.zrf(z, r, "released") == pytest.approx(1 - released)
  assert unlearning.zrf(z, r, "released") != pytest.approx(unlearning.zrf(z, r), abs=1e-2)


def test_disjoint_outputs_are_furthest():
  z = np.array([[0, -np.inf, -np.inf], [0, -np.inf, -2000]])
  r = np.array([[-np.inf, 0, 0], [-1000, 1000, -np.inf]])
  assert unlearning.js_divergence(z, r) == pytest.approx(np.log(2))
  assert unlearning.zrf(z, r) == pytest.approx(1 - np.log(2))
  assert unlearning.activation_distance(z[1:], r[1:]) == pytest.approx(np.sqrt(2))


def test_completeness_by_hand():
  one_hot = np.eye(4)
  got = unlearning.completeness(one_hot[[0, 0, 1, 2, 2]], one_hot[[0, 1, 1, 2, 0]])
  assert got.agreement == pytest.approx(3 / 5)
  np.testing.assert_allclose(got.jaccard, [1 / 3, 1 / 2, 1 / 2, np.nan])


def test_refusals():
  z, r = two(1)
  for f in (unlearning.activation_distance, unlearning.js_divergence, unlearning.zrf, unlearning.completeness):
    name = "random_logits" if f is unlearning.zrf else "reference"
    for bad in (r[:, :3], r * np.nan):
      with pytest.raises(UsageError, match=f"^{name}: "):
        f(z, bad)
  with pytest.raises(UsageError, match="reference"):
    unlearning.activation_distance(z, r * np.nan)
  with pytest.raises(UsageError, match="variant"):
    unlearning.zrf(z, r, "paper")
