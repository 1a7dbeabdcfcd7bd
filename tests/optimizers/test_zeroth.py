"""Zeroth-order and evolutionary gradients: exact on quadratics, unbiased, deterministic, neutral where they must be."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cljax import UsageError
from cljax import optimizers as O
from cljax.core import tree

rng = np.random.default_rng(0)
MATRIX = rng.normal(size=(7, 7))
MATRIX = jnp.array(MATRIX @ MATRIX.T / 7 + np.eye(7), jnp.float32)
PARAMS = {"a": jnp.array(rng.normal(size=(2, 3)), jnp.float32), "b": jnp.array([0.7])}


def flat(t):
  return jnp.concatenate([t["a"].reshape(-1), t["b"]])


def quadratic(p):
  v = flat(p)
  return 0.5 * v @ MATRIX @ v, {"seen": v[0]}


TRUE = jax.grad(lambda p: quadratic(p)[0])(PARAMS)
spsa = jax.jit(
  lambda k, p=PARAMS, **o: O.zo_sgd(k, quadratic, p, **o), static_argnames=("queries", "one_sided", "epsilon")
)
value = jax.jit(lambda p: quadratic(p)[0])


def test_the_two_sided_quotient_is_exact_on_a_quadratic():
  """``g = <grad, z> z``: z is recovered from the estimate up to its sign, then the product is checked."""
  (loss, aux), g = spsa(jax.random.key(0), epsilon=0.1)
  g, true = np.float64(flat(g)), np.float64(flat(TRUE))
  z = g / np.sqrt(np.dot(g, true))  # g.true = <true, z>^2
  np.testing.assert_allclose(g, np.dot(true, z) * z, rtol=1e-4)
  from cljax.optimizers._common import random_like

  drawn = np.float64(flat(random_like(jax.random.fold_in(jax.random.key(0), 0), PARAMS)))
  np.testing.assert_allclose(np.abs(z), np.abs(drawn), rtol=2e-3)
  np.testing.assert_allclose(loss, quadratic(PARAMS)[0] + 0.5 * 0.01 * drawn @ np.float64(MATRIX) @ drawn, rtol=1e-4)
  np.testing.assert_allclose(aux["seen"], flat(PARAMS)[0] - 0.1 * drawn[0], rtol=1e-4)


@pytest.mark.parametrize(
  "estimate",
  [
    lambda k: O.zo_sgd(k, quadratic, PARAMS, epsilon=0.05),
    lambda k: O.zo_sgd(k, quadratic, PARAMS, epsilon=0.05, one_sided=True),
    lambda k: O.forward_gradient(k, quadratic, PARAMS),
  ],
  ids=["two_sided", "one_sided", "forward"],
)
def test_estimates_are_unbiased(estimate):
  each = jax.jit(jax.vmap(lambda k: flat(estimate(k)[1])))(jax.random.split(jax.random.key(1), 4000))
  error = np.asarray(each.mean(0) - flat(TRUE))
  assert np.all(np.abs(error) < 5 * np.asarray(each.std(0)) / np.sqrt(4000))


def test_queries_average_and_seeds_decide():
  key = jax.random.key(3)
  _, four = spsa(key, queries=4, epsilon=0.1)
  from cljax.optimizers._common import random_like

  true = flat(TRUE)
  z = [flat(random_like(jax.random.fold_in(key, q), PARAMS)) for q in range(4)]
  np.testing.assert_allclose(flat(four), sum(jnp.dot(true, x) * x for x in z) / 4, rtol=1e-3, atol=1e-3)
  _, again = spsa(key, queries=4, epsilon=0.1)
  assert tree.digest(four) == tree.digest(again)
  assert tree.digest(four) != tree.digest(spsa(jax.random.key(4), queries=4, epsilon=0.1)[1])


def test_signs():
  key = jax.random.key(5)
  _, plain = spsa(key)
  _, paper = O.zo_sign(key, quadratic, PARAMS)
  np.testing.assert_array_equal(flat(paper), np.sign(flat(plain)))
  _, code = O.zo_sign(key, quadratic, PARAMS, scalar_sign=True)
  from cljax.optimizers._common import random_like

  z = flat(random_like(jax.random.fold_in(key, 0), PARAMS))
  np.testing.assert_allclose(flat(code), jnp.sign(jnp.dot(flat(TRUE), z)) * z, rtol=1e-6)


def test_sparsity_keeps_its_mask_over_steps():
  big = {"w": jnp.ones((50, 40))}
  loss = lambda p: (jnp.sum(p["w"] ** 2), ())
  sparse = jax.jit(lambda k, s: O.zo_sgd(k, loss, big, sparsity=s, sparsity_key=jax.random.key(9)))
  moved = np.zeros((50, 40), bool)
  for t in range(4):
    _, g = sparse(jax.random.key(t), 0.9)
    moved |= np.asarray(g["w"]) != 0
  assert 0.07 < moved.mean() < 0.13
  _, none = sparse(jax.random.key(0), 0.0)
  np.testing.assert_allclose(none["w"], O.zo_sgd(jax.random.key(0), loss, big)[1]["w"], rtol=1e-4)


def test_conserve_never_raises_the_loss_and_takes_the_best():
  step = jax.jit(lambda k, p, lr: O.zo_conserve(k, quadratic, p, lr, epsilon=0.05))
  params, kinds = PARAMS, set()
  for t in range(30):
    lr = 0.02 if t % 2 else 3.0  # the long step overshoots
    (loss, _), g = step(jax.random.key(t), params, lr)
    new = jax.tree.map(lambda p, d, lr=lr: p - lr * d, params, g)
    np.testing.assert_allclose(loss, value(params), rtol=1e-5)
    assert value(new) <= loss * (1 + 1e-6)
    _, raw = spsa(jax.random.key(t), params, epsilon=0.05)
    tried = [value(jax.tree.map(lambda p, d, s=s, lr=lr: p - s * lr * d, params, raw)) for s in (0, 1, -1)]
    np.testing.assert_allclose(value(new), min(tried), rtol=1e-4)
    kinds.add(int(np.argmin(tried)))
    params = new
  assert {0, 1} <= kinds


def test_hybrid_switches():
  run = jax.jit(lambda s: flat(O.hybrid(jax.random.key(0), quadratic, PARAMS, s, 3)[1]))
  np.testing.assert_allclose(run(2), flat(TRUE), rtol=1e-5)
  np.testing.assert_allclose(run(3), flat(spsa(jax.random.key(0))[1]), rtol=1e-3, atol=1e-3)


def test_history():
  tx, g = O.history(0.2), [np.float32(x) for x in (1.0, 3.0, -2.0)]
  state, h = tx.init({"w": jnp.zeros(())}), None
  for x in g:
    h = x if h is None else 0.8 * x + 0.2 * h
    out, state = tx.update({"w": jnp.array(x)}, state)
    np.testing.assert_allclose(out["w"], h, rtol=1e-6)
  neutral = O.history(0.0)
  state = neutral.init(PARAMS)
  for t in range(2):
    out, state = neutral.update(jax.tree.map(lambda x, t=t: x * (t + 1), PARAMS), state)
    jax.tree.map(lambda a, b, t=t: np.testing.assert_array_equal(a, b * (t + 1)), out, PARAMS)


@pytest.mark.parametrize("antithetic", [False, True])
def test_evolution_strategy_is_the_scored_sum(antithetic):
  from cljax.optimizers._common import random_like

  key, sigma, n = jax.random.key(2), 0.3, 6
  (loss, _), g = O.evolution_strategy(key, quadratic, PARAMS, sigma=sigma, population=n, antithetic=antithetic)
  if antithetic:
    draw = [np.float64(flat(random_like(jax.random.fold_in(key, i), PARAMS))) for i in range(n // 2)]
    noise = [s * e for e in draw for s in (1, -1)]
  else:
    noise = [np.float64(flat(random_like(jax.random.fold_in(key, i), PARAMS))) for i in range(n)]
  theta, matrix = np.float64(flat(PARAMS)), np.float64(MATRIX)
  reward = np.array([-0.5 * (theta + sigma * e) @ matrix @ (theta + sigma * e) for e in noise])
  score = (reward - reward.mean()) / reward.std()
  np.testing.assert_allclose(flat(g), -sum(z * e for z, e in zip(score, noise, strict=True)) / n, rtol=1e-3, atol=1e-3)
  np.testing.assert_allclose(loss, quadratic(PARAMS)[0], rtol=1e-6)


def test_evolution_strategy_invariants():
  key = jax.random.key(2)
  es = lambda f: jax.jit(lambda: O.evolution_strategy(key, f, PARAMS, sigma=0.3, population=11)[1])()
  shifted = lambda p: (3.0 * quadratic(p)[0] + 5.0, ())
  np.testing.assert_allclose(flat(es(quadratic)), flat(es(shifted)), rtol=1e-3, atol=1e-4)
  for reward in (1.0, 0.1, 0.7, 3.3):  # equal rewards: no update, though their mean may round
    assert np.all(np.asarray(flat(es(lambda p, r=reward: (jnp.float32(r) + 0 * p["b"][0], ())))) == 0)
  # Rewards that are noise still move the parameters: E|d|^2 = alpha^2 dim / N.
  noise = lambda p: (jnp.sin(1e6 * flat(p).sum()), ())
  run = lambda k: O.evolution_strategy(
    k, noise, {"a": jnp.zeros((20, 20)), "b": jnp.zeros(1)}, sigma=1.0, population=10
  )[1]
  sizes = jax.jit(jax.vmap(lambda k: tree.dot(run(k), run(k))))(jax.random.split(jax.random.key(0), 50))
  np.testing.assert_allclose(sizes.mean(), 401 / 10, rtol=0.1)


def test_they_train():
  tx = optax.adam(0.05)
  params, state = PARAMS, tx.init(PARAMS)

  @jax.jit
  def step(key, params, state):
    _, g = O.zo_sgd(key, quadratic, params)  # ZO-Adam
    updates, state = tx.update(g, state, params)
    return optax.apply_updates(params, updates), state

  for t in range(200):
    params, state = step(jax.random.key(t), params, state)
  assert quadratic(params)[0] < 0.1 * quadratic(PARAMS)[0]


@pytest.mark.parametrize(
  "call",
  [
    lambda: O.zo_sgd(jax.random.key(0), quadratic, PARAMS, epsilon=0.0),
    lambda: O.zo_sgd(jax.random.key(0), quadratic, PARAMS, queries=0),
    lambda: O.zo_sgd(jax.random.key(0), quadratic, PARAMS, sparsity=0.5),
    lambda: O.zo_sign(jax.random.key(0), quadratic, PARAMS, scalar_sign=True, queries=3),
    lambda: O.evolution_strategy(jax.random.key(0), quadratic, PARAMS, population=1),
    lambda: O.evolution_strategy(jax.random.key(0), quadratic, PARAMS, population=5, antithetic=True),
    lambda: O.history(1.5),
  ],
)
def test_misuse(call):
  with pytest.raises(UsageError) as error:
    call()
  assert "\n" not in str(error.value)
