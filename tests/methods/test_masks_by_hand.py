"""Steps, boundaries and predictions of methods of masks and of pruning, in float64 NumPy."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bench import Bench, assert_same
from by_hand import KERNELS, RATE, batch_of, forward, gradient, leaves, log_softmax, near

import cljax
from cljax import edits, evaluators
from cljax.core.tree import fold
from cljax.core.types import Learner


def masks_of(scores, task, sparsity):
  """The kernels' masks: the smallest ``floor(sparsity n)`` scores are out."""
  out = {}
  for name, s in scores.items():
    size = np.abs(s[task])
    out[name] = (size >= np.sort(size.ravel())[int(sparsity * size.size)]).astype(float)
  return out


@pytest.fixture(scope="module")
def supsup(class_stream, small_model):
  return {
    how: Bench("supsup", class_stream, small_model, {"sparsity": 0.4, "inference": how}) for how in ("row", "batch")
  }


def test_supsup_trains_the_scores_of_its_task_alone(supsup):
  """``s -= rate sign(s) W dL/d(W mask)``: frozen weights, the gradient straight through the mask."""
  bench = supsup["row"]
  learner = bench.start()
  begun = bench.boundary("start_task", learner, 1)
  fresh, was = leaves(begun.params), leaves(learner.params)
  for name, fan_in in (("hidden_0/kernel", 16), ("head/kernel", 8)):
    np.testing.assert_array_equal(fresh[name][0], was[name][0])
    assert np.abs(fresh[name][1] - was[name][1]).min() > 0
    assert 0.8 / np.sqrt(fan_in) < np.abs(fresh[name][1]).max() <= 1 / np.sqrt(fan_in)
  assert_same(bench.boundary("start_task", begun, 1, met=(0, 1)).params, begun.params)  # it came back: kept
  frozen, scores = leaves(begun.model_state["frozen"]), leaves(begun.params)
  for k in range(2):
    masks = masks_of(scores, 1, 0.4)
    p = {n: v * masks.get(n, 1.0) for n, v in frozen.items()}
    g = gradient(p, *batch_of(bench, 1, k))
    for n in KERNELS:
      scores[n][1] -= RATE * np.sign(scores[n][1]) * frozen[n] * g[n]
    begun = bench.step(begun, *bench.arguments(1, k))[0]
    near(begun.params, scores, 1e-6)
    assert_same(begun.model_state["frozen"], learner.model_state["frozen"])
  ended = bench.boundary("end_task", begun, 1)
  np.testing.assert_array_equal(ended.method_state, [False, True])


@pytest.mark.parametrize("how", ["row", "batch"])
def test_supsup_infers_the_task_of_the_steepest_entropy(supsup, how, class_stream):
  """The slope of the entropy under ``W sum_t alpha_t mask_t`` by central differences in float64."""
  bench = supsup[how]
  learner = bench.start()
  frozen, scores = leaves(learner.model_state["frozen"]), leaves(learner.params)
  masks = [masks_of(scores, t, 0.4) for t in (0, 1)]
  x = np.asarray(class_stream.dataset.test.x[:24])
  under = lambda mask: forward({n: v * mask.get(n, 1.0) for n, v in frozen.items()}, x)[1]

  def entropy(alphas):
    log = log_softmax(under({n: alphas[0] * masks[0][n] + alphas[1] * masks[1][n] for n in KERNELS}))
    return -(np.exp(log) * log).sum(-1)

  half, eps = np.array([0.5, 0.5]), 1e-6
  slope = np.stack([(entropy(half + e) - entropy(half - e)) / 2 / eps for e in eps * np.eye(2)], 1)
  slope = np.broadcast_to(slope.sum(0), slope.shape) if how == "batch" else slope
  chosen = slope.argmin(1)
  assert how == "batch" or 0 < chosen.mean() < 1
  each = np.stack([under(m) for m in masks])
  predict = jax.jit(bench.parts.predict)
  for learned in ([False, False], [True, True]):  # before the first: all of them
    got = predict(learner._replace(method_state=jnp.asarray(learned)), jnp.asarray(x), jnp.int32(0))
    np.testing.assert_allclose(got, each[chosen, np.arange(24)], rtol=1e-4, atol=1e-5)
  got = predict(learner._replace(method_state=jnp.asarray([False, True])), jnp.asarray(x), jnp.int32(0))
  np.testing.assert_allclose(got, each[1], rtol=1e-4, atol=1e-5)


def out_of(learner, rows, share):
  """Which rows are held out, by the documented key."""
  key = fold(learner.key, "clnp/held_out")
  draw = lambda i: jax.random.uniform(jax.random.fold_in(key, i))
  return np.asarray(jax.vmap(draw)(jnp.asarray(rows))) < share


def pruned(p, owned, classes, own, activity, judged, forward, margin, count):
  """``(owned, used, parameters)`` after a task, by trying every threshold."""
  x, y = judged

  def cut(threshold):
    mine, known = owned | (activity > threshold), classes | own
    kernel = p["head/kernel"] * ~(~mine[:, None] & known[None])
    return mine, activity > threshold, {**p, "head/kernel": kernel}

  def accuracy(threshold):
    return (np.where(own, forward(cut(threshold)[2], x)[1], -np.inf).argmax(1) == y).mean()

  return cut(max(t for t in np.linspace(0, activity.max(), count) if accuracy(t) >= accuracy(0) - margin))


@pytest.mark.parametrize("share", [0.0, 0.4])
def test_clnp_prunes_to_the_margin_and_trains_what_is_free(class_stream, small_model, share):
  """The margin is of the rows that it holds out, which move nothing; of those it trains on where there are none."""
  strength, margin, count = 0.01, 0.1, 30
  bench = Bench("clnp", class_stream, small_model, {"strength": strength, "margin": margin, "thresholds": count,
                                                    "samples": 400, "held_out": share})  # fmt: skip
  learner = bench.start()
  p = leaves(learner.params)
  owned, classes = np.zeros(8, bool), np.zeros(4, bool)
  np.testing.assert_array_equal(learner.method_state, [[8], [0], [0]])
  for task in (0, 1):
    for k in range(6):
      x, y = batch_of(bench, task, k)
      stays = ~out_of(learner, np.asarray(bench.rows(task, k)[0]), share)
      assert (share == 0) == stays.all()
      g = gradient(p, x[stays], y[stays])
      g = {n: v + strength * np.sign(p[n]) * (n in KERNELS) for n, v in g.items()}
      for n in g:
        g[n][..., owned if n.startswith("hidden") else classes] = 0
      p = {n: v - RATE * g[n] for n, v in p.items()}
      learner = bench.step(learner, *bench.arguments(task, k))[0]
    near(learner.params, p, 1e-5)
    rows = class_stream.train[task]
    out = out_of(learner, rows, share)
    x, y = class_stream.dataset.train.x[rows], class_stream.dataset.train.y[rows]
    judged = (x[out], y[out]) if share else (x, y)
    activity, own = forward(p, x[~out])[0].mean(0), class_stream.classes_of_task[task]
    before = owned
    owned, used, p = pruned(p, owned, classes, own, activity, judged, forward, margin, count)
    classes = classes | own
    learner = bench.boundary("end_task", learner, task)
    near(learner.params, p, 1e-5)
    state = edits.clnp_state(learner.opt_state)
    np.testing.assert_array_equal(state.owned[0], owned)
    np.testing.assert_array_equal(state.outputs, classes)
    np.testing.assert_array_equal(learner.method_state, [[8 - owned.sum()], [used.sum()], [(used & before).sum()]])
    assert task == 1 or 0 < owned.sum() < 8


def test_clnp_keeps_units_of_negative_mean(class_stream, small_model):
  """Of tanh units, half of which answer below 0: what a unit does is the size of its answer, not its sign."""
  margin, count = 0.3, 20
  model = small_model.with_activation(jnp.tanh)
  bench = Bench("clnp", class_stream, model, {"margin": margin, "thresholds": count, "samples": 400, "held_out": 0.0})
  learner = bench.start()
  hidden = {"bias": jnp.float32([-2, 2] * 4), "kernel": learner.params["hidden_0"]["kernel"] * jnp.linspace(0, 1, 8)}
  rows = class_stream.train[0]
  x, y = class_stream.dataset.train.x[rows], class_stream.dataset.train.y[rows]

  def forward(p, x):
    h = np.tanh(np.asarray(x, np.float64).reshape(len(x), -1) @ p["hidden_0/kernel"] + p["hidden_0/bias"])
    return h, h @ p["head/kernel"] + p["head/bias"]

  learner = learner._replace(params={**learner.params, "hidden_0": hidden})
  known = forward(leaves(learner.params), x)[0]
  head = np.linalg.lstsq(known, 4 * np.eye(4)[y] - 2, rcond=None)[0]  # a head that knows the rows
  head = {"kernel": jnp.float32(head), "bias": jnp.zeros(4)}
  learner = learner._replace(params={**learner.params, "head": head})
  p = leaves(learner.params)
  h, nothing = forward(p, x)[0], np.zeros(8, bool)
  own = class_stream.classes_of_task[0]
  _, used, p = pruned(p, nothing, ~(own | ~own), own, np.abs(h).mean(0), (x, y), forward, margin, count)
  assert (h.mean(0) < 0)[used].any()
  assert not used.all()
  learner = bench.boundary("end_task", learner, 0)
  np.testing.assert_array_equal(edits.clnp_state(learner.opt_state).owned[0], used)
  near(learner.params, p, 1e-5)


def test_clnp_says_how_many_units_are_left(class_stream, small_model):
  """The evaluator shows the method's counts after each event, beside those of other parts, and needs the method."""
  units = evaluators.clnp_units()
  hyper = {"thresholds": 10, "samples": 32}
  result = cljax.run(
    class_stream, small_model, "clnp", hyper, training=cljax.Recipe(batch_size=8, epochs=2), evaluators="clnp_units"
  )
  said = {n: v[0, :, 0] for n, v in result.evaluations["clnp_units"].items()}
  assert sorted(said) == ["free_1", "reused_1", "used_1"]
  assert [said[n][0] for n in ("free_1", "used_1", "reused_1")] == [8, 0, 0]
  owned = np.asarray(edits.clnp_state(result.learner.opt_state).owned[0][0])
  assert said["free_1"][2] == 8 - owned.sum() <= said["free_1"][1] < 8
  assert said["free_1"][1] - said["free_1"][2] == said["used_1"][2] - said["reused_1"][2]
  state = {"a": (), "b": edits.ClnpUnits(*np.int32([[3, 1], [2, 5], [0, 4]]))}
  assert units.fn(Learner(*[None] * 5, state), None, None, 0) == {
    "free_1": 3, "free_2": 1, "used_1": 2, "used_2": 5, "reused_1": 0, "reused_2": 4,
  }  # fmt: skip
  with pytest.raises(cljax.UsageError, match="needs a run of the method clnp"):
    units.fn(Learner(*[None] * 5, ()), None, None, 0)
