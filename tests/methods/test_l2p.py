"""L2P against NumPy in float64, and what all prompt methods hold still."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import records
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

from cljax import methods, models, streams
from cljax.core.types import UsageError
from cljax.engine.setup import spec_of

HYPER = {"pool": 5, "length": 2, "chosen_prompts": 2, "strength": 0.7}
TASK = np.array([[True, True, False, False], [False, False, True, True]])


def nearest(q, keys, count):
  """``[B, count]``: places of the largest cosines."""
  return np.argsort(-cosines(q, keys), axis=-1, kind="stable")[:, :count]


def voted(q, keys, count):
  """The places that most rows would take, for all rows."""
  votes = np.bincount(nearest(q, keys, count).ravel(), minlength=len(keys))
  return np.broadcast_to(np.argsort(-votes, kind="stable")[:count], (len(q), count))


def answers(params, state, x, choose=nearest):
  q, p = query(state, x), params["prompts"]
  places = choose(q, f64(p["keys"]), 2)
  tokens = f64(p["tokens"])[places].reshape(len(x), 4, 8)
  near = np.take_along_axis(cosines(q, p["keys"]), places, -1).sum(-1)
  return logits(params, state, x, tokens=tokens, read="prompts"), near


def loss_of(params, state, x, y, mask, choose=nearest):
  z, near = answers(params, state, x, choose)
  return cross_entropy(z, y, mask).mean() - 0.7 * near.mean()


@pytest.fixture(scope="module")
def bench(class_stream):
  return made("l2p", class_stream, HYPER)


@pytest.fixture(scope="module")
def second(bench):
  """A learner two steps into the second task, and the one before its last step."""
  learner = bench.boundary("start_task", trained(bench), 1, (0,))
  one = bench.step(learner, *bench.arguments(1, 0))[0]
  return one, bench.step(one, *bench.arguments(1, 1))


def test_l2p_s_loss_is_of_the_nearest_prompts_and_of_their_keys(bench, second):
  """Over the classes of the task alone; the classifier reads the mean of what the prompts become."""
  one, (_, _, loss) = second
  np.testing.assert_allclose(
    float(loss), loss_of(one.params, one.model_state, *batch_of(bench, 1, 1), TASK[1]), rtol=1e-4
  )


def test_l2p_s_gradient_by_differences(bench, second):
  one, (two, _, _) = second
  rows = batch_of(bench, 1, 1)
  slopes_agree(
    moved(two.params, one.params), lambda p: loss_of(p, one.model_state, *rows, TASK[1]), one.params, rtol=5e-3
  )


def test_keys_that_no_row_takes_get_no_gradient(bench, second):
  """Nor do their prompts; those that are taken do."""
  one, (two, _, _) = second
  x, _ = batch_of(bench, 1, 1)
  taken = np.isin(np.arange(5), nearest(query(one.model_state, x), one.params["prompts"]["keys"], 2))
  assert 0 < taken.sum() < 5
  step = moved(two.params, one.params)["prompts"]
  for leaf in (step["keys"], step["tokens"].reshape(5, -1)):
    np.testing.assert_array_equal(np.abs(leaf).max(-1) > 0, taken)


def test_answers_are_of_each_row_s_own_prompts(bench, second):
  """-inf for labels that no row has had; a row's answer is the same whatever rows stand beside it."""
  one, _ = second
  first = trained(bench)
  x = bench.stream.dataset.test.x[:6]
  predict = jax.jit(lambda l, x: bench.parts.predict(l, x, jnp.int32(0)))
  for learner, seen in ((first, TASK[0]), (one, TASK.any(0))):
    want = np.where(seen, answers(learner.params, learner.model_state, x)[0], -np.inf)
    np.testing.assert_allclose(predict(learner, x), want, rtol=1e-4, atol=1e-4)
  np.testing.assert_allclose(predict(one, x)[:1], predict(one, x[:1]), rtol=1e-5, atol=1e-5)
  left = bench.parts.scrub(one, jnp.zeros(bench.spec.num_rows, bool), jnp.arange(4) == 1)
  assert np.isneginf(np.asarray(predict(left, x))[:, 1]).all()
  assert np.isfinite(np.asarray(predict(left, x))[:, [0, 2, 3]]).all()
  assert np.isfinite(np.asarray(predict(bench.start(), x))).all()


def test_labels_of_absent_rows_are_not_seen(bench):
  """Of a batch of the second task, met first, of which one row is there."""
  learner = bench.boundary("start_task", bench.start(), 1, ())
  there = (np.arange(8) == 3).astype(np.int32)
  one = bench.step(learner, *bench.arguments(1, 0, there, met=()))[0]
  np.testing.assert_array_equal(one.method_state, np.arange(4) == batch_of(bench, 1, 0)[1][3])


def test_by_batch_most_rows_decide(class_stream):
  """The released code's: an answer then depends on the rows beside it. Absent rows have no vote."""
  bench = made("l2p", class_stream, {**HYPER, "selection": "batch"})
  one = trained(bench)
  rows = batch_of(bench, 0, 2)
  q = query(one.model_state, rows[0])
  keys = f64(one.params["prompts"]["keys"])
  assert (voted(q, keys, 2) != nearest(q, keys, 2)).any()
  loss = float(bench.step(one, *bench.arguments(0, 2))[2])
  np.testing.assert_allclose(loss, loss_of(one.params, one.model_state, *rows, TASK[0], voted), rtol=1e-4)
  # A row alone takes its own prompts: absent rows, whose inputs are 0, would take others.
  for i in range(8):
    there = (np.arange(8) == i).astype(np.int32)
    alone = tuple(a[i : i + 1] for a in rows)
    loss = float(bench.step(one, *bench.arguments(0, 2, there))[2])
    np.testing.assert_allclose(loss, loss_of(one.params, one.model_state, *alone, TASK[0]), rtol=1e-4)


def test_with_all_of_the_pool_the_choice_is_the_same_for_all(class_stream):
  """In another order at most, and the mean over prompts knows no order."""
  bench = made("l2p", class_stream, {**HYPER, "chosen_prompts": 5})
  one = trained(bench)
  x = bench.stream.dataset.test.x[:5]
  tokens = np.broadcast_to(f64(one.params["prompts"]["tokens"]).reshape(1, 10, 8), (5, 10, 8))
  want = logits(one.params, one.model_state, x, tokens=tokens, read="prompts")
  got = bench.parts.predict(one, x, jnp.int32(0))
  np.testing.assert_allclose(got[:, :2], want[:, :2], rtol=1e-4, atol=1e-4)


def test_with_others_open_all_classes_compete(class_stream):
  bench = made("l2p", class_stream, {**HYPER, "others": "open"})
  learner = bench.boundary("start_task", trained(bench), 1, (0,))
  two, _, loss = bench.step(learner, *bench.arguments(1, 0))
  want = loss_of(learner.params, learner.model_state, *batch_of(bench, 1, 0), np.ones(4, bool))
  np.testing.assert_allclose(float(loss), want, rtol=1e-4)
  assert np.abs(moved(two.params, learner.params)["linear"]["bias"][:2]).min() > 1e-4


def test_a_stream_s_own_mask_holds_too(dataset):
  """Classes that the stream closes stay closed, whatever a task has: both masks have to open one."""
  stream = streams.build(dataset, "class", tasks=2, validation=0.125, active="seen")
  bench = made("l2p", stream, {**HYPER, "others": "open"})
  learner = trained(bench)
  assert not np.asarray(learner.params["linear"]["bias"])[2:].any()
  loss = float(bench.step(learner, *bench.arguments(0, 2))[2])
  np.testing.assert_allclose(
    loss, loss_of(learner.params, learner.model_state, *batch_of(bench, 0, 2), TASK[0]), rtol=1e-4
  )


@pytest.mark.parametrize("name", ["l2p", "dualprompt", "coda_prompt"])
def test_the_network_and_old_outputs_stand_still(name, class_stream):
  """Under momentum and weight decay: all of the network, after two tasks, and the outputs of the task before."""
  bench = made(name, class_stream, optimizer=optax.adamw(0.05, weight_decay=0.5))
  first = trained(bench)
  second = trained(bench, 1, (0,), learner=first)
  start = bench.start()
  assert_same(second.model_state["frozen"], start.model_state["frozen"])
  assert_same(second.model_state["inner"], start.model_state["inner"])
  head = lambda l: jax.tree.map(lambda a: np.asarray(a)[..., :2], l.params["linear"])
  assert_same(head(second), head(first))
  assert np.abs(np.asarray(first.params["linear"]["kernel"])[:, :2]).min() > 1e-6
  assert not np.asarray(first.params["linear"]["kernel"])[:, 2:].any()
  assert np.abs(np.asarray(second.params["linear"]["kernel"])[:, 2:]).max() > 1e-3
  assert set(start.params) == {"prompts", "linear"}


@pytest.mark.parametrize("name", ["l2p", "dualprompt", "coda_prompt"])
def test_prompt_methods_ask_for_a_model_that_takes_them(name, class_stream, small_model):
  spec = spec_of(class_stream, 8)
  with pytest.raises(
    UsageError, match=f"model: takes no prompts, which '{name}' needs; those that do: vit, pretrained"
  ):
    methods.make(name, small_model, spec)


@pytest.mark.parametrize("name", ["l2p", "dualprompt", "coda_prompt"])
def test_what_a_model_says_of_its_rows_is_kept(name, class_stream):
  """That it reads their tasks, and which rows it refuses."""

  def refuse(x):
    raise UsageError(f"x: {x} is refused")

  make = lambda model: methods.make(name, model, spec_of(class_stream, 8), **records.arguments(name)).model
  prompted = make(network()._replace(by_task=True, check_rows=refuse))
  assert prompted.by_task
  assert prompted.check_rows is refuse
  assert not make(network()).by_task


def test_prompts_begin_uniform_and_sizes_are_checked(class_stream):
  start = made("l2p", class_stream, {"pool": 40, "length": 6}).start()
  for leaf, shape in ((start.params["prompts"]["tokens"], (40, 6, 8)), (start.params["prompts"]["keys"], (40, 8))):
    assert leaf.shape == shape
    assert np.abs(leaf).max() <= 1
    np.testing.assert_allclose(np.asarray(leaf).std(), 3**-0.5, rtol=0.1)
  spec = spec_of(class_stream, 8)
  with pytest.raises(UsageError, match=r"method.chosen_prompts: got 4; expected at most method.pool, 3"):
    methods.make("l2p", network(), spec, pool=3)
  bare = models.vit((4, 4, 1), 4, patch=2, width=8, depth=1, heads=2)
  bare = bare._replace(apply=lambda *a, model=bare, **k: (model.apply(*a, **k)[0]._replace(features=None), {}))
  with pytest.raises(UsageError, match="'l2p' needs a model that returns features"):
    methods.make("l2p", bare, spec)
