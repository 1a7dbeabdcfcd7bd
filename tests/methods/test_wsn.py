"""WSN: masks and weights learned together, against NumPy; what old masks hold."""

from __future__ import annotations

import flax.linen as nn
import numpy as np
import pytest
from bench import Bench
from by_hand import RATE, backward, batch_of, forward, leaves, near
from isolation_by_hand import OPTIMIZERS, learn, old_answers_stay, slopes
from normed import normed

from cljax import models, streams

NAME, SCORES = "hidden_0/kernel", "scores/hidden_0/kernel"
MODEL = models.mlp((4, 4, 1), 6, hidden=(8,))


@pytest.fixture(scope="module")
def three(make_blobs):
  return streams.build(make_blobs(classes=6), "task", tasks=3, validation=0.0)


def top(s, share):
  """The largest of a kernel: all but ``floor((1 - share) n)``."""
  size = np.abs(s)
  return size >= np.sort(size.ravel())[int(round((1 - share) * size.size, 6))]


def test_wsn_s_steps_by_hand(three):
  """``W -= rate m (1 - M) g`` and ``s -= rate sign(s) W g``, g the slope in ``W m``; s goes on from task to task."""
  share = 0.25
  bench = Bench("wsn", three, MODEL, {"share": share})
  learner = bench.start()
  p = leaves(learner.params)
  assert np.abs(p[SCORES]).max() <= 1 / 4  # 1 / sqrt(fan in)
  used = np.zeros((16, 8), bool)
  for slot, task in enumerate((2, 0)):
    met, own = (2,)[:slot], three.classes_of_task[task]
    learner = bench.boundary("start_task", learner, task, met)
    near(learner.params, p)
    for k in range(4):
      x, y = batch_of(bench, task, k)
      w, s = p[f"network/{NAME}"], p[SCORES]
      mask = top(s, share)
      net = {n.partition("/")[2]: v for n, v in p.items() if n.startswith("network")}
      net = {n: v[slot] if n.startswith("head") else v for n, v in net.items()} | {NAME: w * mask}
      z = np.where(own, forward(net, x)[1], -np.inf)
      d = np.exp(z - np.logaddexp.reduce(z, -1, keepdims=True))
      d[np.arange(len(y)), y] -= 1
      g = backward(net, x, d / len(y))
      p[f"network/{NAME}"] = w - RATE * g[NAME] * mask * ~used
      p[SCORES] = s - RATE * g[NAME] * w * np.sign(s)
      if slot == 0:
        p["network/hidden_0/bias"] = p["network/hidden_0/bias"] - RATE * g["hidden_0/bias"]
      for n in ("head/kernel", "head/bias"):
        p[f"network/{n}"][slot] -= RATE * g[n]
      learner = bench.step(learner, *bench.arguments(task, k, met=met))[0]
      near(learner.params, p, 1e-5)
    learner = bench.boundary("end_task", learner, task, met)
    mask = top(p[SCORES], share)
    assert mask.sum() == 32
    used |= mask
    kept = learner.model_state.kept
    np.testing.assert_array_equal(kept.masks[NAME][slot], mask)
    np.testing.assert_array_equal(kept.used[NAME], used)
    np.testing.assert_array_equal(kept.done, np.arange(3) <= slot)


@pytest.mark.parametrize(("optimizer", "norm"), [("sgd", True), ("adamw", False)])
def test_old_answers_of_wsn_stay_to_the_bit(optimizer, norm, three, task_stream):
  """Under momentum and weight decay, over later tasks and returns, with BatchNorm; masks of finished tasks stand."""
  known = []

  def check(learner, seen):
    kept = learner.model_state.kept
    known.append({n: np.asarray(m) for n, m in kept.masks.items()})
    count = len(set(seen))
    for n, m in known[-1].items():
      for before in known[:-1]:
        some = before[n].reshape(len(before[n]), -1).any(1)
        np.testing.assert_array_equal(m[some], before[n][some])
      np.testing.assert_array_equal(m.any(0), kept.used[n])
      assert m[:count].reshape(count, -1).mean(1) == pytest.approx(0.5)

  stream, model, order = (task_stream, normed(), (1, 0, 1, 0)) if norm else (three, MODEL, (1, 0, 1, 2, 0))
  old_answers_stay("wsn", stream, model, {}, optimizer, order, check)


def test_what_is_in_old_masks_has_no_gradient(three):
  """So that it counts in no norm by which an optimizer clips."""
  bench = Bench("wsn", three, MODEL, {"share": 0.3})
  learner = bench.boundary("start_task", learn(bench, bench.start(), 0, ()), 1, (0,))
  turned = {n: s[::-1] for n, s in learner.params["scores"].items()}  # else the mask is still the first task's
  learner = learner._replace(params={**learner.params, "scores": turned})
  g, used = slopes(bench, learner, 1)[f"network/{NAME}"], np.asarray(learner.model_state.kept.used[NAME])
  assert not g[used].any()
  assert np.abs(g[~used]).max() > 0


def test_weights_outside_the_mask_of_a_step_keep_their_value(three):
  """Momentum and decay would move them; a task that comes back moves nothing but its classifier."""
  bench = Bench("wsn", three, MODEL, {"share": 0.3}, optimizer=OPTIMIZERS["sgd"]())
  learner = bench.boundary("start_task", bench.start(), 1)
  learner = bench.steps(learner, 1, 3, met=())
  before = leaves(learner.params)
  after = leaves(bench.step(learner, *bench.arguments(1, 3, met=()))[0].params)
  inside = top(before[SCORES], 0.3)
  same = before[f"network/{NAME}"] == after[f"network/{NAME}"]
  assert same[~inside].all()
  assert not same[inside].any()
  learner = bench.boundary("end_task", learner, 1)
  before, after = leaves(learner.params), leaves(learn(bench, learner, 1, (1,)).params)
  changed = {n for n in before if (before[n] != after[n]).any()}
  assert changed == {"network/head/kernel", "network/head/bias"}


class Answers(nn.Module):
  @nn.compact
  def __call__(self, x, train=False):
    h = nn.relu(nn.Dense(5, name="in")(x.reshape(x.shape[0], -1)))
    return nn.Dense(6, name="answers")(h)


def test_a_classifier_of_any_name_is_of_each_task_and_has_no_mask(three):
  learner = Bench("wsn", three, models.from_linen(Answers(), (4, 4, 1))).start()
  assert set(learner.params["scores"]) == set(learner.model_state.kept.masks) == {"in/kernel"}
  assert learner.params["network"]["answers"]["kernel"].shape == (3, 5, 6)
  assert learner.params["network"]["answers"]["bias"].shape == (3, 6)
