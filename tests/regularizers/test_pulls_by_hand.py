"""Each penalty, pull and boundary in NumPy float64, by its formula: values, slopes, states, and what is left alone."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cljax import UsageError, tree
from cljax import regularizers as R

RNG = np.random.default_rng(11)
SHAPES = {"head": {"kernel": (3, 2), "bias": (2,)}, "scale": (4,)}


def draw(positive=False):
  of = lambda s: RNG.uniform(0.1, 2, size=s) if positive else RNG.normal(size=s)
  return jax.tree.map(lambda s: of(s).astype(np.float32), SHAPES, is_leaf=lambda s: isinstance(s, tuple))


START, END, AWAY, GRADIENT = draw(), draw(), draw(), draw()
F1, F2 = draw(True), draw(True)
ZERO = jax.tree.map(np.zeros_like, START)


def wide(t):
  return jax.tree.map(lambda x: np.asarray(x, np.float64), t)


def tmap(fn, *trees):
  return jax.tree.map(fn, *map(wide, trees))


def total(fn, *trees):
  return sum(np.sum(x) for x in jax.tree.leaves(tmap(fn, *trees)))


def near(got, want, rtol=1e-5, atol=1e-5):
  assert tree.paths(got) == tree.paths(want)
  for name, a, b in zip(tree.paths(want), jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
    np.testing.assert_allclose(a, b, rtol=rtol, atol=atol, err_msg=name)


def jnp_tree(t):
  return jax.tree.map(jnp.asarray, t)


def added(tx, state, params=AWAY, gradient=GRADIENT):
  """What the transform adds to a gradient, and its next state."""
  got, state = tx.update(jnp_tree(gradient), state, jnp_tree(params))
  return tmap(lambda a, b: a - b, got, gradient), state


def test_penalties():
  square = total(lambda p, a: (p - a) ** 2, AWAY, START)
  weighted = total(lambda p, a, f: f * (p - a) ** 2, AWAY, START, F1)
  near([R.ewc_penalty(AWAY, START, F1, 3.0)], [1.5 * weighted])
  near([R.importance_penalty(AWAY, START, F1, 3.0)], [3 * weighted])
  near([R.l2_penalty(AWAY, START, 3.0)], [3 * square])
  near([R.l2_penalty(AWAY, strength=3.0)], [3 * total(np.square, AWAY)])
  layer = {"head": {"kernel": 0.2, "bias": 0.7}, "scale": 0.1}
  of = {n: np.sum(x) for n, x in tree.by_path(tmap(lambda p, a, f: f * (p - a) ** 2, AWAY, START, F1)).items()}
  want = 3 * (0.2 * of["head/kernel"] + 0.7 * of["head/bias"] + 0.1 * of["scale"])
  near([R.hierarchical_penalty(AWAY, START, F1, jax.tree.map(jnp.float32, layer), 3.0)], [want])
  for penalty in (R.ewc_penalty, R.importance_penalty):
    assert float(penalty(AWAY, START, F1)) == float(penalty(AWAY, START, F1, 1.0))
    with pytest.raises(UsageError, match="importance: leaf 'head/bias' is missing"):
      penalty(AWAY, START, {"scale": F1["scale"]})
  weights = jax.tree.map(jnp.float32, layer)
  for penalty in (
    lambda a: R.ewc_penalty(AWAY, a, F1), lambda a: R.importance_penalty(AWAY, a, F1),
    lambda a: R.l2_penalty(AWAY, a), lambda a: R.hierarchical_penalty(AWAY, a, F1, weights),
  ):  # fmt: skip
    with pytest.raises(UsageError, match="anchor: leaf 'head/bias' is missing"):
      penalty({"scale": START["scale"]})


def test_penalties_of_narrow_parameters_are_made_wide():
  """256 and 257 are one number in bfloat16, and a sum of 300 ones ends at 256."""
  p, a = {"w": jnp.full(300, 258.0, jnp.bfloat16)}, {"w": jnp.full(300, 257.0)}
  for penalty in (R.ewc_penalty, R.importance_penalty):
    assert float(penalty(p, a, {"w": jnp.full(300, 2.0)})) == {R.ewc_penalty: 300, R.importance_penalty: 600}[penalty]
  assert float(R.l2_penalty(p, a)) == 300
  assert float(R.l2_penalty({"w": jnp.ones(300, jnp.bfloat16)})) == 300


def test_ewc_of_two_tasks():
  """``strength F (theta - anchor)`` summed over tasks; one anchor, and the constant that it leaves out."""
  tx = R.ewc(3.0)
  state = R.consolidate(tx.init(jnp_tree(START)), END, importance=F1)
  near(state.anchor, END, 0, 0)
  near(state.importance, F1, 0, 0)
  assert float(state.constant) == 0
  near(added(tx, state)[0], tmap(lambda t, a, f: 3 * f * (t - a), AWAY, END, F1))
  state = R.consolidate(state, START, importance=F2)
  near(state.importance, tmap(np.add, F1, F2))
  near(state.anchor, tmap(lambda a, f, b, g: (f * a + g * b) / (f + g), END, F1, START, F2))
  near([state.constant], [total(lambda a, f, b, g: f * g / (f + g) * (a - b) ** 2, END, F1, START, F2)])
  pull, after = added(tx, state)
  near(pull, tmap(lambda t, a, f, b, g: 3 * (f * (t - a) + g * (t - b)), AWAY, END, F1, START, F2))
  assert tree.digest(after) == tree.digest(state)


def test_a_weight_without_importance_takes_the_last_anchor():
  """Of no importance yet, it is anchored where the task ends, to the bit; a task that gives it none leaves it."""
  tx, some = R.ewc(1.0), {"w": jnp.array([0.0, 2.0, 0.0])}
  state = tx.init({"w": jnp.full(3, 1e8)})  # 1e8 + (0.1 - 1e8) is not 0.1 in float32
  state = R.consolidate(state, {"w": jnp.full(3, 0.1)}, importance=some)
  np.testing.assert_array_equal(state.anchor["w"], np.float32([0.1] * 3))
  state = R.consolidate(tx.init({"w": jnp.zeros(3)}), {"w": jnp.array([1.0, 1.0, 1.0])}, importance=some)
  np.testing.assert_array_equal(state.anchor["w"], [1, 1, 1])
  state = R.consolidate(state, {"w": jnp.array([5.0, 5.0, 5.0])}, importance={"w": jnp.array([0.0, 0.0, 3.0])})
  np.testing.assert_array_equal(state.anchor["w"], [5, 1, 5])
  np.testing.assert_array_equal(state.importance["w"], [0, 2, 3])
  assert float(state.constant) == 0


@pytest.mark.parametrize("in_penalty", [True, False])
def test_online_ewc_of_two_tasks(in_penalty):
  tx = R.online_ewc(3.0, 0.25, decay_in_penalty=in_penalty)
  state = R.online_ewc(3.0, 0.75).init(jnp_tree(START))  # a scheduled decay is the last update's
  _, state = added(tx, state)
  state = R.consolidate(R.consolidate(state, AWAY, importance=F1), END, importance=F2)
  total_f = tmap(lambda f, g: 0.25 * f + g, F1, F2)
  near(state.importance, total_f)
  near(state.anchor, END, 0, 0)
  factor = 3 * 0.25 if in_penalty else 3
  near(added(tx, state)[0], tmap(lambda t, a, f: factor * f * (t - a), AWAY, END, total_f))


@pytest.mark.parametrize("average", [None, 0.25])
def test_mas_of_two_tasks(average):
  tx = R.mas(3.0, average)
  state = R.mas(3.0, 0.9).init(jnp_tree(START))  # a scheduled average is the last update's
  _, state = added(tx, state)
  state = R.consolidate(R.consolidate(state, AWAY, importance=F1), END, importance=F2)
  merge = (lambda f, g: f + g) if average is None else (lambda f, g: 0.25 * 0.75 * f + 0.75 * g)
  omega = tmap(merge, F1, F2)
  near(state.importance, omega)
  near(state.anchor, END, 0, 0)
  near(added(tx, state)[0], tmap(lambda t, a, w: 6 * w * (t - a), AWAY, END, omega))


def test_l2_family():
  pull, state = added(R.l2(3.0), R.l2(3.0).init(jnp_tree(START)))
  near(pull, tmap(lambda t: 6 * t, AWAY))
  assert state == optax.EmptyState()
  tx = R.l2_init(3.0)
  pull, state = added(tx, tx.init(jnp_tree(START)))
  near(pull, tmap(lambda t, a: 6 * (t - a), AWAY, START))
  near(state.anchor, START, 0, 0)
  tx = R.l2_previous(3.0)
  pull, state = added(tx, tx.init(jnp_tree(START)))
  near(pull, ZERO, 0, 0)
  state = R.consolidate(state, END)
  near(state.anchor, END, 0, 0)
  pull, after = added(tx, state)
  near(pull, tmap(lambda t, a: 6 * (t - a), AWAY, END))
  assert tree.digest(after) == tree.digest(state)
  tx = R.l2_previous(3.0, anchor_at_init=True)
  near(added(tx, tx.init(jnp_tree(START)))[0], tmap(lambda t, a: 6 * (t - a), AWAY, START))


def layer_share(importance):
  """``softmax_l ||Omega_l||``; the layers here are 'head' and what stands outside."""
  norm = lambda *leaves: np.sqrt(sum((np.asarray(x, np.float64) ** 2).sum() for x in leaves))
  of = np.array([norm(*importance["head"].values()), norm(importance["scale"])])
  head, outside = np.exp(of) / np.exp(of).sum()
  return {"head": {"kernel": head, "bias": head}, "scale": outside}


def test_layer_weights():
  near(R.layer_weights(jnp_tree(F1)), layer_share(F1))
  near(R.layer_weights(ZERO), layer_share(ZERO))
  assert not np.allclose(jax.tree.leaves(layer_share(F1)), 0.5, atol=0.1)


@pytest.mark.parametrize("name", ["si", "hierarchical"])
def test_path_integral_of_two_tasks_by_hand(name):
  """Three points a task, whatever moved them: ``omega += -g (movement that followed)``; the last move is flushed."""
  strength, xi = 3.0, 0.05
  tx = getattr(R, name)(strength, xi)
  state = getattr(R, name)(strength, 0.9).init(jnp_tree(START))  # a scheduled damping is the last update's
  omega_total, at = tmap(np.zeros_like, START), START
  for _ in range(2):
    points, gradients = [at, draw(), draw(), draw()], [draw() for _ in range(3)]
    for p, g in zip(points[:3], gradients, strict=True):
      pull, state = added(tx, state, p, g)
      share = layer_share(omega_total) if name == "hierarchical" else jax.tree.map(lambda _: 1.0, START)
      want = tmap(lambda s, w, t, a: 2 * strength * s * w * (t - a), share, omega_total, p, at)
      near(pull, want, 1e-4, 1e-4)
    state = R.consolidate(state, points[3])
    moves = [
      tmap(lambda g, a, b: -g * (b - a), g, a, b) for g, a, b in zip(gradients, points, points[1:], strict=False)
    ]
    path = jax.tree.map(lambda *m: sum(m), *moves)
    gain = tmap(lambda w, a, b: w / ((b - a) ** 2 + xi), path, points[0], points[3])
    omega_total, at = tmap(np.add, omega_total, gain), points[3]
    near(state.importance, omega_total, 1e-4, 1e-4)
    near(state.anchor, at, 0, 0)
    near(state.path, ZERO, 0, 0)
    near(state.last_gradient, ZERO, 0, 0)
    if name == "hierarchical":
      near(state.layer_weight, layer_share(omega_total))
  given = R.consolidate(state, END, importance=F1)  # in the place of the path's
  near(given.importance, tmap(np.add, omega_total, F1), 1e-4, 1e-4)


def test_nonnegative_si_pulls_where_importance_is_positive_alone():
  tx = R.si(3.0, nonnegative=True)
  omega = draw()
  state = R.consolidate(tx.init(jnp_tree(START)), END)._replace(importance=jnp_tree(omega))
  near(added(tx, state)[0], tmap(lambda t, a, w: 6 * np.maximum(w, 0) * (t - a), AWAY, END, omega))


@pytest.mark.parametrize("power", [1.0, 2.0, 3.0])
def test_spectral_pull_after_one_power_iteration(power):
  """``2k s^(k-1) (s^k - 1) u v'``; ``2k |g|^(k-2) (|g|^k - 1) g`` for a scale; ``2k |b|^(2k-2) b`` for a bias."""
  params = {"conv": RNG.normal(size=(2, 2, 3)), "kernel": RNG.normal(size=(4, 3)), "scale": RNG.normal(size=3)}
  params |= {"bias": RNG.normal(size=4)}
  tx = R.spectral(0.7, power)
  state = tx.init(jnp_tree(params))
  for _ in range(2):
    grads, vectors = {}, {}
    for name in ("conv", "kernel"):
      w = params[name].reshape(-1, params[name].shape[-1])
      u = np.asarray(state.vectors[name], np.float64)
      v = w.T @ u / np.linalg.norm(w.T @ u)
      u = w @ v / np.linalg.norm(w @ v)
      s, vectors[name] = u @ w @ v, u
      grads[name] = (2 * power * s ** (power - 1) * (s**power - 1) * np.outer(u, v)).reshape(params[name].shape)
    g, b = params["scale"], params["bias"]
    grads["scale"] = 2 * power * np.abs(g) ** (power - 2) * (np.abs(g) ** power - 1) * g
    grads["bias"] = 2 * power * (b @ b) ** (power - 1) * b
    zeros = jax.tree.map(np.zeros_like, params)
    pull, state = tx.update(jnp_tree(zeros), state, jnp_tree(params))
    near(pull, jax.tree.map(lambda x: 0.7 * x, grads), 1e-4, 1e-4)
    near({n: state.vectors[n] for n in vectors}, vectors, 1e-4, 1e-4)
    params = {n: p + 0.3 * RNG.normal(size=p.shape) for n, p in params.items()}  # warm: the vectors go on
  still = {"kernel": jnp.zeros((4, 3))}  # no direction is the top one: no pull
  pull, after = tx.update(still, tx.init(still), still)
  near(pull, still, 0, 0)
  np.testing.assert_allclose(jnp.linalg.norm(after.vectors["kernel"]), 1, rtol=1e-5)


def test_spectral_starts_near_the_top_singular_vector():
  """Ten iterations on singular values 3 and 1 leave (1/3)^20 of the other."""
  u, _ = np.linalg.qr(RNG.normal(size=(3, 3)))
  v, _ = np.linalg.qr(RNG.normal(size=(3, 3)))
  w = u @ np.diag([3.0, 1.0, 0.5]) @ v.T
  state = R.spectral(1.0).init({"kernel": jnp.asarray(w), "scale": jnp.ones(2)})
  np.testing.assert_allclose(abs(state.vectors["kernel"] @ u[:, 0]), 1, atol=1e-6)
  assert state.vectors["scale"].shape == ()
  assert float(state.vectors["scale"]) == 0


def test_spectral_penalty_of_each_kind_of_leaf():
  conv, kernel, scale, bias = (RNG.normal(size=s) for s in ((2, 2, 3), (4, 3), (3,), (4,)))
  sigma = lambda m: np.linalg.svd(m, compute_uv=False)[0]
  for power in (1, 2, 3):
    of = lambda p, power=power: float(R.spectral_penalty(jnp_tree(p), 0.7, power))
    near([of({"kernel": kernel})], [0.7 * (sigma(kernel) ** power - 1) ** 2], 1e-4)
    near([of({"conv": conv})], [0.7 * (sigma(conv.reshape(4, 3)) ** power - 1) ** 2], 1e-4)
    near([of({"scale": scale})], [0.7 * ((np.abs(scale) ** power - 1) ** 2).sum()], 1e-4)
    near([of({"bias": bias})], [0.7 * (bias @ bias) ** power], 1e-4)
    near([of({"k": kernel, "b": bias})], [of({"k": kernel}) + of({"b": bias})], 1e-4)
  narrow = {"kernel": jnp.asarray(kernel, jnp.bfloat16), "scale": jnp.asarray(scale, jnp.bfloat16)}
  near([R.spectral_penalty(narrow)], [R.spectral_penalty(jax.tree.map(lambda x: x.astype(jnp.float32), narrow))])
  out_in = float(R.spectral_penalty({"conv": jnp.asarray(conv)}, layout="out_in"))
  near([out_in], [(sigma(conv.reshape(2, 6)) ** 2 - 1) ** 2], 1e-4)


def test_of_equinox_layers_only_convolutions_need_a_layout():
  conv = eqx.filter(eqx.nn.Conv2d(2, 3, 2, key=jax.random.key(0)), eqx.is_array)
  dense = eqx.filter(eqx.nn.Linear(2, 3, key=jax.random.key(0)), eqx.is_array)
  for refuses in (R.spectral(1.0).init, R.spectral_penalty):
    with pytest.raises(UsageError, match="say layout='out_in'"):
      refuses(conv)  # its bias beside the kernel
  sigma = np.linalg.svd(np.float64(dense.weight), compute_uv=False)[0]
  want = (sigma**2 - 1) ** 2 + (np.float64(dense.bias) ** 2).sum() ** 2
  near([R.spectral_penalty(dense)], [want], 1e-4)
  assert R.spectral(1.0).init(dense).vectors.weight.shape == (3,)


def test_wasserstein_pulls_each_rank_to_the_initial_value_of_that_rank():
  start = {"a": np.array([[4.0, -1.0], [0.5, 2.0]]), "b": np.array([1.0, -3.0])}
  theta = {"a": np.array([[0.1, 5.0], [-2.0, 0.2]]), "b": np.array([7.0, 6.0])}
  partner = {"a": np.array([[0.5, 4.0], [-1.0, 2.0]]), "b": np.array([1.0, -3.0])}
  tx = R.wasserstein(0.7)
  state = tx.init(jnp_tree(start))
  near(state.anchor, {"a": np.array([-1.0, 0.5, 2.0, 4.0]), "b": np.array([-3.0, 1.0])}, 0, 0)
  got, after = tx.update(jax.tree.map(jnp.zeros_like, jnp_tree(theta)), state, jnp_tree(theta))
  near(got, jax.tree.map(lambda t, p: 1.4 * (t - p), theta, partner))
  assert tree.digest(after) == tree.digest(state)
  want = sum(((theta[n] - partner[n]) ** 2).sum() for n in theta)
  near([R.wasserstein_penalty(jnp_tree(theta), jnp_tree(start), 0.7)], [0.7 * want])


def test_wasserstein_of_equal_weights_meets_no_nan():
  """Two pairs of equal weights share the means of their partners; no 0/0 on the way."""
  start, theta = {"k": jnp.array([-3.0, -1.0, 0.5, 1.0, 4.0])}, {"k": jnp.array([2.0, -5.0, 2.0, 0.0, -5.0])}
  tx = R.wasserstein(0.5)
  with jax.debug_nans(True):
    got, _ = tx.update({"k": jnp.zeros(5)}, tx.init(start), theta)
  near(got, {"k": np.array([2.0, -5.0, 2.0, 0.0, -5.0]) - [2.5, -2.0, 2.5, 0.5, -2.0]})


def test_bregman_divergences_of_trees():
  """Of the Fisher potential ``1/2 sum F (p - q)^2``; of Gaussians' log-partition the KL with the order turned round."""
  p, q = jnp_tree(AWAY), jnp_tree(START)
  psi = R.fisher_potential(jnp_tree(F1))
  near([psi(p)], [0.5 * total(lambda p, f: f * p**2, AWAY, F1)])
  want = 0.5 * total(lambda p, q, f: f * (p - q) ** 2, AWAY, START, F1)
  near([R.bregman_penalty(psi, p, q, 3.0)], [3 * want])
  near(jax.grad(lambda p: R.bregman_penalty(psi, p, q, 3.0))(p), tmap(lambda p, q, f: 3 * f * (p - q), AWAY, START, F1))
  cube = lambda t: sum(jnp.sum(x**3) for x in jax.tree.leaves(t))
  want = total(lambda p, q: p**3 - q**3 - 3 * q**2 * (p - q), AWAY, START)
  near([R.bregman_penalty(cube, p, q)], [want], 1e-4)
  with pytest.raises(UsageError, match="anchor: leaf 'head/bias' is missing"):
    R.bregman_penalty(cube, p, {"scale": q["scale"]})
  with pytest.raises(UsageError, match="importance"):
    R.fisher_potential({"scale": q["scale"]})(p)
  narrow = R.fisher_potential({"w": jnp.full(300, 2.0, jnp.bfloat16)})({"w": jnp.ones(300, jnp.bfloat16)})
  assert float(narrow) == 300


def test_the_log_partition_of_gaussians():
  mean, var = [wide(draw()) for _ in range(2)], [wide(draw(True)) for _ in range(2)]
  natural = [(tmap(lambda m, v: m / v, m, v), tmap(lambda v: -1 / (2 * v), v)) for m, v in zip(mean, var, strict=True)]
  value = total(lambda m, v: m**2 / (2 * v) + 0.5 * np.log(v), mean[0], var[0])
  near([R.gaussian_log_partition(jnp_tree(natural[0]))], [value], 1e-4)
  # D_A(eta_p, eta_q) = KL(q || p)
  kl = total(
    lambda mq, vq, mp, vp: 0.5 * (np.log(vp / vq) + (vq + (mq - mp) ** 2) / vp - 1), mean[1], var[1], mean[0], var[0]
  )
  got = R.bregman_penalty(R.gaussian_log_partition, jnp_tree(natural[0]), jnp_tree(natural[1]))
  near([got], [kl], 1e-3)


EVERY = lambda: optax.chain(R.ewc(1.0), R.si(1.0), R.l2_previous(1.0), R.l2_init(1.0), optax.trace(0.9))


def test_follow_edit_moves_the_anchors_at_past_parameters_alone():
  """To the bit ``after`` where the anchor was ``before``; else by the difference."""
  tx = EVERY()
  state = tx.init(jnp_tree(START))
  _, state = tx.update(jnp_tree(GRADIENT), state, jnp_tree(AWAY))  # SI's last parameters
  state = R.consolidate(state, END, importance={"ewc": F1})
  state = R.consolidate(state, START, importance={"ewc": F2})
  after = jax.tree.map(lambda x: x + np.float32(0.1) * np.abs(x), START)
  ewc, si, previous, init, trace = R.follow_edit(state, START, after)
  moved = lambda x: tmap(lambda x, a, b: x + b - a, x, START, after)
  mean = tmap(lambda a, f, b, g: (f * a + g * b) / (f + g), END, F1, START, F2)
  near(ewc.anchor, moved(mean))
  near(si.anchor, after, 0, 0)
  near(previous.anchor, after, 0, 0)
  near(si.last_params, moved(AWAY))
  near(init.anchor, START, 0, 0)
  for old, new, keep in (
    (state[0], ewc, ("importance", "constant")),
    (state[1], si, ("importance", "path", "last_gradient", "damping")),
    (state[2], previous, ("active",)),
  ):
    for field in keep:
      assert tree.digest(getattr(old, field)) == tree.digest(getattr(new, field))
  assert tree.digest(trace) == tree.digest(state[4])
  plain = {"a": np.ones(3)}
  assert R.follow_edit(plain, START, after) == plain


def test_exported_states_are_plain_copies_that_fill_another():
  tx = EVERY()
  state = R.consolidate(tx.init(jnp_tree(START)), END, importance={"ewc": F1})
  out = R.export_state(state)
  assert {n: set(fields) for n, fields in out.items()} == {
    "ewc": {"anchor", "importance", "constant"},
    "si": {"anchor", "importance", "path", "last_params", "last_gradient", "damping"},
    "l2_previous": {"anchor", "active"},
    "l2_init": {"anchor"},
  }
  near(out["ewc"]["anchor"], END, 0, 0)
  near(out["ewc"]["importance"], F1, 0, 0)
  near(out["l2_init"]["anchor"], START, 0, 0)
  assert float(out["l2_previous"]["active"]) == 1
  assert out["ewc"]["anchor"]["scale"] is not state[0].anchor["scale"]
  assert set(R.export_state(state, "ewc")) == {"ewc"}
  blank = tx.init(jnp_tree(AWAY))
  back = R.import_state(blank, {"ewc": out["ewc"]})
  near(back[0].anchor, END, 0, 0)
  near(back[0].importance, F1, 0, 0)
  assert tree.digest(back[1:]) == tree.digest(blank[1:])
  narrow = R.import_state(R.ewc(1.0, state_dtype="bfloat16").init(jnp_tree(AWAY)), {"ewc": out["ewc"]})
  assert narrow.anchor["scale"].dtype == jnp.bfloat16
  with pytest.raises(UsageError, match="ewc: anchor: leaf 'scale' is missing"):
    R.import_state(blank, {"ewc": out["ewc"] | {"anchor": {"head": out["ewc"]["anchor"]["head"]}}})


def test_state_bytes_are_those_of_the_leaves():
  """12 parameters of 4 bytes: EWC keeps two trees and a scalar, SI five and one, L2-init one."""
  state = EVERY().init(jnp_tree(START))
  want = {"ewc": 2 * 48 + 4, "si": 5 * 48 + 4, "l2_previous": 48 + 4, "l2_init": 48}
  assert {n: R.state_bytes(state, n) for n in want} == want
  assert R.state_bytes(state) == sum(want.values())
  with pytest.raises(UsageError, match="name: no regularizer state is called 'mas'"):
    R.state_bytes(state, "mas")


def test_attach_leaves_the_old_values_and_starts_the_new_at_the_parameters():
  old = optax.adam(0.1).init(jnp_tree(START))
  _, old = optax.adam(0.1).update(jnp_tree(GRADIENT), old, jnp_tree(START))
  state = R.attach(optax.chain(R.ewc(1.0), optax.adam(0.1)), old, jnp_tree(END))
  near(state[0].anchor, END, 0, 0)
  near(state[0].importance, ZERO, 0, 0)
  near(state[1][0].mu, tmap(lambda g: 0.1 * g, GRADIENT))
  near(state[1][0].nu, tmap(lambda g: 0.001 * g**2, GRADIENT))
  assert int(state[1][0].count) == 1


def test_consolidate_anchors_what_it_names():
  tx = optax.chain(R.ewc(1.0), R.ewc(1.0, name="other"), optax.masked(R.mas(1.0), {"head": False, "scale": True}))
  start = tx.init(jnp_tree(START))
  state = R.consolidate(start, END, importance={"ewc": F1, "other": F2, "mas": F1})
  near(state[0].importance, F1, 0, 0)
  near(state[1].importance, F2, 0, 0)
  np.testing.assert_array_equal(state[2].inner_state.importance["scale"], F1["scale"])
  np.testing.assert_array_equal(state[2].inner_state.anchor["scale"], END["scale"])
  for s in state[:2]:
    near(s.anchor, END, 0, 0)
    assert s.anchor["scale"] is not END["scale"]
  state = R.consolidate(start, END, importance=F2, name="other")
  assert tree.digest((state[0], state[2])) == tree.digest((start[0], start[2]))
  near(state[1].importance, F2, 0, 0)
