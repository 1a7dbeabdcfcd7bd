"""Costs measured from the run: bytes from arrays, operations from the lowered step."""

import jax
import numpy as np
import pytest

import cljax
from cljax import metrics, models, streams
from cljax.engine import prepare
from cljax.evaluation import cost


@pytest.fixture(scope="module")
def spent(dataset):
  stream = streams.build(dataset, "class", tasks=2, validation=0.0)
  model = models.mlp((4, 4, 1), 4, hidden=(32,))
  run = lambda name, **hyper: prepare(
    stream, model, name, hyper, training=cljax.Recipe(batch_size=8, epochs=3), seeds=2
  )
  return {"finetune": run("finetune"), "er": run("er", capacity=10)}, model


def test_plain_training_is_its_own_pass_times_epochs(spent):
  runs, model = spent
  mine = cost.cost(runs["finetune"])
  params, _ = jax.eval_shape(model.init, jax.random.key(0))
  assert mine.model_bytes.tolist() == [4 * sum(p.size for p in jax.tree.leaves(params))] * 2
  # Two products a layer backwards (one for the first layer), one forwards; the rest is small beside them.
  products = 2 * 8 * (16 * 32 * 2 + 32 * 4 * 3)
  assert products < mine.plain_flops < 1.5 * products
  assert mine.plain_flops < mine.step_flops < 1.5 * mine.plain_flops
  np.testing.assert_allclose(mine.training_flops / mine.one_pass_flops, 3 * mine.step_flops / mine.plain_flops)
  assert mine.stored_bytes.tolist() == [0, 0]
  assert mine.data_bytes == 96 * 16 * 4


def test_criteria_of_a_run(spent):
  runs, _ = spent
  plain, replay = (cost.cost(runs[n]) for n in ("finetune", "er"))
  assert replay.step_flops > 1.7 * plain.step_flops  # as many rows again
  assert replay.stored_bytes[0] >= 10 * 16 * 4
  result = runs["er"].run()
  found = cost.more_than_forgetting(result, replay)
  assert all(v.shape == (2,) and ((v >= 0) & (v <= 1)).all() for v in found.values())
  np.testing.assert_allclose(found["sample_storage_efficiency"], 1 - replay.stored_bytes[0] / replay.data_bytes)
  np.testing.assert_allclose(found["accuracy"], metrics.triangle_accuracy(result.learning_rows))
  frugal = cost.more_than_forgetting(result, plain, epsilon=2.0)["computational_efficiency"]
  np.testing.assert_allclose(frugal, min(1.0, 2.0 * plain.plain_flops / (3 * plain.step_flops)), rtol=1e-6)
  assert 0 < metrics.cl_score(found) < 1
