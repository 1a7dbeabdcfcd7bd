"""Projectors against NumPy that is written from the papers, in float64: states, updates and what tasks add to them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from cljax import projectors as P

from .test_qp import enumerate_sets

D, C = 6, 3
RNG = np.random.default_rng(7)
INPUTS = [RNG.normal(size=(5, D)) * [2, 1, 1, 0.5, 0.2, 0.1], RNG.normal(size=(5, D)) * [0.1, 2, 0.3, 1, 0.2, 1]]


@pytest.fixture(autouse=True)
def double():
  with jax.enable_x64(True):
    yield


def draw(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape)


def kernel_and_bias(seed):
  return {"bias": draw(C, seed=seed + 100), "kernel": draw(D, C, seed=seed)}


def flat(tree, lead=0):
  return np.concatenate([np.asarray(x).reshape(*np.shape(x)[:lead], -1) for x in jax.tree.leaves(tree)], -1)


def stack(*seeds):
  return jax.tree.map(lambda *x: np.stack(x), *map(kernel_and_bias, seeds))


def reaching(energy, total, open_, threshold):
  """How many of the falling ``energy`` it takes until ``total - open_`` and they make up the share."""
  captured, count = total - open_, 0
  while captured < threshold * total and count < len(energy):
    captured += energy[count]
    count += 1
  return count


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


def test_gpm_over_two_tasks():
  """NumPy: directions of what the basis leaves of the inputs, until the threshold is reached; then ``G - M M^T G``."""
  g = {"a": {"kernel": draw(D, C), "bias": draw(C)}, "b": {"kernel": draw(2, 3, C, seed=1)}, "head": draw(C, 2)}
  skip = lambda path: path == "head"
  for rule in ("reach", "released"):
    tx, levels = P.gpm(skip=skip), {"a/kernel": 0.8, "b/kernel": 0.95}
    state, bases = tx.init(g), {"a/kernel": np.zeros((D, 0)), "b/kernel": np.zeros((D, 0))}
    for task, x in enumerate(INPUTS):
      inputs = {"a/kernel": x, "b/kernel": x[::-1, ::-1], "ignored": x}
      state = P.gpm_extend(state, inputs, levels, rule)
      for path, m in bases.items():
        rows = inputs[path]
        u, s, _ = np.linalg.svd((rows - rows @ m @ m.T).T)
        total = np.sum(rows**2)
        count = reaching(s**2, total, np.sum(s**2), levels[path])
        count -= rule == "released" and task == 0
        bases[path] = np.concatenate([m, u[:, :count]], 1)
        assert int(state.ranks[path]) == bases[path].shape[1] > task
    got, _ = tx.update(g, state)
    m = bases["a/kernel"]
    np.testing.assert_allclose(got["a"]["kernel"], g["a"]["kernel"] - m @ m.T @ g["a"]["kernel"], atol=1e-10)
    m, b = bases["b/kernel"], g["b"]["kernel"].reshape(D, C)
    np.testing.assert_allclose(got["b"]["kernel"], (b - m @ m.T @ b).reshape(2, 3, C), atol=1e-10)
    np.testing.assert_array_equal(got["a"]["bias"], 0)
    np.testing.assert_array_equal(got["head"], g["head"])


def test_cuber_over_three_tasks():
  """NumPy: spans, regimes, the pull inside open spans and the projection off blocked ones; the whole and its parts."""
  strength, seen = 0.3, set()
  old = [kernel_and_bias(1), kernel_and_bias(2)]
  w, moved, g = kernel_and_bias(3), kernel_and_bias(4), kernel_and_bias(5)
  spans = []
  for x in INPUTS:
    u, s, _ = np.linalg.svd(x.T)
    spans.append(u[:, : min(2, reaching(s**2, np.sum(s**2), np.sum(s**2), 0.75))])
  assert [s.shape[1] for s in spans] == [2, 1]
  whole, pull, off = P.cuber(3, 2, strength), P.cuber_pull(3, 2, strength), P.cuber_projection(3, 2)
  states = {"whole": whole.init(w), "parts": (pull.init(w), off.init(w))}
  for x, old_g in zip(INPUTS, old, strict=True):
    states = {k: P.cuber_end_task(s, {"kernel": x}, old_g, 0.75) for k, s in states.items()}
  for seed in range(8):
    new = kernel_and_bias(30 + seed)["kernel"]
    started = {k: P.cuber_start_task(s, w, {"kernel": jnp.asarray(new)}, 0.5, 0.05) for k, s in states.items()}
    regime = []
    for s, old_g in zip(spans, old, strict=True):
      enough = np.linalg.norm(s.T @ new) >= 0.5 * np.linalg.norm(new)
      cosine = np.sum(old_g["kernel"] * new) / np.linalg.norm(old_g["kernel"]) / np.linalg.norm(new)
      regime.append(1 if not enough else 3 if cosine >= 0.05 else 2)
    np.testing.assert_array_equal(started["whole"].kernels["kernel"].regime, [*regime, 0])
    np.testing.assert_array_equal(started["parts"][0].kernels["kernel"].regime, [*regime, 0])
    if tuple(regime) in seen:
      continue
    seen.add(tuple(regime))
    drift = moved["kernel"] - w["kernel"]
    pulled = g["kernel"] + 2 * strength * sum(s @ s.T @ drift for s, r in zip(spans, regime, strict=True) if r == 3)
    shut = [s for s, r in zip(spans, regime, strict=True) if r != 3]
    b = np.linalg.qr(np.concatenate(shut, 1))[0] if shut else np.zeros((D, 1))
    out, _ = whole.update(g, started["whole"], moved)
    np.testing.assert_allclose(out["kernel"], pulled - b @ b.T @ pulled, atol=1e-9)
    np.testing.assert_array_equal(out["bias"], 0)
    middle, _ = pull.update(g, started["parts"][0], moved)
    np.testing.assert_allclose(middle["kernel"], pulled, atol=1e-9)
    np.testing.assert_array_equal(middle["bias"], g["bias"])
    last, _ = off.update(g, started["parts"][1])
    np.testing.assert_allclose(last["kernel"], g["kernel"] - b @ b.T @ g["kernel"], atol=1e-9)
    np.testing.assert_array_equal(last["bias"], 0)
  assert {1, 2, 3} <= {r for pair in seen for r in pair}
  assert any(3 in pair and min(pair) < 3 for pair in seen)


def test_scaled_projection():
  w, q = draw(D, C), draw(2, 2, seed=1)
  s = np.linalg.qr(draw(D, 2, seed=2))[0]
  np.testing.assert_allclose(P.scaled_projection(w, s, q), w - s @ s.T @ w + s @ q @ s.T @ w, atol=1e-12)


def frequent(u, sigma, rank):
  lost = sigma[rank] ** 2 if len(sigma) > rank else 0.0
  return u[:, :rank] * np.sqrt(sigma[:rank] ** 2 - lost)


@pytest.mark.parametrize(("every", "rule"), [(1, "reach"), (2, "released")])
def test_coso_over_two_tasks(every, rule):
  """NumPy: Adam in the leading left directions of what the history leaves of each gradient, and the task's sketch.

  Signs of singular vectors are arbitrary, and moments are kept when the axes change: signs are taken over.
  """
  rank, sketch_rank, b1, b2, epsilon, decay = 2, 3, 0.8, 0.9, 1e-2, 0.7
  out, inputs = 7, 5
  tx, off = P.coso(rank, sketch_rank, every, None, b1, b2, epsilon, decay), P.coso_projection()
  params = {"w": jnp.ones((inputs, out))}
  state, last = tx.init(params), off.init(params)
  m = np.zeros((out, 0))
  for task in range(2):
    sketch, mu, nu = np.zeros((out, sketch_rank)), np.zeros((rank, inputs)), np.zeros((rank, inputs))
    for step in range(3):
      g = draw(inputs, out, seed=10 * task + step) * np.linspace(3, 0.5, out)
      update, state = tx.update({"w": jnp.asarray(g)}, state)
      k = state.kernels["w"]
      a = (np.eye(out) - m @ m.T) @ g.T
      if step % every == 0:
        u, sigma, _ = np.linalg.svd(a, full_matrices=False)
        axes = u[:, :rank] * np.sign(np.sum(u[:, :rank] * np.asarray(k.axes), 0))
        merged = np.concatenate([np.sqrt(decay) * sketch, frequent(u, sigma, sketch_rank)], 1)
        sketch = frequent(*np.linalg.svd(merged, full_matrices=False)[:2], sketch_rank)
      np.testing.assert_allclose(k.axes, axes, atol=1e-9)
      small = axes.T @ a
      mu, nu = b1 * mu + (1 - b1) * small, b2 * nu + (1 - b2) * small**2
      hat = (mu / (1 - b1 ** (step + 1))) / (np.sqrt(nu / (1 - b2 ** (step + 1))) + epsilon)
      np.testing.assert_allclose(update["w"], (axes @ hat).T, atol=1e-8)
      np.testing.assert_allclose(k.sketch @ k.sketch.T, sketch @ sketch.T, atol=1e-8)
    u, sigma, _ = np.linalg.svd(sketch)
    count = reaching(sigma**2, np.sum(sigma**2), np.sum(sigma**2), 0.9) - (rule == "released")
    assert count > 0
    m = np.concatenate([m, u[:, :count]], 1)
    state, last = P.coso_end_task((state, last), 0.9, rule)
    k = state.kernels["w"]
    np.testing.assert_allclose(k.history @ k.history.T, m @ m.T, atol=1e-8)
    assert (int(k.rank), int(k.dropped), int(state.count)) == (m.shape[1], 0, 0)
    assert not any(np.any(x) for x in (k.axes, k.sketch, k.shrinkage, k.mu, k.nu))
    g = draw(inputs, out, seed=99)
    np.testing.assert_allclose(off.update({"w": jnp.asarray(g)}, last)[0]["w"], g - g @ m @ m.T, atol=1e-8)


def test_coso_drops_what_finds_no_room_in_the_history():
  tx = P.coso(2, 3, max_history=2)
  params = {"w": jnp.ones((5, 7))}
  _, state = tx.update({"w": jnp.asarray(draw(5, 7))}, tx.init(params))
  k = P.coso_end_task(state, 1.0).kernels["w"]
  assert (k.history.shape, int(k.rank), int(k.dropped)) == ((7, 2), 2, 1)
  tx = P.coso(2, 3)
  _, state = tx.update({"w": jnp.asarray(draw(5, 7))}, tx.init(params))
  k = P.coso_end_task(state, 1.0).kernels["w"]
  u = np.linalg.svd(draw(5, 7).T)[0][:, :3]  # all that the sketch has, and nothing in the columns behind
  np.testing.assert_allclose(k.history @ k.history.T, u @ u.T, atol=1e-9)
  np.testing.assert_array_equal(np.any(k.history != 0, 0), np.arange(7) < 3)


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
