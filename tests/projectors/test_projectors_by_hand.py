"""Projectors against NumPy that is written from the papers, in float64: states, updates and what tasks add to them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from projected_by_hand import C, D, draw, flat, kernel_and_bias, stack

from cljax import projectors as P

from .test_qp import enumerate_sets


@pytest.fixture(autouse=True)
def double():
  with jax.enable_x64(True):
    yield


def test_agem_on_updates_removes_what_would_raise_the_reference_loss():
  u, r = kernel_and_bias(0), kernel_and_bias(1)
  for sign in (1, -1):
    ref = jax.tree.map(lambda x, s=sign: s * x, r)
    tx = P.on_update(P.agem())
    got, state = tx.update(u, tx.init(u), u, references={"memory": ref})
    a, b = flat(u), flat(ref)
    np.testing.assert_allclose(flat(got), a - max(a @ b, 0) / (b @ b) * b, rtol=1e-12)
    assert int(state.projected) == (a @ b > 0)


def test_er_gem_with_one_reference():
  g, r = flat(kernel_and_bias(0)), -flat(kernel_and_bias(0)) + 0.1 * flat(kernel_and_bias(1))
  trees = [{"w": jnp.asarray(v)} for v in (g, r)]
  for options, margin, ridge in (({}, 0.5, 1e-3), ({"margin": 2.0, "ridge": 3.0}, 2.0, 3.0)):
    tx = P.er_gem(**options)
    got, state = tx.update(trees[0], tx.init(trees[0]), references={"replay": trees[1]})
    np.testing.assert_allclose(got["w"], g + max(margin, -(r @ g) / (r @ r + ridge)) * r, rtol=1e-7)
    assert int(state.projected) == 1


def test_the_residual_of_the_program_is_reported():
  """At the size of rounding, and 0 where nothing fires."""
  g, found = kernel_and_bias(0), {"gem": [], "geometric": []}
  for seed in range(4):
    rows = jax.tree.map(lambda a, b: a - 0.5 * b, stack(*range(10 * seed + 1, 10 * seed + 5)), g)
    for name, tx, refs in (
      ("gem", P.gem(margin=0.0, ridge=0.0), {"memory": rows}),
      ("geometric", P.geometric_disentanglement(), {"retain": jax.tree.map(jnp.negative, rows)}),
    ):
      state = tx.update(g, tx.init(g), references=refs)[1]
      assert int(state.projected) == 1
      found[name].append(float(state.kkt))
      quiet = {"memory": jax.tree.map(jnp.asarray, g), "retain": jax.tree.map(lambda x: -jnp.asarray(x), g)}
      assert float(tx.update(g, state, references=quiet)[1].kkt) == 0
  assert all(0 < max(v) < 1e-13 for v in found.values()), found


def test_weights_of_the_current_loss():
  np.testing.assert_allclose([P.current_weight(t) for t in range(4)], [1, 1 / 2, 1 / 3, 1 / 4])


def test_ogd_removes_the_span_of_stored_directions():
  rows, g = stack(1, 2, 3), kernel_and_bias(4)
  rows = jax.tree.map(lambda x: np.concatenate([x[:2], 3 * x[:1] - x[1:2], x[2:], 0 * x[:1]]), rows)
  tx = P.ogd(3)
  state = P.ogd_extend(tx.init(g), rows)
  q = np.linalg.qr(flat(rows, 1)[[0, 1, 3]].T)[0]
  np.testing.assert_allclose(flat(tx.update(g, state)[0]), flat(g) - q @ (q.T @ flat(g)), atol=1e-12)
  np.testing.assert_allclose(np.abs(flat(state.basis, 1) @ q), np.eye(3), atol=1e-12)
  assert (int(state.rank), int(state.dropped)) == (3, 0)
  small = P.ogd(2)
  state = P.ogd_extend(P.ogd_extend(small.init(g), rows), rows)
  q = q[:, :2]
  np.testing.assert_allclose(flat(small.update(g, state)[0]), flat(g) - q @ (q.T @ flat(g)), atol=1e-12)
  assert (int(state.rank), int(state.dropped)) == (2, 2)


def test_directions_of_any_size_and_with_zeros_are_stored():
  g = kernel_and_bias(4)
  e = np.zeros((3, D * C + C))
  e[[0, 1, 2], [5, 2, 7]] = [1e200, 1e-200, -1.0]
  rows = {"bias": jnp.asarray(e[:, :C]), "kernel": jnp.asarray(e[:, C:].reshape(3, D, C))}
  tx = P.ogd(5)
  state = P.ogd_extend(tx.init(g), rows)
  want = flat(g).copy()
  want[[5, 2, 7]] = 0
  assert int(state.rank) == 3
  np.testing.assert_allclose(flat(tx.update(g, state)[0]), want, atol=1e-12)


def test_part_of_a_tree_takes_its_part_of_the_directions():
  import optax

  g, rows = kernel_and_bias(4), stack(1, 2, 3)
  k = rows["kernel"].reshape(3, -1)
  for extend, q in (
    (P.ogd_extend, np.linalg.qr(k.T)[0]),
    (lambda s, r: P.pca_ogd_extend(s, r, 2), np.linalg.svd(k)[2][:2].T),
  ):
    tx = optax.masked(P.ogd(4), {"kernel": True, "bias": False})
    got, _ = tx.update(g, extend(tx.init(g), rows))
    want = g["kernel"].ravel() - q @ (q.T @ g["kernel"].ravel())
    np.testing.assert_allclose(np.ravel(got["kernel"]), want, atol=1e-10)
    np.testing.assert_array_equal(got["bias"], g["bias"])


@pytest.mark.parametrize("center", [False, True])
def test_pca_ogd_removes_the_leading_directions(center):
  gradients, g = stack(*range(8)), kernel_and_bias(20)
  gradients = jax.tree.map(lambda x: x + 1.0, gradients)
  tx = P.pca_ogd(4)
  state = P.pca_ogd_extend(tx.init(g), gradients, 2, center)
  a = flat(gradients, 1)
  v = np.linalg.svd(a - center * a.mean(0))[2][:2]
  np.testing.assert_allclose(flat(tx.update(g, state)[0]), flat(g) - v.T @ (v @ flat(g)), atol=1e-10)
  assert int(state.rank) == 2
  got = flat(P.principal_directions(gradients, 2, center), 1)
  np.testing.assert_allclose(np.abs(got @ v.T), np.diag(np.linalg.svd(a - center * a.mean(0))[1][:2]), atol=1e-8)


def test_bytes_of_bases():
  params = {"a": jnp.ones((4, 3), jnp.float32), "b": jnp.ones(5, jnp.bfloat16), "c": jnp.ones(2, jnp.float64)}
  assert P.basis_bytes(params, 7) == 7 * (4 * 12 + 4 * 5 + 8 * 2)
  assert P.basis_bytes(params, 7) == sum(x.nbytes for x in jax.tree.leaves(P.ogd(7).init(params).basis))
  kernels = {"a": jnp.ones((4, 3), jnp.float32), "b": jnp.ones(5), "c": jnp.ones((2, 3, 5), jnp.float64)}
  assert P.gpm_bytes(kernels) == 4 * 4 * 4 + 8 * 6 * 6
  assert P.gpm_bytes(kernels, 5, lambda p: p == "a") == 8 * 6 * 5
  assert P.gpm_bytes(kernels, layout="out_in") == 4 * 3 * 3 + 8 * 15 * 15


def test_what_is_empty_passes_anything_to_the_bit():
  """Infinities too, which a product with an empty basis would make NaN."""
  u = {"kernel": jnp.asarray(np.where(draw(D, C) > 1, np.inf, -np.abs(draw(D, C)))).at[0, 0].set(-0.0)}
  makers = [P.coso_projection(), P.cuber_projection(2, 2), P.cuber_pull(2, 2), P.cuber(2, 2), P.gpm(), P.ogd(2)]
  for tx in makers:
    got, _ = tx.update(u, tx.init(u), u)
    assert np.asarray(got["kernel"]).tobytes() == np.asarray(u["kernel"]).tobytes()


@pytest.mark.parametrize("constraint", ["descent", "orthogonal"])
def test_geometric_update_is_the_nearest_in_adams_metric(constraint):
  """Two present retain gradients and two past ones, against the dual program solved by enumeration."""
  import optax

  adam = optax.adam(0.1)
  opt_state = adam.init(kernel_and_bias(0))
  for s in range(3):
    _, opt_state = adam.update(jax.tree.map(lambda x, s=s: (s + 1) * jnp.asarray(x), kernel_and_bias(s)), opt_state)
  metric = np.sqrt(flat(opt_state[0].nu)) + 0.1
  tx = P.geometric_disentanglement(constraint=constraint, history=2, epsilon=0.1)
  d = flat(kernel_and_bias(9))
  state, fired = tx.init(kernel_and_bias(0)), 0
  past = np.zeros((2, len(d)))
  for step in range(3):
    now = stack(40 + 2 * step, 41 + 2 * step)
    got, state = tx.update(
      kernel_and_bias(9), state, None, references={"retain": now}, optimizer_state={"base": opt_state}
    )
    a = np.concatenate([flat(now, 1), past])
    past = a[:2]
    a = a[np.any(a != 0, 1)]
    gram = a @ (a / metric).T
    v = np.linalg.solve(gram, a @ d) if constraint == "orthogonal" else enumerate_sets(gram, -a @ d, 0.0)[0]
    np.testing.assert_allclose(flat(got), d - v @ (a / metric), atol=1e-7)
    np.testing.assert_allclose(flat(state.past, 1), past)
    fired += bool(np.any(a @ d > 0)) if constraint == "descent" else 1
    assert int(state.projected) == fired


def null_space(a):
  return scipy.linalg.null_space(a)


def test_ideal_set_against_its_null_spaces():
  """NumPy keeps ``N_t`` itself: ``a = argmin |X (w + N a) - y|``, ``w += N a``, ``N <- N null(X N)``."""
  p, c = 7, 2
  x = [draw(2, p, seed=1), draw(3, p, seed=2), draw(2, p, seed=3)]
  x[1][2] = x[1][0] - 2 * x[1][1]  # dependent rows, with targets that contradict each other
  x[2][1] = x[0][0] + x[1][0]  # nothing new
  w, n = draw(p, c, seed=9), np.eye(p)
  state = P.ideal_init(jnp.asarray(w))
  np.testing.assert_array_equal(state.weights, w)
  assert (int(state.rank), np.any(state.basis)) == (0, False)
  for t, rows in enumerate(x):
    y = draw(len(rows), c, seed=20 + t)
    state = P.ideal_learn(state, rows, y)
    w = w + n @ (np.linalg.pinv(rows @ n, rcond=1e-10) @ (y - rows @ w))
    n = n @ null_space(rows @ n)
    np.testing.assert_allclose(state.weights, w, atol=1e-9)
    np.testing.assert_allclose(state.basis @ state.basis.T, np.eye(p) - n @ n.T, atol=1e-9)
    assert int(state.rank) == p - n.shape[1]
    free = draw(p, c, seed=30 + t)
    np.testing.assert_allclose(P.ideal_member(state, free), w + n @ n.T @ free, atol=1e-9)
  rows = np.diag([2.0, 0.5, 0, 0, 0, 0, 0])[:2]
  loose = P.ideal_learn(P.ideal_init(jnp.zeros((p, c))), rows, np.ones((2, c)), tolerance=0.3)
  np.testing.assert_allclose(loose.weights, np.outer(np.eye(p)[0], [0.5, 0.5]), atol=1e-12)
  assert int(loose.rank) == 1
  start = P.ideal_init(jnp.zeros((p, c), jnp.float32))
  small = P.ideal_learn(start, np.diag(np.float32([1.0, 5e-7] + [0.0] * 5))[:2], np.ones((2, c), np.float32))
  assert int(small.rank) == 1  # of seven numbers, 7 eps is 8e-7 and 2 eps 2e-7
  nothing = P.ideal_learn(start, np.zeros((2, p), np.float32), np.ones((2, c), np.float32))
  assert int(nothing.rank) == 0
  np.testing.assert_array_equal(nothing.weights, 0)


def test_overlaps_are_the_cosines_of_the_angles_between_row_spaces():
  a, b = draw(3, D), draw(4, D, seed=1)
  angles = scipy.linalg.subspace_angles(a.T, b.T)
  got = np.linalg.svd(P.ntk_overlap(a, b), compute_uv=False)
  np.testing.assert_allclose(got, np.sort(np.cos(angles))[::-1], atol=1e-10)
  assert P.ntk_overlap(a, b).shape == (3, 4)


@pytest.mark.parametrize("ridge", [0.0, 0.3])
def test_forgetting_is_that_of_ridge_regression(ridge):
  s, t, residual = draw(3, D), draw(2, D, seed=1), draw(2, 2, seed=2)
  for rows, left in ((t, residual), (t, residual[:, 0]), (np.concatenate([t, t[:1]]), residual[[0, 1, 0]])):
    gram = rows @ rows.T + ridge * np.eye(len(rows))
    moved = s @ rows.T @ np.linalg.pinv(gram, rcond=1e-10) @ left
    np.testing.assert_allclose(P.ntk_forgetting(s, rows, left, ridge), np.sum(moved**2), rtol=1e-9)


def test_forgetting_has_a_slope_in_the_ridge():
  """With a row of zeros too, whose singular value is 0: against a difference quotient in NumPy."""
  s, t, residual = draw(3, D), np.diag([2.0, 0.5, 0, 0, 0, 0])[:3], draw(3, seed=2)
  u, sigma, v = np.linalg.svd(t, full_matrices=False)
  u, sigma, v = u[:, :2], sigma[:2], v[:2]
  value = lambda ridge: np.sum((s @ v.T @ (sigma / (sigma**2 + ridge) * (u.T @ residual))) ** 2)
  slope = jax.grad(lambda ridge: P.ntk_forgetting(s, t, residual, ridge))(0.0)
  np.testing.assert_allclose(slope, (value(1e-5) - value(-1e-5)) / 2e-5, rtol=1e-6)


@pytest.mark.parametrize("gamma", [1.0, 2.0])
def test_adaptive_orthogonality_of_quadratic_losses(gamma):
  """``g = A p - b``, whose derivative is A: value and gradient in closed form."""
  a, b = [m @ m.T for m in draw(2, 5, 5)], draw(2, 5, seed=1)
  loss = lambda i: lambda p: 0.5 * p @ a[i] @ p - b[i] @ p
  conflicts = 0
  for seed in range(6):
    p = draw(5, seed=seed)
    g = [a[i] @ p - b[i] for i in (0, 1)]
    size = [np.linalg.norm(v) for v in g]
    c = g[0] @ g[1] / size[0] / size[1]
    value, slope = 0.0, np.zeros(5)
    if c < 0:
      conflicts += 1
      value = ((1 - c) / 2) ** gamma
      along = [g[1 - i] / size[0] / size[1] - c * g[i] / size[i] ** 2 for i in (0, 1)]  # d c / d g_i
      slope = gamma * ((1 - c) / 2) ** (gamma - 1) * -0.5 * sum(a[i] @ along[i] for i in (0, 1))
    penalty = P.adaptive_orthogonality(loss(0), loss(1), gamma)
    got, grad = P.adaptive_orthogonality_grad(loss(0), loss(1), gamma)(jnp.asarray(p))
    np.testing.assert_allclose([penalty(jnp.asarray(p)), got], value, atol=1e-12)
    np.testing.assert_allclose(grad, slope, atol=1e-10)
  assert 0 < conflicts < 6
  tiny = lambda p: -1e-170 * jnp.sum(p)  # its square is 0: no direction, so no conflict
  for first, second in ((tiny, jnp.sum), (jnp.sum, tiny)):
    value, slope = P.adaptive_orthogonality_grad(first, second, gamma)(jnp.ones(2))
    assert (float(value), float(P.adaptive_orthogonality(first, second, gamma)(jnp.ones(2)))) == (0.0, 0.0)
    np.testing.assert_array_equal(slope, 0)
