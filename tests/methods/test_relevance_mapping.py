"""Relevance mapping: soft and rounded masks, against NumPy in float64."""

from __future__ import annotations

import numpy as np
import pytest
from bench import Bench
from by_hand import RATE, backward, batch_of, forward, leaves, near
from isolation_by_hand import answers, learn, old_answers_stay
from normed import normed

from cljax import models, streams
from cljax.methods.masks.relevance_mapping import almost_round

NAME, MAP = "hidden_0/kernel", "relevance/hidden_0/kernel"
MODEL = models.mlp((4, 4, 1), 6, hidden=(8,))


@pytest.fixture(scope="module")
def three(make_blobs):
  return streams.build(make_blobs(classes=6), "task", tasks=3, validation=0.0)


def rho(a):
  return 1 / (1 + np.exp(-100 * (a - 0.5)))


def test_almost_rounding():
  np.testing.assert_allclose(almost_round(np.float32([0.5, 0.55, 0.45])), [0.5, 0.993307, 0.006693], atol=1e-5)


@pytest.mark.parametrize("overlap", [True, False])
def test_relevance_mapping_s_steps_by_hand(overlap, three):
  """``W -= rate (1 - used) rho g``, ``A -= rate (W g + strength) 100 rho (1 - rho)``; without overlap what is used has
  no part in a later task."""
  strength = 0.002
  bench = Bench("relevance_mapping", three, MODEL, {"strength": strength, "overlap": overlap})
  learner = bench.start()
  p, used = leaves(learner.params), np.zeros((16, 8), bool)
  assert 0 <= p[MAP].min() < 0.05
  assert 0.95 < p[MAP].max() <= 1
  for slot, task in enumerate((2, 0)):
    met, own = (2,)[:slot], three.classes_of_task[task]
    learner = bench.boundary("start_task", learner, task, met)
    barred = used & (not overlap)
    p[MAP][slot][barred] = 0
    for k in range(3):
      x, y = batch_of(bench, task, k)
      w, a = p[f"network/{NAME}"], p[MAP][slot]
      net = {n.partition("/")[2]: v for n, v in p.items() if n.startswith("network")}
      net = {n: v[slot] if n != NAME else w * rho(a) for n, v in net.items()}
      z = np.where(own, forward(net, x)[1], -np.inf)
      d = np.exp(z - np.logaddexp.reduce(z, -1, keepdims=True))
      d[np.arange(len(y)), y] -= 1
      g = backward(net, x, d / len(y))
      p[f"network/{NAME}"] = w - RATE * g[NAME] * rho(a) * ~used
      p[MAP][slot] = a - RATE * (g[NAME] * w + strength) * 100 * rho(a) * (1 - rho(a)) * ~barred
      for n in ("hidden_0/bias", "head/kernel", "head/bias"):
        p[f"network/{n}"][slot] -= RATE * g[n]
      learner = bench.step(learner, *bench.arguments(task, k, met=met))[0]
      near(learner.params, p, 1e-5)
    learner = bench.boundary("end_task", learner, task, met)
    mine = p[MAP][slot] > 0.5
    assert overlap or not (mine & used).any()
    assert mine.any()
    used = used | mine
    np.testing.assert_array_equal(learner.model_state.kept[NAME], used)
  x = three.dataset.test.x[np.asarray(three.test[0])]
  net = {n.partition("/")[2]: v for n, v in p.items() if n.startswith("network")}
  net = {n: v[1] if n != NAME else v * (p[MAP][1] > 0.5) for n, v in net.items()}
  np.testing.assert_allclose(answers(bench, learner, 0), forward(net, x)[1], rtol=1e-4, atol=1e-5)  # rounded


@pytest.mark.parametrize(("optimizer", "norm"), [("sgd", True), ("adamw", False)])
def test_old_answers_of_relevance_mapping_stay_to_the_bit(optimizer, norm, three, task_stream):
  """Under momentum and weight decay, over later tasks and returns, with BatchNorm; more and more weights are used."""
  counts = []

  def check(learner, seen):
    counts.append(sum(int(np.asarray(u).sum()) for u in learner.model_state.kept.values()))

  stream, model, order = (task_stream, normed(), (1, 0, 1, 0)) if norm else (three, MODEL, (1, 0, 1, 2, 0))
  bench, learner = old_answers_stay("relevance_mapping", stream, model, {}, optimizer, order, check)
  assert counts == sorted(counts)
  if not norm:
    before, after = leaves(learner.params), leaves(learn(bench, learner, 0, order, steps=2).params)
    changed = {n for n in before if (before[n] != after[n]).any()}
    assert changed == {"network/hidden_0/bias", "network/head/kernel", "network/head/bias"}


def test_half_is_rounded_down_in_what_answers_and_in_what_stands(three):
  """A weight that answered at a relevance of exactly 1/2 and did not stand would move under an old answer."""
  bench = Bench("relevance_mapping", three, MODEL)
  learner = bench.boundary("start_task", bench.start(), 0)
  a = np.where(np.arange(8) < 4, np.float32(0.5), np.nextafter(np.float32(0.5), np.float32(1)))
  some = learner.params["relevance"][NAME].at[0].set(a[None])
  learner = learner._replace(params={**learner.params, "relevance": {NAME: some}})
  learner = bench.boundary("end_task", learner, 0)
  on = np.broadcast_to(np.arange(8) >= 4, (16, 8))
  np.testing.assert_array_equal(learner.model_state.kept[NAME], on)
  p = {n.partition("/")[2]: v for n, v in leaves(learner.params).items() if n.startswith("network")}
  net = {n: v[0] if n != NAME else v * on for n, v in p.items()}
  x = three.dataset.test.x[np.asarray(three.test[0])]
  np.testing.assert_allclose(answers(bench, learner, 0), forward(net, x)[1], rtol=1e-4, atol=1e-5)
