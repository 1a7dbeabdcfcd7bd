"""Membership attacks on text against loops, and the fixed points of PrivLeak."""

from __future__ import annotations

import math
import zlib

import numpy as np
import pytest

from cljax.core.types import UsageError
from cljax.metrics import unlearning as metrics

RNG = np.random.default_rng(2)
LOG_P = -3 * RNG.random((30, 9))
MEAN, VARIANCE = -3 * RNG.random((30, 9)), 2 * RNG.random((30, 9))
VARIANCE[3] = 0.0  # sure of one token at each place
THERE = RNG.random((30, 9)) < 0.7
THERE[0] = False
THERE[1] = np.arange(9) == 4
TEXTS = ["".join(chr(97 + c) for c in RNG.integers(0, 5, 3 * i)) for i in range(30)]


@pytest.mark.parametrize("share", [0.2, 0.4, 1.0])
def test_scores_by_loops(share):
  loss, least, plus = (
    metrics.loss_scores(LOG_P, THERE),
    metrics.min_k_scores(LOG_P, THERE, share),
    metrics.min_k_plus_scores(LOG_P, MEAN, VARIANCE, THERE, share),
  )
  packed, total = (metrics.zlib_scores(LOG_P, THERE, TEXTS, total=t) for t in (False, True))
  for i in range(30):
    own = [t for t in range(9) if THERE[i, t]]
    if not own:
      assert np.isnan([loss[i], least[i], plus[i], packed[i], total[i]]).all()
      continue
    nll = -sum(LOG_P[i, t] for t in own)
    size = len(zlib.compress(TEXTS[i].encode()))
    k = max(1, math.floor(share * len(own)))
    standard = [(LOG_P[i, t] - MEAN[i, t]) / math.sqrt(max(VARIANCE[i, t], 1e-6)) for t in own]
    wanted = [nll / len(own), -sum(sorted(LOG_P[i, t] for t in own)[:k]) / k, -sum(sorted(standard)[:k]) / k]
    np.testing.assert_allclose([loss[i], least[i], plus[i]], wanted, rtol=1e-9)
    np.testing.assert_allclose([packed[i], total[i]], [nll / len(own) / size, nll / size], rtol=1e-9)
  if share == 1:
    np.testing.assert_allclose(least, loss)


def test_the_least_share_is_a_whole_number_of_tokens():
  v = np.log(np.array([[0.1, 0.2, 0.3, 0.4, 0.5]]))
  there = np.ones((1, 5), bool)
  # .6 of 5 tokens is 3, though .6 * 5 is less by rounding.
  assert metrics.min_k_scores(v, there, 0.6)[0] == pytest.approx(-v[0, :3].mean())
  assert len(zlib.compress(b"")) == 8


def test_auc_by_pairs():
  a, b = RNG.integers(0, 6, 20), RNG.integers(2, 8, 15)
  wanted = np.mean([(y > x) + 0.5 * (y == x) for x in a for y in b])
  assert metrics.membership_auc(a, b) == pytest.approx(wanted)
  assert metrics.membership_auc([1, 1], [1]) == 0.5
  assert metrics.membership_auc([0.0], [1.0]) == 1, "members have low scores"
  assert math.isnan(metrics.membership_auc([], [1]))
  assert metrics.membership_auc([np.nan, 0.0], [1.0]) == 1


def test_privacy_leakage_by_hand():
  assert metrics.priv_leak(0.7, 0.4) == pytest.approx(100 * ((1 - 0.7) - (1 - 0.4)) / (1 - 0.4))
  for r in (0.0, 0.42, 0.5):
    assert metrics.priv_leak(r, r) == 0, "as retrained"
    assert metrics.priv_leak(1.0, r) == pytest.approx(-100), "fully exposed"
  assert metrics.priv_leak(0.0, 0.5) == pytest.approx(100)
  assert metrics.priv_leak(0.0, 0.8) == pytest.approx(400)
  assert math.isnan(metrics.priv_leak(0.5, 1.0))
  assert math.isnan(metrics.priv_leak(math.nan, 0.5))
  assert metrics.relative_difference(0.6, 0.4) == pytest.approx(50)
  assert math.isnan(metrics.relative_difference(0.6, 0.0))


BAD = [
  (lambda: metrics.zlib_scores(LOG_P, THERE, TEXTS[:2]), "texts: got 2; expected one of each of 30 rows"),
  (lambda: metrics.min_k_scores(LOG_P, THERE, 0.0), "share must be between 0 and 1; got 0"),
  (lambda: metrics.min_k_scores(LOG_P, THERE, 1.5), "got 1.5"),
  (lambda: metrics.min_k_plus_scores(LOG_P, MEAN[:3], VARIANCE, THERE), "mean, variance: have shapes"),
  (lambda: metrics.loss_scores(LOG_P, THERE[:3]), "there: has shape"),
  (lambda: metrics.priv_leak(1.2, 0.5), r"auc: got 1.2, 0.5; expected 0\.\.1"),
  (lambda: metrics.relative_difference(0.2, -0.5), r"auc: got 0.2, -0.5; expected 0\.\.1"),
]


@pytest.mark.parametrize(("call", "message"), BAD, ids=[m for _, m in BAD])
def test_wrong_arguments_are_one_line(call, message):
  with pytest.raises(UsageError, match=message):
    call()
