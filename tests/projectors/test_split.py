"""CUBER and CoSO in two parts: what must stand before the optimizer, and the projection behind it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cljax import projectors as P
from cljax.core.types import UsageError

D, C, RATE, STRENGTH = 5, 4, 0.1, 0.5
RNG = np.random.default_rng(0)
W = RNG.normal(size=(D, C)).astype(np.float32)
G = RNG.normal(size=(3, D, C)).astype(np.float32)
PARAMS = {"kernel": jnp.asarray(W), "bias": jnp.ones(C)}
SPANS = np.eye(D, dtype=np.float32)[:, :3]  # task 0 has the inputs e0, e1; task 1 has e2


def grads(k):
  return {"kernel": jnp.asarray(k, jnp.float32), "bias": jnp.ones(C)}


def boundaries(state):
  """Task 0's gradient lies along e0 and agrees with the new one; task 1's inputs do not matter to it: 3 and 1."""
  new = np.zeros((D, C))
  new[0] = 1.0
  for inputs in (SPANS[:, :2].T, SPANS[:, 2:].T):
    state = P.cuber_end_task(state, {"kernel": jnp.asarray(inputs)}, grads(new), 1.0)
  return P.cuber_start_task(state, PARAMS, grads(new), 0.5, 0.0)


OPTIMIZERS = {
  "sgd": lambda: optax.sgd(RATE),
  "momentum": lambda: optax.sgd(RATE, momentum=0.9),
  "adam": lambda: optax.adam(RATE),
  "adamw": lambda: optax.adamw(RATE, weight_decay=0.1),
  "rmsprop": lambda: optax.rmsprop(RATE),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_cuber_in_two_parts(name):
  """NumPy: the pull ``2 s S S^T (W - W_start)`` goes into the optimizer, the projection off e2 stands behind it."""
  base = OPTIMIZERS[name]()
  tx = optax.chain(P.cuber_pull(2, 2, STRENGTH), base, P.cuber_projection(2, 2))
  state = boundaries(tx.init(PARAMS))
  assert list(state[0].kernels["kernel"].regime) == [3, 1]
  step = jax.jit(tx.update)
  params, alone, weights = PARAMS, base.init(PARAMS), PARAMS
  for g in G:
    updates, state = step(grads(g), state, params)
    drift = np.asarray(weights["kernel"]) - W
    pulled = g + 2 * STRENGTH * SPANS[:, :2] @ SPANS[:, :2].T @ drift
    want, alone = base.update(grads(pulled), alone, weights)
    want = np.array(want["kernel"])
    want[2] = 0.0  # e2 is blocked
    np.testing.assert_allclose(updates["kernel"], want, atol=1e-5)
    assert np.abs(updates["kernel"][2]).max() < 1e-6
    assert np.abs(updates["kernel"][0]).max() > 1e-3
    assert not np.any(updates["bias"])
    params = optax.apply_updates(params, updates)
    weights = {**weights, "kernel": weights["kernel"] + want, "bias": params["bias"]}


def test_cuber_in_two_parts_is_cuber_under_sgd():
  whole = optax.chain(P.cuber(2, 2, STRENGTH), optax.sgd(RATE))
  parts = optax.chain(P.cuber_pull(2, 2, STRENGTH), optax.sgd(RATE), P.cuber_projection(2, 2))
  moved = {**PARAMS, "kernel": PARAMS["kernel"] + 1.0}
  out = [tx.update(grads(G[0]), boundaries(tx.init(PARAMS)), moved)[0] for tx in (whole, parts)]
  np.testing.assert_allclose(out[0]["kernel"], out[1]["kernel"], atol=1e-6)


def test_before_the_first_task_both_parts_pass_to_the_bit():
  tx = optax.chain(P.cuber_pull(2, 2), P.cuber_projection(2, 2))
  out, _ = tx.update(grads(G[0]), tx.init(PARAMS), PARAMS)
  assert all(np.asarray(out[k]).tobytes() == np.asarray(grads(G[0])[k]).tobytes() for k in out)


def test_a_projection_without_its_pull_is_refused():
  tx = P.cuber_projection(2, 2)
  with pytest.raises(UsageError, match="no CUBERState"):
    P.cuber_start_task(tx.init(PARAMS), PARAMS, PARAMS)
  tx = optax.chain(P.cuber_pull(2, 2), P.cuber_projection(2, 1))
  with pytest.raises(UsageError, match="one set of options"):
    P.cuber_start_task(tx.init(PARAMS), PARAMS, PARAMS)
  params = {"w": PARAMS["kernel"]}
  tx = optax.chain(P.coso(2, 2), P.coso_projection(1))
  with pytest.raises(UsageError, match="one set of options"):
    P.coso_end_task(tx.init(params))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_coso_projection_behind_any_optimizer(name):
  params = {"w": jnp.asarray(W)}
  tx = optax.chain(P.coso(2, 2), OPTIMIZERS[name](), P.coso_projection())
  state, step = tx.init(params), jax.jit(tx.update)
  for g in G:  # momenta of the first task are carried over the boundary
    _, state = step({"w": jnp.asarray(g)}, state, params)
  state = P.coso_end_task(state, 1.0)
  history = np.asarray(state[0].kernels["w"].history)
  assert int(state[0].kernels["w"].rank) == 2
  for g in G:
    updates, state = step({"w": jnp.asarray(g[::-1])}, state, params)
    u = np.asarray(updates["w"])
    assert np.abs(u).max() > 1e-3
    assert np.abs(u @ history).max() < 1e-5 * np.abs(u).max()
