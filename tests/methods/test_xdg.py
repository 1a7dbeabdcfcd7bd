"""XdG: the units that are silent, and the steps under them, against NumPy."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bench import Bench, assert_same
from by_hand import RATE, backward, batch_of, forward, leaves, near
from isolation_by_hand import answers

from cljax import methods, models, streams
from cljax.core.types import UsageError
from cljax.engine.setup import spec_of
from cljax.methods.masks.xdg import silenced


def test_the_units_that_are_silent():
  """Exactly floor(X n) of each task, the same for the same key, and of two tasks an overlap of active sets near
  ``(1 - X)^2``."""
  key, n = jax.random.key(3), 4000
  silent = np.asarray(silenced(key, 3, n, 0.8))
  np.testing.assert_array_equal(silent.sum(1), [3200] * 3)
  np.testing.assert_array_equal(silenced(key, 5, n, 0.8)[:3], silent)
  assert abs((~silent[0] & ~silent[1]).mean() - 0.04) < 0.01
  assert (silenced(jax.random.key(4), 3, n, 0.8) != silent).any()
  np.testing.assert_array_equal(silenced(key, 2, 10, 0.55).sum(1), [5, 5])
  assert not silenced(key, 2, 10, 0.0).any()


def test_xdg_s_steps_by_hand(task_stream, small_model):
  """Silent units answer 0, in training and at test, and nothing is scaled up; places are of the order."""
  bench = Bench("xdg", task_stream, small_model, {"share": 0.5})
  learner = bench.start()
  silent = np.asarray(learner.model_state.kept["0"])
  assert silent.sum(1).tolist() == [4, 4]
  p = leaves(learner.params)
  under = lambda slot: {**p, "head/kernel": p["head/kernel"] * ~silent[slot][:, None]}
  for slot, task in enumerate((1, 0)):
    met, own = (1,)[:slot], task_stream.classes_of_task[task]
    learner = bench.boundary("start_task", learner, task, met)
    for k in range(3):
      x, y = batch_of(bench, task, k)
      z = np.where(own, forward(under(slot), x)[1], -np.inf)
      d = np.exp(z - np.logaddexp.reduce(z, -1, keepdims=True))
      d[np.arange(len(y)), y] -= 1
      g = backward(under(slot), x, d / len(y))
      g["head/kernel"] = g["head/kernel"] * ~silent[slot][:, None]
      p = {n: v - RATE * g[n] for n, v in p.items()}
      learner = bench.step(learner, *bench.arguments(task, k, met=met))[0]
      near(learner.params, p, 1e-5)
    for old, place in ((1, 0), (0, 1))[: slot + 1]:
      x = task_stream.dataset.test.x[np.asarray(task_stream.test[old])]
      np.testing.assert_allclose(answers(bench, learner, old), forward(under(place), x)[1], rtol=1e-4, atol=1e-5)
  again = Bench.boundary(bench, "start_task", learner, 1, (1, 0))
  assert_same(again.model_state, learner.model_state)  # a task that comes back has the units that it had


def test_no_silent_unit_is_plain_training_and_a_penalty_may_stand_beside(task_stream, small_model):
  mine = Bench("xdg", task_stream, small_model, {"share": 0.0}).train(3)
  assert_same(mine.params, Bench("finetune", task_stream, small_model).train(3).params)
  both = Bench({"xdg": ("xdg", {"share": 0.5}), "si": ("si", {})}, task_stream, small_model)
  parted = both.train(2)
  assert np.isfinite(parted.params["head"]["kernel"]).all()


def test_convolutions_are_not_gated(make_blobs):
  stream = streams.build(make_blobs(shape=(8, 8, 1)), "task", tasks=2, validation=0.0)
  spec = spec_of(stream, 8)
  with pytest.raises(UsageError, match="'xdg' gates dense hidden layers, of which this model has none"):
    methods.make("xdg", models.cnn((8, 8, 1), 4, widths=(3, 3)), spec)
  with pytest.raises(UsageError, match="'xdg' needs a model that names its units"):
    methods.make("xdg", models.mlp((8, 8, 1), 4)._replace(units=()), spec)
  kernels = {"a": {"kernel": jnp.ones((3, 3, 2, 4)), "bias": jnp.zeros(4)}, "b": {"kernel": jnp.ones((3, 3, 4, 5))}}
  from cljax.methods.masks.gates import gated
  from cljax.models import Unit

  made = gated(kernels, {"0": Unit("a/kernel", "a/bias", "b/kernel", 0)}, {"0": jnp.arange(4.0)})
  np.testing.assert_array_equal(made["b"]["kernel"], np.ones((3, 3, 4, 5)) * np.arange(4.0)[:, None])
  assert_same(made["a"], kernels["a"])
