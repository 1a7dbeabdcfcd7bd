import importlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cljax.core.types import UsageError
from cljax.projectors import coso, coso_end_task

ROWS, OUT, RANK, SKETCH = 9, 7, 2, 3
EPS = np.finfo(np.float32).eps


def grads(seed, rank=None):
  rng = np.random.default_rng(seed)
  g = rng.normal(size=(ROWS, OUT)) if rank is None else rng.normal(size=(ROWS, rank)) @ rng.normal(size=(rank, OUT))
  return {"w": jnp.asarray(g, jnp.float32)}


@pytest.fixture(scope="module")
def program():
  tx = coso(RANK, SKETCH)
  return tx, jax.jit(tx.update), jax.jit(coso_end_task, static_argnames="rule")


def run(program, state, seeds, rank=None):
  updates = []
  for s in seeds:
    u, state = program[1](grads(s, rank), state)
    updates.append(np.asarray(u["w"], np.float64))
  return updates, state


def test_updates_stay_off_the_history_and_bases_stay_orthonormal(program):
  state, total = program[0].init(grads(0)), 0
  for task in range(3):
    history = np.asarray(state.kernels["w"].history, np.float64)
    updates, state = run(program, state, range(10 * task, 10 * task + 4))
    k = state.kernels["w"]
    for u in updates:
      assert np.abs(u @ history).max() < 100 * EPS * np.abs(u).max()
    axes = np.asarray(k.axes, np.float64)
    used = np.abs(axes).sum(0) > 0
    assert np.abs(axes.T @ axes - np.diag(used.astype(float))).max() < 20 * EPS
    assert np.abs(history.T @ axes).max() < 20 * EPS
    if task == 0:
      assert used.all()
      assert np.linalg.matrix_rank(sum(updates), tol=1e-4) > RANK  # the sum of low-rank steps is not low-rank
    state = program[2](state, 0.98)
    new = int(state.kernels["w"].rank)
    assert total < new <= OUT or total == OUT
    total = new
    basis = np.asarray(state.kernels["w"].history, np.float64)
    assert np.abs(basis.T @ basis - np.diag(np.arange(OUT) < new)).max() < 20 * EPS
    assert int(state.count) == 0
    assert not np.any(state.kernels["w"].mu)


def test_nothing_moves_once_the_history_is_full(program):
  """A gradient inside the history leaves only rounding, which Adam would scale up to full steps."""
  state = program[0].init(grads(0))
  full = jnp.asarray(np.linalg.qr(np.random.default_rng(0).normal(size=(OUT, OUT)))[0], jnp.float32)
  state = state._replace(kernels={"w": state.kernels["w"]._replace(history=full, rank=jnp.asarray(OUT))})
  updates, _ = run(program, state, range(3))
  assert max(np.abs(u).max() for u in updates) < 1e-6


def test_first_task_is_adam_in_the_gradient_subspace(program):
  """At full subspace rank of a rank-2 gradient, P P^T g = g: the first step is Adam's, in rotated coordinates."""
  g = grads(3, rank=RANK)
  u, _ = program[1](g, program[0].init(g))
  a = np.asarray(g["w"], np.float64)
  left = np.linalg.svd(a.T)[0][:, :RANK]
  small = a @ left
  np.testing.assert_allclose(u["w"], small / (np.abs(small) + 1e-6) @ left.T, atol=1e-3)


def test_signs_of_singular_vectors_do_not_matter(monkeypatch):
  """Where the SVD turns vectors round at random, steps are the same: moments stay with the side of their axis."""
  module = importlib.import_module("cljax.projectors.coso")  # the package has the function under this name
  rng, svd = np.random.default_rng(0), module._left

  def turned(a):
    u, sigma = svd(a)
    return u * rng.choice([-1.0, 1.0], u.shape[1]).astype(np.float32), sigma

  def steps():
    tx = coso(RANK, SKETCH)
    state, out = tx.init(grads(0)), []
    for seed in (0, 1, 2, 0):
      updates, state = tx.update(grads(seed), state)
      out.append(np.asarray(updates["w"]))
    return out

  want = steps()
  monkeypatch.setattr(module, "_left", turned)
  for _ in range(3):
    np.testing.assert_allclose(steps(), want, atol=1e-4)


def test_sketch_brackets_the_covariance(program):
  """``0 <= sum G^T G - S S^T <= shrinkage I`` (here gradients are ``[in, out]``)."""
  state = program[0].init(grads(0))
  _, state = run(program, state, range(6))
  k = state.kernels["w"]
  covariance = sum(np.asarray(grads(s)["w"], np.float64).T @ np.asarray(grads(s)["w"], np.float64) for s in range(6))
  sketch = np.asarray(k.sketch, np.float64)
  values = np.linalg.eigvalsh(covariance - sketch @ sketch.T)
  assert values.min() > -1e-4 * covariance.trace()
  assert values.max() <= float(k.shrinkage) * (1 + 1e-4)
  assert 0 < float(k.shrinkage) < 2 * covariance.trace()
  want = np.zeros((OUT, SKETCH))
  for s in range(6):
    want = frequent_directions(np.concatenate([want, frequent_directions(np.asarray(grads(s)["w"]).T)], 1))
  np.testing.assert_allclose(sketch @ sketch.T, want @ want.T, atol=1e-4 * covariance.trace())


def frequent_directions(a):
  u, sigma, _ = np.linalg.svd(a.astype(np.float64), full_matrices=False)
  return u[:, :SKETCH] * np.sqrt(sigma[:SKETCH] ** 2 - sigma[SKETCH] ** 2)


def test_released_rule_keeps_one_fewer_and_every_reuses_the_axes(program):
  _, state = run(program, program[0].init(grads(0)), range(3))
  reach, released = (program[2](state, 0.7, rule=r).kernels["w"].rank for r in ("reach", "released"))
  assert int(reach) == int(released) + 1
  tx = coso(RANK, SKETCH, every=2)
  step = jax.jit(tx.update)
  _, one = step(grads(0), tx.init(grads(0)))
  _, two = step(grads(1), one)
  _, three = step(grads(2), two)
  np.testing.assert_array_equal(one.kernels["w"].axes, two.kernels["w"].axes)
  assert np.any(two.kernels["w"].axes != three.kernels["w"].axes)


def test_errors_and_partition():
  with pytest.raises(UsageError, match="'b' has shape"):
    coso(2, 2).init({"w": jnp.ones((3, 3)), "b": jnp.ones(3)})
  with pytest.raises(UsageError, match="at least 4"):
    coso(2, 4).init({"w": jnp.ones((3, 3))})
  with pytest.raises(UsageError, match="rule"):
    coso_end_task((), rule="other")
  params = {"w": jnp.ones((5, 4)), "b": jnp.ones(4)}
  tx = optax.partition(
    {"coso": optax.chain(coso(2, 2), optax.scale(-0.1)), "sgd": optax.sgd(0.1)}, {"w": "coso", "b": "sgd"}
  )
  updates, state = jax.jit(tx.update)(params, tx.init(params), params)
  np.testing.assert_allclose(updates["b"], -0.1)
  coso_end_task(state)
