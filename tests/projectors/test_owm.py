"""Orthogonal weights modification: the recursion and its closed form, in NumPy; what it protects, and what not."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cljax.core.types import UsageError
from cljax.projectors import OWMState, owm, owm_extend

RNG = np.random.default_rng(3)
ROWS = RNG.normal(size=(6, 5))
SHAPES = {"a": {"kernel": (5, 3), "bias": (3,)}, "c": {"kernel": (2, 2, 3, 4)}, "norm": {"scale": (3,)}}


def params(scale=1.0):
  leaves, tree = jax.tree.flatten(SHAPES, is_leaf=lambda s: isinstance(s, tuple))
  return tree.unflatten([jnp.asarray(scale * RNG.normal(size=s), jnp.float32) for s in leaves])


def recursion(rows, alpha):
  p = np.eye(rows.shape[1])
  for r in rows:
    p = p - np.outer(p @ r, p @ r) / (alpha + r @ p @ r)
  return p


extend = jax.jit(lambda p, rows, alpha: owm_extend(OWMState({"k": p}), {"k": rows}, alpha).projections["k"])


@pytest.mark.parametrize("alpha", [1.0, 1e-3])
def test_owm_is_the_recursion_and_its_closed_form_in_any_cut_and_order(alpha):
  """Row by row, all at once, more rows than inputs, and backwards: ``(I + sum r r^T / alpha)^-1``."""
  want = np.linalg.inv(np.eye(5) + ROWS.T @ ROWS / alpha)
  np.testing.assert_allclose(recursion(ROWS, alpha), want, atol=1e-9)
  eye = jnp.eye(5)
  steps = [eye]
  for r in ROWS:
    steps.append(extend(steps[-1], r[None].astype(np.float32), alpha))
  for got in (steps[-1], extend(eye, jnp.asarray(ROWS, jnp.float32), alpha),
              extend(eye, jnp.asarray(ROWS[::-1].copy(), jnp.float32), alpha)):  # fmt: skip
    np.testing.assert_allclose(got, want, atol=2e-5)
    np.testing.assert_array_equal(got, got.T)
  for before, after in itertools.pairwise(steps):  # falls in the Loewner order, within [0, I]
    assert np.linalg.eigvalsh(np.asarray(before - after, np.float64)).min() > -2e-6
    assert np.linalg.eigvalsh(np.asarray(after, np.float64)).min() > -1e-6


def test_owm_protects_an_input_the_better_the_oftener_it_was_seen():
  """``r^T P r <= |r|^2 / (1 + m |r|^2 / alpha)``, equal where nothing else was seen; ``|P r|^2 <= r^T P r``."""
  r, p = ROWS[0].astype(np.float32), jnp.eye(5)
  for m in range(1, 5):
    p = extend(p, r[None], 0.5)
    alone = r @ np.asarray(p) @ r
    np.testing.assert_allclose(alone, r @ r / (1 + m * (r @ r) / 0.5), rtol=1e-4)
    assert np.sum((np.asarray(p) @ r) ** 2) <= alone
  more = extend(p, ROWS[1:3].astype(np.float32), 0.5)
  assert r @ np.asarray(more) @ r < alone


def test_owm_projects_kernels_with_their_biases_from_the_first_batch_on():
  """Two updates with inputs, alpha .5 and then .5 * .1 ** .5: each through the P of the batches so far, its own too;
  a convolution by its patches, a vector beside no kernel as it is."""
  tx, g = owm(0.5, 0.1), params()
  state = tx.init(params())
  seen = {n: RNG.normal(size=(2, k, d)) for n, k, d in (("a/kernel", 1, 5), ("c/kernel", 4, 12))}
  inverse = {"a/kernel": np.eye(6), "c/kernel": np.eye(12)}
  update = jax.jit(lambda g, s, rows, t: tx.update(g, s, None, layer_inputs=rows, progress=t, visit=None))
  for k, progress in enumerate((0.0, 0.5)):
    got, state = update(g, state, {n: jnp.asarray(r[k], jnp.float32) for n, r in seen.items()}, progress)
    for n, rows in seen.items():
      r = np.concatenate([rows[k], np.ones((1, 1))], 1) if n == "a/kernel" else rows[k]
      inverse[n] = inverse[n] + r.T @ r / (0.5 * 0.1**progress)
    p = {n: np.linalg.inv(m) for n, m in inverse.items()}
    both = p["a/kernel"] @ np.concatenate([g["a"]["kernel"], g["a"]["bias"][None]])
    np.testing.assert_allclose(got["a"]["kernel"], both[:-1], atol=1e-5)
    np.testing.assert_allclose(got["a"]["bias"], both[-1], atol=1e-5)
    folded = p["c/kernel"] @ np.asarray(g["c"]["kernel"], np.float64).reshape(12, 4)
    np.testing.assert_allclose(np.asarray(got["c"]["kernel"]).reshape(12, 4), folded, atol=1e-5)
    np.testing.assert_array_equal(got["norm"]["scale"], g["norm"]["scale"])
  again, same = tx.update(g, state, None)  # without inputs P stays
  np.testing.assert_allclose(again["a"]["bias"], both[-1], atol=1e-5)
  for x, y in zip(jax.tree.leaves(same), jax.tree.leaves(state), strict=True):
    np.testing.assert_array_equal(x, y)


def test_owm_leaves_biases_alone_where_told_and_refuses_what_does_not_fit():
  g = params()
  state = owm(biases=False, skip=lambda n: n.startswith("c")).init(g)
  assert {n: p.shape for n, p in state.projections.items()} == {"a/kernel": (5, 5)}
  with pytest.raises(UsageError, match=r"alpha: got 0\.0; allowed: numbers above 0"):
    owm(0.0)
  with pytest.raises(UsageError, match="layer_inputs: 'c/kernel' is missing"):
    owm().update(g, owm().init(g), layer_inputs={"a/kernel": jnp.ones((1, 5))})
  with pytest.raises(UsageError, match=r"layer_inputs: 'a/kernel' has shape \(1, 5\); expected \[n, 6\]"):
    owm().update(g, owm().init(g), layer_inputs={"a/kernel": jnp.ones((1, 4)), "c/kernel": jnp.ones((1, 12))})
  with pytest.raises(UsageError, match="owm_extend: opt_state holds no OWMState"):
    owm_extend((), {}, 1.0)
