"""What prompt methods are tried on: a small ViT, its queries and a linear classifier's loss in NumPy, float64."""

from __future__ import annotations

import jax
import numpy as np
import scipy.special
from bench import Bench
from vit_by_hand import zoo

from cljax import models
from cljax.core import tree

SIZES = {"patch": 2, "heads": 2, "depth": 2}
RATE = 0.1  # of the bench


def network():
  """A ViT whose leaves are all drawn: what begins at a constant counts too."""
  model = models.vit((4, 4, 1), 4, width=8, mlp_ratio=1, **SIZES)

  def init(key):
    params, state = model.init(key)
    noise = lambda n, a: a + 0.3 * jax.random.normal(tree.fold(key, n), a.shape)
    return tree.map_named(noise, params), state

  return model._replace(init=init)


def made(name, stream, hyper=None, optimizer=None):
  return Bench(name, stream, network(), hyper, optimizer=optimizer)


def f64(a):
  return np.asarray(a, np.float64)


def query(state, x):
  """``[B, D]``: the frozen network's features."""
  return zoo(state["frozen"], x, **SIZES)[1]


def cosines(a, b):
  """``[B, M]``."""
  a, b = f64(a), f64(b)
  return (a / np.linalg.norm(a, axis=-1, keepdims=True)) @ (b / np.linalg.norm(b, axis=-1, keepdims=True)).T


def logits(params, state, x, **prompts):
  """Of the classifier on the frozen network's features with prompts."""
  features = zoo(state["frozen"], x, **SIZES, **prompts)[1]
  return features @ f64(params["linear"]["kernel"]) + f64(params["linear"]["bias"])


def cross_entropy(z, y, mask):
  """``[B]``: over the classes of ``mask [C]`` alone."""
  z = np.where(mask, z, -np.inf)
  return scipy.special.logsumexp(z, -1) - z[np.arange(len(y)), y]


def batch_of(bench, task, k):
  index = np.asarray(bench.rows(task, k)[0])
  split = bench.stream.dataset.train
  return split.x[index], split.y[index]


def trained(bench, task=0, met=(), steps=2, learner=None):
  """A learner some steps into a task."""
  learner = bench.boundary("start_task", bench.start() if learner is None else learner, task, met)
  return bench.steps(learner, task, steps, met=met)


def slopes_agree(got, loss_at, params, rtol=2e-3, size=1e-6):
  """The gradient ``got`` along random directions, against differences of ``loss_at(params)``."""
  rng = np.random.default_rng(0)
  for _ in range(3):
    direction = jax.tree.map(lambda a: rng.normal(size=a.shape), params)
    at = lambda t, direction=direction: loss_at(jax.tree.map(lambda p, d: f64(p) + t * d, params, direction))
    slope = (at(size) - at(-size)) / (2 * size)
    inner = sum((f64(a) * b).sum() for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(direction), strict=True))
    np.testing.assert_allclose(inner, slope, rtol=rtol)


def moved(new, old):
  """The gradient of an SGD step."""
  return jax.tree.map(lambda a, b: (f64(a) - f64(b)) / -RATE, new, old)
