"""NetScore, FUAR and fitted laws: known answers, and constants recovered from synthetic data."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cljax import metrics
from cljax.core.types import UsageError

positive = st.floats(1e-3, 1e3)


@settings(deadline=None, max_examples=40)
@given(positive, positive, positive)
def test_netscore(a, m, c):
  assert metrics.netscore(a, m, c) == pytest.approx(20 * np.log10(a**2 / (m**0.5 * c**0.5)), abs=1e-9)
  assert metrics.netscore(a, m, 2 * c) - metrics.netscore(a, m, c) == pytest.approx(-10 * np.log10(2))
  assert metrics.netscore(2 * a, m, c) - metrics.netscore(a, m, c) == pytest.approx(40 * np.log10(2))


def test_netscore_shapes_and_errors():
  assert metrics.netscore([50.0, 80.0], 1.0, 1.0).shape == (2,)
  assert metrics.netscore(10.0, 1.0, 1.0) == pytest.approx(40.0)
  for name, args in (("accuracy", (0, 1, 1)), ("memory", (1, -1, 1)), ("compute", (1, 1, 0))):
    with pytest.raises(UsageError, match=name):
      metrics.netscore(*args)


def test_fuar():
  # Forgot .2 and .1; updated .3 and .1; acquired .2 and 0.
  assert metrics.fuar([0.5, 0.4], 0.3, [0.1, 0.3], 0.4, [0.0, 0.3], 0.2) == pytest.approx(0.3 / 0.6)
  assert metrics.fuar([0.5, 0.4], [0.3, 0.4], [0.1, 0.3], 0.4, [0.0, 0.3], 0.2) == pytest.approx(0.2 / 0.6)
  assert metrics.fuar(0.5, 0.6, 0.1, 0.3, 0.1, 0.2) == 0  # what improved does not count against
  assert metrics.fuar(0.5, 0.2, 0.1, 0.3, 0.1, 0.2) == pytest.approx(1.0)
  assert np.isnan(metrics.fuar(0.5, 0.2, 0.3, 0.1, 0.2, 0.1))  # nothing gained: not infinite
  with pytest.raises(UsageError, match="updated"):
    metrics.fuar([0.5, 0.4], 0.3, [0.1], 0.4, [0.0, 0.3], 0.2)


@pytest.mark.parametrize(("alpha", "beta"), [(0.3, 0.7), (1.2, 0.15)])
def test_scaling_law_is_recovered(alpha, beta):
  P, N = (v.ravel() for v in np.meshgrid([1e3, 1e4, 1e5, 1e6], [10.0, 100, 1000, 5000]))
  a, b, c = 0.4 * 1e3**alpha, 0.5 * 10**beta, 2.5
  F = c - a * P**-alpha - b * N**-beta
  law = metrics.fit_scaling_law(P, N, F)
  np.testing.assert_allclose([law.alpha, law.beta, law.ceiling], [alpha, beta, c], rtol=1e-3)
  np.testing.assert_allclose([law.a, law.b], [a, b], rtol=1e-2)
  np.testing.assert_allclose(law(P, N), F, atol=1e-5)
  assert law.r2 > 1 - 1e-8
  assert law(1e4, 100) < law(1e5, 100) < law(1e5, 1000) < law.ceiling
  noisy = metrics.fit_scaling_law(P, N, F + 0.02 * np.random.default_rng(0).normal(size=len(F)))
  assert 0.9 < noisy.r2 < 1


def test_tradeoff_is_recovered():
  L = np.linspace(1, 3, 9)
  s, k, r2 = metrics.fit_forgetting_tradeoff(L, 2.0 - 0.7 * L)
  np.testing.assert_allclose([s, k, r2], [2.0, 0.7, 1.0])
  noise = np.random.default_rng(0).normal(size=9)
  s, k, r2 = metrics.fit_forgetting_tradeoff(L, noise)
  slope, intercept = np.polyfit(L, noise, 1)
  np.testing.assert_allclose([s, k, r2], [intercept, -slope, np.corrcoef(L, noise)[0, 1] ** 2])


def test_wrong_arguments():
  with pytest.raises(UsageError, match="at least 6"):
    metrics.fit_scaling_law([1, 2, 3], [1, 2, 3], [1, 2, 3])
  with pytest.raises(UsageError, match="steps"):
    metrics.fit_scaling_law(np.arange(6) + 1, np.ones(6), np.arange(6))
  with pytest.raises(UsageError, match="finetuning_loss"):
    metrics.fit_forgetting_tradeoff([1, 1], [1, 2])
