"""The exact sign-flip test beside the paired t-test."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from cljax.cli.reporting import _table


def test_all_patterns_by_hand():
  rng = np.random.default_rng(0)
  for n in (2, 3, 5, 7):
    d = rng.normal(size=n) + 0.5
    sums = [abs(np.dot(signs, d)) for signs in itertools.product((-1, 1), repeat=n)]
    assert _table.sign_flips(d) == np.mean([s >= abs(d.sum()) - 1e-12 for s in sums])


@pytest.mark.parametrize(("n", "least"), [(3, 0.25), (5, 0.0625), (6, 0.03125)])
def test_what_so_many_seeds_can_reach(n, least):
  assert _table.sign_flips(np.arange(1.0, n + 1)) == least
  assert _table.sign_flips(-np.arange(1.0, n + 1)) == least
  assert _table.least_flips(n) == least
  assert _table.sign_flips(np.asarray([1.0, -1.0, *np.zeros(n - 2)])) == 1.0


def test_of_many_seeds_patterns_are_drawn():
  d = np.random.default_rng(1).normal(size=40)
  t = d.mean() / (d.std(ddof=1) / np.sqrt(40))
  from scipy import stats

  assert _table.sign_flips(d) == pytest.approx(2 * stats.t.sf(abs(t), 39), abs=0.02)
  assert _table.sign_flips(d + 10) == 1 / 2**16 == _table.least_flips(40), "the pattern itself"
