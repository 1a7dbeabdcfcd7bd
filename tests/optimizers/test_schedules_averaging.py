"""Schedules and averages against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cljax import UsageError
from cljax import optimizers as O


def test_rewarm_redecay():
  schedule = jax.jit(jax.vmap(O.rewarm_redecay(3e-3, 3e-4, 10, 100)))
  n = np.arange(250)
  m = n % 100
  decay = 3e-4 + 0.5 * (3e-3 - 3e-4) * (1 + np.cos(np.pi * (m - 10) / 90))
  np.testing.assert_allclose(schedule(n), np.where(m < 10, 3e-3 * m / 10, decay), rtol=1e-4, atol=1e-9)
  got = np.asarray(schedule(n))
  assert got[10] == np.float32(3e-3)
  assert np.flatnonzero(np.abs(np.diff(got)) > 4e-4).size == 0 or set(np.flatnonzero(np.diff(got) < -4e-4)) <= {99, 199}
  assert got[100] == 0  # jumps only at the restarts, where it warms up again


@pytest.mark.parametrize("shape", ["cosine", "inverse_sqrt"])
def test_infinite(shape):
  peak, constant, floor = 3e-3, 1e-3, 1e-4
  args = (peak, constant, floor, 10, 40, 100, 30)
  schedule = jax.jit(jax.vmap(O.infinite(*args, shape=shape)))
  n = np.arange(160)
  got = np.float64(schedule(n))
  x = np.clip((n - 10) / 40, 0, 1)
  h = lambda v: 1 / np.sqrt(1 + 10 * v) - 1
  cool = (
    constant + 0.5 * (peak - constant) * (1 + np.cos(np.pi * x))
    if shape == "cosine"
    else peak + (constant - peak) * h(x) / h(1)
  )
  want = np.where(n < 10, peak * n / 10, cool)
  want = np.where(n > 100, constant * (floor / constant) ** np.clip((n - 100) / 30, 0, 1), want)
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-9)
  np.testing.assert_allclose(
    got[[10, 50, 75, 100, 130, 159]], [peak, constant, constant, constant, floor, floor], rtol=1e-5
  )
  assert np.max(np.abs(np.diff(got))) < peak / 5  # continuous at every border
  assert np.all(got[10:] >= floor * (1 - 1e-5))
  endless = jax.vmap(O.infinite(*args[:5], float("inf"), 1, shape=shape))(jnp.array([50, 10**6]))
  np.testing.assert_allclose(endless, [constant, constant], rtol=1e-5)


def test_ema():
  rng = np.random.default_rng(0)
  seen = [np.float32(x) for x in rng.normal(size=5)]
  average = {"w": jnp.float32(2.0), "count": jnp.int32(0)}
  for i, x in enumerate(seen):
    average = O.ema(average, {"w": jnp.float32(x), "count": jnp.int32(i)}, 0.8)
  want = 0.8**5 * 2.0 + 0.2 * sum(0.8 ** (4 - i) * x for i, x in enumerate(seen))
  np.testing.assert_allclose(average["w"], want, rtol=1e-5)
  assert average["count"] == 4
  assert [float(O.ema_decay(jnp.int32(n), 10)) for n in (1, 10, 11)] == [np.float32(v) for v in (0.9, 0.9, 0.99)]


def lcia_numpy(old, new, last, g, g_last, released):
  a, b, c, d = (np.abs(v).sum() for v in (new - old, g, g - g_last, new - last))
  with np.errstate(divide="ignore", invalid="ignore"):
    if released:
      alpha = 2 * (1 + b) / (a * c)
      alpha = alpha if 0 < alpha < 1 else 0.01
      return (1 - alpha) * old + alpha * new
    beta = (b + 1) / (a * c / d)
  beta = beta if 0 < beta < 1 else 0.99
  return beta * old + (1 - beta) * new


@pytest.mark.parametrize("released", [False, True])
def test_lcia(released):
  rng = np.random.default_rng(1)
  fell_back = 0
  for size in (0.1, 1.0, 30.0):
    v = [np.float32(x) for x in rng.normal(size=(5, 4))]
    v[3], v[4] = size * v[3], size * v[4]
    trees = [{"w": jnp.array(x)} for x in v]
    got = O.lcia(*trees, released=released)["w"]
    np.testing.assert_allclose(got, lcia_numpy(*map(np.float64, v), released), rtol=1e-4, atol=1e-5)
    fell_back += np.allclose(got, 0.99 * v[0] + 0.01 * v[1], rtol=1e-4, atol=1e-5)
  assert 0 < fell_back < 3  # both branches were seen
  same = O.lcia(trees[1], trees[1], trees[1], trees[3], trees[3], released=released)  # all norms zero
  np.testing.assert_allclose(same["w"], v[1], rtol=1e-6)


def test_reptile():
  p, s = {"w": jnp.array([1.1, -2.3, 0.7])}, {"w": jnp.array([0.3, 0.9, -5.0])}
  np.testing.assert_array_equal(O.reptile(p, s, 1.0)["w"], p["w"])
  np.testing.assert_array_equal(O.reptile(p, s, 0.0)["w"], s["w"])
  got = O.reptile(p, s, 0.1)["w"]
  np.testing.assert_allclose(np.linalg.norm(got - s["w"]), 0.1 * np.linalg.norm(p["w"] - s["w"]), rtol=1e-5)
  step = jax.jit(lambda n, p, s: O.reptile_every(n, p, s, 3, 0.5))
  theta, snap = {"w": jnp.float32(0.0)}, {"w": jnp.float32(0.0)}
  seen = []
  for n in range(7):
    theta = {"w": theta["w"] + 1}
    theta, snap = step(n, theta, snap)
    seen.append(float(theta["w"]))
  assert seen == [1, 2, 3, 2, 3, 4, 3.5]  # steps 3 and 6 go half-way back; step 0 does not


def test_reptile_aligns_gradients():
  """Two batches in both orders, on quadratics: ``e [-lr (g1 + g2) + lr^2/2 grad <g1, g2>]`` on average, exactly."""
  rng = np.random.default_rng(0)
  theta, lr, epsilon = rng.normal(size=3), 0.1, 0.3
  a = [m @ m.T for m in rng.normal(size=(2, 3, 3))]
  c = rng.normal(size=(2, 3))
  grad = lambda i, t: a[i] @ (t - c[i])
  moved = []
  for order in ((0, 1), (1, 0)):
    t = theta
    for i in order:
      t = t - lr * grad(i, t)
    moved.append(np.asarray(O.reptile({"w": jnp.array(t)}, {"w": jnp.array(theta)}, epsilon)["w"]) - theta)
  g = [grad(i, theta) for i in (0, 1)]
  want = epsilon * (-lr * (g[0] + g[1]) + 0.5 * lr**2 * (a[0] @ g[1] + a[1] @ g[0]))
  np.testing.assert_allclose(np.mean(moved, axis=0), want, rtol=1e-3, atol=1e-5)


def test_misuse():
  for call in (
    lambda: O.rewarm_redecay(1.0, 0.1, 10, 10),
    lambda: O.infinite(1.0, 0.5, 0.1, 10, 10, 15, 5),
    lambda: O.infinite(1.0, 0.5, 0.1, 10, 10, 20, 5, shape="linear"),
    lambda: O.ema({}, {}, 1.5),
    lambda: O.reptile({}, {}, -1.0),
  ):
    with pytest.raises(UsageError):
      call()
