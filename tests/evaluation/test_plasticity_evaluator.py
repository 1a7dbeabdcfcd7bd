"""The evaluator of plasticity against the network's hidden values by hand."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cljax
from cljax import evaluators, models, streams
from cljax.core.types import UsageError

TRAIN = cljax.Recipe(batch_size=8, epochs=1)


@pytest.fixture(scope="module")
def network():
  return models.mlp((4, 4, 1), 4, hidden=(7, 5))


def test_plasticity_is_of_the_next_task_s_inputs(class_stream, network):
  """Before the first event of task 0's rows; behind the last event of the last task's, under the last weights."""
  few = evaluators.plasticity(rows=6)
  run = cljax.run(class_stream, network, "finetune", training=TRAIN, seeds=[2], evaluators=few)
  found = {k: v[0, :, 0] for k, v in run.evaluations["plasticity"].items()}
  last = jax.tree.map(lambda a: np.asarray(a)[0], run.learner.params)
  count = class_stream.num_tasks
  x = np.float32(class_stream.dataset.train.x[np.asarray(class_stream.train[count - 1])[:6]])
  hidden = network.apply(last, {}, jnp.asarray(x), train=False, key=None)[0].hidden
  assert len(hidden) == 2
  for i, h in enumerate(map(np.float64, hidden), 1):
    p = np.linalg.svd(h, compute_uv=False)
    assert found[f"rank_{i}"][-1] == 1 + np.argmax(np.cumsum(p**2) >= 0.99 * np.sum(p**2))
    p = p[p > 0] / p.sum()
    np.testing.assert_allclose(found[f"effective_rank_{i}"][-1], np.exp(-np.sum(p * np.log(p))), rtol=1e-4)
    assert found[f"dead_{i}"][-1] == np.mean([all(h[:, u] == 0) for u in range(h.shape[1])])
    assert found[f"dormant_{i}"][-1] == found[f"dead_{i}"][-1]  # of six rows one is more than 1 %
  flat = np.concatenate([np.abs(np.ravel(p)) for p in jax.tree.leaves(last)])
  np.testing.assert_allclose(found["weight_magnitude"][-1], flat.mean(), rtol=1e-5)
  assert all(len(v) == len(class_stream.events) + 1 for v in found.values())
  own = evaluators.plasticity(rows=6).fn
  seen = []
  predict = type("Told", (), {"outputs": staticmethod(lambda x, task: seen.append((x, task)) or _Some())})()
  for event in range(-1, count):
    own(run.learner, predict, class_stream, event)
  assert [t for _, t in seen] == [*range(count), count - 1]
  np.testing.assert_array_equal(seen[1][0], class_stream.dataset.train.x[np.asarray(class_stream.train[1])[:6]])


def test_deleted_rows_are_looked_at_no_more(make_blobs):
  """Where the task that comes back lost a class, and where the last one lost all its rows."""
  stream = streams.build(
    make_blobs(rows=4), "class", tasks=2, order=(0, 1, 0, 1), validation=0.0, forget="2:class=0; 4:task=1"
  )
  seen = []
  predict = type("Told", (), {"outputs": staticmethod(lambda x, task: seen.append((x, task)) or _Some())})()
  own = evaluators.plasticity().fn
  found = [own(type("L", (), {"params": np.ones(2)}), predict, stream, e) for e in range(-1, 6)]
  x, y = stream.dataset.train.x, np.asarray(stream.dataset.train.y)
  rows = lambda task, among: x[[r for r in np.asarray(stream.train[task]) if y[r] in among]]
  expected = [(0, (0, 1)), (1, (2, 3)), (0, (0, 1)), (0, (1,)), (1, (2, 3)), (1, (2, 3))]
  for (got, task), (which, among) in zip(seen, expected, strict=False):
    assert task == which
    np.testing.assert_array_equal(got, rows(which, among))
  assert seen[-1][0].shape == (1, *x.shape[1:])
  assert not seen[-1][0].any()
  assert {k for k, v in found[-1].items() if np.isnan(v)} == found[0].keys() - {"weight_magnitude"}
  assert not any(np.isnan(v) for one in found[:-1] for v in one.values())


class _Some:
  hidden = (np.ones((2, 3)),)


def test_plasticity_says_what_it_needs(class_stream):
  for wrong in (0, 2.5, True, None, [3], "a"):
    with pytest.raises(UsageError, match=r"plasticity: rows: got .*; allowed: whole numbers >= 1"):
      evaluators.plasticity(rows=wrong)
  bare = models.from_apply(
    lambda key: {"w": jax.random.normal(key, (16, 4))}, lambda p, x: x.reshape(len(x), -1) @ p["w"]
  )
  with pytest.raises(UsageError, match="needs a model that gives its hidden values"):
    cljax.run(class_stream, bare, training=TRAIN, evaluators="plasticity")
