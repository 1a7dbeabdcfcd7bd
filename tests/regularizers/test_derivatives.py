"""Derivatives through every penalty, against differences in float64: at a pull of zero, and away from it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cljax import regularizers as R

F32 = np.float32


def make(name, strength):
  return getattr(R, name)(strength)


PARAMS = {
  "w": np.array([[1.0, 0.0, 0.0], [0.0, 0.5, 0.0]]),  # largest singular value 1, so that spectral pulls nowhere
  "scale": np.array([1.0, -1.0]),
  "b": np.zeros(2),
}
AWAY = {
  "w": np.array([[0.9, -0.3, 0.2], [0.4, 0.7, -0.6]]),
  "scale": np.array([0.8, -1.3]),
  "b": np.array([0.3, -0.2]),
}
IMPORTANCE = jax.tree.map(lambda p: 0.5 + np.arange(p.size).reshape(p.shape) / 4, PARAMS)
NAMES = ["ewc", "online_ewc", "mas", "l2", "l2_previous", "l2_init", "si", "hierarchical", "spectral", "wasserstein"]
NEEDS = {"ewc": True, "online_ewc": True, "mas": True, "si": True, "hierarchical": True, "l2_previous": False}
# Where the pull is zero; of a kernel of rank 1 the power iteration is exact up to its square root.
STILL = {
  "l2": {k: np.zeros_like(v) for k, v in PARAMS.items()},
  "spectral": PARAMS | {"w": np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])},
}


def state_of(name):
  """The state of a regularizer that has finished a task at PARAMS."""
  tx, params = make(name, 0.7), jax.tree.map(jnp.asarray, PARAMS)
  state = tx.init(params)
  if name in NEEDS:
    state = R.consolidate(state, params, importance=IMPORTANCE if NEEDS[name] else None)
  return state


def cases():
  for name in NAMES:
    yield pytest.param(name, AWAY, id=f"{name}-away")
    still = STILL.get(name, PARAMS)
    if name == "wasserstein":  # equal entries share a partner, and have no derivative
      continue
    yield pytest.param(name, still, id=f"{name}-still")


def flat(tree):
  return np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])


def differences(fn, tree, direction, step=1e-6):
  """The derivative of ``fn`` along ``direction`` by central differences."""
  at = lambda s: jax.tree.map(lambda x, d: np.asarray(x) + s * d, tree, direction)
  return (flat(fn(at(step))) - flat(fn(at(-step)))) / (2 * step)


@pytest.mark.parametrize(("name", "params"), cases())
def test_derivatives_are_those_of_differences(name, params):
  rng = np.random.default_rng(0)
  away = lambda tree: jax.tree.map(lambda x: rng.normal(size=np.shape(x)), tree)
  with jax.enable_x64(True):
    state = state_of(name)
    gradient = jax.tree.map(lambda x: 0.1 + np.cos(np.arange(x.size)).reshape(x.shape), PARAMS)
    field = "vectors" if name == "spectral" else "anchor"
    kept = getattr(state, field) if hasattr(state, field) else {}

    @jax.jit
    def update(gradient, params, strength, kept):
      now = state._replace(**{field: kept}) if hasattr(state, field) else state
      return make(name, strength).update(gradient, now, params)[0]

    args = [gradient, params, np.asarray(0.7), jax.tree.map(np.asarray, kept)]
    for i in range(4):
      if not jax.tree.leaves(args[i]):
        continue
      fn = lambda x, i=i: update(*args[:i], x, *args[i + 1 :])
      direction = away(args[i])
      want = differences(fn, args[i], direction)
      assert np.abs(want).max() > 0.01 or i > 1  # the test sees something
      _, forward = jax.jvp(fn, (args[i],), (direction,))
      np.testing.assert_allclose(flat(forward), want, rtol=1e-6, atol=1e-7)
      weight = away(gradient)
      (back,) = jax.vjp(fn, args[i])[1](jax.tree.map(jnp.asarray, weight))
      np.testing.assert_allclose(flat(back) @ flat(direction), flat(weight) @ want, rtol=1e-6, atol=1e-7)


def test_the_derivative_by_strength_at_strength_zero():
  update = lambda s: R.l2(s).update(jnp.float32(1), optax.EmptyState(), jnp.float32(3))[0]
  assert float(jax.grad(update)(0.0)) == 6.0
  assert float(update(0.0)) == 1.0


def test_the_hessian_vector_product_at_the_anchor():
  tx, at = R.ewc(2.0), jnp.float32(0.5)
  state = R.consolidate(tx.init(at), at, importance=jnp.float32(1))
  slope = lambda p: tx.update(jnp.zeros_like(p), state, p)[0]
  assert float(jax.jvp(slope, (at,), (jnp.float32(1),))[1]) == 2.0


def test_two_steps_of_maml_from_the_anchor():
  """``theta <- theta - rate (h (theta - c) + s F (theta - anchor))`` twice: its slope is ``(1 - rate (h + s F))^2``."""
  rate, h, c, s, fisher, anchor, target = 0.1, 1.5, 2.0, 3.0, 0.8, 0.4, 1.0
  tx = optax.chain(R.ewc(s), optax.sgd(rate))
  state = R.consolidate(tx.init(jnp.float32(anchor)), jnp.float32(anchor), importance=jnp.float32(fisher))

  def adapted(theta):
    now = state
    for _ in range(2):
      updates, now = tx.update(jax.grad(lambda t: 0.5 * h * (t - c) ** 2)(theta), now, theta)
      theta = optax.apply_updates(theta, updates)
    return theta

  outer = lambda theta: 0.5 * (adapted(theta) - target) ** 2
  slope = 1 - rate * (h + s * fisher)
  still = (h * c + s * fisher * anchor) / (h + s * fisher)
  want = slope**2 * (still + slope**2 * (anchor - still) - target)
  np.testing.assert_allclose(jax.grad(outer)(jnp.float32(anchor)), want, rtol=1e-5)


@pytest.mark.parametrize("name", [n for n in NAMES if n != "wasserstein"])
def test_a_pull_of_zero_leaves_every_bit_of_an_update(name):
  tx, state = make(name, 0.7), state_of(name)
  params = jax.tree.map(lambda x: jnp.asarray(x, F32), STILL.get(name, PARAMS))
  gradient = jax.tree.map(lambda x: jnp.where(x == 1, -0.0, 1e-3 * x - 0.0), params)
  gradient["b"] = jnp.array([-0.0, 1e-38], F32)
  update = jax.jit(tx.update)
  updates, _ = update(gradient, state, params)
  alone, _ = update(jax.tree.map(jnp.zeros_like, gradient), state, params)
  for got, want, pull in zip(*map(jax.tree.leaves, (updates, gradient, alone)), strict=True):
    # Some processors' square roots leave spectral's singular value of 1 at 1 - 6e-8: its one entry then has a pull.
    still, pull = np.asarray(pull) == 0, np.asarray(pull)
    assert still.all() or (name == "spectral" and (~still).sum() == 1 and np.abs(pull).max() < 1e-6)
    np.testing.assert_array_equal(np.asarray(got).view(np.uint32)[still], np.asarray(want).view(np.uint32)[still])


@pytest.mark.parametrize("power", [1.0, 1.5, 2.0, 3.0])
def test_spectral_has_derivatives_at_zero(power):
  """Scales and biases of 0: the slope of ``2k |x|^(k-2) (|x|^k - 1) x`` is -4 for k = 2, that of a bias 2 for k = 1."""
  params = {"scale": jnp.zeros(1), "b": jnp.zeros(1), "w": jnp.zeros((2, 2))}
  tx = R.spectral(1.0, power=power)
  state = tx.init(params)
  ones = jax.tree.map(jnp.ones_like, params)
  _, slope = jax.jvp(lambda p: tx.update(jax.tree.map(jnp.zeros_like, p), state, p)[0], (params,), (ones,))
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(slope))
  if power == 2.0:
    assert float(slope["scale"][0]) == -4.0
  assert float(slope["b"][0]) == (2.0 if power == 1.0 else 0.0)
