"""Continual backprop on a two-layer network, against a NumPy copy of its bookkeeping."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cljax import UsageError
from cljax import optimizers as O


class Unit(NamedTuple):
  in_kernel: str
  in_bias: str
  out_kernel: str
  hidden: int


UNITS = (Unit("one/kernel", "one/bias", "two/kernel", 0), Unit("two/kernel", "two/bias", "head/kernel", 1))
SIZES = (4, 6, 5, 3)


def network(seed=0):
  rng = np.random.default_rng(seed)
  draw = lambda *s: jnp.array(rng.normal(size=s), jnp.float32)
  return {
    n: {"kernel": draw(i, o), "bias": draw(o)}
    for n, i, o in zip(("one", "two", "head"), SIZES, SIZES[1:], strict=False)
  }


def forward(params, x):
  h1 = jax.nn.relu(x @ params["one"]["kernel"] + params["one"]["bias"])
  h2 = jax.nn.relu(h1 @ params["two"]["kernel"] + params["two"]["bias"])
  return h2 @ params["head"]["kernel"] + params["head"]["bias"], (h1, h2)


X = jnp.array(np.random.default_rng(1).normal(size=(7, 4)), jnp.float32)
WEIGHT = jnp.array([1.0, 1, 1, 1, 1, 0, 0])


def test_utilities_ages_and_choice_match_numpy():
  params = network()
  for utility in ("contribution", "adaptable"):
    state = O.continual_backprop_init(params, UNITS)
    age, u, f, due = np.zeros(6), np.zeros(6), np.zeros(6), 0.0
    p, opt = params, optax.sgd(0.1).init(params)
    step = jax.jit(
      lambda k, p, o, s, h, utility=utility: O.continual_backprop_step(
        k, p, o, s, h, WEIGHT, UNITS, rate=0.15, maturity=2, decay=0.9, utility=utility
      )
    )
    for t in range(8):
      hidden = forward(p, X * (1 + 0.1 * t))[1]
      h = np.float64(hidden[0])[:5]  # rows of weight 0 are absent
      w_in, w_out = np.float64(p["one"]["kernel"]), np.float64(p["two"]["kernel"])
      age += 1
      c = 1 - 0.9**age
      f = 0.9 * f + 0.1 * h.mean(0)
      if utility == "contribution":
        now = np.abs(h).mean(0) * np.abs(w_out).mean(1)
      else:
        now = np.abs(h - f / c).mean(0) * np.abs(w_out).mean(1) / np.abs(w_in).mean(0)
      u = 0.9 * u + 0.1 * now
      eligible = age > 2
      due += 0.15 * eligible.sum()
      n = int(np.floor(due + 1e-9))
      due -= n
      order = [j for j in np.argsort(u / c) if eligible[j]][:n]
      before = p
      p, opt, state = step(jax.random.key(t), p, opt, state, hidden)
      kernel_changed = np.any(np.asarray(p["one"]["kernel"]) != np.asarray(before["one"]["kernel"]), axis=0)
      assert sorted(np.flatnonzero(kernel_changed)) == sorted(order)
      for j in order:
        age[j] = u[j] = f[j] = 0
        kept = np.asarray(state.age[1]) > 0  # a unit reset in the next layer draws its incoming weights anew
        assert np.all(np.asarray(p["two"]["kernel"])[j, kept] == 0)
        assert p["one"]["bias"][j] == 0
        assert np.all(np.abs(np.asarray(p["one"]["kernel"])[:, j]) <= np.sqrt(2) * np.sqrt(3 / 4))
      np.testing.assert_allclose(state.age[0], age)
      np.testing.assert_allclose(state.utility[0], u, rtol=1e-4, atol=1e-6)
      np.testing.assert_allclose(state.mean[0], f, rtol=1e-4, atol=1e-6)
    assert sum(age == 0) or age.min() < 8  # something was replaced in these eight steps


@functools.partial(jax.jit, static_argnums=0)
def reset_all(compensate, params, opt_state=()):
  """Every unit of the first layer is old and replaced in one step."""
  units = UNITS[:1]
  state = O.continual_backprop_init(params, units)
  hidden = forward(params, X)[1]
  return O.continual_backprop_step(
    jax.random.key(0), params, opt_state, state, hidden, WEIGHT, units, rate=1.0, maturity=0, compensate=compensate
  ), hidden


def test_reset_removes_exactly_the_contribution_and_the_bias_takes_over_its_mean():
  params = network()
  (new, _, _), hidden = reset_all(False, params)
  pre = np.asarray(X @ new["one"]["kernel"])
  assert np.any(pre != np.asarray(X @ params["one"]["kernel"]))
  np.testing.assert_allclose(forward(new, X)[0], forward({**new, "one": params["one"]}, X)[0])  # new units add 0
  np.testing.assert_array_equal(new["two"]["bias"], params["two"]["bias"])
  (new, _, _), hidden = reset_all(True, params)
  mean = np.float64(hidden[0])[:5].mean(0)  # one step: f / c is the mean of this batch
  want = np.float64(params["two"]["bias"]) + mean @ np.float64(params["two"]["kernel"])
  np.testing.assert_allclose(new["two"]["bias"], want, rtol=1e-4)


def test_moments_of_reset_units_are_emptied_and_nothing_else():
  from cljax import regularizers as R

  params = network()
  tx = optax.chain(R.l2_init(1.0), optax.adam(0.1))
  _, opt = tx.update(jax.tree.map(jnp.ones_like, params), tx.init(params), params)
  (_, new, _), _ = reset_all(True, params, opt)
  adam = new[1][0]
  for moment in (adam.mu, adam.nu):
    assert np.all(np.asarray(moment["one"]["kernel"]) == 0)
    assert np.all(np.asarray(moment["one"]["bias"]) == 0)
    assert np.all(np.asarray(moment["two"]["kernel"]) == 0)
    assert np.all(np.asarray(moment["two"]["bias"]) != 0)
    assert np.all(np.asarray(moment["head"]["kernel"]) != 0)
  np.testing.assert_array_equal(new[0].anchor["one"]["kernel"], params["one"]["kernel"])


def test_rate_zero_changes_no_bit_and_immature_units_are_safe():
  params = network()
  opt = optax.adam(0.1).init(params)
  hidden = forward(params, X)[1]
  step = jax.jit(
    lambda k, s, r, m: O.continual_backprop_step(k, params, opt, s, hidden, WEIGHT, UNITS, rate=r, maturity=m)
  )
  for rate, maturity in ((0.0, 0), (1.0, 100)):
    state = O.continual_backprop_init(params, UNITS)
    for t in range(3):
      new, new_opt, state = step(jax.random.key(t), state, rate, maturity)
      jax.tree.map(np.testing.assert_array_equal, (new, new_opt), (params, opt))


def test_young_units_are_ranked_by_their_corrected_utility():
  """Unit 0 has the lowest running utility only because it is young; unit 1, old, is the one that goes."""
  params = network()
  state = O.continual_backprop_init(params, UNITS)
  age, worth = jnp.full(6, 1000).at[0].set(3), jnp.full(6, 1e6).at[0].set(4e5).at[1].set(5e5)
  state = state._replace(
    age=(age, state.age[1]), utility=(worth, state.utility[1]), due=(jnp.float32(0.9), state.due[1])
  )
  step = jax.jit(
    lambda s: O.continual_backprop_step(
      jax.random.key(0), params, (), s, forward(params, X)[1], WEIGHT, UNITS, rate=0.05, maturity=2, decay=0.9
    )
  )
  np.testing.assert_array_equal(step(state)[2].age[0] == 0, np.arange(6) == 1)


def test_the_number_replaced_is_the_rate_times_the_eligible():
  params = network()
  state = O.continual_backprop_init(params, UNITS)
  hidden = forward(params, X)[1]
  step = jax.jit(lambda k, p, s, r: O.continual_backprop_step(k, p, (), s, hidden, WEIGHT, UNITS, rate=r, maturity=0))
  total = 0
  for t in range(40):
    before = state
    params, _, state = step(jax.random.key(t), params, state, 0.01)  # the rate is traced
    total += int(jnp.sum(state.age[0] <= before.age[0]))
  assert total == int(40 * 6 * 0.01)


def test_misuse():
  params = network()
  with pytest.raises(UsageError, match="names no units"):
    O.continual_backprop_init(params, ())
  with pytest.raises(UsageError, match="no parameter at 'nope'"):
    O.continual_backprop_init(params, (UNITS[0]._replace(in_kernel="nope"),))
  state = O.continual_backprop_init(params, UNITS)
  for options in ({"utility": "weight"}, {"rate": 2.0}):
    with pytest.raises(UsageError):
      O.continual_backprop_step(jax.random.key(0), params, (), state, forward(params, X)[1], WEIGHT, UNITS, **options)


def test_the_state_is_in_the_kernels_dtype_and_its_correction_has_all_digits():
  """After one step ``f / c`` is the mean activation, which the next bias takes over, also where ``decay`` is near 1."""
  with jax.enable_x64(True):
    params = network()
    state = O.continual_backprop_init(params, UNITS[:1])
    assert {a.dtype for a in (*state.utility, *state.mean, *state.due)} == {jnp.dtype(jnp.float32)}
    hidden = tuple(jnp.asarray(h, jnp.float32) for h in forward(params, X)[1])
    given = {"rate": 1.0, "maturity": 0, "decay": 0.9999}
    opt = optax.sgd(0.1).init(params)
    after = O.continual_backprop_step(jax.random.key(0), params, opt, state, hidden, jnp.ones(7), UNITS[:1], **given)[0]
    want = np.float64(params["two"]["bias"]) + np.float64(hidden[0]).mean(0) @ np.float64(params["two"]["kernel"])
    wide = jax.tree.map(lambda a: a.astype(jnp.float64), params)
    assert O.continual_backprop_init(wide, UNITS[:1]).mean[0].dtype == jnp.float64
  np.testing.assert_allclose(np.float64(after["two"]["bias"]), want, rtol=2e-5, atol=1e-6)
