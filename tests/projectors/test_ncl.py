"""The metric of natural continual learning: inverse factors, damped, against NumPy; its limits; what it changes not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cljax.core.types import UsageError
from cljax.projectors import ncl, ncl_end_task

RNG = np.random.default_rng(4)


def psd(d, rank=None):
  rows = RNG.normal(size=(rank or 2 * d, d))
  return rows.T @ rows / len(rows)


L, R, N = psd(4) + 0.1 * np.eye(4), psd(2) + 0.1 * np.eye(2), 50.0
PARAMS = {"a": {"kernel": jnp.ones((3, 2)), "bias": jnp.ones(2)}, "scale": jnp.ones(3)}
GRADS = jax.tree.map(lambda a: jnp.asarray(RNG.normal(size=a.shape), jnp.float32), PARAMS)
TX = ncl()
end = jax.jit(
  lambda state, left, right, damping: ncl_end_task(state, {"a/kernel": left}, {"a/kernel": right}, N, damping)
)


def joined(grads):
  return np.concatenate([grads["a"]["kernel"], grads["a"]["bias"][None]]).astype(np.float64)


@pytest.mark.parametrize("damping", [0.0, 0.3])
def test_ncl_multiplies_by_both_damped_inverses(damping):
  """``(L + pi sqrt(a))^-1 G (R + sqrt(a) / pi)^-1 / n`` with the bias as the last row; before a boundary as it is."""
  state = TX.init(PARAMS)
  before = TX.update(GRADS, state)[0]
  np.testing.assert_allclose(joined(before), joined(GRADS), rtol=1e-6)
  state = end(state, L, R, damping)
  pi, root = np.sqrt(np.trace(L) / 4 / (np.trace(R) / 2)), np.sqrt(damping)
  want = np.linalg.inv(L + pi * root * np.eye(4)) @ joined(GRADS) @ np.linalg.inv(R + root / pi * np.eye(2)) / N
  got = TX.update(GRADS, state, value=1.0)[0]
  np.testing.assert_allclose(joined(got), want, rtol=1e-3, atol=1e-5)
  np.testing.assert_array_equal(got["scale"], GRADS["scale"])


def test_ncl_is_plain_descent_at_first_and_under_much_damping():
  """``Lambda = I / n`` gives I; as the damping grows the direction is the gradient's, whatever the factors."""
  root = N**-0.5
  start = end(TX.init(PARAMS), root * np.eye(4), root * np.eye(2), 0.0)
  np.testing.assert_allclose(joined(TX.update(GRADS, start)[0]), joined(GRADS), rtol=1e-4)
  far = joined(TX.update(GRADS, end(start, L, R, 1e8))[0])
  cosine = np.sum(far * joined(GRADS)) / np.linalg.norm(far) / np.linalg.norm(joined(GRADS))
  assert cosine > 1 - 1e-6
  flat = end(start, psd(4, 2), psd(2, 1), 1e-6)  # singular: finite, and the largest where nothing is known
  assert np.isfinite(joined(TX.update(GRADS, flat)[0])).all()


@pytest.mark.parametrize("strength", [0.0, 1.0])
def test_ncl_changes_the_path_and_not_the_optimum(strength):
  """On a quadratic: where strength is 0 it ends at the new loss's minimum, where 1 at that of both; and the old loss
  rises by less on the way than under plain steps of the same length."""
  hessian, goal, mu = np.kron(psd(4), psd(2)) + 0.05 * np.eye(8), RNG.normal(size=8), np.zeros(8)
  precision, state = np.kron(L, R), end(TX.init(PARAMS), L, R, 0.0)
  metric = np.kron(np.float64(state.inputs["a/kernel"]), np.float64(state.outputs["a/kernel"]))
  np.testing.assert_allclose(metric @ precision * N, np.eye(8), atol=2e-3)
  slope = lambda t: hessian @ (t - goal) + strength * precision @ (t - mu)
  theta, old = np.zeros(8), []
  for _ in range(4000):
    theta = theta - 0.5 * N / (
      np.abs(np.linalg.eigvals(N * metric @ (hessian + strength * precision))).max()
    ) * metric @ slope(theta)
    old.append(0.5 * theta @ precision @ theta)
  np.testing.assert_allclose(slope(theta), 0, atol=1e-3)
  first = metric @ slope(np.zeros(8))
  plain = slope(np.zeros(8)) * np.linalg.norm(first) / np.linalg.norm(slope(np.zeros(8)))
  assert first @ precision @ first < plain @ precision @ plain


def test_ncl_refuses_what_does_not_fit():
  state = TX.init(PARAMS)
  with pytest.raises(UsageError, match="ncl_end_task: 'a/kernel' has no factors"):
    ncl_end_task(state, {}, {}, N)
  with pytest.raises(UsageError, match=r"'a/kernel' has factors \(2, 2\) and \(2, 2\); expected \(4, 4\) and \(2, 2\)"):
    ncl_end_task(state, {"a/kernel": R}, {"a/kernel": R}, N)
  with pytest.raises(UsageError, match="damping must be at least 0; got -1"):
    ncl_end_task(state, {"a/kernel": L}, {"a/kernel": R}, N, -1.0)
  with pytest.raises(UsageError, match="opt_state holds no NCLState"):
    ncl_end_task((), {}, {}, N)
