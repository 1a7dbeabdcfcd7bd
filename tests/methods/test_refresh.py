"""Refresh over other methods: neutral to the bit, its ascent by hand, its place in hybrids."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bench import Bench, assert_near, assert_same

from cljax import methods
from cljax.core import tree
from cljax.core.types import UsageError
from cljax.engine import recipe
from cljax.engine.step import build

RATE = 0.1


@pytest.fixture(scope="module")
def plain(class_stream, small_model):
  return Bench("finetune", class_stream, small_model)


def gradient(plain, params, *arguments):
  """The gradient of the rows' mean cross-entropy, as plain SGD follows it."""
  stepped, _, _ = plain.step(plain.start()._replace(params=params), *arguments)
  return jax.tree.map(lambda a, b: (a - b) / RATE, params, stepped.params)


def test_without_ascent_it_is_the_base_method_to_the_bit(class_stream, small_model):
  """The noise has a stream of its own, so the memory draws the same rows."""
  mine = Bench("refresh", class_stream, small_model, {"base": "er", "step_size": 0.0})
  theirs = Bench("er", class_stream, small_model, {"capacity": 200})
  a, b = mine.start(), theirs.start()
  for k in range(4):
    a, b = (bench.step(learner, *bench.arguments(0, k))[0] for bench, learner in ((mine, a), (theirs, b)))
  assert_same(a.params, b.params)
  assert_same(a.method_state.inner, b.method_state)


def test_it_climbs_the_whole_loss_by_the_inverse_fisher_and_then_descends(plain, class_stream, small_model):
  """Over EWC, in the second task: ``t1 = t + s / (F + d) (g(t) + p)``, then ``t1 - r (g(t1) + p)``, the penalty's
  gradient ``p = strength F (t - t*)``."""
  hyper = {"base": "ewc", "step_size": 1e-3, "damping": 0.05, "noise": 0.0}
  bench = Bench("refresh", class_stream, small_model, hyper)
  anchor = bench.train(steps=3, tasks=(0,))
  learner, _, _ = bench.step(anchor, *bench.arguments(1, 0))
  after, _, _ = bench.step(learner, *bench.arguments(1, 1))
  fisher = learner.method_state.fisher
  assert_near(fisher, learner.opt_state.penalty.inner.importance)  # one task: both are its Fisher
  pull = jax.tree.map(lambda f, t, a: 10.0 * f * (t - a), fisher, learner.params, anchor.params)
  climb = tree.add(gradient(plain, learner.params, *bench.arguments(1, 1)), pull)
  high = jax.tree.map(lambda t, f, g: t + 1e-3 / (f + 0.05) * g, learner.params, fisher, climb)
  fall = tree.add(gradient(plain, high, *bench.arguments(1, 1)), pull)
  assert_near(after.params, jax.tree.map(lambda t, g: t - RATE * g, high, fall))
  assert tree.norm(jax.tree.map(jnp.subtract, high, learner.params)) > 1e-3  # the ascent is not lost in rounding


def test_the_released_form_climbs_the_current_rows_alone(plain, class_stream, small_model):
  """Over replay, with no learning rate: each tensor moves along its own rows' gradient, by the length of the tensor."""
  hyper = {"base": "er", "form": "released", "step_size": 0.02, "noise": 0.0, "damping": 0.5}
  still = recipe.make_optimizer("sgd", learning_rate=0.0)
  bench = Bench("refresh", class_stream, small_model, hyper, optimizer=still)
  learner = bench.train(steps=3, tasks=(0,))
  after, _, _ = bench.step(learner, *bench.arguments(1, 0))
  grads = gradient(plain, learner.params, *bench.arguments(1, 0))

  def want(p, g, f):
    size = lambda x: np.sqrt(np.sum(np.square(x)))
    return p + 0.02 / (1 + 0.5 * f) * size(p) / size(g) * g

  assert float(max(f.max() for f in jax.tree.leaves(learner.method_state.fisher))) > 0.01
  numbers = lambda t: jax.tree.map(lambda a: np.asarray(a, np.float64), t)
  arguments = map(numbers, (learner.params, grads, learner.method_state.fisher))
  assert_near(after.params, jax.tree.map(want, *arguments), 1e-4)


def test_it_finds_its_penalty_beside_another_method(class_stream, small_model):
  """Composed with an answer to Forget events the optimizer state is nested; the step traces and keeps its shapes."""
  bench = Bench("finetune", class_stream, small_model)
  plan = methods.plan({"method": ("refresh", {"base": "ewc"}), "forget": ("ssd", {})})
  method = plan.build(small_model, bench.spec, plan.hyper)
  parts = build("both", method, small_model, bench.spec, recipe.make_optimizer("sgd"), recipe.Recipe(batch_size=8),
                class_stream.view.apply, recipe.make_augment("none"))  # fmt: skip
  learner = jax.eval_shape(parts.init, jax.random.key(0))
  after, _, _ = jax.eval_shape(parts.step, learner, *bench.arguments(0))
  assert jax.tree.structure(after) == jax.tree.structure(learner)


def test_two_owners_of_the_gradient_are_refused(class_stream, small_model, plain):
  owner = methods.make("zeroth_order", small_model, plain.spec)
  with pytest.raises(UsageError, match="refresh: the method owns its gradient"):
    methods.refresh(owner, small_model, plain.spec, step_size=0.1)
