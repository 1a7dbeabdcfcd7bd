"""KLoM against NumPy's own histograms; fixed points, bounds, the joint maximum and the direction."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cljax.core.types import UsageError
from cljax.metrics import unlearning


def by_histograms(ours, oracles, bins=20, eps=1e-5, clip=100.0):
  out = []
  for a, b in zip(np.clip(ours, -clip, clip).T, np.clip(oracles, -clip, clip).T, strict=True):
    span = (min(a.min(), b.min()), max(a.max(), b.max()))
    p, q = np.histogram(a, bins, span)[0] / len(a), np.histogram(b, bins, span)[0] / len(b)
    q = np.array([max(v, eps) if u > 0 else v for u, v in zip(p, q, strict=True)])
    q = q / q.sum()
    out.append(sum(u * np.log(u / v) for u, v in zip(p, q, strict=True) if u > 0))
  return np.array(out)


def normals(seed, m=30, n=40, points=7, shift=0.5):
  rng = np.random.default_rng(seed)
  return rng.normal(size=(m, points)) * 3 + shift, rng.normal(size=(n, points)) * 3


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10**6), st.integers(1, 25))
def test_against_numpy(seed, bins):
  a, b = normals(seed)
  np.testing.assert_allclose(unlearning.klom_points(a, b, bins=bins), by_histograms(a, b, bins), atol=1e-12)
  np.testing.assert_allclose(
    unlearning.klom_points(a, b, bins=bins, direction="oracles||ours"), by_histograms(b, a, bins), atol=1e-12
  )


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10**6), st.floats(0, 300), st.permutations(range(7)))
def test_bounds_and_invariances(seed, shift, order):
  a, b = normals(seed, shift=shift)
  got = unlearning.klom_points(a, b)
  assert (got >= 0).all()
  assert (got <= np.log(1 / 1e-5) + 1e-3).all()
  rng = np.random.default_rng(seed)
  shuffled = unlearning.klom_points(rng.permutation(a), rng.permutation(b))
  np.testing.assert_allclose(got, shuffled, rtol=1e-12)  # models have no order
  np.testing.assert_allclose(got[order], unlearning.klom_points(a[:, order], b[:, order]), rtol=1e-12)
  summary = unlearning.klom(a, b)
  assert summary.mean == pytest.approx(got.mean())
  assert summary.percentile == pytest.approx(np.percentile(got, 95))
  np.testing.assert_allclose(unlearning.klom_points(b, rng.permutation(b)), 0, atol=1e-12)


def test_fixed_points():
  _, oracles = normals(3)
  assert unlearning.klom(oracles, oracles) == pytest.approx((0, 0), abs=1e-12)
  np.testing.assert_array_equal(unlearning.klom_points(np.ones((4, 2)), np.ones((5, 2))), 0)
  assert unlearning.klom_points(np.full((4, 1), -7.0), np.full((5, 1), 9.0)) == pytest.approx(np.log(1e5), abs=1e-4)


def test_floor_is_what_a_second_set_of_oracles_scores():
  a, b = normals(4, 100, 100, points=60, shift=0.0)
  floor, second, far = (unlearning.klom_floor(b), unlearning.klom(a[:50], b[:50]), unlearning.klom(a[:50] + 4, b[:50]))
  assert floor.mean > 0.1
  assert second.mean == pytest.approx(floor.mean, rel=0.25)
  assert far.mean > 2 * floor.mean
  assert floor == unlearning.klom(b[::2], b[1::2])


def test_the_joint_maximum_counts():
  a, b = np.array([[0.0], [0.0], [0.0], [1.0]]), np.zeros((4, 1))
  # p = (3/4, 1/4), q = (1, 0): without the maximum the two would look alike.
  want = 0.75 * np.log(0.75) + 0.25 * np.log(0.25 / 1e-5)
  assert unlearning.klom_points(a, b)[0] == pytest.approx(want, abs=1e-4)
  assert unlearning.klom_points(a, b, direction="oracles||ours")[0] == pytest.approx(np.log(4 / 3))


def test_clip_bounds_a_diverged_margin():
  a, b = normals(5)
  a[0], b[0] = np.inf, -np.inf
  np.testing.assert_allclose(unlearning.klom_points(a, b, clip=10), by_histograms(a, b, clip=10), atol=1e-12)
  # 20 bins over -100..100 are 10 wide.
  assert unlearning.klom_points([[1e6], [-1e6]], [[95.0], [-95.0]]) == pytest.approx(0, abs=1e-12)


def test_refusals():
  a, b = normals(6)
  for bad, name in [
    ((a, b[:, :3]), "oracles"),
    ((a[0], b), "ours"),
    ((a, b * np.nan), "oracles"),
    ((a[:0], b), "ours"),
  ]:
    with pytest.raises(UsageError, match=name):
      unlearning.klom(*bad)
  for options in ({"direction": "both"}, {"bins": 0}, {"eps": 0.0}, {"clip": -1.0}):
    with pytest.raises(UsageError, match=next(iter(options))):
      unlearning.klom(a, b, **options)
  with pytest.raises(UsageError, match="halves"):
    unlearning.klom_floor(b[:1])
