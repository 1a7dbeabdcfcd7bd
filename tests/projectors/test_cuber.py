import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cljax.core.types import UsageError
from cljax.projectors import cuber, cuber_end_task, cuber_start_task, gpm, gpm_extend, scaled_projection

D, C, LAMBDA = 6, 3, 0.5
EYE = np.eye(D, dtype=np.float32)


def tree(kernel, bias=1.0):
  return {"kernel": jnp.asarray(kernel, jnp.float32), "bias": jnp.full(C, bias)}


def normal(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.fixture(scope="module")
def program():
  tx = cuber(3, 2, strength=LAMBDA)
  return tx, jax.jit(tx.update), jax.jit(cuber_start_task), jax.jit(cuber_end_task)


@pytest.fixture(scope="module")
def stored(program):
  """Two old tasks: inputs along axes 0, 1 and along 1, 2; gradients W0 = ones on their own span."""
  tx, _, _, end = program
  state = tx.init(tree(np.zeros((D, C))))
  for axes in ([0, 1], [1, 2]):
    gradient = np.zeros((D, C))
    gradient[axes] = 1.0
    state = end(state, {"kernel": jnp.asarray(EYE[axes] * [[1.0], [2.0]])}, tree(gradient), 1.0)
  return state


def regimes(program, stored, gradient, sufficient=0.5, positive=0.0):
  state = program[2](stored, tree(np.zeros((D, C))), tree(gradient), sufficient, positive)
  return state, list(np.asarray(state.kernels["kernel"].regime))


def test_first_task_is_bit_equal(program):
  tx, update, start, _ = program
  g = tree(normal(D, C))
  state = start(tx.init(g), g, g, 0.5, 0.0)
  out, _ = update(g, state, g)
  assert all(np.asarray(out[k]).tobytes() == np.asarray(g[k]).tobytes() for k in g)


def test_the_three_regimes(program, stored):
  away = np.zeros((D, C))
  away[4] = 1.0  # lies in neither span
  assert regimes(program, stored, away)[1] == [1, 1, 0]
  first = np.zeros((D, C))
  first[0] = 1.0
  assert regimes(program, stored, first)[1] == [3, 1, 0]
  assert regimes(program, stored, -first)[1] == [2, 1, 0]
  both = np.zeros((D, C))
  both[1] = 1.0
  assert regimes(program, stored, both)[1] == [3, 3, 0]
  assert regimes(program, stored, both, sufficient=1.5)[1] == [1, 1, 0]
  assert regimes(program, stored, both, positive=0.9)[1] == [2, 2, 0]  # the cosine is 0.71


def test_blocked_inputs_keep_their_outputs_and_open_ones_may_move(program, stored):
  g = np.zeros((D, C))
  g[0] = 1.0
  state, regime = regimes(program, stored, g)
  assert regime == [3, 1, 0]
  noise = normal(D, C, seed=1)
  w = tree(np.zeros((D, C)))
  out, _ = program[1](tree(noise), state, w)
  got = np.asarray(out["kernel"])
  assert np.abs(got[[1, 2]]).max() < 1e-6  # axis 1 lies in both spans: blocked wins
  np.testing.assert_allclose(got[[0, 3, 4, 5]], noise[[0, 3, 4, 5]], atol=1e-6)
  assert not np.any(out["bias"])
  # Moved weights are pulled back inside the open span: gradient 2 lambda S S^T (W - W_start).
  moved = normal(D, C, seed=2)
  pulled = np.asarray(program[1](tree(noise), state, tree(moved))[0]["kernel"])
  np.testing.assert_allclose(pulled[0], noise[0] + 2 * LAMBDA * moved[0], atol=1e-5)
  np.testing.assert_allclose(pulled[3:], noise[3:], atol=1e-6)


def test_disagreeing_tasks_are_blocked(program, stored):
  g = np.zeros((D, C))
  g[0] = -1.0
  state, regime = regimes(program, stored, g)
  assert regime == [2, 1, 0]
  got = np.asarray(program[1](tree(normal(D, C, seed=1)), state, tree(np.zeros((D, C))))[0]["kernel"])
  assert np.abs(got[:3]).max() < 1e-6
  np.testing.assert_allclose(got[3:], normal(D, C, seed=1)[3:], atol=1e-6)


def test_old_loss_does_not_rise_to_first_order_in_regime_three(program, stored):
  g = np.zeros((D, C))
  g[1] = normal(C, seed=3) + 1.0
  state, regime = regimes(program, stored, g)
  out, _ = program[1](tree(g), state, tree(np.zeros((D, C))))
  for j in range(2):
    assert regime[j] == 3
    assert np.sum(np.asarray(state.kernels["kernel"].gradients[j]) * np.asarray(out["kernel"])) >= 0


def test_sufficient_above_one_is_gpm(program):
  tx, update, start, end = program
  xs = [normal(2, D, seed=s) for s in (4, 5)]
  state, other = tx.init(tree(np.zeros((D, C)))), gpm()
  memory, extend = other.init(tree(np.zeros((D, C)))), jax.jit(gpm_extend)
  for x in xs:
    state = end(state, {"kernel": x}, tree(normal(D, C)), 1.0)
    memory = extend(memory, {"kernel": x}, 1.0)
  w, g = tree(normal(D, C, seed=6)), tree(normal(D, C, seed=7))
  state = start(state, w, g, 1.5, 0.0)
  ours, theirs = update(g, state, w)[0], other.update(g, memory)[0]
  np.testing.assert_allclose(ours["kernel"], theirs["kernel"], atol=1e-5)
  np.testing.assert_array_equal(ours["bias"], theirs["bias"])


def test_anchor_is_a_copy_and_scaled_projection(program, stored):
  w = tree(normal(D, C))
  state = program[2](stored, w, w, 0.5, 0.0)
  pointer = w["kernel"].unsafe_buffer_pointer()
  assert state.kernels["kernel"].anchor.unsafe_buffer_pointer() != pointer
  basis, kernel = EYE[:, :2], normal(D, C)
  np.testing.assert_allclose(scaled_projection(kernel, basis, np.eye(2, dtype=np.float32)), kernel, atol=1e-6)
  np.testing.assert_allclose(
    scaled_projection(kernel, basis, 3 * np.eye(2, dtype=np.float32))[:2], 3 * kernel[:2], atol=1e-5
  )


def test_errors(program, stored):
  tx, _, _, _ = program
  w = tree(np.zeros((D, C)))
  with pytest.raises(UsageError, match="needs the parameters"):
    tx.update(w, stored)
  with pytest.raises(UsageError, match="layer_inputs: 'kernel' is missing"):
    cuber_end_task(stored, {}, w)
  with pytest.raises(UsageError, match="grads: 'kernel' is nothing"):
    cuber_start_task(stored, w, {"bias": w["bias"]})
  full = stored._replace(tasks=jnp.asarray(3))
  with pytest.raises(UsageError, match="fewer than 3"):
    cuber_end_task(full, {"kernel": jnp.ones((1, D))}, w)
