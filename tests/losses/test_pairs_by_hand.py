"""Losses of pairs and of generating models against loops in float64 NumPy, and that absent rows are absent."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cljax import losses
from cljax.core.types import UsageError

B, D = 6, 4
RNG = np.random.default_rng(11)
FIRST, SECOND = RNG.normal(size=(2, B, D)).astype(np.float32)
Y = np.asarray([0, 1, 0, -1, 1, 0], np.int32)
WEIGHT = np.float32([1, 1, 2, 1, 0, 0])


def close(a, b, rtol=2e-5, atol=1e-6):
  np.testing.assert_allclose(np.asarray(a, np.float64), b, rtol=rtol, atol=atol)


def by_loops(first, second, y, temperature):
  """Each row's mean over its two views, of rows that are all there."""
  z = np.concatenate([first, second]).astype(np.float64)
  z /= np.linalg.norm(z, axis=1, keepdims=True)
  n, each = len(first), np.zeros(2 * len(first))
  for i in range(2 * n):
    total = sum(np.exp(z[i] @ z[j] / temperature) for j in range(2 * n) if j != i)
    mates = [j for j in range(2 * n) if j != i and (j % n == i % n or (y[i % n] >= 0 and y[j % n] == y[i % n]))]
    each[i] = -np.mean([np.log(np.exp(z[i] @ z[p] / temperature) / total) for p in mates])
  return (each[:n] + each[n:]) / 2


CASES = {
  "nt_xent": lambda a, b, w: losses.nt_xent(a, b, w, 0.3),
  "supcon": lambda a, b, w: losses.supcon(a, b, jnp.asarray(Y[: len(a)]), w, 0.3),
  "barlow_twins": lambda a, b, w: losses.barlow_twins(a, b, w, 0.1),
}


def test_views_by_loops():
  there = WEIGHT > 0
  close(CASES["nt_xent"](FIRST, SECOND, WEIGHT)[there], by_loops(FIRST[there], SECOND[there], np.full(B, -1), 0.3))
  close(CASES["supcon"](FIRST, SECOND, WEIGHT)[there], by_loops(FIRST[there], SECOND[there], Y[there], 0.3))


def test_identical_views_of_orthogonal_rows():
  """``ln(1 + (2B - 2) exp(-1 / T))`` each."""
  close(losses.nt_xent(jnp.eye(4), jnp.eye(4), jnp.ones(4), 0.5), np.full(4, np.log1p(6 * np.exp(-2))))


def test_barlow_twins_by_numpy():
  a, b = (v[WEIGHT > 0].astype(np.float64) for v in (FIRST, SECOND))
  a, b = ((v - v.mean(0)) / np.sqrt(v.var(0) + 1e-5) for v in (a, b))
  c = np.asarray([[np.mean(a[:, i] * b[:, j]) for j in range(D)] for i in range(D)])
  off = (c**2).sum() - (np.diag(c) ** 2).sum()
  close(CASES["barlow_twins"](FIRST, SECOND, WEIGHT), ((1 - np.diag(c)) ** 2).sum() + 0.1 * off)
  # Uncorrelated features of equal views: C is the identity.
  whole = jnp.asarray([[1.0, 1], [1, -1], [-1, 1], [-1, -1]])
  close(losses.barlow_twins(whole, whole, jnp.ones(4)), 0, atol=1e-8)


@pytest.mark.parametrize("name", CASES)
def test_absent_views_change_no_bit_and_get_no_slope(name):
  of = jax.jit(lambda a, b: losses.reduce(jnp.broadcast_to(CASES[name](a, b, WEIGHT), (B,)), WEIGHT))
  both = jax.jit(jax.value_and_grad(of, (0, 1)))
  spoiled = [np.where((WEIGHT == 0)[:, None], np.nan, v) for v in (FIRST, SECOND)]
  value, slopes = both(FIRST, SECOND)
  other, others = both(*spoiled)
  assert np.isfinite(value)
  assert value == other
  for one, two in zip(slopes, others, strict=True):
    np.testing.assert_array_equal(one, two)
    assert (np.asarray(one)[4:] == 0).all()
    assert (np.asarray(one)[:4] != 0).any(1).all()
  step = np.float32(1e-2)
  move = lambda s: float(of(FIRST + s * np.eye(B, D, dtype=np.float32), SECOND))
  close(np.trace(np.asarray(slopes[0])[:, :D]), (move(step) - move(-step)) / (2 * step), 2e-2, 1e-3)


def test_no_rows_are_no_loss():
  for of in CASES.values():
    value, slope = jax.value_and_grad(lambda a, of=of: jnp.sum(of(a, SECOND, jnp.zeros(B)) * 0.0))(FIRST)
    assert (value, np.abs(slope).max()) == (0, 0)


def test_bpr_by_numpy():
  high, low = FIRST * 30, SECOND * 30
  close(losses.bpr(high, low), np.log1p(np.exp(-(high.astype(np.float64) - low))))
  assert float(losses.bpr(jnp.zeros(()), jnp.full((), 500.0))) == 500


def test_gaussian_kl_by_quadrature():
  mean, log_variance = FIRST[:, :2], SECOND[:, :2]
  t = np.linspace(-30, 30, 60001)
  log_normal = lambda m, v: -((t - m) ** 2) / (2 * v) - 0.5 * np.log(2 * np.pi * v)
  expected = np.zeros(B)
  for i in range(B):
    for j in range(2):
      p = log_normal(float(mean[i, j]), float(np.exp(np.float64(log_variance[i, j]))))
      expected[i] += np.sum(np.exp(p) * (p - log_normal(0, 1))) * (t[1] - t[0])
  close(losses.gaussian_kl(mean, log_variance), expected, 1e-5)
  assert float(losses.gaussian_kl(jnp.zeros((1, 3)), jnp.zeros((1, 3)))[0]) == 0


@pytest.mark.parametrize(
  "call",
  [
    lambda: losses.nt_xent(FIRST, SECOND[:3], WEIGHT),
    lambda: losses.supcon(FIRST, SECOND, Y[:3], WEIGHT),
    lambda: losses.barlow_twins(FIRST, SECOND, WEIGHT[:3]),
    lambda: losses.bpr(FIRST, SECOND[:3]),
    lambda: losses.gaussian_kl(FIRST, SECOND[:3]),
  ],
  ids=("nt_xent", "supcon", "barlow_twins", "bpr", "gaussian_kl"),
)
def test_pairs_of_wrong_shapes_are_named(call):
  with pytest.raises(UsageError, match="has shape"):
    call()
