"""Steps, boundaries and predictions of methods of masks and of pruning, in float64 NumPy."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bench import Bench, assert_same
from by_hand import KERNELS, RATE, batch_of, forward, gradient, leaves, log_softmax, near

from cljax import edits


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


def test_clnp_prunes_to_the_margin_and_trains_what_is_free(class_stream, small_model):
  strength, margin, count = 0.01, 0.1, 30
  bench = Bench("clnp", class_stream, small_model, {"strength": strength, "margin": margin, "thresholds": count,
                                                    "samples": 400})  # fmt: skip
  learner = bench.start()
  p = leaves(learner.params)
  owned, classes = np.zeros(8, bool), np.zeros(4, bool)
  for task in (0, 1):
    for k in range(6):
      g = gradient(p, *batch_of(bench, task, k))
      g = {n: v + strength * np.sign(p[n]) * (n in KERNELS) for n, v in g.items()}
      for n in g:
        g[n][..., owned if n.startswith("hidden") else classes] = 0
      p = {n: v - RATE * g[n] for n, v in p.items()}
      learner = bench.step(learner, *bench.arguments(task, k))[0]
    near(learner.params, p, 1e-5)
    rows = class_stream.train[task]
    x, y = class_stream.dataset.train.x[rows], class_stream.dataset.train.y[rows]
    activity, own = forward(p, x)[0].mean(0), class_stream.classes_of_task[task]

    def cut(threshold, p=p, owned=owned, classes=classes, own=own, activity=activity):
      used, known = owned | (activity > threshold), classes | own
      kernel = p["head/kernel"] * ~(~used[:, None] & known[None])
      return used, {**p, "head/kernel": kernel}

    def accuracy(threshold, own=own, x=x, y=y):
      return (np.where(own, forward(cut(threshold)[1], x)[1], -np.inf).argmax(1) == y).mean()

    tried = [t for t in np.linspace(0, activity.max(), count) if accuracy(t) >= accuracy(0) - margin]
    owned, p = cut(max(tried))
    classes = classes | own
    learner = bench.boundary("end_task", learner, task)
    near(learner.params, p, 1e-5)
    state = edits.clnp_state(learner.opt_state)
    np.testing.assert_array_equal(state.owned[0], owned)
    np.testing.assert_array_equal(state.outputs, classes)
    assert task == 1 or 0 < owned.sum() < 8
