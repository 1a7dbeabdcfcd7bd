"""Each penalty, pull and boundary in NumPy float64, by its formula: values, slopes, states, and what is left alone."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from pulls_by_hand import AWAY, END, F1, F2, START, ZERO, added, draw, jnp_tree, near, tmap, total, wide

from cljax import UsageError
from cljax import regularizers as R
from cljax.core import tree


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
