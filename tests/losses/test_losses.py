"""Losses against NumPy; the row law; gradients that stay finite."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cljax import UsageError, losses


def np_log_softmax(z, mask=None):
  z = np.where(np.ones_like(z, bool) if mask is None else mask, np.asarray(z, np.float64), -np.inf)
  m = z.max(-1, keepdims=True)
  return z - m - np.log(np.exp(z - m).sum(-1, keepdims=True))


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 10_000), st.sampled_from([0.1, 1.0, 50.0]))
def test_cross_entropy_is_numpys(seed, size):
  rng = np.random.default_rng(seed)
  z, y = rng.normal(size=(5, 7)).astype(np.float32) * size, rng.integers(0, 7, 5)
  mask = rng.random((5, 7)) < 0.5
  mask[np.arange(5), y] = True
  want = -np_log_softmax(z)[np.arange(5), y]
  np.testing.assert_allclose(losses.cross_entropy(jnp.array(z), jnp.array(y)), want, rtol=1e-5, atol=1e-5)
  want = -np_log_softmax(z, mask)[np.arange(5), y]
  got = losses.cross_entropy(jnp.array(z), jnp.array(y), jnp.array(mask))
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
  # What stands in a masked logit, however large, changes neither the loss nor the gradient.
  f = lambda v: losses.cross_entropy(v, jnp.array(y), jnp.array(mask)).sum()
  wild = np.where(mask, z, 1e30).astype(np.float32)
  assert np.array_equal(f(jnp.array(z)), f(jnp.array(wild)))
  g, gw = jax.grad(f)(jnp.array(z)), jax.grad(f)(jnp.array(wild))
  assert np.array_equal(g, gw)
  assert np.all(np.asarray(g)[~mask] == 0)
  p = np.where(mask, np.exp(np_log_softmax(z, mask)), 0)
  p[np.arange(5), y] -= 1
  np.testing.assert_allclose(g, p, rtol=1e-4, atol=1e-6)


def test_cross_entropy_mask_of_classes_and_sequences():
  z = jax.random.normal(jax.random.key(0), (2, 3, 4))
  y = jnp.array([[0, 1, 1], [1, 0, 1]])
  mask = jnp.array([True, True, False, False])
  got = losses.cross_entropy(z, y, mask)
  assert got.shape == (2, 3)
  np.testing.assert_allclose(got, losses.cross_entropy(z[..., :2], y), rtol=1e-6)


def test_label_outside_its_mask_is_inf_without_gradient_and_weight_zero_hides_it():
  z = jax.random.normal(jax.random.key(0), (3, 4))
  y, mask = jnp.array([0, 3, 2]), jnp.array([[True] * 4, [True, True, False, False], [False] * 4])
  each = losses.cross_entropy(z, y, mask)
  assert np.isinf(each[1])
  assert np.isinf(each[2])
  f = lambda v: losses.reduce(losses.cross_entropy(v, y, mask), jnp.array([1.0, 0.0, 0.0]))
  value, grad = jax.value_and_grad(f)(z)
  np.testing.assert_allclose(value, each[0], rtol=1e-6)
  assert np.all(np.isfinite(grad))
  assert np.all(np.asarray(grad)[1:] == 0)


def test_bfloat16_logits_are_computed_wide():
  z = jnp.array([[300.0, 1.0, 0.0]], jnp.bfloat16)
  got = losses.cross_entropy(z, jnp.array([1]))
  assert got.dtype == jnp.float32
  np.testing.assert_allclose(got, [299.0], rtol=1e-6)


def test_reduce_row_law():
  l = jnp.array([1.0, 2.0, jnp.nan, jnp.inf])
  w = jnp.array([1.0, 3.0, 0.0, 0.0])
  np.testing.assert_allclose(losses.reduce(l, w), (1 + 6) / 4)
  grad = jax.grad(lambda v: losses.reduce(v, w))(l)
  np.testing.assert_allclose(grad, [0.25, 0.75, 0.0, 0.0])
  zero = jnp.zeros(4)
  assert losses.reduce(l, zero) == 0
  assert np.all(np.asarray(jax.grad(losses.reduce)(l, zero)) == 0)
  assert np.all(np.isfinite(jax.grad(losses.reduce, argnums=1)(jnp.ones(4), zero)))
  tokens = jnp.arange(6.0).reshape(2, 3)
  np.testing.assert_allclose(losses.reduce(tokens, jnp.ones((2, 3))), 2.5)


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 10_000), st.sampled_from([0.5, 1.0, 2.0, 4.0]))
def test_distillation_is_scaled_kl(seed, temperature):
  rng = np.random.default_rng(seed)
  z, t = rng.normal(size=(2, 4, 6)).astype(np.float32)
  mask = rng.random((4, 6)) < 0.6
  mask[:, 0] = True
  for m in (None, mask):
    lq, lp = np_log_softmax(t / temperature, m), np_log_softmax(z / temperature, m)
    q = np.exp(lq)
    with np.errstate(invalid="ignore"):  # -inf - -inf at masked classes
      want = temperature**2 * np.where(q > 0, q * np.where(q > 0, lq - lp, 0), 0).sum(-1)
    got = losses.distillation(jnp.array(z), jnp.array(t), temperature, None if m is None else jnp.array(m))
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
    assert np.all(np.asarray(got) >= -1e-5)
  f = lambda v, u: losses.distillation(v, u, temperature, jnp.array(mask)).sum()
  at_match = jax.grad(f)(jnp.array(t), jnp.array(t))
  np.testing.assert_allclose(at_match, np.zeros((4, 6)), atol=1e-6)
  assert np.all(np.asarray(jax.grad(f, argnums=1)(jnp.array(z), jnp.array(t))) == 0)  # no gradient to the teacher
  # LwF's cross-entropy form has the same gradient: T (p - q).
  p, q = (np.where(mask, np.exp(np_log_softmax(v / temperature, mask)), 0) for v in (z, t))
  np.testing.assert_allclose(jax.grad(f)(jnp.array(z), jnp.array(t)), temperature * (p - q), rtol=1e-3, atol=1e-5)


def test_logit_mse_is_the_mean_over_logits():
  z, t = np.random.default_rng(0).normal(size=(2, 3, 10)).astype(np.float32)
  np.testing.assert_allclose(losses.logit_mse(jnp.array(z), jnp.array(t)), ((z - t) ** 2).sum(-1) / 10, rtol=1e-6)


def test_binary_cross_entropy():
  z = np.array([[0.3, -80.0, 80.0]], np.float32)
  t = np.array([[1.0, 0.25, 0.75]])
  s = 1 / (1 + np.exp(-z.astype(np.float64)))
  want = -np.log(s[0, 0]) + (0.25 * 80) + (0.25 * 80)
  np.testing.assert_allclose(losses.binary_cross_entropy(jnp.array(z), jnp.array(t)), [want], rtol=1e-6)
  mask = jnp.array([True, False, False])
  np.testing.assert_allclose(
    losses.binary_cross_entropy(jnp.array(z), jnp.array(t), mask), [-np.log(s[0, 0])], rtol=1e-6
  )


def test_center_loss_and_centers():
  rng = np.random.default_rng(1)
  f, c = rng.normal(size=(4, 3)).astype(np.float32), rng.normal(size=(2, 3)).astype(np.float32)
  y, w = np.array([0, 1, 1, 0]), np.array([1.0, 1.0, 1.0, 0.0], np.float32)
  loss = lambda v, m: losses.center_loss(v, jnp.array(y), m).sum()
  np.testing.assert_allclose(
    losses.center_loss(jnp.array(f), jnp.array(y), jnp.array(c)), 0.5 * ((f - c[y]) ** 2).sum(-1), rtol=1e-5
  )
  np.testing.assert_allclose(jax.grad(loss)(jnp.array(f), jnp.array(c)), f - c[y], rtol=1e-5)
  assert np.all(np.asarray(jax.grad(loss, argnums=1)(jnp.array(f), jnp.array(c))) == 0)
  assert loss(jnp.array(c[y]), jnp.array(c)) == 0
  want = c.copy()
  for j, rows in ((0, [0]), (1, [1, 2])):
    want[j] -= 0.5 * sum(c[j] - f[r] for r in rows) / (1 + len(rows))
  f[3] = np.nan  # weight 0
  got = losses.update_centers(jnp.array(c), jnp.array(f), jnp.array(y), jnp.array(w), 0.5)
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 10_000))
def test_bregman_divergences(seed):
  rng = np.random.default_rng(seed)
  p, q = rng.dirichlet(np.ones(5), size=(2, 3)).astype(np.float32)
  kl = (p * np.log(p / q)).sum(-1)
  div = lambda phi, a, b: np.asarray(losses.bregman(phi, jnp.array(a), jnp.array(b)))
  np.testing.assert_allclose(div(losses.negative_entropy, p, q), kl, atol=2e-5)
  np.testing.assert_allclose(div(losses.squared_norm, p, q), ((p - q) ** 2).sum(-1), atol=1e-5)
  np.testing.assert_allclose(div(losses.negative_entropy, p, p), 0, atol=1e-6)
  assert np.all(div(losses.negative_entropy, p, q) > -1e-5)
  # CPR: the divergence to the uniform output is log C minus the entropy, log C at a one-hot output.
  uniform = np.full((3, 5), 0.2, np.float32)
  np.testing.assert_allclose(div(losses.negative_entropy, p, uniform), np.log(5) + (p * np.log(p)).sum(-1), atol=1e-5)
  one_hot = np.eye(5, dtype=np.float32)[:3]
  np.testing.assert_allclose(div(losses.negative_entropy, one_hot, uniform), np.log(5), rtol=1e-5)
  # ER: the divergence of a one-hot target from the output is its cross-entropy. EWC: phi = 1/2 sum F x^2.
  ce = losses.cross_entropy(jnp.log(jnp.array(p)), jnp.arange(3))
  np.testing.assert_allclose(div(losses.negative_entropy, one_hot, p), ce, atol=2e-5)
  fisher = rng.random(5)
  ewc = lambda x: 0.5 * jnp.sum(jnp.array(fisher) * x**2)
  np.testing.assert_allclose(div(ewc, p, q), 0.5 * (fisher * (p - q) ** 2).sum(-1), atol=1e-5)
  # Linear in phi.
  both = lambda x: 2 * losses.squared_norm(x) + 3 * losses.negative_entropy(x)
  parts = 2 * div(losses.squared_norm, p, q) + 3 * div(losses.negative_entropy, p, q)
  np.testing.assert_allclose(div(both, p, q), parts, atol=1e-4)


@pytest.mark.parametrize(
  ("call", "word"),
  [
    (lambda: losses.cross_entropy(jnp.zeros((2, 3)), jnp.zeros(3, int)), "y:"),
    (lambda: losses.cross_entropy(jnp.zeros((2, 3)), jnp.zeros(2, int), jnp.ones(4, bool)), "class_mask:"),
    (lambda: losses.reduce(jnp.zeros(2), jnp.zeros((2, 1))), "weight:"),
    (lambda: losses.logit_mse(jnp.zeros((2, 3)), jnp.zeros((2, 4))), "target:"),
    (lambda: losses.distillation(jnp.zeros((2, 3)), jnp.zeros((1, 3))), "teacher_logits:"),
  ],
)
def test_wrong_shapes_are_named(call, word):
  with pytest.raises(UsageError, match=word) as error:
    call()
  assert "\n" not in str(error.value)
