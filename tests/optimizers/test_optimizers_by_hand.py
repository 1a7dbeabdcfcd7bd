"""Averages, schedules, edits and transforms against NumPy, in float64; draws are JAX's own, by the documented keys."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.stats

from cljax import optimizers as O


@pytest.fixture(autouse=True)
def double():
  with jax.enable_x64(True):
    yield


RNG = np.random.default_rng(3)


def test_averages_leaf_by_leaf():
  a, b = RNG.normal(size=(2, 3)), RNG.normal(size=(2, 3))
  np.testing.assert_allclose(O.ema({"w": a}, {"w": b}, 0.7)["w"], 0.7 * a + 0.3 * b)
  np.testing.assert_allclose(O.reptile({"w": jnp.asarray(a)}, {"w": jnp.asarray(b)}, 0.3)["w"], b + 0.3 * (a - b))
  for step, moved in ((0, False), (3, True), (4, False), (6, True)):
    got, snapshot = O.reptile_every(step, {"w": jnp.asarray(a)}, {"w": jnp.asarray(b)}, 3, 0.25)
    want = b + 0.25 * (a - b)
    np.testing.assert_allclose(got["w"], want if moved else a)
    np.testing.assert_allclose(snapshot["w"], want if moved else b)


def test_lcia_falls_back_where_its_weight_leaves_the_open_interval():
  """Weight 0 (the parameters stand still) and weight 1: neither is inside, the average keeps 0.99."""
  one, zero = ({"w": jnp.full(1, v)} for v in (1.0, 0.0))
  still = O.lcia(zero, one, one, {"w": jnp.full(1, 2.0)}, zero)  # |t - t_last| = 0
  np.testing.assert_allclose(still["w"], 0.01)
  whole = O.lcia(zero, one, zero, zero, one)  # (0 + 1) / (1 * 1 / 1)
  np.testing.assert_allclose(whole["w"], 0.01)


def test_schedules_without_warmup_or_cooldown():
  rate = O.rewarm_redecay(2.0, 0.5, 0, 10)
  np.testing.assert_allclose([rate(0), rate(5), rate(10)], [2, 1.25, 2], rtol=1e-6)
  rate = O.infinite(2.0, 1.0, 0.25, 0, 0, 4, 2)
  np.testing.assert_allclose(
    [rate(0), rate(1), rate(4), rate(5), rate(6), rate(9)], [2, 1, 1, 0.5, 0.25, 0.25], rtol=1e-6
  )


def test_the_gate_of_classp_is_strict():
  tx = O.classp(0.5, threshold=0.25, power=2.0, eps=0.0)
  g = jnp.asarray([0.5, -0.5, -2.0, 0.0])
  got, state = tx.update({"w": g}, tx.init({"w": g}))
  np.testing.assert_allclose(got["w"], [0, 0, 0.5, 0])
  np.testing.assert_allclose(state[0].accumulated["w"], [0, 0, 4, 0])


def test_ratios_are_shifted_and_cut_until_the_mean_is_right():
  for mean in (0.1, 0.5, 0.95):
    raw = RNG.normal(size=6) * 2
    shift = scipy.optimize.brentq(lambda s, m=mean, r=raw: np.mean(np.clip(r + s, 0, 1)) - m, -20, 20, xtol=1e-14)
    np.testing.assert_allclose(O.project_ratios(raw, mean), np.clip(raw + shift, 0, 1), atol=1e-10)


def test_forgotten_weights_are_drawn_evenly():
  """``round(0.26 * 10)`` of ten weights, each as often as any other; of a matching tensor alone."""
  params, fresh = {"in": jnp.zeros(10), "out": jnp.zeros((5, 2))}, {"in": jnp.ones(10), "out": jnp.ones((5, 2))}
  each = jax.jit(jax.vmap(lambda k: O.fomo_forget(k, params, fresh, 0.26, ["out"])))(
    jax.random.split(jax.random.key(0), 400)
  )
  taken = np.asarray(each["out"]).reshape(400, 10)
  np.testing.assert_array_equal(taken.sum(1), 3)
  assert scipy.stats.chisquare(taken.sum(0)).pvalue > 1e-3
  assert not np.any(each["in"])
  both = O.fomo_forget(jax.random.key(1), params, fresh, 0.26)
  assert [int(np.sum(both[k])) for k in ("in", "out")] == [3, 3]
  assert np.any(np.ravel(both["in"]) != np.ravel(both["out"]))  # not the same places in each


def test_mean_field_by_hand():
  key, soft = jax.random.key(7), lambda r: np.log1p(np.exp(r))
  q = O.MeanField({"a": jnp.asarray(RNG.normal(size=(2, 2))), "b": jnp.asarray(RNG.normal(size=3))},
                  {"a": jnp.asarray(RNG.normal(size=(2, 2))), "b": jnp.asarray(RNG.normal(size=3))})  # fmt: skip
  noise = np.asarray(jax.random.normal(key, (7,)))
  drawn, (first, second) = jax.jit(lambda q: (O.mean_field_sample(key, q), O.natural_parameters(q)))(q)
  g = jax.tree.map(lambda x: x + 0.5, q)
  tx = O.natural_gradient(3.0)
  step, _ = tx.update(g, tx.init(q), q)
  for k, e in (("a", noise[:4].reshape(2, 2)), ("b", noise[4:])):
    m, r = np.asarray(q.mean[k]), np.asarray(q.spread[k])
    s = soft(r)
    np.testing.assert_allclose(drawn[k], m + s * e, rtol=1e-6)
    np.testing.assert_allclose(first[k], m / s**2, rtol=1e-6)
    np.testing.assert_allclose(second[k], -0.5 / s**2, rtol=1e-6)
    slope = 1 / (1 + np.exp(-r))  # ds/dr
    np.testing.assert_allclose(step.mean[k], 3 * s**2 * (m + 0.5), rtol=1e-6)
    np.testing.assert_allclose(step.spread[k], 3 * s**2 / (2 * slope**2) * (r + 0.5), rtol=1e-6)
  start = O.mean_field(q.mean, 0.02)
  np.testing.assert_allclose(soft(np.asarray(start.spread["a"])), 0.02, rtol=1e-6)
  np.testing.assert_array_equal(start.mean["b"], q.mean["b"])


def test_claw_adapts_each_neuron_by_its_relaxed_choice():
  key, kernel, amount = jax.random.key(8), RNG.normal(size=(3, 4)), RNG.normal(size=4)
  p, limit, temperature = np.array([0.2, 0.5, 0.9, 0.0]), np.array([0.5, 0.3, 1.0, 1.0]), 0.7
  u = np.asarray(jax.random.logistic(key, (4,)))
  inner = np.maximum(p, 1e-6)
  a = (p > 0) / (1 + np.exp(-(np.log(inner / (1 - inner)) + u) / temperature))
  got = jax.jit(lambda kernel: O.claw_adapt(key, kernel, amount, p, limit, temperature))(kernel)
  np.testing.assert_allclose(got, kernel * (1 + a * limit * np.tanh(amount)), rtol=1e-6)
  slope = jax.grad(lambda p: O.claw_adapt(key, jnp.asarray(kernel), amount, p, limit).sum())(
    jnp.asarray([0, 1.0, 0.5, 1])
  )
  assert np.all(np.isfinite(slope))


def test_freeze_zeroes_what_matches():
  updates = {"embed": RNG.normal(size=3), "layers": RNG.normal(size=(2, 2))}
  tx = O.freeze(("embed",))
  got, _ = tx.update(updates, tx.init(updates))
  np.testing.assert_array_equal(got["embed"], 0)
  np.testing.assert_array_equal(got["layers"], updates["layers"])
  idle = O.freeze(("embed",), active=0)
  np.testing.assert_array_equal(idle.update(updates, idle.init(updates))[0]["embed"], updates["embed"])


@pytest.mark.parametrize("base", ["rmsprop", "adagrad", "adam"])
def test_scale_by_tag_stores_directions_and_second_moments(base):
  tx = O.scale_by_tag(2, b=1.5, base=base)
  params, g = {"w": jnp.zeros(3)}, RNG.normal(size=(2, 3))
  state, update = tx.init(params), jax.jit(tx.update)
  m, v = np.zeros(3), np.zeros(3)
  for x in g:
    _, state = update({"w": jnp.asarray(x)}, state)
    m, v = 0.9 * m + 0.1 * x, (v + x**2 if base == "adagrad" else 0.99 * v + 0.01 * x**2)
  np.testing.assert_allclose(state.first["w"], m, rtol=1e-6)
  state = O.tag_next_task((state,))[0]
  np.testing.assert_allclose(state.directions["w"], [m / np.linalg.norm(m), np.zeros(3)], rtol=1e-6)
  np.testing.assert_allclose(state.seconds["w"], [v, np.zeros(3)], rtol=1e-6)
  assert (int(state.task), int(state.count)) == (1, 0)
  assert not np.any(state.first["w"])
  assert not np.any(state.second["w"])
