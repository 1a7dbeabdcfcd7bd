"""CLASSP and TAG against NumPy, step by step."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cljax import UsageError
from cljax import optimizers as O

PARAMS = {"a": jnp.array([[0.5, -1.0, 2.0], [0.1, 0.0, -0.3]]), "b": jnp.array([1.0, -2.0])}
NAMES = ("a", "b")


def gradients(steps, seed=0):
  rng = np.random.default_rng(seed)
  return [{k: rng.normal(size=PARAMS[k].shape).astype(np.float32) for k in NAMES} for _ in range(steps)]


def run(tx, grads, params=PARAMS, state=None):
  state = tx.init(params) if state is None else state
  update = jax.jit(tx.update)
  for g in grads:
    updates, state = update(jax.tree.map(jnp.array, g), state, params)
    params = optax.apply_updates(params, updates)
  return params, state


def close(a, b, rtol=2e-5, atol=1e-6):
  for k in NAMES:
    np.testing.assert_allclose(a[k], b[k], rtol=rtol, atol=atol)


@pytest.mark.parametrize("power", [1.0, 2.0, 3.0])
@pytest.mark.parametrize("released", [False, True])
def test_classp(power, released):
  theta, s = ({k: np.float64(PARAMS[k]) for k in NAMES}, {k: np.zeros(PARAMS[k].shape) for k in NAMES})
  grads = gradients(6)
  grads[3]["b"][:] = 0  # the released gate closes only here
  for g in grads:
    for k in NAMES:
      open_ = np.full(g[k].shape, float(np.any(g[k] ** 2)) > 0.5) if released else g[k] ** 2 > 0.5
      s[k] += np.where(open_, np.abs(g[k]) ** (1 if released else power), 0)
      theta[k] -= np.where(open_, 0.2 * g[k] / (s[k] + 1e-5) ** (1 / power), 0)
  params, state = run(O.classp(power=power, released=released), grads)
  close(params, theta)
  close(state[0].accumulated, s)


def test_classp_invariants():
  grads = gradients(5, seed=2)
  plain, _ = run(optax.sgd(0.2), grads)
  unscaled, state = run(O.classp(threshold=0.0, apply_scaling=False), grads)
  close(unscaled, plain, rtol=0, atol=0)  # SGD to the bit; s accumulates all the same
  close(state[0].accumulated, {k: sum(np.abs(g[k]) for g in grads) for k in NAMES})
  before, state = PARAMS, None
  for g in grads:
    after, new = run(O.classp(power=2.0), [g], before, state)
    for k in NAMES:
      still = g[k] ** 2 <= 0.5
      assert np.array_equal(np.asarray(after[k])[still], np.asarray(before[k])[still])
      if state is not None:
        assert np.all(np.asarray(new[0].accumulated[k]) >= np.asarray(state[0].accumulated[k]))
      bound = 0.2 * np.abs(g[k]) / np.sqrt(np.asarray(new[0].accumulated[k]) + 1e-5)
      assert np.all(np.abs(np.asarray(after[k]) - np.asarray(before[k])) <= bound + 1e-5)
    before, state = after, new
  # p = 2 without a gate is AdaGrad.
  ours, _ = run(O.classp(0.1, threshold=0.0, power=2.0, eps=1e-7), grads)
  adagrad, _ = run(optax.adagrad(0.1, initial_accumulator_value=0.0, eps=1e-7), grads)
  close(ours, adagrad, rtol=1e-4)


def numpy_tag(tasks, base, lr=0.01, b=2.0, b1=0.9, b2=0.99):
  theta, old = {k: np.float64(PARAMS[k]) for k in NAMES}, []
  for grads in tasks:
    m, v = ({k: np.zeros(PARAMS[k].shape) for k in NAMES} for _ in range(2))
    for n, g in enumerate(grads, start=1):
      for k in NAMES:
        m[k] = b1 * m[k] + (1 - b1) * g[k]
        v[k] = v[k] + g[k] ** 2 if base == "adagrad" else b2 * v[k] + (1 - b2) * g[k] ** 2
        total = (np.exp(-b) if old else 1.0) * v[k]
        for m_old, v_old in old:
          cos = np.sum(m[k] * m_old[k]) / (np.linalg.norm(m[k]) * np.linalg.norm(m_old[k]))
          total = total + np.exp(-b * cos) * v_old[k]
        c1, c2 = (1 - b1**n, 1 - b2**n) if base == "adam" else (1, 1)
        u = m[k] / c1 if base == "adam" else g[k]
        theta[k] -= lr * u / (np.sqrt(total / c2) + 1e-8)
    old.append((m, v))
  return theta


@pytest.mark.parametrize("base", ["rmsprop", "adagrad", "adam"])
def test_tag_over_three_tasks(base):
  tasks = [gradients(4, seed=s) for s in range(3)]
  tx = O.tag(0.01, 3, b=2.0, base=base)
  params, state = PARAMS, tx.init(PARAMS)
  for grads in tasks:
    params, state = run(tx, grads, params, state)
    state = O.tag_next_task(state)
  close(params, numpy_tag(tasks, base), rtol=1e-4)
  with pytest.raises(UsageError, match="tag: num_tasks is 3"):
    O.tag_next_task(state)


def test_tag_with_one_task_is_its_base_optimizer():
  grads = gradients(5)
  pairs = [
    (O.tag(0.01, 2, base="rmsprop"), optax.rmsprop(0.01, decay=0.99, eps=1e-8, eps_in_sqrt=False)),
    (O.tag(0.01, 2, base="adam", b2=0.999), optax.adam(0.01)),
    (O.tag(0.01, 2, eps=0.5), optax.rmsprop(0.01, decay=0.99, eps=0.5, eps_in_sqrt=False)),
    (O.tag(0.01, 2, base="adagrad"), optax.adagrad(0.01, initial_accumulator_value=0.0, eps=1e-8)),
  ]
  for ours, base in pairs:
    close(run(ours, grads)[0], run(base, grads)[0], rtol=1e-4, atol=2e-6)


def test_tag_steps_grow_with_every_cosine_and_dead_tensors_stay_finite():
  g = {"a": np.ones((2, 3), np.float32), "b": np.zeros(2, np.float32)}
  steps = []
  for sign in (-1.0, 1.0):
    tx = O.scale_by_tag(2, b=3.0)
    _, state = tx.update(jax.tree.map(lambda x, s=sign: s * jnp.array(x), g), tx.init(PARAMS))
    updates, _ = tx.update(jax.tree.map(jnp.array, g), O.tag_next_task(state))
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(updates))
    assert np.all(np.asarray(updates["b"]) == 0)
    steps.append(float(updates["a"][0, 0]))
  v = 0.01
  np.testing.assert_allclose(steps, [1 / np.sqrt(v * (np.exp(s * 3.0) + np.exp(-3.0))) for s in (1, -1)], rtol=1e-4)
  assert steps[0] < steps[1]


@pytest.mark.parametrize(
  "call",
  [
    lambda: O.classp(threshold=-1.0),
    lambda: O.classp(power=0.0),
    lambda: O.tag(0.1, 3, base="sgd"),
    lambda: O.tag(0.1, 0),
    lambda: O.tag_next_task(optax.adam(0.1).init(PARAMS)),
  ],
)
def test_misuse(call):
  with pytest.raises(UsageError) as error:
    call()
  assert "\n" not in str(error.value)
