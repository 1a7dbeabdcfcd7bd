"""K-FAC EWC's transform and its merge, in NumPy: T equal tasks weigh T, not T^2; and the faults of popular code."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cljax import regularizers
from cljax.core.types import UsageError
from cljax.regularizers import KfacState, kfac_consolidate, kfac_ewc, kronecker_sum

RNG = np.random.default_rng(5)
merged = jax.jit(kronecker_sum, static_argnames=("merge", "steps"))


def psd(d, rank=None):
  rows = RNG.normal(size=(rank or 2 * d, d))
  return rows.T @ rows / len(rows)


L, R, A, G = 3 * psd(6), psd(4), psd(6), 2 * psd(4)


def least_divergence(left, right, a, g, steps=1000):
  """The iteration as Kao et al. have it, with inverses."""
  pi = np.sqrt(np.trace(left) * np.trace(g) / np.trace(right) / np.trace(a))
  e, f = left + pi * a, right + g / pi
  for _ in range(steps):
    es = [np.trace(np.linalg.solve(f, m)) / len(f) for m in (right, g)]
    fs = [np.trace(np.linalg.solve(e, m)) / len(e) for m in (left, a)]
    e, f = 0.7 * e + 0.3 * (es[0] * left + es[1] * a), 0.7 * f + 0.3 * (fs[0] * right + fs[1] * g)
  return np.kron(e, f)


def divergence(approximate, exact):
  """KL of the Gaussians of these precisions."""
  ratio = np.linalg.solve(exact, approximate)
  return 0.5 * (np.trace(ratio) - len(exact) - np.linalg.slogdet(ratio)[1])


def test_the_merge_is_the_pair_of_least_divergence():
  exact = np.kron(L, R) + np.kron(A, G)
  near, adds = (np.kron(*merged((L, R), (A, G), merge=m)) for m in ("kl", "additive"))
  np.testing.assert_allclose(near, least_divergence(L, R, A, G), rtol=2e-4, atol=1e-4)
  pi = np.sqrt(np.trace(L) * np.trace(G) / np.trace(R) / np.trace(A))
  np.testing.assert_allclose(adds, np.kron(L + pi * A, R + G / pi), rtol=1e-4, atol=1e-4)
  both = lambda m: min(divergence(m, exact), divergence(exact, m))
  assert both(near) < 0.3 * both(adds)


@pytest.mark.parametrize("rank", [None, 2])
def test_equal_tasks_add_up_and_do_not_grow_as_the_square(rank):
  """From nothing, singular factors too: T times one task; additive factors T^2 times, the fault of S11.5."""
  a, g = psd(6, rank), psd(4, rank)
  one, zero = np.kron(a, g), (jnp.zeros((6, 6)), jnp.zeros((4, 4)))
  near, adds = zero, zero
  for tasks in range(1, 5):
    near, adds = merged(near, (a, g), merge="kl"), merged(adds, (a, g), merge="additive")
    np.testing.assert_allclose(np.kron(*near), tasks * one, atol=2e-5 * tasks)
    np.testing.assert_allclose(np.kron(*adds), tasks**2 * one, atol=2e-5 * tasks**2)


SHAPES = {"a": {"kernel": (5, 3), "bias": (3,)}, "c": {"kernel": (2, 2, 1, 3)}, "norm": {"scale": (3,)}}


def draw(seed):
  rng = np.random.default_rng(seed)
  leaves, tree = jax.tree.flatten(SHAPES, is_leaf=lambda s: isinstance(s, tuple))
  return tree.unflatten([jnp.asarray(rng.normal(size=s), jnp.float32) for s in leaves])


FACTORS = {"a/kernel": (psd(6), psd(3)), "c/kernel": (psd(4), psd(3))}
end = jax.jit(functools.partial(kfac_consolidate, merge="kl"))


def value(params, anchor, state):
  """``1/2 sum_l vec(D)^T (L (x) R) vec(D)``, with the Kronecker products formed."""
  total = 0.0
  for name, left in state.inputs.items():
    layer = name.split("/")[0]
    away = [np.asarray(params[layer]["kernel"] - anchor[layer]["kernel"], np.float64).reshape(-1, 3)]
    if "bias" in params[layer]:
      away.append(np.asarray(params[layer]["bias"] - anchor[layer]["bias"], np.float64)[None])
    d = np.concatenate(away).ravel()
    total += 0.5 * d @ np.kron(np.float64(left), np.float64(state.outputs[name])) @ d
  return total


def test_the_pull_is_the_gradient_of_the_quadratic_form():
  """By finite differences of the form with its products formed, the bias in it; 0 at the anchor; every task counts,
  the first too (an overwritten factor is a fault of S11.5), by its rows; the first task's updates pass to the bit."""
  tx, start, now, g = kfac_ewc(0.7), draw(0), draw(1), draw(2)
  state = tx.init(start)
  for got, want in zip(jax.tree.leaves(tx.update(g, state, now)[0]), jax.tree.leaves(g), strict=True):
    np.testing.assert_array_equal(got, want)
  state = end(state, start, FACTORS, 3.0)
  np.testing.assert_allclose(
    np.kron(state.inputs["a/kernel"], state.outputs["a/kernel"]), 3 * np.kron(*FACTORS["a/kernel"]), atol=1e-4
  )
  np.testing.assert_array_equal(tx.update(g, state, start)[0]["a"]["bias"], g["a"]["bias"])
  pulled = tx.update(g, state, now)[0]
  np.testing.assert_array_equal(pulled["norm"]["scale"], g["norm"]["scale"])
  rng = np.random.default_rng(9)
  for layer, leaf in (("a", "kernel"), ("a", "bias"), ("c", "kernel")):
    move = rng.normal(size=SHAPES[layer][leaf])
    at = lambda t, layer=layer, leaf=leaf, move=move: {
      **now, layer: {**now[layer], leaf: np.asarray(now[layer][leaf], np.float64) + t * move}
    }  # fmt: skip
    slope = (value(at(1.0), start, state) - value(at(-1.0), start, state)) / 2  # exact for a quadratic
    got = np.sum((np.asarray(pulled[layer][leaf], np.float64) - g[layer][leaf]) * move)
    np.testing.assert_allclose(got, 0.7 * slope, rtol=1e-4)
  before = value(now, start, state)
  twice = end(state, start, FACTORS, 3.0)
  np.testing.assert_allclose(value(now, start, twice), 2 * before, rtol=1e-4)


def test_a_linear_change_of_a_layer_s_inputs_changes_no_pull():
  """Inputs ``T a`` and weights ``T^-T W``: the penalty is the same."""
  t = RNG.normal(size=(5, 5)) + 3 * np.eye(5)
  a, g = psd(5), psd(3)
  w, w0 = RNG.normal(size=(2, 5, 3))
  values = []
  for inputs, change in ((a, np.eye(5)), (t @ a @ t.T, np.linalg.inv(t).T)):
    state = end(kfac_ewc(1.0).init({"k": jnp.ones((5, 3))}), {"k": change @ w0}, {"k": (inputs, g)}, 1.0)
    away = (change @ (w - w0)).ravel()
    values.append(away @ np.kron(np.float64(state.inputs["k"]), np.float64(state.outputs["k"])) @ away)
  np.testing.assert_allclose(*values, rtol=1e-4)


def test_a_prior_pulls_to_zero_and_what_does_not_fit_is_refused():
  tx, now = kfac_ewc(0.5, prior=0.04), draw(1)
  state = tx.init(now)
  pulled = tx.update(draw(2), state, now)[0]
  np.testing.assert_allclose(pulled["a"]["kernel"], draw(2)["a"]["kernel"] + 0.02 * now["a"]["kernel"], atol=1e-6)
  moved = regularizers.follow_edit(end(state, now, FACTORS, 1.0), now, draw(3))
  np.testing.assert_allclose(moved.anchor["a/bias"], draw(3)["a"]["bias"], atol=1e-6)
  kept = regularizers.import_state(state, regularizers.export_state(moved))
  for x, y in zip(jax.tree.leaves(kept), jax.tree.leaves(moved), strict=True):
    np.testing.assert_array_equal(x, y)
  assert isinstance(regularizers.find((state,))[0], KfacState)
  with pytest.raises(UsageError, match="factors: 'c/kernel' is missing"):
    kfac_consolidate(state, now, {"a/kernel": FACTORS["a/kernel"]})
  with pytest.raises(
    UsageError, match=r"factors: 'a/kernel' has \(4, 4\) and \(3, 3\); expected \(6, 6\) and \(3, 3\)"
  ):
    kfac_consolidate(state, now, {**FACTORS, "a/kernel": FACTORS["c/kernel"]})
  with pytest.raises(UsageError, match="merge must be one of kl, additive; got 'svd'"):
    kfac_consolidate(state, now, FACTORS, merge="svd")
  with pytest.raises(UsageError, match="kfac_ewc: strength must be at least 0; got -1"):
    kfac_ewc(-1.0)
