"""CLNP keeps finished tasks to the bit; mean-field KL and CLAW's bounds."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cljax import UsageError
from cljax import optimizers as O
from cljax.core import tree


class Unit(NamedTuple):
  in_kernel: str
  in_bias: str
  out_kernel: str
  hidden: int


UNITS = (Unit("a/kernel", "a/bias", "b/kernel", 0), Unit("b/kernel", "b/bias", "c/kernel", 1))
X = jnp.array(np.random.default_rng(2).normal(size=(16, 4)), jnp.float32)


def network(seed=0):
  rng = np.random.default_rng(seed)
  draw = lambda *s: jnp.array(rng.normal(size=s), jnp.float32)
  return {n: {"kernel": draw(i, o), "bias": draw(o)} for n, i, o in (("a", 4, 8), ("b", 8, 6), ("c", 6, 4))}


@jax.jit
def forward(p, x):
  h1 = jax.nn.relu(x @ p["a"]["kernel"] + p["a"]["bias"])
  h2 = jax.nn.relu(h1 @ p["b"]["kernel"] + p["b"]["bias"])
  return h2 @ p["c"]["kernel"] + p["c"]["bias"], (h1, h2)


def test_finished_tasks_are_kept_to_the_bit():
  params, state, logits = network(), O.clnp_init(network(), UNITS), None
  tx = optax.adamw(0.05, weight_decay=0.1)
  frozen_count = []
  for task in range(2):
    classes = np.isin(np.arange(4), [2 * task, 2 * task + 1])
    opt = tx.init(params)

    @jax.jit
    def step(params, opt, state, classes=classes):
      loss = lambda p: jnp.sum(jnp.where(classes, jnp.square(forward(p, X)[0] - 1.0), 0))
      updates, opt = tx.update(jax.grad(loss)(params), opt, params)
      return optax.apply_updates(params, O.clnp_trainable(updates, state, UNITS)), opt

    before = params
    for _ in range(5):
      params, opt = step(params, opt, state)
    assert tree.digest(params) != tree.digest(before)
    if task == 1:
      np.testing.assert_array_equal(forward(params, X)[0][:, :2], logits)
    used = tuple(h.mean(0) > 0.3 for h in forward(params, X)[1])
    params, state = O.clnp_end_task(params, state, UNITS, used, classes)
    logits = forward(params, X)[0][:, :2] if task == 0 else logits
    np.testing.assert_array_equal(forward(params, X)[0][:, :2], logits)
    frozen_count.append(sum(int(o.sum()) for o in state.owned))
    for o, u in zip(state.owned, used, strict=True):
      assert np.all(np.asarray(o)[np.asarray(u)])
  assert 0 < frozen_count[0] <= frozen_count[1]
  # Free to owned edges are cut; owned to free ones are not.
  first, second = (np.asarray(o) for o in state.owned)
  kernel = np.asarray(params["b"]["kernel"])
  assert np.all(kernel[np.ix_(~first, second)] == 0)
  assert np.all(kernel[np.ix_(first, ~second)] != 0)


def test_nothing_is_frozen_before_the_first_boundary():
  params = network()
  assert tree.digest(O.clnp_trainable(params, O.clnp_init(params, UNITS), UNITS)) == tree.digest(params)


def test_threshold_is_the_largest_within_the_margin():
  accuracy = lambda t: jnp.where(t <= 0.5, 0.9, jnp.where(t <= 0.8, 0.87, 0.2))
  grid = jnp.linspace(0, 1, 11)
  pick = jax.jit(lambda m: O.clnp_threshold(accuracy, grid, m))
  np.testing.assert_allclose([pick(0.0), pick(0.05), pick(0.9)], [0.5, 0.8, 1.0], rtol=1e-6)
  with pytest.raises(UsageError, match="chain"):
    O.clnp_init(network(), UNITS[::-1])
  with pytest.raises(UsageError, match="names no units"):
    O.clnp_init(network(), ())


def test_mean_field():
  rng = np.random.default_rng(0)
  q, p = (O.MeanField({"w": jnp.array(rng.normal(size=3))}, {"w": jnp.array(rng.normal(size=3))}) for _ in range(2))
  soft = lambda t: np.log1p(np.exp(np.float64(t.spread["w"])))
  m, s, m0, s0 = np.float64(q.mean["w"]), soft(q), np.float64(p.mean["w"]), soft(p)
  want = np.sum(np.log(s0) - np.log(s) + (s**2 + (m - m0) ** 2) / (2 * s0**2) - 0.5)
  np.testing.assert_allclose(O.mean_field_kl(q, p), want, rtol=1e-5)
  assert O.mean_field_kl(q, p) > 0
  np.testing.assert_allclose(O.mean_field_kl(q, q), 0, atol=1e-6)
  drawn = jax.vmap(lambda k: O.mean_field_sample(k, q)["w"])(jax.random.split(jax.random.key(0), 4000))
  np.testing.assert_allclose(drawn.mean(0), m, atol=0.1)
  np.testing.assert_allclose(drawn.std(0), s, rtol=0.1)
  start = O.mean_field({"w": jnp.ones(3)}, 0.02)
  np.testing.assert_allclose(soft(start), 0.02, rtol=1e-4)


def test_claw_is_bounded_and_neutral():
  kernel = jnp.array(np.random.default_rng(0).normal(size=(5, 4)), jnp.float32)
  p, limit = jnp.array([0.0, 0.5, 1.0, 0.9]), jnp.array([1.0, 0.3, 0.2, 0.0])
  got = O.claw_adapt(jax.random.key(0), kernel, jnp.full(4, 50.0), p, limit)
  np.testing.assert_array_equal(got[:, [0, 3]], kernel[:, [0, 3]])
  share = np.asarray(got / kernel - 1)
  assert np.all(np.abs(share) <= np.asarray(limit) + 1e-5)
  assert np.allclose(share, share[:1], atol=1e-5)  # per neuron, not per weight
  np.testing.assert_allclose(share[:, 2], 0.2, atol=1e-3)
  slope = jax.grad(lambda p: O.claw_adapt(jax.random.key(0), kernel, 1.0, p, 0.3).sum())(jnp.full(4, 0.5))
  assert np.all(np.isfinite(slope))
  assert np.any(np.asarray(slope) != 0)
