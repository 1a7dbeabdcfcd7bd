"""CLASSP, TAG, continual backprop and elephant networks inside a training step."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from bench import Bench

from cljax import methods, models, optimizers
from cljax.core import tree
from cljax.core.types import Model, UsageError
from cljax.engine.step import rescaled

RATE = 0.1


@pytest.fixture(scope="module")
def plain(class_stream, small_model):
  return Bench("finetune", class_stream, small_model)


def gradient(plain, learner, *arguments):
  """The gradient that plain SGD follows from these parameters."""
  stepped, _, _ = plain.step(plain.start()._replace(params=learner.params), *arguments)
  return jax.tree.map(lambda a, b: (a - b) / RATE, learner.params, stepped.params)


def assert_close(a, b, atol=2e-5):
  for path, x, y in zip(tree.paths(a), jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    np.testing.assert_allclose(x, y, rtol=2e-4, atol=atol, err_msg=path)


@pytest.mark.parametrize(
  ("name", "hyper", "pure", "end"),
  [
    ("classp", {"eps": 0.1}, None, lambda s: s),
    ("tag", {"scale": 0.03}, optimizers.tag(RATE * 0.03, 2), optimizers.tag_next_task),
  ],
  ids=["classp", "tag"],
)
def test_under_sgd_the_step_is_the_transform_s_own(name, hyper, pure, end, plain, class_stream, small_model):
  """Three steps over a boundary against the optax optimizer of the same rule, fed plain training's gradients."""
  bench = Bench(name, class_stream, small_model, hyper)
  learner = bench.start()
  by_task = (
    [pure, pure]
    if pure
    else [optimizers.classp(RATE, threshold=0.0, eps=0.1, apply_scaling=scaled) for scaled in (False, True)]
  )
  state, params = by_task[0].init(learner.params), learner.params
  for task, k in ((0, 0), (0, 1), (1, 0)):
    if task == 1:
      learner, state = bench.boundary("end_task", learner, 0), end(state)
    grads = gradient(plain, learner, *bench.arguments(task, k))
    updates, state = by_task[task].update(grads, state, params)
    params = optax.apply_updates(params, updates)
    before = learner.params
    learner, _, _ = bench.step(learner, *bench.arguments(task, k))
    # Gradients are differences of parameters here, so where one is nearly 0 its sign and size are rounding.
    known = jax.tree.map(lambda g: jnp.abs(g) > 1e-3, grads)
    masked = (jax.tree.map(lambda m, p: jnp.where(m, p, 0.0), known, p) for p in (learner.params, params))
    assert_close(*masked, atol=1e-4)
    assert any(float(jnp.abs(a - b).max()) > 1e-3 for a, b in zip(*map(jax.tree.leaves, (before, params)), strict=True))
    params = learner.params


def test_reset_units_start_anew_and_the_rest_is_as_trained(plain, class_stream, small_model):
  """The units of age 0 after the step: no outgoing weight, no bias; all others are where plain training put them."""
  bench = Bench("continual_backprop", class_stream, small_model, {"rate": 0.5, "maturity": 1, "compensate": False})
  learner = bench.start()
  for k in range(2):
    before = learner
    learner, _, _ = bench.step(learner, *bench.arguments(0, k))
  fresh = np.asarray(learner.method_state.age[0]) == 0
  assert 0 < fresh.sum() < len(fresh)
  trained, _, _ = plain.step(plain.start()._replace(params=before.params), *bench.arguments(0, 1))
  mine, other = learner.params, trained.params
  assert np.all(np.asarray(mine["head"]["kernel"])[fresh] == 0)
  assert np.all(np.asarray(mine["hidden_0"]["bias"])[fresh] == 0)
  assert np.all(np.asarray(mine["hidden_0"]["kernel"])[:, fresh] != np.asarray(other["hidden_0"]["kernel"])[:, fresh])
  for layer, leaf, axis in (("head", "kernel", 0), ("hidden_0", "bias", 0), ("hidden_0", "kernel", 1)):
    keep = lambda p, layer=layer, leaf=leaf, axis=axis: np.compress(~fresh, np.asarray(p[layer][leaf]), axis)
    np.testing.assert_allclose(keep(mine), keep(other), atol=1e-6)
  np.testing.assert_allclose(mine["head"]["bias"], other["head"]["bias"], atol=1e-6)


@pytest.mark.parametrize("learned", [False, True])
def test_elephant_rebuilds_the_model(class_stream, small_model, learned):
  """The forward pass by hand: ``E(LayerNorm(x W + b))``; biases evenly spaced; the scale of the inputs survives.

  Learned widths and heights start at those given.
  """
  spec = Bench("finetune", class_stream, small_model).spec
  options = {"width": 0.3, "height": 1.5, "power": 4.0, "bias_std": 0.4, "learned": learned}
  net = methods.make("elephant", rescaled(small_model, 0.5), spec, **options).model
  params, state = net.init(jax.random.key(0))
  x = np.asarray(class_stream.dataset.train.x[:5])
  out, _ = net.apply(params, state, jnp.asarray(x), train=False, key=None)
  w, b = (np.asarray(params["hidden_0"][leaf], np.float64) for leaf in ("kernel", "bias"))
  np.testing.assert_allclose(b, np.linspace(-1, 1, 8) * np.sqrt(3) * 0.4, atol=1e-6)
  z = 0.5 * x.reshape(5, -1) @ w + b
  z = (z - z.mean(-1, keepdims=True)) / np.sqrt(z.var(-1, keepdims=True) + 1e-6)
  h = 1.5 / (1 + np.abs(z / 0.3) ** 4)
  np.testing.assert_allclose(out.hidden[0], h, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(out.logits, h @ np.asarray(params["head"]["kernel"]), rtol=1e-4, atol=1e-5)


def test_elephant_units_learn_their_width_and_height(class_stream, small_model):
  """One step against closed-form slopes: ``dE/db = E`` and ``dE/da = p E (1 - E/h)``, and the pull to a = b = 0."""
  options = {"width": 0.3, "height": 1.5, "power": 4.0, "bias_std": 0.4, "shape_strength": 0.05}
  bench = Bench("elephant", class_stream, small_model, options)
  learner, rng = bench.start(), np.random.default_rng(0)
  (units,) = (name for name in learner.params if "log_width" in learner.params[name])
  shapes = {n: rng.normal(size=8) / 2 for n in ("log_width", "log_height")}
  params = {**learner.params, units: {n: jnp.asarray(v, jnp.float32) for n, v in shapes.items()}}
  np.testing.assert_allclose(
    models.elephant_shape_penalty({"one": params, "two": {"log_width": jnp.float32([3.0])}}),
    9 + sum((v**2).sum() for v in shapes.values()),
    rtol=1e-6,
  )
  index = np.asarray(bench.rows(0, 0)[0])
  x, y = class_stream.dataset.train.x[index], class_stream.dataset.train.y[index]
  a, b = shapes["log_width"], shapes["log_height"]
  w, v = (np.asarray(params[n]["kernel"], np.float64) for n in ("hidden_0", "head"))
  z = np.float64(x).reshape(len(x), -1) @ w + np.asarray(params["hidden_0"]["bias"], np.float64)
  z = (z - z.mean(-1, keepdims=True)) / np.sqrt(z.var(-1, keepdims=True) + 1e-6)
  height = 1.5 * np.exp(b)
  e = height / (1 + np.abs(z / (0.3 * np.exp(a))) ** 4)
  logits = e @ v + np.asarray(params["head"]["bias"], np.float64)
  d = np.exp(logits - np.logaddexp.reduce(logits, -1, keepdims=True))
  loss = -np.log(d[np.arange(len(y)), y]).mean() + 0.05 * ((a**2).sum() + (b**2).sum())
  d[np.arange(len(y)), y] -= 1
  back = d / len(y) @ v.T
  new, _, value = bench.step(learner._replace(params=params), *bench.arguments(0, 0))
  np.testing.assert_allclose(float(value), loss, rtol=1e-5)
  want = {
    "log_width": a - RATE * ((back * 4 * e * (1 - e / height)).sum(0) + 0.1 * a),
    "log_height": b - RATE * ((back * e).sum(0) + 0.1 * b),
  }
  for name, value in want.items():
    np.testing.assert_allclose(new.params[units][name], value, rtol=1e-4, atol=1e-6)
    assert np.abs(value - shapes[name]).min() > 1e-5
  with pytest.raises(UsageError, match=r"shape_strength: got 0\.1, which 'elephant' does not read with"):
    methods.make("elephant", small_model, bench.spec, shape_strength=0.1, learned=False)


@pytest.mark.parametrize(
  ("name", "options", "layers"),
  [
    ("mlp", {"hidden": (3, 3)}, 2),
    ("cnn", {"widths": (3, 4)}, 2),
    ("resnet18", {"width": 2}, 17),
    ("vit", {"patch": 2, "width": 8, "depth": 2, "heads": 2}, 2),
  ],
)
def test_every_zoo_model_takes_another_activation(name, options, layers):
  """A function with parameters of its own stands after each hidden layer, and nothing else changes."""
  model = models.build(name, (4, 4, 1), 3, **options)
  again = model.with_activation(lambda x: nn.LayerNorm(use_bias=False)(x))
  before, after = (set(tree.paths(jax.eval_shape(m.init, jax.random.key(0))[0])) for m in (model, again))
  assert before <= after
  assert len(after - before) == layers
  assert again.units == model.units


def test_models_that_cannot_serve_are_refused(class_stream, small_model):
  spec = Bench("finetune", class_stream, small_model).spec
  bare = Model(small_model.init, small_model.apply)
  with pytest.raises(UsageError, match="continual_backprop: the model names no units"):
    methods.make("continual_backprop", bare, spec)
  with pytest.raises(UsageError, match="elephant: the model cannot be rebuilt"):
    methods.make("elephant", bare, spec)
