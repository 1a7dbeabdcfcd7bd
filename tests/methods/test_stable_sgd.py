"""Stable SGD against NumPy in float64."""

from __future__ import annotations

import jax
import optax
import pytest
from bench import Bench, assert_same
from by_hand import batch_of, gradient, leaves, near

import cljax
from cljax import methods
from cljax.core.types import UsageError
from cljax.engine import recipe

HYPER = {"decay": 0.3, "floor": 0.01}


def momentum(rate=0.2, **more):
  return recipe.make_optimizer("momentum", learning_rate=rate, momentum=0.8, **more)


def by_hand(bench, tasks, rates, steps=2):
  """Every step of ``theta <- theta - rate v``, ``v <- 0.8 v + g``, each task under a rate of its own."""
  learner = bench.start()
  velocity = dict.fromkeys(leaves(learner.params), 0.0)
  for i, (task, rate) in enumerate(zip(tasks, rates, strict=True)):
    for k in range(steps):
      g, before = gradient(learner.params, *batch_of(bench, task, k)), leaves(learner.params)
      velocity = {n: 0.8 * v + g[n] for n, v in velocity.items()}
      learner = bench.step(learner, *bench.arguments(task, k, met=tasks[:i]))[0]
      near(learner.params, {n: v - rate * velocity[n] for n, v in before.items()})
  return learner


@pytest.mark.parametrize(("first", "rates"), [(True, (0.06, 0.018, 0.018)), (False, (0.2, 0.06, 0.06))])
def test_the_rate_falls_from_task_to_task(first, rates, class_stream, small_model):
  """By the number of tasks met, so one that comes back has that of the last; in the first task already, or not."""
  bench = Bench("stable_sgd", class_stream, small_model, {**HYPER, "first": first}, optimizer=momentum())
  by_hand(bench, (0, 1, 0), rates)


def test_the_rate_falls_no_lower_than_the_floor(class_stream, small_model):
  """The floor is a rate, not a share: 0.05 of 0.2 where the decay would leave 0.018; and above the run's own rate."""
  bench = Bench("stable_sgd", class_stream, small_model, {"decay": 0.3, "floor": 0.05}, optimizer=momentum())
  by_hand(bench, (0, 1), (0.06, 0.05), 1)
  low = Bench("stable_sgd", class_stream, small_model, {"decay": 0.3, "floor": 0.05}, optimizer=momentum(0.01))
  by_hand(low, (0,), (0.05,))


def test_no_decay_and_no_floor_are_plain_sgd(class_stream, small_model):
  """To the bit; and a scheduled rate of 0 is no step, whatever the floor."""
  given = {"decay": 1.0, "floor": 0.0}
  bench = lambda name, given: Bench(name, class_stream, small_model, given, optimizer=momentum())
  plain, mine = bench("finetune", {}), bench("stable_sgd", given)
  assert_same(plain.train(2).params, mine.train(2).params)
  warm = Bench("stable_sgd", class_stream, small_model, HYPER, optimizer=momentum(0.2, warmup=0.5))
  start = warm.start()
  assert_same(warm.step(start, *warm.arguments(0))[0].params, start.params)


def test_stable_sgd_needs_to_know_the_rate(class_stream, small_model):
  with pytest.raises(UsageError, match="learning rate"):
    cljax.run(class_stream, small_model, "stable_sgd", {}, optimizer=optax.sgd(0.1))
  for given in ({"decay": 1.5}, {"floor": -1.0}):
    with pytest.raises(UsageError, match=f"method.{next(iter(given))}: got"):
      methods.check_options("stable_sgd", given)
  assert jax.tree.leaves(Bench("stable_sgd", class_stream, small_model).start().opt_state.pull) == []
