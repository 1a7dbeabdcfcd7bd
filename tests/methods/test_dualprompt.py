"""DualPrompt against NumPy in float64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from bench import assert_same
from prompts_by_hand import (
  batch_of,
  cosines,
  cross_entropy,
  f64,
  logits,
  made,
  moved,
  network,
  query,
  slopes_agree,
  trained,
)

from cljax import methods
from cljax.core.types import UsageError
from cljax.engine.setup import spec_of

HYPER = {"length": 2, "general_length": 3, "general_blocks": 1, "expert_blocks": 1, "strength": 0.7}
TASK = np.array([[True, True, False, False], [False, False, True, True]])


def answers(params, state, x, task):
  """Of rows whose prefixes are those of ``task [B]``, loop by loop."""
  general, own = (params["prompts"][n] for n in ("general", "own"))
  first = tuple(np.stack([f64(general[p][0])] * len(x)) for p in ("keys", "values"))
  second = tuple(np.stack([f64(own[p][t][0]) for t in task]) for p in ("keys", "values"))
  return logits(params, state, x, prefixes={0: first, 1: second})


def loss_of(params, state, x, y, task):
  z = answers(params, state, x, [task] * len(x))
  near = cosines(query(state, x), params["prompts"]["own"]["match"])[:, task]
  return cross_entropy(z, y, TASK[task]).mean() - 0.7 * near.mean()


@pytest.fixture(scope="module")
def bench(class_stream):
  return made("dualprompt", class_stream, HYPER)


@pytest.fixture(scope="module")
def second(bench):
  """After the first task; a step into the second; and what another step gives."""
  first = trained(bench)
  learner = bench.boundary("start_task", first, 1, (0,))
  one = bench.step(learner, *bench.arguments(1, 0))[0]
  return first, one, bench.step(one, *bench.arguments(1, 1))


def test_dualprompt_s_loss_is_of_its_task_s_prefixes_and_key(bench, second):
  """Keys, values and rows each where they belong: no fold mixes them. Over the classes of the task alone."""
  _, one, (_, _, loss) = second
  np.testing.assert_allclose(float(loss), loss_of(one.params, one.model_state, *batch_of(bench, 1, 1), 1), rtol=1e-4)


def test_dualprompt_s_gradient_by_differences(bench, second):
  _, one, (two, _, _) = second
  rows = batch_of(bench, 1, 1)
  slopes_agree(moved(two.params, one.params), lambda p: loss_of(p, one.model_state, *rows, 1), one.params, rtol=5e-3)


def found_tasks(learner, x, tasks):
  return cosines(query(learner.model_state, x), learner.params["prompts"]["own"]["match"])[:, :tasks].argmax(-1)


def test_at_test_a_row_s_task_is_that_of_the_nearest_key(bench, second):
  """Among the tasks that were begun; neither the label nor the task is asked, nor the rows beside it."""
  first, one, _ = second
  x = bench.stream.dataset.test.x
  predict = jax.jit(lambda l, x, t: bench.parts.predict(l, x, t))
  task = found_tasks(one, x, 2)
  assert 0 < task.mean() < 1
  want = answers(one.params, one.model_state, x, task)
  for told in (0, 1):
    np.testing.assert_allclose(predict(one, x, jnp.int32(told)), want, rtol=1e-3, atol=1e-3)
  np.testing.assert_allclose(predict(one, x, jnp.int32(0))[:1], predict(one, x[:1], jnp.int32(0)), rtol=1e-4, atol=1e-5)
  want = np.where(TASK[0], answers(first.params, first.model_state, x, 0 * task), -np.inf)
  np.testing.assert_allclose(predict(first, x, jnp.int32(1)), want, rtol=1e-3, atol=1e-3)


def test_keys_of_tasks_not_begun_find_nothing(bench, second):
  """Not even where a row's query is such a key."""
  first, _, _ = second
  x = bench.stream.dataset.test.x
  prompts = first.params["prompts"]
  match = prompts["own"]["match"].at[1].set(query(first.model_state, x)[0])
  near = {**prompts, "own": {**prompts["own"], "match": match}}
  other = first._replace(params={**first.params, "prompts": near})
  assert found_tasks(other, x, 2)[0] == 1
  predict = jax.jit(lambda l: bench.parts.predict(l, x, jnp.int32(1)))
  np.testing.assert_array_equal(predict(other), predict(first))


def test_by_batch_most_rows_name_the_task(class_stream, second):
  """The released code's: in steps nothing changes, at test all rows have one task."""
  bench = made("dualprompt", class_stream, {**HYPER, "selection": "batch"})
  _, one, (_, _, loss) = second
  np.testing.assert_allclose(float(bench.step(one, *bench.arguments(1, 1))[2]), float(loss), rtol=1e-6)
  x = bench.stream.dataset.test.x
  task = found_tasks(one, x, 2)
  x, task = (np.concatenate([a[task == 0][:3], a[task == 1][:2]]) for a in (x, task))
  got = bench.parts.predict(one, x, jnp.int32(1))
  np.testing.assert_allclose(got, answers(one.params, one.model_state, x, 0 * task), rtol=1e-3, atol=1e-3)


def test_old_prefixes_and_keys_stay_to_the_bit(class_stream):
  """Under Adam with weight decay; shared ones go on. A task that comes back moves its own, from where they were."""
  bench = made("dualprompt", class_stream, HYPER, optax.adamw(0.05, weight_decay=0.5))
  first = trained(bench)
  second = trained(bench, 1, (0,), learner=first)
  of = lambda l, t: jax.tree.map(lambda a: np.asarray(a)[t], l.params["prompts"]["own"])
  apart = lambda a, b: [np.abs(x - y).max() for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)]
  assert_same(of(second, 0), of(first, 0))
  assert min(apart(of(second, 1), of(first, 1))) > 1e-3
  assert min(apart(second.params["prompts"]["general"], first.params["prompts"]["general"])) > 1e-3
  back = bench.boundary("start_task", second, 0, (0, 1))
  assert_same(of(back, 0), of(first, 0))
  again = bench.steps(back, 0, 1, met=(0, 1))
  assert_same(of(again, 1), of(second, 1))
  assert 1e-4 < max(apart(of(again, 0), of(first, 0))) < 0.2


def test_with_one_task_it_is_prefix_tuning(class_stream):
  """The loss without the keys' part is the cross-entropy of the classifier with both prefixes."""
  bench = made("dualprompt", class_stream, {**HYPER, "strength": 0.0})
  one = trained(bench)
  x, y = batch_of(bench, 0, 2)
  want = cross_entropy(answers(one.params, one.model_state, x, [0] * len(x)), y, TASK[0]).mean()
  np.testing.assert_allclose(float(bench.step(one, *bench.arguments(0, 2))[2]), want, rtol=1e-4)


def test_blocks_of_dualprompt(class_stream):
  """Those that the network has; of U(-1, 1) at first and when a task begins."""
  spec = spec_of(class_stream, 8)
  with pytest.raises(UsageError, match=r"method.general_blocks: got 2; the network has 2 blocks, of which at least 1"):
    methods.make("dualprompt", network(), spec, general_blocks=2)
  bench = made("dualprompt", class_stream, {**HYPER, "general_blocks": 0, "expert_blocks": 9, "length": 40})
  start = bench.boundary("start_task", bench.start(), 0, ())
  own = start.params["prompts"]["own"]
  assert own["keys"].shape == (2, 2, 40, 8)
  assert start.params["prompts"]["general"]["keys"].shape == (0, 3, 8)
  for a in (own["keys"][0], own["values"][0], own["keys"][1]):
    assert np.abs(a).max() <= 1
    np.testing.assert_allclose(np.asarray(a).std(), 3**-0.5, rtol=0.1)
  assert np.abs(np.asarray(own["keys"][0] - own["values"][0])).max() > 0.1
