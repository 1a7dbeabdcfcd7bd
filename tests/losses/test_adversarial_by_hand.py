"""Inputs of large loss near a row, against closed forms and loops in float64 NumPy."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cljax import losses
from cljax.core.types import UsageError

RNG = np.random.default_rng(4)
B, D, C = 7, 5, 3
X = RNG.uniform(size=(B, D)).astype(np.float32)
Y = RNG.integers(0, C, B)
FIRST, SECOND = RNG.normal(size=(D, 6)).astype(np.float32), RNG.normal(size=(6, C)).astype(np.float32)


def each(z):
  return losses.cross_entropy(jnp.tanh(z @ FIRST) @ SECOND, jnp.asarray(Y))


def slope(z):
  """``d(-log p_y)/dz`` of the network above, by the chain rule."""
  h = np.tanh(z @ FIRST.astype(np.float64))
  logits = h @ SECOND.astype(np.float64)
  p = np.exp(logits - logits.max(-1, keepdims=True))
  p /= p.sum(-1, keepdims=True)
  return ((p - np.eye(C)[Y]) @ SECOND.T.astype(np.float64) * (1 - h**2)) @ FIRST.T.astype(np.float64)


def climbed(x, radius, steps, rate, low, high, first=None):
  """Each number by itself: a step of the sign, into the ball, into the range."""
  z = np.array(x if first is None else first, np.float64)
  for _ in range(steps):
    up = np.sign(slope(z))
    for at in np.ndindex(*z.shape):
      moved = z[at] + rate * up[at]
      moved = min(max(moved, x[at] - radius), x[at] + radius)
      z[at] = min(max(moved, low), high)
  return z


def close(a, b):
  np.testing.assert_allclose(np.asarray(a, np.float64), b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("radius", "steps", "rate"), [(0.3, 10, None), (0.2, 4, 0.15), (0.1, 1, 0.03)])
def test_pgd_is_steps_of_the_sign_into_the_ball(radius, steps, rate):
  found = jax.jit(lambda x: losses.pgd(each, x, radius, steps, rate, 0.0, 1.0))(X)
  taken = 2.5 * radius / steps if rate is None else rate
  close(found, climbed(X.astype(np.float64), radius, steps, taken, 0.0, 1.0))
  assert (np.asarray(each(found)).mean() > np.asarray(each(X)).mean() + 0.02).all()


def test_fgsm_is_one_step_of_the_sign():
  close(losses.fgsm(each, X, 0.25), X + 0.25 * np.sign(slope(X.astype(np.float64))))
  close(losses.fgsm(each, X, 0.25, 0.0, 1.0), np.clip(X + 0.25 * np.sign(slope(X.astype(np.float64))), 0, 1))


def test_on_a_linear_model_the_attack_is_the_dual_norm():
  """The worst margin within the ball is ``y w x - radius |w|_1``; the attack gets there from the row and from noise."""
  w, y = RNG.normal(size=D), np.where(RNG.random(B) < 0.5, -1.0, 1.0)
  margin = lambda z: jax.nn.softplus(-jnp.asarray(y, jnp.float32) * (z @ jnp.asarray(w, jnp.float32)))
  worst = np.log1p(np.exp(-(y * (X @ w) - 0.2 * np.abs(w).sum())))
  for found in (
    losses.fgsm(margin, X, 0.2),
    losses.pgd(margin, X, 0.2),
    losses.pgd(margin, X, 0.2, key=jax.random.key(1)),
  ):
    close(margin(found), worst)


def test_a_random_start_is_uniform_in_the_ball_and_the_range():
  x = jnp.full((4000, 1), 0.9)
  found = np.asarray(losses.pgd(lambda z: z[:, 0] * 0, x, 0.2, 3, low=0.0, high=1.0, key=jax.random.key(0)))
  assert found.min() >= 0.7
  assert found.max() == 1.0
  np.testing.assert_allclose((found == 1.0).mean(), 0.25, atol=0.03)  # what lies beyond 1 is cut
  inside = found[found < 1]
  np.testing.assert_allclose([inside.mean(), inside.std()], [0.85, 0.3 / np.sqrt(12)], atol=0.01)


def test_rows_outside_the_range_stay_and_integers_become_floats():
  x = jnp.asarray([[3, -2, 0]], jnp.int8)
  found = losses.pgd(lambda z: (z * jnp.asarray([1.0, -1.0, 1.0])).sum(-1), x, 0.5, 2, low=0.0, high=0.25)
  assert found.dtype == jnp.float32
  np.testing.assert_array_equal(found, [[3.0, -2.0, 0.25]])
  down = losses.pgd(lambda z: (z * jnp.asarray([-1.0, 1.0, -1.0])).sum(-1), x, 0.5, 2, low=0.0, high=0.25)
  np.testing.assert_array_equal(down, [[2.5, -1.5, 0.0]])


def test_no_radius_or_no_steps_is_the_row_and_no_gradient_passes():
  np.testing.assert_array_equal(losses.pgd(each, X, 0.0), X)
  np.testing.assert_array_equal(losses.pgd(each, X, 0.3, 0), X)
  slopes = jax.grad(lambda x, r: losses.pgd(each, x, r).sum(), (0, 1))(jnp.asarray(X), 0.3)
  assert all((np.asarray(s) == 0).all() for s in slopes)


def test_wrong_inputs_are_one_line():
  with pytest.raises(UsageError, match=r"x: got dict; expected an array of numbers \[B, ...\]"):
    losses.fgsm(each, {"x": X}, 0.1)
  with pytest.raises(UsageError, match=r"loss_fn: gave shape \(\); expected \[7\], a loss for each row"):
    losses.pgd(lambda z: each(z).sum(), X, 0.1)
