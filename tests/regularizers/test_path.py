"""Path-integral importance against a NumPy record of the same run."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cljax import UsageError
from cljax import regularizers as R

CURVATURE = {"a": {"kernel": np.array([[1.0, 3.0], [0.5, 2.0]], np.float32)}, "b": np.array([0.1, 0.7], np.float32)}
TARGET = jax.tree.map(lambda c: c - 1.0, CURVATURE)
START = jax.tree.map(lambda c: jnp.array(0.5 * c + 1.0), CURVATURE)


def loss(params):
  each = jax.tree.map(lambda p, c, t: jnp.sum(0.5 * c * (p - t) ** 2), params, CURVATURE, TARGET)
  return sum(jax.tree.leaves(each))


def train(tx, params, state, steps):
  """Returns params, state and, in float64, every task gradient and every parameter vector."""

  @jax.jit
  def step(params, state):
    grads = jax.grad(loss)(params)
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state, grads

  record = []
  for _ in range(steps):
    before = params
    params, state, grads = step(params, state)
    record.append(jax.tree.map(lambda g, a, b: np.float64(g) * (np.float64(a) - np.float64(b)), grads, before, params))
  return params, state, record


def omega(record):
  return jax.tree.map(lambda *x: np.sum(x, axis=0), *record)


def close(a, b, rtol=1e-4, atol=1e-6):
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=atol), a, b)


@pytest.mark.parametrize("optimizer", [optax.sgd(0.05, momentum=0.9), optax.adam(0.05)], ids=["momentum", "adam"])
def test_importance_is_gradient_times_applied_movement(optimizer):
  """With momentum or Adam the movement is not ``-lr * g``; two tasks, so the flush and the sum are seen."""
  tx = optax.chain(R.si(0.3, damping=0.01), optimizer)
  params, state, total = START, tx.init(START), None
  for _ in range(2):
    start = params
    params, state, record = train(tx, params, state, 7)
    state = R.consolidate(state, params)
    gain = jax.tree.map(lambda w, p, s: w / ((np.float64(p) - np.float64(s)) ** 2 + 0.01), omega(record), params, start)
    total = gain if total is None else jax.tree.map(np.add, total, gain)
    close(state[0].importance, total)
    close(state[0].anchor, params, rtol=0, atol=0)
    assert all(np.all(np.asarray(x) == 0) for x in jax.tree.leaves((state[0].path, state[0].last_gradient)))


def test_sum_of_path_is_the_loss_decrease():
  tx = optax.chain(R.si(0.0), optax.sgd(2e-3))
  params, state, _ = train(tx, START, tx.init(START), 400)
  before_flush = state[0].importance
  state = R.consolidate(state, params)
  moved = jax.tree.map(lambda p, s: (p - s) ** 2 + 0.1, params, START)
  path = jax.tree.map(lambda o, m: o * m, state[0].importance, moved)
  assert all(np.all(np.asarray(x) == 0) for x in jax.tree.leaves(before_flush))
  np.testing.assert_allclose(sum(x.sum() for x in jax.tree.leaves(path)), loss(START) - loss(params), rtol=5e-3)


def test_unmoved_weights_gain_nothing_and_the_last_step_counts():
  freeze = optax.masked(optax.set_to_zero(), {"a": {"kernel": False}, "b": True})
  tx = optax.chain(R.si(1.0), optax.sgd(0.1), freeze)
  params, state, record = train(tx, START, tx.init(START), 1)
  state = R.consolidate(state, params)
  assert np.all(np.asarray(state[0].importance["b"]) == 0)
  moved = (np.float64(params["a"]["kernel"]) - np.float64(START["a"]["kernel"])) ** 2
  np.testing.assert_allclose(
    state[0].importance["a"]["kernel"], omega(record)["a"]["kernel"] / (moved + 0.1), rtol=1e-4
  )
  assert np.all(np.asarray(state[0].importance["a"]["kernel"]) > 0)  # one step: all of it came from the flush


def test_under_multi_steps_movement_is_that_of_the_accumulated_step():
  inner = optax.chain(R.si(1.0), optax.sgd(0.1))
  tx = optax.MultiSteps(inner, every_k_schedule=2)
  params, state, _ = train(tx, START, tx.init(START), 6)
  plain, plain_state, _ = train(inner, START, inner.init(START), 3)  # the mean of two equal gradients
  close(params, plain)
  a, b = R.consolidate(state, params), R.consolidate(plain_state, plain)
  close(R.find(a)[0].importance, R.find(b)[0].importance, rtol=1e-3)


def test_negative_importance_pushes_unless_refused():
  state = R.si(1.0).init(START)._replace(importance=jax.tree.map(lambda c: -jnp.array(c), CURVATURE))
  theta = jax.tree.map(lambda s: s + 1.0, START)
  zeros = jax.tree.map(jnp.zeros_like, START)
  close(R.si(1.0).update(zeros, state, theta)[0], jax.tree.map(lambda c: -2 * c, CURVATURE))
  clipped = R.si(1.0, nonnegative=True).update(zeros, state, theta)[0]
  assert all(np.all(np.asarray(x) == 0) for x in jax.tree.leaves(clipped))


def test_hierarchical_weighs_layers():
  tx = R.hierarchical(0.5)
  given = {"a": {"kernel": jnp.full((2, 2), 1.0)}, "b": jnp.full(2, 0.25)}
  state = R.consolidate(tx.init(START), START, importance=given)
  norms = np.array([np.sqrt(4.0), np.sqrt(2 * 0.25**2)])
  want = np.exp(norms) / np.exp(norms).sum()
  np.testing.assert_allclose(jax.tree.leaves(state.layer_weight), want, rtol=1e-6)
  theta = jax.tree.map(lambda s: s + 1.0, START)
  pull = tx.update(jax.tree.map(jnp.zeros_like, START), state, theta)[0]
  close(pull, {"a": {"kernel": np.full((2, 2), want[0])}, "b": np.full(2, want[1] * 0.25)})


@pytest.mark.parametrize("normalise", ["none", "max"])
def test_blocks_are_layers(normalise):
  """By the first name of a path; over the largest norm, none has more than e times the weight of another."""
  rng = np.random.default_rng(0)
  draw = lambda *shape: 10 * rng.normal(size=shape)
  given = {"one": {"in": {"kernel": draw(2, 3)}, "out": {"kernel": draw(3, 2), "bias": draw(2)}},
           "two": {"in": {"kernel": draw(2, 2)}}, "head": {"kernel": draw(2, 4)}}  # fmt: skip
  flat = lambda tree: np.concatenate([np.ravel(v) for v in jax.tree.leaves(tree)])
  norms = np.array([np.linalg.norm(flat(given[n])) for n in ("head", "one", "two")])
  z = norms / norms.max() if normalise == "max" else norms
  want = np.exp(z - z.max()) / np.exp(z - z.max()).sum()
  given = jax.tree.map(jnp.float32, given)
  tx = R.hierarchical(0.5, depth=1, normalise=normalise)
  start = jax.tree.map(jnp.zeros_like, given)
  state = R.consolidate(tx.init(start), start, importance=given)
  np.testing.assert_allclose(jax.tree.leaves(state.layer_weight), want[[0, 1, 1, 1, 2]], rtol=1e-4, atol=1e-7)
  if normalise == "max":
    assert want.max() / want.min() <= np.e
  modules = R.consolidate(R.hierarchical(0.5).init(start), start, importance=given).layer_weight
  np.testing.assert_allclose(modules["one"]["in"]["kernel"], R.layer_weights(given)["one"]["in"]["kernel"])
  zero = R.layer_weights(start, 1, normalise)
  np.testing.assert_allclose(jax.tree.leaves(zero), 1 / 3, rtol=1e-6)
  with pytest.raises(UsageError, match="hierarchical: normalise must be one of none, max; got 'sum'"):
    R.hierarchical(0.5, normalise="sum")
  with pytest.raises(UsageError, match="hierarchical: depth"):
    R.hierarchical(0.5, depth=0)


def test_layers_are_modules_and_equal_norms_give_si_over_their_number():
  params = {f"layer{i}": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)} for i in range(3)}
  weights = R.layer_weights(params)
  np.testing.assert_allclose(jax.tree.leaves(weights), np.full(6, 1 / 3), rtol=1e-6)
  both = jax.tree.map(lambda x: x + 1, params)
  zeros = jax.tree.map(jnp.zeros_like, params)
  pulls = []
  for tx in (R.hierarchical(3.0), R.si(1.0)):
    state = R.consolidate(tx.init(params), params, importance=jax.tree.map(lambda x: 0.7 * x, params))
    pulls.append(tx.update(zeros, state, both)[0])
  close(*pulls)


def test_hierarchical_records_its_own_path_as_si_does():
  runs = {}
  for make in (R.si, R.hierarchical):
    tx = optax.chain(make(0.0), optax.sgd(0.1))
    params, state, _ = train(tx, START, tx.init(START), 3)
    runs[make] = R.consolidate(state, params)[0].importance
  close(runs[R.si], runs[R.hierarchical], rtol=0, atol=0)
