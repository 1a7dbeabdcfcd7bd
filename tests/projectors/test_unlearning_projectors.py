"""Geometric disentanglement in Adam's metric, and adaptive orthogonality with its second-order gradient."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cljax.core.types import UsageError
from cljax.projectors import adaptive_orthogonality, adaptive_orthogonality_grad, geometric_disentanglement


def params():
  rng = np.random.default_rng(0)
  return {"a": jnp.asarray(rng.normal(size=(3, 4)), jnp.float32), "b": jnp.asarray(rng.normal(size=4), jnp.float32)}


def like(seed, scale=1.0):
  rng = np.random.default_rng(seed)
  return jax.tree.map(lambda x: jnp.asarray(scale * rng.normal(size=x.shape), jnp.float32), params())


def flat(t, lead=0):
  return np.concatenate([np.asarray(x, np.float64).reshape(*x.shape[:lead], -1) for x in jax.tree.leaves(t)], -1)


def adam_step():
  tx = optax.adam(0.1)
  state = tx.init(params())
  for s in range(3):
    updates, state = tx.update(like(s, 0.1 * 10**s), state, params())
  return updates, state


@functools.partial(jax.jit, static_argnames=("constraint",))
def finish(updates, refs, optimizer_state=None, constraint="descent"):
  tx = geometric_disentanglement(constraint=constraint)
  return tx.update(updates, tx.init(params()), None, references={"retain": refs}, optimizer_state=optimizer_state)


def test_orthogonal_is_the_nearest_point_in_adams_metric():
  updates, opt_state = adam_step()
  stack = jax.tree.map(lambda a, b: jnp.stack([a, b]), like(7), like(8))
  out, _ = finish(updates, stack, opt_state, "orthogonal")
  metric = np.sqrt(flat(opt_state[0].nu)) + 1e-8
  a, d = flat(stack, 1), flat(updates)
  want = d - (a / metric).T @ np.linalg.solve((a / metric) @ a.T, a @ d)
  np.testing.assert_allclose(flat(out), want, atol=1e-5)
  assert np.abs(a @ flat(out)).max() < 1e-4 * np.linalg.norm(a) * np.linalg.norm(d)
  # As a step along a gradient: <P g_f, g_f> >= 0 in the metric, so the forget loss still moves the right way.
  assert flat(out) @ (metric * d) >= 0
  euclid, _ = finish(updates, stack, None, "orthogonal")
  assert np.abs(flat(euclid) - flat(out)).max() > 1e-3  # the metric matters


def test_descent_moves_only_what_would_raise_the_retain_loss():
  updates, opt_state = adam_step()
  up = jax.tree.map(lambda u: jnp.sign(u), updates)  # <a, d> > 0: raises the retain loss
  out, state = finish(updates, up, opt_state)
  assert abs(flat(up) @ flat(out)) < 1e-5
  assert int(state.projected) == 1
  assert float(state.kkt) < 1e-5
  down = jax.tree.map(jnp.negative, up)
  for refs in (down, jax.tree.map(jnp.zeros_like, up)):
    same, state = finish(updates, refs, opt_state)
    for x, y in zip(jax.tree.leaves(same), jax.tree.leaves(updates), strict=True):
      assert np.asarray(x).tobytes() == np.asarray(y).tobytes()
    assert int(state.projected) == 0


def test_history_constrains_by_past_gradients():
  tx = geometric_disentanglement(history=2)
  updates, state = like(1), None
  refs = [like(s) for s in (2, 3, 4, 5)]
  run = jax.jit(lambda u, s, r: tx.update(u, s, None, references={"retain": r}))
  state = tx.init(params())
  for r in refs:
    out, state = run(updates, state, r)
  lengths = [np.linalg.norm(flat(r)) for r in refs]
  products = [flat(r) @ flat(out) / n for r, n in zip(refs, lengths, strict=True)]
  assert max(products[1:]) < 1e-5
  np.testing.assert_array_equal(state.past["b"], np.stack([refs[3]["b"], refs[2]["b"]]))


def test_geometric_errors():
  with pytest.raises(UsageError, match="constraint"):
    geometric_disentanglement(constraint="other")
  _, opt_state = adam_step()
  with pytest.raises(UsageError, match="holds 2 states"):
    finish(like(0), like(1), (opt_state, opt_state))


def losses(sign):
  """Two nonlinear losses whose gradients oppose each other (sign -1) or not."""
  x = jnp.asarray(np.random.default_rng(1).normal(size=(5, 3)))
  out = lambda p: jnp.tanh(x @ p["a"] + p["b"])
  return lambda p: jnp.sum(out(p) ** 3), lambda p: sign * jnp.sum(out(p) ** 3) + 0.3 * jnp.sum(jnp.sin(out(p)))


def cosine(p, f, r):
  a, b = flat(jax.grad(f)(p)), flat(jax.grad(r)(p))
  return a @ b / np.linalg.norm(a) / np.linalg.norm(b)


@functools.cache
def adaptive_programs():
  f, r = losses(-1.0)
  return (
    jax.jit(lambda p, gamma: adaptive_orthogonality_grad(f, r, gamma)(p)),
    jax.jit(lambda p, gamma: jax.value_and_grad(adaptive_orthogonality(f, r, gamma))(p)),
  )


@pytest.mark.parametrize("gamma", [1.0, 2.0])
def test_adaptive_orthogonality_value_and_second_order_gradient(gamma):
  with jax.enable_x64(True):
    p = jax.tree.map(lambda x: jnp.asarray(np.asarray(x), jnp.float64), params())
    f, r = losses(-1.0)
    products, through = adaptive_programs()
    value, grad = products(p, gamma)
    c = cosine(p, f, r)
    assert -1 < c < -0.1
    np.testing.assert_allclose(value, ((1 - c) / 2) ** gamma, rtol=1e-12)
    auto = through(p, gamma)[1]
    np.testing.assert_allclose(flat(grad), flat(auto), atol=1e-12)
    assert np.linalg.norm(flat(grad)) > 1e-3  # what the released code loses
    for k, i in (("a", (1, 2)), ("b", (0,))):
      sides = [through({**p, k: p[k].at[i].add(h)}, gamma)[0] for h in (1e-6, -1e-6)]
      np.testing.assert_allclose((sides[0] - sides[1]) / 2e-6, grad[k][i], rtol=1e-6, atol=1e-8)


def test_adaptive_orthogonality_at_its_borders():
  target = lambda t: lambda p: jnp.vdot(p, jnp.asarray(t))
  at = jnp.zeros(2)
  for angle, want in (
    ([1.0, 0.0], 0.0),
    ([0.0, 1.0], 0.0),
    ([-1e-4, 1.0], 0.25),
    ([-1.0, 0.0], 1.0),
    ([0.0, 0.0], 0.0),
  ):
    value, grad = adaptive_orthogonality_grad(target([1.0, 0.0]), target(angle), 2.0)(at)
    np.testing.assert_allclose(value, want, atol=1e-4)
    assert np.isfinite(grad).all()
