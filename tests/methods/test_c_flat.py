"""C-Flat in a run: four gradients of the whole loss, BatchNorm's statistics of the first."""

from __future__ import annotations

import flax.linen as nn
import jax
import numpy as np
import pytest
from bench import Bench

from cljax import models
from cljax.core import tree

RATE = 0.1


class Normed(nn.Module):
  classes: int

  @nn.compact
  def __call__(self, x, train=False):
    x = nn.Dense(5)(x.reshape(x.shape[0], -1))
    return nn.Dense(self.classes)(nn.relu(nn.BatchNorm(use_running_average=not train)(x)))


def first_step(method, class_stream, small_model, **hyper):
  bench = Bench(method, class_stream, small_model, hyper)
  learner = bench.start()
  after, _, _ = bench.step(learner, *bench.arguments(0, 0))
  return bench, learner, after


def moved(before, after):
  return jax.tree.map(lambda a, b: np.asarray(b, np.float64) - np.asarray(a, np.float64), before.params, after.params)


@pytest.mark.parametrize("surrogate", ["c_flat", "sam"])
def test_c_flat_s_step_by_the_plain_method_s_gradients(class_stream, small_model, surrogate):
  """Each of the four gradients is what finetune's SGD step at that point moves by, over its rate."""
  radius, strength = 0.3, 0.5
  hyper = {"radius": radius, "surrogate": surrogate} | ({"strength": strength} if surrogate == "c_flat" else {})
  _, before, after = first_step("c_flat", class_stream, small_model, **hyper)
  plain = Bench("finetune", class_stream, small_model)

  def slope(params):
    start = plain.start()._replace(params=jax.tree.map(lambda p: np.asarray(p, np.float32), params))
    return jax.tree.map(lambda m: -m / RATE, moved(start, plain.step(start, *plain.arguments(0, 0))[0]))

  def climbed(params, d):
    size = np.sqrt(sum(np.sum(x**2) for x in jax.tree.leaves(d)))
    return jax.tree.map(lambda p, x: np.asarray(p, np.float64) + radius * x / size, params, d)

  g0 = slope(before.params)
  g = slope(climbed(before.params, g0))
  if surrogate == "c_flat":
    there = climbed(before.params, jax.tree.map(np.subtract, g, g0))
    g2 = slope(there)
    g3 = slope(climbed(there, g2))
    g = jax.tree.map(lambda a, b, c: a + strength * (b - c), g, g3, g2)
  for found, wanted in zip(jax.tree.leaves(moved(before, after)), jax.tree.leaves(g), strict=True):
    np.testing.assert_allclose(found, -RATE * wanted, rtol=2e-3, atol=2e-6)
  assert tree.norm(moved(before, after)) > 1e-3


def test_statistics_of_batch_norm_are_the_first_pass_s(class_stream):
  """As after finetune's step: the passes at the points that are climbed to leave no trace."""
  network = models.from_linen(Normed(class_stream.num_classes), class_stream.dataset.train.x.shape[1:])
  kept = [first_step(name, class_stream, network)[2].model_state for name in ("finetune", "c_flat")]
  assert jax.tree.leaves(kept[0])
  for a, b in zip(*map(jax.tree.leaves, kept), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)
