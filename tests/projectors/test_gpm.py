import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cljax.core.types import UsageError
from cljax.projectors import GPMState, gpm, gpm_bytes, gpm_extend
from cljax.projectors.gpm import extend_basis

DIMS = {"a/kernel": 12, "c/kernel": 18}
EPS = np.finfo(np.float32).eps


def params():
  return {
    "a": {"kernel": jnp.ones((12, 5)), "bias": jnp.ones(5)},
    "c": {"kernel": jnp.ones((3, 3, 2, 4)), "bias": jnp.ones(4)},
    "head": {"kernel": jnp.ones((5, 3)), "bias": jnp.ones(3)},
  }


def skip(path):
  return path.startswith("head/")


def inputs(seed, n=6):
  """``n`` rows, then zero rows up to 6: one shape, so one compilation of the extension."""
  rng = np.random.default_rng(seed)
  return {p: jnp.asarray(rng.normal(size=(6, d)) * (np.arange(6) < n)[:, None], jnp.float32) for p, d in DIMS.items()}


def grads(seed):
  leaves, tree = jax.tree.flatten(params())
  rng = np.random.default_rng(seed)
  return tree.unflatten([jnp.asarray(rng.normal(size=x.shape), jnp.float32) for x in leaves])


extend = jax.jit(gpm_extend, static_argnames="first_task_rule")


def numpy_rank(x, basis, threshold, released):
  """The rule as the paper states it, or as the released code counts the first task."""
  x = np.asarray(x, np.float64).T
  basis = np.asarray(basis, np.float64)
  rest = x - basis @ (basis.T @ x)
  sigma = np.linalg.svd(rest, compute_uv=False)
  total = (x**2).sum()
  if released:
    return int((np.cumsum(sigma**2) / total < threshold).sum())
  captured, r = (total - (rest**2).sum()) / total, 0
  while captured < threshold and r < len(sigma):
    captured += sigma[r] ** 2 / total
    r += 1
  return r


def test_empty_basis_is_bit_equal():
  tx = gpm(skip=skip)
  g = grads(0)
  out, _ = tx.update(g, tx.init(params()))
  for a, b in zip(jax.tree.leaves(g), jax.tree.leaves(out), strict=True):
    assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


@pytest.mark.parametrize("rule", ["reach", "released"])
def test_rank_follows_the_threshold_rule(rule):
  state = gpm(skip=skip).init(params())
  for task in range(3):
    x = inputs(task)
    new = extend(state, x, 0.6, first_task_rule=rule)
    for p in DIMS:
      want = numpy_rank(x[p], state.bases[p], 0.6, rule == "released" and task == 0)
      assert int(new.ranks[p] - state.ranks[p]) == want
    state = new


def test_released_first_task_keeps_one_fewer():
  state, x = gpm(skip=skip).init(params()), inputs(0)
  reach, released = extend(state, x, 0.6), extend(state, x, 0.6, first_task_rule="released")
  assert all(int(reach.ranks[p]) == int(released.ranks[p]) + 1 for p in DIMS)


def test_old_inputs_keep_their_outputs():
  tx = gpm(skip=skip)
  state = tx.init(params())
  seen = [inputs(t, n=3) for t in range(3)]
  for x in seen:
    state = extend(state, x, 1.0)
  out, _ = tx.update(grads(9), state)
  for x in seen:
    for p, kernel in (("a/kernel", out["a"]["kernel"]), ("c/kernel", out["c"]["kernel"])):
      dy = np.asarray(x[p]) @ np.asarray(kernel).reshape(x[p].shape[1], -1)
      assert np.abs(dy).max() < 50 * EPS * np.linalg.norm(x[p]) * np.linalg.norm(grads(9)["c"]["kernel"])
  assert float(jnp.abs(out["a"]["kernel"]).max()) > 0.01  # 9 of 12 directions: something is left to learn with
  np.testing.assert_array_equal(out["head"]["kernel"], grads(9)["head"]["kernel"])
  np.testing.assert_array_equal(out["head"]["bias"], grads(9)["head"]["bias"])
  assert not np.any(out["a"]["bias"])


def test_freeze_vectors_off_moves_biases():
  tx = gpm(skip=skip, freeze_vectors=False)
  state = extend(tx.init(params()), inputs(0), 0.9)
  np.testing.assert_array_equal(tx.update(grads(1), state)[0]["a"]["bias"], grads(1)["a"]["bias"])


def test_energy_bound_of_what_is_not_captured():
  """|X dW|_F^2 <= |dW|_2^2 (1 - captured) |X|_F^2."""
  tx, x = gpm(skip=skip), inputs(3)
  state = extend(tx.init(params()), x, 0.8)
  out = np.asarray(tx.update(grads(4), state)[0]["a"]["kernel"], np.float64)
  a, basis = np.asarray(x["a/kernel"], np.float64), np.asarray(state.bases["a/kernel"], np.float64)
  captured = ((a @ basis) ** 2).sum() / (a**2).sum()
  assert captured >= 0.8 - 1e-6
  assert ((a @ out) ** 2).sum() <= np.linalg.norm(out, 2) ** 2 * (1 - captured) * (a**2).sum() * (1 + 1e-4)


def test_orthonormal_after_20_tasks_and_frozen_when_full():
  tx = gpm(skip=skip)
  state, last = tx.init(params()), {p: 0 for p in DIMS}
  for task in range(20):
    # Nearly dependent tasks: the case in which a single orthogonalisation fails.
    x = jax.tree.map(lambda a, b: a + 1e-2 * b, inputs(0, n=2), inputs(100 + task, n=2))
    state = extend(state, x, 0.9999999)
    for p, d in DIMS.items():
      rank, basis = int(state.ranks[p]), np.asarray(state.bases[p], np.float64)
      assert last[p] <= rank <= d
      want = np.diag((np.arange(d) < rank).astype(float))
      assert np.abs(basis.T @ basis - want).max() < 10 * EPS
      last[p] = rank
  assert last == DIMS
  out, _ = tx.update(grads(5), state)
  assert not np.any(out["a"]["kernel"])


def test_many_columns_in_blocks():
  """More columns than one block, the last one overlapping, at every kind of rank."""
  tx = gpm(max_rank=150)
  rng = np.random.default_rng(0)
  basis = np.linalg.qr(rng.normal(size=(160, 150)))[0].astype(np.float32)
  g = jnp.asarray(rng.normal(size=(160, 2)), jnp.float32)
  update = jax.jit(tx.update)
  for rank in (0, 1, 64, 65, 128, 150):
    kept = jnp.asarray(basis * (np.arange(150) < rank))
    state = tx.init(g)._replace(bases={"": kept}, ranks={"": jnp.asarray(rank)}, tasks=jnp.asarray(1))
    np.testing.assert_allclose(update(g, state)[0], g - basis[:, :rank] @ (basis[:, :rank].T @ g), atol=1e-5)


def test_orthonormal_where_tasks_mix_large_and_tiny_inputs():
  """Singular vectors of small values carry the rounding of the large ones: they must be orthogonalised again."""
  grow = jax.jit(extend_basis)
  for seed in range(40):
    rng = np.random.default_rng(seed)
    basis, rank = jnp.zeros((40, 40)), jnp.asarray(0)
    first = rng.normal(size=40)
    for _ in range(6):
      x = rng.normal(size=(8, 40)) * 10.0 ** rng.uniform(-4.5, 0, size=(8, 1))
      x[0] += 100 * first
      basis, rank, _ = grow(basis, rank, jnp.asarray(x, jnp.float32), 1.0)
    got = np.asarray(basis, np.float64)
    assert np.abs(got.T @ got - np.diag(np.arange(40) < int(rank))).max() < 8 * EPS


def test_max_rank_drops_and_says_so():
  state = extend(gpm(max_rank=2, skip=skip).init(params()), inputs(0, n=5), 1.0)
  assert {p: (int(state.ranks[p]), int(state.dropped[p])) for p in DIMS} == {p: (2, 3) for p in DIMS}


def test_zero_rows_count_for_nothing():
  padded = inputs(0, n=4)
  x = {p: v[:4] for p, v in padded.items()}
  state = gpm(skip=skip).init(params())
  a, b = extend(state, x, 0.9), extend(state, padded, 0.9)
  for p in DIMS:
    assert int(a.ranks[p]) == int(b.ranks[p])
    span = [np.asarray(s.bases[p] @ s.bases[p].T) for s in (a, b)]
    np.testing.assert_allclose(span[0], span[1], atol=1e-5)
  nothing = extend(state, jax.tree.map(jnp.zeros_like, x), 1.0)
  assert all(int(r) == 0 for r in nothing.ranks.values())


def test_extends_inside_an_optimizer_state_and_under_vmap():
  tx = optax.chain(gpm(skip=skip), optax.sgd(0.1, momentum=0.9))
  state = extend(tx.init(params()), inputs(0), 0.9)
  assert isinstance(state[0], GPMState)
  assert int(state[0].tasks) == 1
  inner = gpm(skip=skip).init(params())
  pair = jax.tree.map(lambda a, b: jnp.stack([a, b]), inputs(0), inputs(1))
  both = jax.jit(jax.vmap(lambda x: gpm_extend(inner, x, 0.7)))(pair)
  for i in range(2):
    alone = extend(inner, inputs(i), 0.7)
    assert all(int(both.ranks[p][i]) == int(alone.ranks[p]) for p in DIMS)


def test_bytes_and_errors():
  tx = gpm(max_rank=4, skip=skip)
  state = tx.init(params())
  assert gpm_bytes(params(), 4, skip) == sum(b.nbytes for b in state.bases.values()) == 4 * 4 * (12 + 18)
  x = inputs(0)
  with pytest.raises(UsageError, match="'c/kernel' is missing"):
    gpm_extend(state, {"a/kernel": x["a/kernel"]}, 0.9)
  with pytest.raises(UsageError, match=r"expected \[n, 12\]"):
    gpm_extend(state, {**x, "a/kernel": x["c/kernel"]}, 0.9)
  with pytest.raises(UsageError, match="no GPMState"):
    gpm_extend(optax.sgd(0.1).init(params()), x, 0.9)
  with pytest.raises(UsageError, match="threshold: got"):
    gpm_extend(state, x, 1.5)
  with pytest.raises(UsageError, match="first_task_rule"):
    gpm_extend(state, x, 0.9, first_task_rule="other")
