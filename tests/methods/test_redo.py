"""ReDo against NumPy in float64, and what a flattened convolution does to units."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bench import Bench, assert_same
from by_hand import RATE, batch_of, leaves, log_softmax

from cljax import methods, models
from cljax.core.method import Outlook
from cljax.core.types import Outputs, UsageError
from cljax.engine import recipe
from cljax.engine.setup import spec_of
from cljax.methods.plasticity import recycling
from cljax.models.zoo import Unit, chain_units

DEEP = models.mlp((4, 4, 1), 4, hidden=(8, 6))


def passed(p, x):
  """Both hidden layers, the logits."""
  one = np.maximum(np.asarray(x, np.float64).reshape(len(x), -1) @ p["hidden_0/kernel"] + p["hidden_0/bias"], 0)
  two = np.maximum(one @ p["hidden_1/kernel"] + p["hidden_1/bias"], 0)
  return one, two, two @ p["head/kernel"] + p["head/bias"]


def slopes(p, x, y):
  one, two, z = passed(p, x)
  d = np.exp(log_softmax(z))
  d[np.arange(len(y)), y] -= 1
  d /= len(y)
  two_back = d @ p["head/kernel"].T * (two > 0)
  one_back = two_back @ p["hidden_1/kernel"].T * (one > 0)
  flat = np.asarray(x, np.float64).reshape(len(x), -1)
  return {
    "head/kernel": two.T @ d, "head/bias": d.sum(0), "hidden_1/kernel": one.T @ two_back,
    "hidden_1/bias": two_back.sum(0), "hidden_0/kernel": flat.T @ one_back, "hidden_0/bias": one_back.sum(0),
  }  # fmt: skip


def test_redo_recycles_what_is_hardly_active(class_stream):
  """Every second step, behind momentum: who goes, what is new, what is 0, which moments."""
  tau = 0.6
  momentum = recipe.make_optimizer("momentum", learning_rate=RATE, momentum=0.8)
  bench = Bench("redo", class_stream, DEEP, {"tau": tau, "every": 2}, optimizer=momentum)
  learner, recycled = bench.start(), 0
  p = leaves(learner.params)
  trace = {n: 0.0 * v for n, v in p.items()}
  for k in range(6):
    x, y = batch_of(bench, 0, k)
    one, two, _ = passed(p, x)
    trace = {n: 0.8 * trace[n] + g for n, g in slopes(p, x, y).items()}
    p = {n: v - RATE * trace[n] for n, v in p.items()}
    learner = bench.step(learner, *bench.arguments(0, k))[0]
    got = leaves(learner.params)
    if k % 2:
      goes = [np.abs(h).mean(0) <= tau * np.abs(h).mean() for h in (one, two)]
      for gone, layer in zip(goes, ("hidden_0", "hidden_1"), strict=True):
        fresh = got[f"{layer}/kernel"][:, gone]
        old = p[f"{layer}/kernel"][:, gone]
        p[f"{layer}/kernel"][:, gone], p[f"{layer}/bias"][gone] = fresh, 0
        trace[f"{layer}/kernel"][:, gone], trace[f"{layer}/bias"][gone] = 0, 0
        if layer == "hidden_0" and gone.any():
          assert (np.abs(fresh - old) > 1e-6).all()
          assert 0.2 < fresh.std() < 1
      for gone, layer in zip(goes, ("hidden_1", "head"), strict=True):
        p[f"{layer}/kernel"][gone] = 0
        trace[f"{layer}/kernel"][gone] = 0
      recycled += np.array([g.sum() for g in goes])
      assert all((~g).sum() > 0 for g in goes)
    for n, v in p.items():
      np.testing.assert_allclose(got[n], v, atol=1e-5, err_msg=f"step {k}: {n}")
    held = jax.tree.leaves(learner.opt_state.optimizer)
    of_shape = {v.shape: v for v in held if np.ndim(v) == 2}
    for n in ("hidden_0/kernel", "hidden_1/kernel", "head/kernel"):
      np.testing.assert_allclose(of_shape[trace[n].shape], trace[n], atol=1e-5, err_msg=f"step {k}: {n}")
    p = got
  assert (recycled >= 1).all()


def test_silent_units_go_and_no_output_changes(class_stream, small_model):
  """``tau = 0``: of two silent units both start anew; the outputs and the other units are those of plain training."""
  bench = Bench("redo", class_stream, small_model, {"tau": 0.0, "every": 1})
  plain = Bench("finetune", class_stream, small_model)
  start = bench.start()
  bias = jnp.full(8, 5.0).at[jnp.array([2, 5])].set(-50.0)
  params = {**start.params, "hidden_0": {**start.params["hidden_0"], "bias": bias}}
  mine = bench.step(start._replace(params=params), *bench.arguments(0))[0].params
  other = plain.step(plain.start()._replace(params=params), *plain.arguments(0))[0].params
  x = jnp.asarray(batch_of(bench, 0, 0)[0])
  out = lambda p: np.asarray(small_model.apply(p, {}, x, train=False, key=None)[0].logits)
  hidden = lambda p: np.asarray(small_model.apply(p, {}, x, train=False, key=None)[0].hidden[0])
  np.testing.assert_allclose(out(mine), out(other), atol=1e-6)
  gone = np.isin(np.arange(8), [2, 5])
  assert (hidden(mine)[:, gone].max(0) > 0).all()
  assert (hidden(other)[:, gone] == 0).all()
  np.testing.assert_array_equal(np.asarray(mine["head"]["kernel"])[gone], 0)
  np.testing.assert_array_equal(np.asarray(mine["hidden_0"]["bias"])[gone], 0)
  for leaf in ("kernel", "bias"):
    kept = lambda p, leaf=leaf: np.asarray(p["hidden_0"][leaf])[..., ~gone]
    np.testing.assert_allclose(kept(mine), kept(other), atol=1e-6)


class Flattened(nn.Module):
  """A convolution of three channels, its 4 places flattened channels last, a dense layer, a head."""

  @nn.compact
  def __call__(self, x, train=False):
    maps = nn.relu(nn.Conv(3, (2, 2), strides=(2, 2), name="conv")(x))
    wide = nn.relu(nn.Dense(5, name="wide")(maps.reshape(len(x), -1)))
    return Outputs(nn.Dense(4, name="head")(wide), wide, (maps, wide))


def test_a_flattened_convolution_is_read_place_by_place(class_stream):
  """Channel 1 is silent. Its rows of the next kernel are 1, 4, 7 and 10 (tile); 4 to 7 (repeat) are others' too."""
  model = models.from_linen(Flattened(), (4, 4, 1), units=chain_units("conv", "wide", "head"))
  bench = Bench("redo", class_stream, model, {"tau": 0.0, "every": 1})
  plain = Bench("finetune", class_stream, model)
  start = bench.start()
  conv = {"kernel": start.params["conv"]["kernel"], "bias": jnp.float32([1.0, -50.0, 1.0])}
  params = {**start.params, "conv": conv, "wide": {**start.params["wide"], "bias": jnp.full(5, 10.0)}}
  mine = bench.step(start._replace(params=params), *bench.arguments(0))[0].params
  other = plain.step(plain.start()._replace(params=params), *plain.arguments(0))[0].params
  x = jnp.asarray(batch_of(bench, 0, 0)[0])
  out = lambda p: np.asarray(model.apply(p, {}, x, train=False, key=None)[0].logits)
  np.testing.assert_allclose(out(mine), out(other), atol=1e-5)
  rows = np.arange(12) % 3 == 1
  np.testing.assert_array_equal(np.asarray(mine["wide"]["kernel"])[rows], 0)
  np.testing.assert_allclose(
    np.asarray(mine["wide"]["kernel"])[~rows], np.asarray(other["wide"]["kernel"])[~rows], atol=1e-6
  )
  assert (np.asarray(mine["wide"]["kernel"])[~rows] != 0).all()
  assert (np.asarray(mine["conv"]["kernel"])[..., 1] != np.asarray(params["conv"]["kernel"])[..., 1]).all()
  mask = recycling.read_by(jnp.array([False, True, False]), jnp.zeros((12, 5)))
  np.testing.assert_array_equal(mask[:, 0], rows)


def test_scores_average_to_one_over_rows_and_places():
  h = np.random.default_rng(0).normal(size=(5, 2, 3, 4)).astype(np.float32)
  weight = np.float32([1, 0, 2, 1, 0])
  mean = np.abs(h[weight > 0].astype(np.float64)).mean((0, 1, 2))
  got = np.asarray(recycling.activity_scores(jnp.asarray(h), jnp.asarray(weight)))
  np.testing.assert_allclose(got, mean / mean.mean(), rtol=1e-5)
  np.testing.assert_allclose(got.mean(), 1, rtol=1e-6)
  np.testing.assert_array_equal(recycling.activity_scores(jnp.zeros((3, 4)), jnp.ones(3)), 0)
  np.testing.assert_array_equal(recycling.activity_scores(jnp.asarray(h), jnp.zeros(5)), 0)


def test_a_weight_between_two_recycled_units_goes_out_of_one():
  """All moments of what is new are 0, of the rest as they were; the count of steps goes on."""
  import optax

  params, fresh = (DEEP.init(jax.random.key(k))[0] for k in (0, 1))
  tx = optax.adam(0.1)
  state = tx.update(jax.tree.map(jnp.ones_like, params), tx.init(params), params)[1]
  chosen = [jnp.arange(8) == 3, jnp.arange(6) == 2]
  new, moved = recycling.recycle(params, state, fresh, DEEP.units, chosen)
  between = np.asarray(new["hidden_1"]["kernel"])
  assert between[3, 2] == 0
  np.testing.assert_array_equal(
    np.delete(between[:, 2], 3), np.delete(np.asarray(fresh["hidden_1"]["kernel"])[:, 2], 3)
  )
  np.testing.assert_array_equal(between[3], 0)
  rest = lambda t: np.delete(np.delete(np.asarray(t["hidden_1"]["kernel"]), 3, 0), 2, 1)
  np.testing.assert_array_equal(rest(new), rest(params))
  for moment, value in ((moved[0].mu, 0.1), (moved[0].nu, 0.001)):
    want = {n: np.full(v.shape, value) for n, v in leaves(params).items()}
    want["hidden_0/kernel"][:, 3], want["hidden_0/bias"][3], want["hidden_1/kernel"][3] = 0, 0, 0
    want["hidden_1/kernel"][:, 2], want["hidden_1/bias"][2], want["head/kernel"][2] = 0, 0, 0
    for n, v in leaves(moment).items():
      np.testing.assert_allclose(v, want[n], rtol=1e-5, err_msg=n)
  assert int(moved[0].count) == 1
  none = recycling.recycle(params, state, fresh, DEEP.units, [jnp.zeros(8, bool), jnp.zeros(6, bool)])
  assert_same(none, (params, state))


def test_redo_refuses_models_whose_units_it_can_not_tell(class_stream, small_model):
  spec = spec_of(class_stream, 8)
  with pytest.raises(UsageError, match="redo: the model names no units"):
    methods.make("redo", small_model._replace(units=()), spec)
  with pytest.raises(UsageError, match="'head/kernel' has 6 inputs, 'hidden_0/kernel' writes 8 units; expected a mul"):
    methods.make("redo", DEEP._replace(units=(Unit("hidden_0/kernel", "hidden_0/bias", "head/kernel", 0),)), spec)
  with pytest.raises(UsageError, match="units: no parameter at 'no/kernel'"):
    methods.make("redo", DEEP._replace(units=(Unit("no/kernel", "no/bias", "head/kernel", 0),)), spec)


def test_redo_says_where_it_never_acts(class_stream, small_model):
  made = methods.make("redo", small_model, spec_of(class_stream, 8), every=50)
  assert made.remarks(Outlook(49, (0,))) == ["method.every: got 50; the stream has 49 steps, so redo recycles no unit"]
  assert made.remarks(Outlook(50, (0,))) == []
