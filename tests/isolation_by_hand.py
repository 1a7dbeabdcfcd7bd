"""What tests of methods that give each task a part of the network share: optimizers that move what is not held, and
answers of old tasks, to the bit."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from bench import Bench
from by_hand import leaves

from cljax.engine import recipe

OPTIMIZERS = {
  "sgd": lambda: recipe.make_optimizer("momentum", learning_rate=0.1, momentum=0.9, weight_decay=0.05),
  "adamw": lambda: recipe.make_optimizer("adamw", learning_rate=0.02, weight_decay=0.1),
}


def answers(bench, learner, task):
  """The logits of the task's test rows, all of them."""
  if not hasattr(bench, "predicting"):
    bench.predicting = jax.jit(bench.parts.predict)
  rows = np.asarray(bench.stream.test[task])
  return np.asarray(bench.predicting(learner, jnp.asarray(bench.stream.dataset.test.x[rows]), jnp.int32(task)))


def learn(bench, learner, task, met, steps=10):
  learner = bench.boundary("start_task", learner, task, met)
  learner = bench.steps(learner, task, steps, None, met)
  return bench.boundary("end_task", learner, task, met)


def old_answers_stay(name, stream, model, hyper, optimizer, order, check=lambda learner, seen: None):
  """Trains the tasks in ``order``; every answer of a task that is not the current one stays to the bit, and that of
  the current one changes. ``check(learner, seen)`` after each visit."""
  bench = Bench(name, stream, model, hyper, optimizer=OPTIMIZERS[optimizer]())
  learner, given = bench.start(), {}
  for i, task in enumerate(order):
    before = answers(bench, learner, task)
    learner = learn(bench, learner, task, order[:i])
    for old, want in given.items():
      if old != task:
        np.testing.assert_array_equal(answers(bench, learner, old), want, err_msg=f"{old} after {order[: i + 1]}")
    given[task] = answers(bench, learner, task)
    assert np.isfinite(given[task]).all()
    assert np.abs(given[task] - before).max() > 1e-3
    check(learner, order[: i + 1])
  return bench, learner


def slopes(bench, learner, task):
  """Of the sum of a task's logits in each leaf, in training."""
  model, x = bench.parts.method.model, bench.data.x[:8]

  def total(params):
    told = {"train": True, "key": None, "task": jnp.int32(task), "mask": None}
    return jnp.sum(jnp.square(model.apply(params, learner.model_state, x, **told)[0].logits))

  return leaves(jax.jit(jax.grad(total))(learner.params))
