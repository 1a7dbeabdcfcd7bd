"""Methods of curvature and of layer inputs' correlations against NumPy in float64: OWM, K-FAC EWC and NCL."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bench import BATCH, Bench
from by_hand import KERNELS, RATE, batch_of, gradient, leaves
from projecting_by_hand import inputs_of

from cljax import models
from cljax.core.types import Learner, rows_from_arrays
from cljax.engine import recipe
from cljax.methods.projection.weights import mean_inputs

BIAS = {k: k.replace("kernel", "bias") for k in KERNELS}


def with_ones(rows):
  return np.concatenate([rows, np.ones((len(rows), 1))], 1)


@pytest.mark.parametrize(("on", "decay"), [("update", 0.1), ("gradient", 1.0)])
def test_owm_steps_through_the_inverse_of_all_batches_so_far(on, decay, class_stream, small_model):
  """Two steps in each of two tasks: ``theta <- theta - rate P [G; g]``, P of every batch up to the step's own, in the
  first task as in the second, with no update at a boundary. Rows of weight 0 are in no mean."""
  bench = Bench("owm", class_stream, small_model, {"alpha": 0.5, "decay": decay, "on": on})
  learner = bench.start()
  inverse = {p: np.eye(leaves(learner.params)[p].shape[0] + 1) for p in KERNELS}
  weight = np.ones(BATCH, np.int32)
  weight[:3] = 0
  for task in (0, 1):
    for k in (0, 1):
      x, y = (v[3:] for v in batch_of(bench, task, k))
      inputs, g, theta = inputs_of(learner.params, x), gradient(learner.params, x, y), leaves(learner.params)
      # the bench says of every step that it is the first of ten: progress is its number over ten
      alpha = 0.5 * decay ** (float(learner.step) / 10)
      learner = bench.step(learner, *bench.arguments(task, k, weight))[0]
      after = leaves(learner.params)
      for p in KERNELS:
        r = with_ones(inputs[p]).mean(0)
        inverse[p] += np.outer(r, r) / alpha
        both = np.linalg.solve(inverse[p], np.concatenate([g[p], g[BIAS[p]][None]]))
        np.testing.assert_allclose(after[p], theta[p] - RATE * both[:-1], atol=5e-6)
        np.testing.assert_allclose(after[BIAS[p]], theta[BIAS[p]] - RATE * both[-1], atol=5e-6)
    learner = bench.boundary("end_task", learner, task)


def test_owm_takes_the_mean_patch_of_every_place():
  """A convolution of 3x3 with padding on 4x4: 16 rows, each the mean over the batch of the patch there."""
  model = models.cnn((4, 4, 2), 3, widths=(2,))
  params, state = model.init(jax.random.key(0))
  x = np.random.default_rng(0).normal(size=(5, 4, 4, 2)).astype(np.float32)
  batch = rows_from_arrays(x, np.zeros(5, np.int32), weight=[1, 0, 1, 1, 0]).batch(0, 5)
  learner = Learner(jnp.int32(0), jax.random.key(0), params, state, (), ())

  class Spec:
    class objective:
      parts = None

  got = mean_inputs(model, Spec, learner, batch)
  first = next(p for p in got if p.endswith("kernel") and got[p].shape[1] == 18)
  padded = np.pad(x[[0, 2, 3]].mean(0), ((1, 1), (1, 1), (0, 0)))
  stride = int(4 / np.sqrt(len(got[first])))
  want = [padded[i : i + 3, j : j + 3].ravel() for i in range(0, 4, stride) for j in range(0, 4, stride)]
  np.testing.assert_allclose(got[first], np.stack(want), atol=1e-5)


def test_owm_holds_what_the_first_task_saw_under_any_optimizer(class_stream, small_model):
  """Behind AdamW, weight decay included: what the first layer makes of the first task's mean inputs stays, where in
  front of it AdamW moves it; weights move all the same."""
  optimizer = recipe.make_optimizer("adamw", learning_rate=0.01, weight_decay=0.1)
  moved = {}
  for on in ("update", "gradient"):
    bench = Bench("owm", class_stream, small_model, {"alpha": 1e-3, "on": on}, optimizer=optimizer)
    learner = before = bench.train(3, (0,))
    learner = bench.steps(learner, 1, 3, met=(0,))
    seen = np.stack(
      [with_ones(inputs_of(learner.params, batch_of(bench, 0, k)[0])[KERNELS[0]]).mean(0) for k in (0, 1)]
    )
    step = jax.tree.map(lambda a, b: np.float64(b) - np.float64(a), before.params, learner.params)["hidden_0"]
    both = np.concatenate([step["kernel"], step["bias"][None]])
    moved[on] = np.abs(seen @ both).max() / np.abs(both).max()
  assert moved["update"] < 0.02
  assert moved["gradient"] > 0.2
