"""LwM against NumPy in float64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bench import Bench
from by_hand import RATE, batch_of, forward, leaves, log_softmax

from cljax import methods, models
from cljax.core.types import UsageError
from cljax.engine.setup import spec_of
from cljax.methods.distillation import lwm

HYPER = {"strength": 0.7, "attention_strength": 0.4}
MODEL = models.mlp((4, 4, 1), 4, hidden=(8,))


def unit(a):
  n = np.linalg.norm(a, axis=-1, keepdims=True)
  return np.where(n > 0, a / np.where(n > 0, n, 1), 0)


def units_looked_at(params, x, classes):
  """Of a dense layer: the numbers before the activation are the places of one channel."""
  p = leaves(params)
  pre = np.asarray(x, np.float64).reshape(len(x), -1) @ p["hidden_0/kernel"] + p["hidden_0/bias"]
  slope = p["head/kernel"][:, classes].T * (pre > 0)
  return unit(np.maximum(slope.mean(-1, keepdims=True) * pre, 0))


def loss_of(params, teacher, x, y):
  z, old = forward(params, x)[1], forward(teacher, x)[1]
  q, p = log_softmax(old[:, :2] / 2), log_softmax(z[:, :2] / 2)
  classes = old[:, :2].argmax(-1)
  gap = np.abs(units_looked_at(params, x, classes) - units_looked_at(teacher, x, classes)).sum(-1)
  each = -log_softmax(z)[np.arange(len(y)), y] + 0.7 * 4 * (np.exp(q) * (q - p)).sum(-1) + 0.4 * gap
  return each.mean(), gap


@pytest.fixture(scope="module")
def trained(class_stream, small_model):
  bench = Bench("lwm", class_stream, small_model, HYPER)
  one = bench.train(3, (0,))
  begun = bench.step(one, *bench.arguments(1, 1))[0]
  return bench, one, begun, bench.step(begun, *bench.arguments(1, 0))


def test_lwm_holds_where_the_teacher_looked(trained):
  """For the teacher's likeliest old class, of both networks; beside LwF's distillation; the step by differences."""
  bench, one, begun, (after, _, loss) = trained
  x, y = batch_of(bench, 1, 0)
  want, gap = loss_of(begun.params, one.params, x, y)
  assert gap.max() > 1e-3
  np.testing.assert_allclose(float(loss), want, rtol=1e-5)
  now = jax.tree.map(lambda a: np.asarray(a, np.float64), begun.params)
  step = jax.tree.map(lambda a, b: (np.asarray(a, np.float64) - b) / -RATE, after.params, now)
  rng = np.random.default_rng(0)
  for _ in range(3):
    direction = jax.tree.map(lambda a: rng.normal(size=a.shape), now)
    at = lambda t, direction=direction: loss_of(jax.tree.map(lambda p, d: p + t * d, now, direction), one.params, x, y)[
      0
    ]
    slope = (at(1e-6) - at(-1e-6)) / 2e-6
    got = sum((a * b).sum() for a, b in zip(jax.tree.leaves(step), jax.tree.leaves(direction), strict=True))
    np.testing.assert_allclose(got, slope, rtol=2e-3, atol=1e-5)


def test_attention_is_grad_cam_of_the_last_maps(class_stream):
  """A CNN whose maxima go to the outputs: the slope of a logit is the head's weight at each channel's maximum."""
  model = models.cnn((4, 4, 1), 4, widths=(3, 5))
  layer = lwm.looked_at(model, spec_of(class_stream, 8))
  assert layer[:2] == ("conv_1", (2, 2, 5))
  params, state = model.init(jax.random.key(0))
  x, classes = class_stream.dataset.train.x[:6], np.array([0, 1, 2, 3, 0, 1])
  _, calls = model.capture(params, state, jnp.asarray(x), None)
  maps = np.asarray(calls["conv_1"].output, np.float64).reshape(6, 4, 5)
  head = np.asarray(params["head"]["kernel"], np.float64)
  alpha = np.zeros((6, 5))
  for b in range(6):
    for k in range(5):
      if maps[b, :, k].max() > 0:
        alpha[b, k] = head[k, classes[b]] / 4
  want = unit(np.maximum((alpha[:, None] * maps).sum(-1), 0))
  got = lwm.attention(model, params, state, jnp.asarray(x), jnp.asarray(classes), layer)
  np.testing.assert_allclose(got, want, atol=1e-5)
  assert (np.linalg.norm(want, axis=-1) > 0).any()


def test_at_its_own_teacher_lwm_pulls_nowhere(trained):
  bench, one, *_ = trained
  some = [bench.step(one, *bench.arguments(1, 0), strength=v, attention_strength=v) for v in (0.0, 3.0)]
  np.testing.assert_allclose(some[0][2], some[1][2], rtol=1e-5)
  assert all(np.isfinite(np.asarray(a)).all() for a in jax.tree.leaves(some[1][0].params))


def test_lwm_needs_captured_layers(class_stream):
  spec = spec_of(class_stream, 8)
  with pytest.raises(UsageError, match="'lwm' needs a model whose layers are captured"):
    methods.make("lwm", MODEL._replace(capture=None), spec)
  flat = models.mlp((4, 4, 1), 4, hidden=())
  with pytest.raises(UsageError, match="'lwm' needs a model with a layer before its outputs"):
    methods.make("lwm", flat, spec)
