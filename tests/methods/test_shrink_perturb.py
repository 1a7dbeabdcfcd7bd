"""Shrink and perturb against NumPy in float64."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bench import Bench, assert_same
from by_hand import RATE, batch_of, gradient, leaves

from cljax import methods, models
from cljax.core.types import UsageError
from cljax.engine.setup import spec_of
from cljax.methods.plasticity import shrink_perturb

WIDE = models.mlp((4, 4, 1), 4, hidden=(200,))


def noise_of(got, base, shrink):
  """What was added beyond the shrunk weights, over all leaves."""
  return np.concatenate([(v - shrink * base[n]).ravel() for n, v in leaves(got).items()])


def test_weights_are_shrunk_and_noise_added_where_a_task_begins(class_stream):
  """Not before the first; ``0.7 theta`` and normal noise of 0.05, of kernels and biases alike."""
  bench = Bench("shrink_perturb", class_stream, WIDE, {"shrink": 0.7, "noise": 0.05})
  start = bench.start()
  first = bench.boundary("start_task", start, 0)
  assert_same(first, start)
  learner = bench.steps(first, 0, 2)
  before = leaves(learner.params)
  after = bench.boundary("start_task", learner, 1)
  xi = noise_of(after.params, before, 0.7)
  np.testing.assert_allclose([xi.mean(), xi.std()], [0, 0.05], atol=0.003)
  assert (np.abs(xi) < 0.05).mean() == pytest.approx(0.683, abs=0.03)
  by_leaf = {n: (v - 0.7 * before[n]).std() for n, v in leaves(after.params).items()}
  assert min(by_leaf.values()) > 0.01
  again = bench.boundary("start_task", learner, 1)
  assert_same(again, after)
  still = bench.boundary("start_task", learner, 1, noise=0.0)
  for n, v in leaves(still.params).items():
    np.testing.assert_allclose(v, 0.7 * before[n], rtol=1e-6, err_msg=n)
  other = bench.boundary("start_task", learner._replace(step=learner.step + 1), 1)
  assert np.abs(np.corrcoef(xi, noise_of(other.params, before, 0.7))[0, 1]) < 0.1


def test_layers_of_one_shape_draw_noise_of_their_own():
  params = {n: {"kernel": jnp.zeros((16, 16))} for n in ("one", "two")}
  got = shrink_perturb.shrunk(jax.random.key(0), params, {"one/kernel", "two/kernel"}, 1.0, 1.0)
  one, two = (np.asarray(got[n]["kernel"]).ravel() for n in ("one", "two"))
  assert abs(np.corrcoef(one, two)[0, 1]) < 0.3
  kept = shrink_perturb.shrunk(jax.random.key(0), params, {"one/kernel"}, 1.0, 1.0)
  np.testing.assert_array_equal(kept["one"]["kernel"], got["one"]["kernel"])
  assert not np.asarray(kept["two"]["kernel"]).any()


def test_behind_each_step_it_is_decay_and_noise(class_stream):
  bench = Bench("shrink_perturb", class_stream, WIDE, {"shrink": 0.9, "noise": 0.02, "when": "step"})
  learner = bench.start()
  for k in range(2):
    p = leaves(learner.params)
    g = gradient(p, *batch_of(bench, 0, k))
    trained = {n: v - RATE * g[n] for n, v in p.items()}
    learner = bench.step(learner, *bench.arguments(0, k))[0]
    xi = noise_of(learner.params, trained, 0.9)
    np.testing.assert_allclose([xi.mean(), xi.std()], [0, 0.02], atol=0.001)
  assert_same(bench.boundary("start_task", learner, 1), learner)


class Normed(nn.Module):
  @nn.compact
  def __call__(self, x, train=False):
    x = nn.BatchNorm(use_running_average=not train, name="norm")(nn.Dense(6, name="wide")(x.reshape(len(x), -1)))
    return nn.Dense(4, name="head")(nn.relu(x))


def test_norms_and_their_statistics_are_left_alone(class_stream):
  """Scales, biases and running statistics of a norm keep their bits, where a task begins and behind a step."""
  model = models.from_linen(Normed(), (4, 4, 1))
  for when in ("task", "step"):
    bench = Bench("shrink_perturb", class_stream, model, {"shrink": 0.5, "noise": 0.1, "when": when})
    plain = Bench("finetune", class_stream, model)
    learner = plain.steps(plain.start(), 0, 2)
    learner = bench.start()._replace(params=learner.params, model_state=learner.model_state, step=learner.step)
    if when == "task":
      after, base = bench.boundary("start_task", learner, 1), learner
    else:
      after = bench.step(learner, *bench.arguments(0))[0]
      base = plain.step(
        plain.start()._replace(params=learner.params, model_state=learner.model_state, step=learner.step),
        *plain.arguments(0),
      )[0]
    near = lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6)
    jax.tree.map(near, (after.params["norm"], after.model_state), (base.params["norm"], base.model_state))
    assert np.abs(after.params["norm"]["scale"]).min() > 0.8
    for layer in ("wide", "head"):
      for leaf in ("kernel", "bias"):
        assert np.abs(after.params[layer][leaf] - base.params[layer][leaf]).max() > 0.02


def test_shrink_perturb_refuses_what_it_can_not_shrink(class_stream, small_model):
  spec = spec_of(class_stream, 8)
  with pytest.raises(UsageError, match=r"shrink: got 1.5; expected a number of at most 1"):
    methods.make("shrink_perturb", small_model, spec, shrink=1.5)
  bare = small_model._replace(init=lambda key: ({"scale": jnp.ones(3)}, {}))
  with pytest.raises(UsageError, match="shrink_perturb: no kernel"):
    methods.make("shrink_perturb", bare, spec)
