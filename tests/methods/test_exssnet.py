"""ExSSNeT: a mask is searched, then the weights that it has alone learn; against NumPy in float64."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from bench import Bench
from by_hand import RATE, backward, batch_of, forward, leaves, near
from isolation_by_hand import learn, old_answers_stay
from normed import normed

from cljax import models, streams
from cljax.core.types import UsageError
from cljax.methods.masks import exssnet
from cljax.methods.masks.exssnet import neighbours_right

NAME, SCORES = "hidden_0/kernel", "scores/hidden_0/kernel"
MODEL = models.mlp((4, 4, 1), 6, hidden=(8,))
HYPER = {"share": 0.25, "search": 0.4, "samples": 24, "neighbours": 3}


@pytest.fixture(scope="module")
def three(make_blobs):
  return streams.build(make_blobs(classes=6), "task", tasks=3, validation=0.0)


def top(s, share):
  size = np.abs(s)
  return size >= np.sort(size.ravel())[int(round((1 - share) * size.size, 6))]


def test_neighbours_vote_by_majority():
  """Every third row is asked; rows that are not there neither vote nor are asked."""
  rng = np.random.default_rng(0)
  f, y = rng.normal(size=(21, 4)), rng.integers(0, 3, 21)
  there = np.arange(21) < 17
  right = []
  voters = [i for i in range(21) if i % 3 != 2 and there[i]]
  for i in range(2, 17, 3):
    near_ = sorted(voters, key=lambda j: np.sum((f[i] - f[j]) ** 2))[:5]
    right.append(np.bincount(y[near_], minlength=3).argmax() == y[i])
  got = neighbours_right(jnp.float32(f), jnp.asarray(y), jnp.float32(there), 3, 5)
  np.testing.assert_allclose(got, np.mean(right), rtol=1e-6)
  assert 0 < got < 1
  assert float(neighbours_right(jnp.float32(f), jnp.asarray(y), jnp.zeros(21), 3, 5)) == 0
  assert np.isfinite(neighbours_right(jnp.float32(f), jnp.asarray(y), jnp.float32(there), 3, 100))


def test_exssnet_s_steps_by_hand(three):
  """Of 10 planned steps 4 learn scores alone, then weights under the mask that no earlier one has learn alone."""
  bench = Bench("exssnet", three, MODEL, {"share": 0.25, "search": 0.4, "transfer": False})
  learner = bench.start()
  p, used = leaves(learner.params), np.zeros((16, 8), bool)
  assert 0.2 < np.abs(p[SCORES]).max() <= 1 / 4  # 1 / sqrt(fan in)
  assert p[SCORES].min() < 0 < p[SCORES].max()
  for slot, task in enumerate((2, 0)):
    met, own = (2,)[:slot], three.classes_of_task[task]
    learner = bench.boundary("start_task", learner, task, met)
    near(learner.params, p)
    for k in range(6):
      x, y = batch_of(bench, task, k)
      w, s = p[f"network/{NAME}"], p[SCORES][slot]
      mask = top(s, 0.25)
      net = {n.partition("/")[2]: v for n, v in p.items() if n.startswith("network")}
      net = {n: v[slot] if n.startswith("head") else v for n, v in net.items()} | {NAME: w * mask}
      z = np.where(own, forward(net, x)[1], -np.inf)
      d = np.exp(z - np.logaddexp.reduce(z, -1, keepdims=True))
      d[np.arange(len(y)), y] -= 1
      g = backward(net, x, d / len(y))
      if k < 4:
        p[SCORES][slot] = s - RATE * g[NAME] * w * np.sign(s)
      else:
        p[f"network/{NAME}"] = w - RATE * g[NAME] * (mask & ~used)
      for n in ("head/kernel", "head/bias"):
        p[f"network/{n}"][slot] -= RATE * g[n]
      learner = bench.step(learner, *bench.arguments(task, k, met=met))[0]
      near(learner.params, p, 1e-5)
    mask = top(p[SCORES][slot], 0.25)
    assert mask.sum() == 32
    assert slot == 0 or (mask & used).any()
    used = used | mask
    learner = bench.boundary("end_task", learner, task, met)
    kept = learner.model_state.kept
    np.testing.assert_array_equal(kept.masks[NAME][slot], mask)
    np.testing.assert_array_equal(kept.used[NAME], used)
    np.testing.assert_array_equal(kept.done, np.arange(3) <= slot)


def test_a_task_begins_with_the_scores_of_the_best_earlier_one(three):
  """Neighbours tell these blobs apart, so that scores are taken over, from a met task; the source keeps its own."""
  bench = Bench("exssnet", three, MODEL, HYPER)
  first = learn(bench, bench.start(), 1, (), steps=5)
  begun = bench.boundary("start_task", first, 0, (1,))
  for name, s in begun.params["scores"].items():
    np.testing.assert_array_equal(s[1], first.params["scores"][name][0])
    np.testing.assert_array_equal(s[0], first.params["scores"][name][0])
    assert np.abs(np.asarray(first.params["scores"][name][1] - s[1])).max() > 0
  fresh = bench.start()
  for name, s in bench.boundary("start_task", fresh, 1, ()).params["scores"].items():
    np.testing.assert_array_equal(s, fresh.params["scores"][name])  # none before it
  kept = first.model_state.kept
  dark = kept._replace(masks={n: jnp.zeros_like(m) for n, m in kept.masks.items()})
  blind = first._replace(model_state=first.model_state._replace(kept=dark))  # all rows have the same features
  same = bench.boundary("start_task", blind, 0, (1,)).params["scores"][NAME]
  np.testing.assert_array_equal(same, first.params["scores"][NAME])
  with pytest.raises(UsageError, match="'exssnet' needs a model that returns features"):
    Bench("exssnet", three, models.from_apply(lambda key: {"head": jnp.ones((16, 6))},
                                              lambda params, x: x.reshape(-1, 16) @ params["head"]), HYPER)  # fmt: skip


def test_as_many_rows_and_neighbours_are_asked_as_options_say(three, monkeypatch):
  told = []
  right = lambda f, y, weight, classes, count: told.append((f.shape[0], classes, count)) or jnp.zeros(())
  monkeypatch.setattr(exssnet, "neighbours_right", right)
  bench = Bench("exssnet", three, MODEL, HYPER)
  bench.boundary("start_task", bench.start(), 0, ())
  assert set(told) == {(24, 6, 3)}


@pytest.mark.parametrize(("optimizer", "norm"), [("sgd", True), ("adamw", False)])
def test_old_answers_of_exssnet_stay_to_the_bit(optimizer, norm, three, task_stream):
  """Under momentum and weight decay, over later tasks and returns, with BatchNorm; masks of finished tasks stand."""
  known = []

  def check(learner, seen):
    masks = {n: np.asarray(m) for n, m in learner.model_state.kept.masks.items()}
    for before in known:
      for n, m in masks.items():
        some = before[n].reshape(len(m), -1).any(1)
        np.testing.assert_array_equal(m[some], before[n][some])
    known.append(masks)

  stream, model, order = (task_stream, normed(), (1, 0, 1, 0)) if norm else (three, MODEL, (1, 0, 1, 2, 0))
  bench, learner = old_answers_stay("exssnet", stream, model, HYPER, optimizer, order, check)
  if not norm:
    before, after = leaves(learner.params), leaves(learn(bench, learner, 0, order, steps=2).params)
    changed = {n for n in before if (before[n] != after[n]).any()}
    assert changed == {"network/head/kernel", "network/head/bias"}
