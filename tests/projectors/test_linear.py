"""Models linear in the parameters: zero forgetting, the overlap formula and the ideal learner hold exactly."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cljax.projectors import gpm, gpm_extend, ogd, ogd_extend, pca_ogd_extend, principal_directions
from cljax.theory import ideal_init, ideal_learn, ideal_member, ntk_forgetting, ntk_overlap

P, N, TASKS = 24, 5, 4


@pytest.fixture(autouse=True)
def double():
  with jax.enable_x64(True):
    yield


def tasks(seed=0, outputs=1):
  rng = np.random.default_rng(seed)
  return [(jnp.asarray(rng.normal(size=(N, P))), jnp.asarray(rng.normal(size=(N, outputs)))) for _ in range(TASKS)]


def descend(tx, w, state, x, y, steps=400):
  """Projected gradient descent on ``|x w - y|^2 / 2``."""

  def step(carry, _):
    w, state = carry
    updates, state = tx.update(x.T @ (x @ w - y), state, w)
    return (w + updates, state), None

  return jax.lax.scan(step, (w, state), None, length=steps)[0]


def learn(tx, extend, stream, steps=400):
  """Weights after each task; ``extend(state, x)`` at each boundary."""
  w, state, out = jnp.zeros((P, stream[0][1].shape[1])), tx.init(jnp.zeros((P, stream[0][1].shape[1]))), []
  run = jax.jit(
    lambda w, state, x, y, rate: descend(
      optax.chain(tx, optax.scale(-rate)), w, (state, optax.EmptyState()), x, y, steps
    )
  )
  for x, y in stream:
    w, (state, _) = run(w, state, x, y, 1.0 / jnp.linalg.norm(x, 2) ** 2)
    state = extend(state, x)
    out.append(w)
  return out


def rows(x):
  return x[:, :, None]  # the gradient of each output x_i w, shaped as w [P, 1]


@pytest.fixture(scope="module")
def ogd_weights():
  with jax.enable_x64(True):
    return learn(ogd(TASKS * N), jax.jit(lambda s, x: ogd_extend(s, rows(x))), tasks())


def test_ogd_with_full_memory_never_forgets(ogd_weights):
  stream, weights = tasks(), ogd_weights
  for i, (x, y) in enumerate(stream):
    assert jnp.abs(x @ weights[i] - y).max() < 1e-3  # it did learn
    for w in weights[i:]:
      assert jnp.abs(x @ (w - weights[i])).max() < 1e-10
  plain = learn(ogd(1), lambda s, x: s, stream)
  assert jnp.abs(stream[0][0] @ (plain[-1] - plain[0])).max() > 0.1  # without memory it does forget


def test_gpm_with_full_memory_never_forgets_and_equals_ogd(ogd_weights):
  stream = [(x, jnp.concatenate([y, -2 * y], 1)) for x, y in tasks()]
  wrap = jax.jit(lambda s, x: gpm_extend(s, {"": x}, 1.0))
  weights = learn(gpm(), wrap, stream)
  for i, (x, _) in enumerate(stream):
    assert all(jnp.abs(x @ (w - weights[i])).max() < 1e-10 for w in weights[i:])
  np.testing.assert_allclose(weights[-1][:, :1], ogd_weights[-1], atol=1e-10)


@pytest.mark.parametrize("ridge", [0.0, 0.5])
def test_forgetting_equals_the_overlap_formula(ridge):
  """Measured by running gradient descent to convergence, against the closed form."""
  (xs, ys), (xt, yt) = tasks(1, outputs=2)[:2]
  start = jnp.linalg.pinv(xs) @ ys
  rate = 1.0 / (float(jnp.linalg.norm(xt, 2)) ** 2 + ridge)
  end, _ = jax.lax.scan(
    lambda w, _: (w - rate * (xt.T @ (xt @ w - yt) + ridge * (w - start)), None), start, None, length=4000
  )
  measured = jnp.sum((xs @ (end - start)) ** 2)
  formula = ntk_forgetting(xs, xt, yt - xt @ start, ridge)
  assert measured > 0.1
  assert abs(measured - formula) < 1e-8


@pytest.mark.parametrize("kept", [2, N])
def test_pca_ogd_leaves_the_residual_overlap(kept):
  (xs, ys), (xt, yt) = tasks(2)[:2]
  tx = ogd(N)
  start = jnp.linalg.pinv(xs) @ ys
  state = pca_ogd_extend(tx.init(start), rows(xs), kept)
  run = jax.jit(
    lambda: descend(
      optax.chain(tx, optax.scale(-1.0 / jnp.linalg.norm(xt, 2) ** 2)), start, (state, optax.EmptyState()), xt, yt, 4000
    )
  )
  end, _ = run()
  basis = state.basis[:, :, 0]
  assert int(state.rank) == kept
  measured = jnp.sum((xs @ (end - start)) ** 2)
  left = xt - xt @ basis.T @ basis
  assert abs(measured - ntk_forgetting(xs, left, yt - xt @ start)) < 1e-8
  tail = jnp.sum(jnp.linalg.svd(xs, compute_uv=False)[kept:] ** 2)
  assert measured <= tail * jnp.sum((end - start) ** 2) + 1e-12
  if kept == N:
    assert measured < 1e-20


def test_overlap_invariants():
  rng = np.random.default_rng(0)
  q = jnp.asarray(np.linalg.qr(rng.normal(size=(P, P)))[0])
  a, same = rng.normal(size=(4, 4)) @ q[:4], rng.normal(size=(4, 4)) @ q[:4]
  other = rng.normal(size=(4, 4)) @ q[4:8]
  np.testing.assert_allclose(jnp.linalg.svd(ntk_overlap(a, same), compute_uv=False), 1, atol=1e-12)
  np.testing.assert_allclose(ntk_overlap(a, other), 0, atol=1e-12)
  assert jnp.linalg.norm(ntk_overlap(a, jnp.asarray(rng.normal(size=(4, P)))), 2) <= 1 + 1e-12
  assert ntk_forgetting(a, other, jnp.ones(4)) < 1e-24


def test_principal_directions_match_svd_and_centring_drops_the_mean():
  rng = np.random.default_rng(0)
  x = rng.normal(size=(30, P)) + 3.0 * np.eye(P)[0]
  got = np.asarray(principal_directions({"w": jnp.asarray(x).reshape(30, 4, 6)}, 3)["w"]).reshape(3, P)
  _, sigma, vt = np.linalg.svd(x)
  np.testing.assert_allclose(np.linalg.norm(got, axis=1), sigma[:3], rtol=1e-10)
  np.testing.assert_allclose(np.abs((got / sigma[:3, None]) @ vt[:3].T), np.eye(3), atol=1e-8)
  centered = np.asarray(principal_directions(jnp.asarray(x), 3, center=True))
  want = np.linalg.svd(x - x.mean(0))[2][:3]
  got = centered / np.linalg.norm(centered, axis=1, keepdims=True)
  np.testing.assert_allclose(np.abs(got @ want.T), np.eye(3), atol=1e-8)


def test_ideal_learner_keeps_the_exact_set():
  truth = np.random.default_rng(5).normal(size=(P, 2))
  stream = [(x, x @ truth) for x, _ in tasks(3)]
  state, ranks = ideal_init(jnp.zeros((P, 2))), [0]
  step = jax.jit(ideal_learn)
  for i, (x, y) in enumerate(stream):
    state = step(state, x, y)
    ranks.append(int(state.rank))
    free = jnp.asarray(np.random.default_rng(i).normal(size=(P, 2)))
    for old_x, old_y in stream[: i + 1]:  # every member of the set, not only the one reported
      assert jnp.abs(old_x @ ideal_member(state, free) - old_y).max() < 1e-10
  assert ranks == [0, 5, 10, 15, 20]
  multitask = np.linalg.pinv(np.concatenate([x for x, _ in stream])) @ np.concatenate([y for _, y in stream])
  np.testing.assert_allclose(state.weights, multitask, atol=1e-10)
  backwards = ideal_init(jnp.zeros((P, 2)))
  for x, y in stream[::-1]:
    backwards = step(backwards, x, y)
  np.testing.assert_allclose(backwards.weights, state.weights, atol=1e-10)


def test_ideal_learner_without_a_shared_minimiser_is_lexicographic_and_is_projected_descent():
  stream = tasks(4)
  stream.append((stream[0][0], stream[0][1] + 1.0))  # contradicts the first task: the first one wins
  state, step = ideal_init(jnp.zeros((P, 1))), jax.jit(ideal_learn)
  first = None
  for x, y in stream:
    state = step(state, x, y)
    first = state if first is None else first
    assert jnp.abs(stream[0][0] @ state.weights - stream[0][1]).max() < 1e-10
  # A task after the first: descent with gradients projected on the free directions reaches the same point.
  x, y = stream[1]
  tx = ogd(N)
  memory = ogd_extend(tx.init(first.weights), rows(stream[0][0]))
  chain = optax.chain(tx, optax.scale(-1.0 / jnp.linalg.norm(x, 2) ** 2))
  w, _ = jax.jit(lambda: descend(chain, first.weights, (memory, optax.EmptyState()), x, y, 6000))()
  np.testing.assert_allclose(w, step(first, x, y).weights, atol=1e-8)
