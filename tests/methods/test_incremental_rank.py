"""Incremental rank updates: factors and selectors, against NumPy in float64."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from bench import Bench
from by_hand import RATE, backward, batch_of, forward, leaves, near
from isolation_by_hand import answers, learn, old_answers_stay
from normed import normed

from cljax import models, streams
from cljax.methods.masks.incremental_rank import opening, orthonormal

NAME = "hidden_0/kernel"
MODEL = models.mlp((4, 4, 1), 6, hidden=(8,))
HYPER = {"first": 3, "more": 2}


@pytest.fixture(scope="module")
def three(make_blobs):
  return streams.build(make_blobs(classes=6), "task", tasks=3, validation=0.0)


def test_columns_and_what_each_task_adds(three):
  """``r_t = first + more (t - 1)``; a later task has ``(in + out) more + r_t`` parameters of a kernel."""
  np.testing.assert_array_equal(opening(3, 3, 2), [0, 0, 0, 1, 1, 2, 2])
  learner = Bench("incremental_rank", three, MODEL, HYPER).start()
  p = leaves(learner.params)
  left, right, select = (p[f"{part}/{NAME}"] for part in ("left", "right", "select"))
  assert (left.shape, right.shape, select.shape) == ((16, 7), (7, 8), (3, 7))
  np.testing.assert_allclose(left.T @ left, np.eye(7), atol=1e-5)
  np.testing.assert_allclose(right @ right.T, np.eye(7), atol=1e-5)
  np.testing.assert_array_equal(select, [[1, 1, 1, 0, 0, 0, 0], [0, 0, 0, 1, 1, 0, 0], [0, 0, 0, 0, 0, 1, 1]])
  wide = np.asarray(orthonormal(jax.random.key(0), 3, 5))
  np.testing.assert_allclose(wide @ wide.T, np.eye(3), atol=1e-5)


def test_incremental_rank_s_steps_by_hand(three):
  bench = Bench("incremental_rank", three, MODEL, HYPER)
  learner = bench.start()
  p = leaves(learner.params)
  opens = opening(3, 3, 2)
  for slot, task in enumerate((2, 0)):
    met, own = (2,)[:slot], three.classes_of_task[task]
    learner = bench.boundary("start_task", learner, task, met)
    for k in range(3):
      x, y = batch_of(bench, task, k)
      u, v, s = p[f"left/{NAME}"], p[f"right/{NAME}"], p[f"select/{NAME}"][slot] * (opens <= slot)
      net = {n.partition("/")[2]: a[slot] for n, a in p.items() if n.startswith("own")} | {NAME: (u * s) @ v}
      z = np.where(own, forward(net, x)[1], -np.inf)
      d = np.exp(z - np.logaddexp.reduce(z, -1, keepdims=True))
      d[np.arange(len(y)), y] -= 1
      g = backward(net, x, d / len(y))
      mine, there = (opens == slot).astype(float), (opens <= slot).astype(float)
      p[f"left/{NAME}"] = u - RATE * mine * (g[NAME] @ v.T) * s
      p[f"right/{NAME}"] = v - RATE * mine[:, None] * s[:, None] * (u.T @ g[NAME])
      p[f"select/{NAME}"][slot] -= RATE * there * np.einsum("ir,io,ro->r", u, g[NAME], v)
      for n in ("hidden_0/bias", "head/kernel", "head/bias"):
        p[f"own/{n}"][slot] -= RATE * g[n]
      learner = bench.step(learner, *bench.arguments(task, k, met=met))[0]
      near(learner.params, p, 1e-5)
    learner = bench.boundary("end_task", learner, task, met)
  assert np.abs(p[f"select/{NAME}"][1, :3]).min() > 0  # old columns are selected too


@pytest.mark.parametrize(("optimizer", "norm"), [("sgd", True), ("adamw", False)])
def test_old_answers_of_incremental_rank_stay_to_the_bit(optimizer, norm, three, task_stream):
  """Under momentum and weight decay, over later tasks and returns, with BatchNorm; old columns stand."""
  known = []
  opens = opening(2 if norm else 3, 3, 2)
  kernel = "in/kernel" if norm else NAME

  def check(learner, seen):
    p, count = leaves(learner.params), len(set(seen))
    for n, before in known:
      old = opens < n
      np.testing.assert_array_equal(p[f"left/{kernel}"][:, old], before[f"left/{kernel}"][:, old])
      np.testing.assert_array_equal(p[f"right/{kernel}"][old], before[f"right/{kernel}"][old])
    known.append((count, p))

  stream, model, order = (task_stream, normed(), (1, 0, 1, 0)) if norm else (three, MODEL, (1, 0, 1, 2, 0))
  bench, learner = old_answers_stay("incremental_rank", stream, model, HYPER, optimizer, order, check)
  if not norm:
    before, after = leaves(learner.params), leaves(learn(bench, learner, 0, order, steps=2).params)
    changed = {n for n in before if (before[n] != after[n]).any()}
    assert changed == {f"select/{NAME}", "own/hidden_0/bias", "own/head/kernel", "own/head/bias"}
    assert np.isfinite(answers(bench, learner, 2)).all()
