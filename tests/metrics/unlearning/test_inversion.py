"""Rows from gradients: exact where they are exact, what does not count, and scores by hand."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cljax.core.types import UsageError
from cljax.metrics import unlearning

RNG = np.random.default_rng(0)
ROWS = RNG.random((3, 4, 4)).astype(np.float32)
PARAMS = {
  "w": jnp.asarray(RNG.normal(size=(16, 6)), jnp.float32), "b": jnp.asarray(RNG.normal(size=6), jnp.float32),
  "v": jnp.asarray(RNG.normal(size=(6, 3)), jnp.float32),
}  # fmt: skip


def loss(params, x, y=1):
  z = jnp.tanh(x.reshape(-1) @ params["w"] + params["b"]) @ params["v"]
  return jax.nn.logsumexp(z) - z[y]


def found(x, scale=1.0, **options):
  gradient = jax.tree.map(lambda g: scale * g, jax.grad(loss)(PARAMS, x))
  return jax.jit(
    lambda key: unlearning.gradient_inversion(loss, PARAMS, gradient, x, key, **{"steps": 300, "restarts": 3} | options)
  )(jax.random.key(0))


def test_a_dense_layer_gives_its_row_away():
  for x in ROWS:
    gradient = jax.grad(loss)(PARAMS, jnp.asarray(x))
    np.testing.assert_allclose(unlearning.dense_leak(gradient["w"], gradient["b"]), x.ravel(), rtol=1e-4, atol=1e-5)
    tiny = jax.tree.map(lambda g: 1e-6 * g, gradient)
    np.testing.assert_allclose(unlearning.dense_leak(tiny["w"], tiny["b"]), x.ravel(), rtol=1e-4, atol=1e-5)
  np.testing.assert_array_equal(unlearning.dense_leak(jnp.ones((2, 3)), jnp.zeros(3)), 0)
  below = unlearning.dense_leak(jnp.array([[-4.0, 0.0], [6.0, 0.0]]), jnp.array([-2.0, 0.0]))
  np.testing.assert_array_equal(below, [2, -3])
  with pytest.raises(UsageError, match=r"kernel: has shape \(2, 3\), bias \(2,\)"):
    unlearning.dense_leak(jnp.ones((2, 3)), jnp.zeros(2))


def test_a_row_is_found_from_its_gradient():
  got = found(jnp.asarray(ROWS[0]), smooth=0.0)
  assert got.cost < 1e-3
  np.testing.assert_allclose(got.x, ROWS[0], atol=0.05)
  assert (got.x >= 0).all()
  assert (got.x <= 1).all()
  size = np.sqrt(sum(np.sum(np.square(g)) for g in jax.tree.leaves(jax.grad(loss)(PARAMS, jnp.asarray(ROWS[0])))))
  np.testing.assert_allclose(got.size, size, rtol=1e-5)


def test_the_size_of_the_gradient_does_not_count():
  one, two = found(jnp.asarray(ROWS[1])), found(jnp.asarray(ROWS[1]), scale=8.0)
  np.testing.assert_allclose(one.x, two.x, atol=1e-3)
  np.testing.assert_allclose(two.size, 8 * one.size, rtol=1e-5)


def test_of_all_starts_the_best_is_kept():
  """The first starts of many are those of few, so more are never worse; here the best is not the first."""
  gradient = jax.grad(loss)(PARAMS, jnp.asarray(ROWS[2]))
  few = {"steps": 5, "low": -0.5, "high": 0.5}
  costs = [
    float(unlearning.gradient_inversion(loss, PARAMS, gradient, ROWS[2], jax.random.key(0), restarts=n, **few).cost)
    for n in (1, 2, 4, 8)
  ]
  assert np.diff(costs).max() <= 1e-6
  assert costs[-1] < costs[0]
  found = unlearning.gradient_inversion(loss, PARAMS, gradient, ROWS[2], jax.random.key(0), restarts=8, **few)
  own = jax.grad(loss)(PARAMS, found.x)
  flat = lambda t: np.concatenate([np.ravel(np.float64(v)) for v in jax.tree.leaves(t)])
  cosine = flat(own) @ flat(gradient) / np.linalg.norm(flat(own)) / np.linalg.norm(flat(gradient))
  np.testing.assert_allclose(found.cost, 1 - cosine + 1e-3 * unlearning.total_variation(found.x), rtol=1e-4)
  assert np.abs(found.x).max() <= 0.5


def test_total_variation_by_hand():
  x = np.asarray([[0.0, 1.0, 3.0], [2.0, 2.0, 2.0]])
  np.testing.assert_allclose(unlearning.total_variation(jnp.asarray(x)), (2 + 1 + 1) / 3 + (1 + 2 + 0 + 0) / 4)
  assert unlearning.total_variation(jnp.arange(3.0)) == 0


def test_scores_by_hand():
  pool = np.concatenate([ROWS, 1 - ROWS])
  guess = np.stack([ROWS[0], 0.5 * ROWS[1], 1 - ROWS[2]])
  got = unlearning.recovered(guess, ROWS, pool)
  flat = lambda a: np.float64(a).reshape(3, -1)
  np.testing.assert_allclose(got.cosine[:2], 1, rtol=1e-6)
  cosine = flat(guess)[2] @ flat(ROWS)[2] / np.linalg.norm(flat(guess)[2]) / np.linalg.norm(flat(ROWS)[2])
  np.testing.assert_allclose(got.cosine[2], cosine, rtol=1e-6)
  np.testing.assert_allclose(got.psnr[1:], 10 * np.log10(1 / ((flat(guess) - flat(ROWS)) ** 2).mean(1)[1:]))
  assert got.psnr[0] > 200
  np.testing.assert_allclose(unlearning.recovered(guess, ROWS, pool, 2.0).psnr[1] - got.psnr[1], 20 * np.log10(2))
  assert got.identified.tolist()[::2] == [True, False]
  np.testing.assert_array_equal(unlearning.recovered(np.zeros_like(ROWS), ROWS, pool).cosine, 0)


@pytest.mark.parametrize(
  ("made", "said"),
  [
    (lambda: unlearning.recovered(ROWS[:2], ROWS, ROWS), "found: has shape"),
    (lambda: unlearning.recovered(ROWS, ROWS, ROWS[:2]), "pool: lacks a true row"),
    (lambda: found(jnp.asarray(ROWS[0]), steps=0), "steps: got 0; expected an integer of at least 1"),
    (lambda: found(jnp.asarray(ROWS[0]), restarts=True), "restarts: got True"),
  ],
)
def test_wrong_arguments_are_one_line(made, said):
  with pytest.raises(UsageError, match=said):
    made()
