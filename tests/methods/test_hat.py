"""HAT: gates, their compensated slopes and held updates, against NumPy in float64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bench import Bench
from by_hand import RATE, batch_of, leaves, near
from isolation_by_hand import learn, old_answers_stay
from normed import normed

from cljax import models, streams
from cljax.core.types import UsageError
from cljax.methods.masks.hat import gate, scale_at
from cljax.models.zoo import chain_units

MODEL = models.mlp((4, 4, 1), 6, hidden=(7, 5))
STEPS = 6  # of an epoch: 48 rows by 8


@pytest.fixture(scope="module")
def three(make_blobs):
  return streams.build(make_blobs(classes=6), "task", tasks=3, validation=0.0)


def slope(e, s, most):
  """The gate's own slope times the published compensation, in float64."""
  e, x = np.float64(e), np.float64(s) * np.float64(e)
  own = s / (2 * (np.cosh(x) + 1))
  return own * most / s * (np.cosh(np.clip(x, -50, 50)) + 1) / (np.cosh(e) + 1)


def test_the_compensated_slope_is_that_of_every_scale():
  """99.998 at e = 0.01 for s = 0.0025, 1 and 400; beyond |s e| = 50 it falls with the gate's own."""
  for s in (0.0025, 1.0, 400.0):
    got = jax.grad(gate)(jnp.float32(0.01), jnp.float32(s), jnp.float32(400))
    assert round(float(got), 3) == 99.998 or abs(float(got) - 99.9975) < 2e-3
    for e in (-0.12, 0.0, 0.1, 0.126, 0.15, -0.2):
      want = slope(e, s, 400.0)
      np.testing.assert_allclose(jax.grad(gate)(jnp.float32(e), s, 400.0), want, rtol=1e-4, err_msg=f"{s} {e}")
  for e in (-6.0, 6.0, 90.0):  # neither overflows nor is 0/0
    assert np.isfinite(jax.grad(gate)(jnp.float32(e), 400.0, 400.0))
  np.testing.assert_allclose(gate(jnp.float32([-1, 0, 0.5]), 2.0, 400.0), 1 / (1 + np.exp([2.0, 0, -1])), rtol=1e-6)


def test_the_scale_goes_from_its_inverse_to_the_steepest():
  """Never below 0, and 400 at the last of 10 steps: an index that begins at -1 gives -44 and 356."""
  got = [float(scale_at(jnp.int32(i), jnp.int32(10), 400.0)) for i in range(10)]
  np.testing.assert_allclose(got, 1 / 400 + (400 - 1 / 400) * np.arange(10) / 9, rtol=1e-6)
  assert float(scale_at(jnp.int32(0), jnp.int32(1), 400.0)) == 400


class ByHand:
  """The network of two hidden layers, in NumPy."""

  def __init__(self, learner, most, strength):
    self.p, self.most, self.strength = leaves(learner.params), most, strength
    self.above = [np.zeros(7), np.zeros(5)]

  def step(self, x, y, own, slot, s):
    p = self.p
    e = [p[f"embeddings/{i}"][slot] for i in (0, 1)]
    a = [1 / (1 + np.exp(-s * v)) for v in e]
    n = {k.partition("/")[2]: (v[slot] if "head" in k else v) for k, v in p.items() if k.startswith("network")}
    x = np.asarray(x, np.float64).reshape(len(x), -1)
    h0 = np.maximum(x @ n["hidden_0/kernel"] + n["hidden_0/bias"], 0)
    h1 = np.maximum((h0 * a[0]) @ n["hidden_1/kernel"] + n["hidden_1/bias"], 0)
    z = np.where(own, (h1 * a[1]) @ n["head/kernel"] + n["head/bias"], -np.inf)
    d = np.exp(z - np.logaddexp.reduce(z, -1, keepdims=True))
    d[np.arange(len(y)), y] -= 1
    d = d / len(y)
    back1 = d @ n["head/kernel"].T
    in1 = back1 * a[1] * (h1 > 0)
    back0 = in1 @ n["hidden_1/kernel"].T
    in0 = back0 * a[0] * (h0 > 0)
    left = sum((1 - b).sum() for b in self.above)
    ga = [(back * h).sum(0) + self.strength * (1 - b) / left for back, h, b in zip(
      (back0, back1), (h0, h1), self.above, strict=True)]  # fmt: skip
    A, B = self.above
    free = {
      "hidden_0/kernel": 1 - np.broadcast_to(A, (16, 7)), "hidden_0/bias": 1 - A,
      "hidden_1/kernel": 1 - np.minimum(A[:, None], B[None]), "hidden_1/bias": 1 - B,
    }  # fmt: skip
    g = {"hidden_0/kernel": x.T @ in0, "hidden_0/bias": in0.sum(0), "hidden_1/kernel": (h0 * a[0]).T @ in1,
         "hidden_1/bias": in1.sum(0)}  # fmt: skip
    for k, v in g.items():
      p[f"network/{k}"] = p[f"network/{k}"] - RATE * v * free[k]
    p["network/head/kernel"][slot] -= RATE * (h1 * a[1]).T @ d
    p["network/head/bias"][slot] -= RATE * d.sum(0)
    for i in (0, 1):
      new = e[i] - RATE * ga[i] * slope(e[i], s, self.most)
      p[f"embeddings/{i}"][slot] = np.clip(new, -6, 6)

  def end(self, slot):
    for i in (0, 1):
      self.above[i] = np.maximum(self.above[i], 1 / (1 + np.exp(-self.most * self.p[f"embeddings/{i}"][slot])))


def test_hat_s_steps_by_hand(three):
  """Two epochs of a task and the beginning of the next one, whose updates are scaled by what the first one holds."""
  most, strength = 8.0, 0.4
  bench = Bench("hat", three, MODEL, {"steepest": most, "strength": strength, "binary": False})
  learner = bench.start()
  big = {i: a.at[0, 0].set(6.5) for i, a in learner.params["embeddings"].items()}
  learner = learner._replace(params={**learner.params, "embeddings": big})
  hand = ByHand(learner, most, strength)
  for slot, (task, steps) in enumerate(((2, 7), (0, 3))):
    met, own = (2,)[:slot], three.classes_of_task[task]
    learner = bench.boundary("start_task", learner, task, met)
    for k in range(steps):
      s = 1 / most + (most - 1 / most) * (k % STEPS) / (STEPS - 1)
      np.testing.assert_allclose(learner.model_state.kept.scale, s, rtol=1e-6)
      hand.step(*batch_of(bench, task, k), own, slot, s)
      learner = bench.step(learner, *bench.arguments(task, k, met=met))[0]
      near(learner.params, hand.p, 1e-5)
    learner = bench.boundary("end_task", learner, task, met)
    hand.end(slot)
    for i in (0, 1):
      np.testing.assert_allclose(learner.model_state.kept.above[str(i)], hand.above[i], atol=1e-5)
  assert 5.9 < leaves(learner.params)["embeddings/0"][0, 0] <= 6  # clipped, from 6.5
  assert 0.1 < hand.above[0].mean() < 1


@pytest.mark.parametrize(("optimizer", "norm"), [("sgd", True), ("adamw", False)])
def test_old_answers_of_hat_stay_to_the_bit(optimizer, norm, three, task_stream):
  """With gates of 0 and 1, under momentum and weight decay, over later tasks and returns, with BatchNorm; the gates of
  a task that comes back stand."""
  known = []

  def check(learner, seen):
    above = {i: np.asarray(a) for i, a in learner.model_state.kept.above.items()}
    known.append((above, {i: np.asarray(e) for i, e in learner.params["embeddings"].items()}))
    assert all(set(np.unique(a)) <= {0.0, 1.0} for a in above.values())
    if len(known) > 1:
      (before, e), (after, f) = known[-2:]
      assert all((after[i] >= before[i]).all() for i in after)
      assert all((e[i] == f[i]).all() for i in e) == (seen[-1] in seen[:-1])  # gates move on a first visit alone

  net = normed()._replace(units=chain_units("in", "head"))
  stream, model, order = (task_stream, net, (1, 0, 1, 0)) if norm else (three, MODEL, (1, 0, 1, 2, 0))
  bench, learner = old_answers_stay("hat", stream, model, {"steepest": 50.0, "binary": True}, optimizer, order, check)
  if norm:
    scale = np.asarray(learner.params["network"]["norm"]["scale"])
    assert scale.shape == (2, 6)
    assert np.abs(scale[0] - scale[1]).max() > 0
    return
  used = {i: np.asarray(a) == 1 for i, a in learner.model_state.kept.above.items()}
  moved = learn(bench, learner, 0, order, steps=2)
  for name, mine in (("hidden_0", used["0"][None]), ("hidden_1", used["0"][:, None] & used["1"])):
    before, after = (np.asarray(l.params["network"][name]["kernel"]) for l in (learner, moved))
    assert used["0"].any()
    assert (before == after)[np.broadcast_to(mine, before.shape)].all()


def test_hat_has_no_division_by_no_free_unit_and_needs_units(three, small_model):
  bench = Bench("hat", three, MODEL, {"steepest": 50.0, "binary": True})
  learner = bench.boundary("start_task", bench.start(), 0)
  kept = learner.model_state.kept
  full = learner.model_state._replace(kept=kept._replace(above=jax.tree.map(jnp.ones_like, kept.above)))
  after, _, loss = bench.step(learner._replace(model_state=full), *bench.arguments(0))
  assert np.isfinite(loss)
  assert all(np.isfinite(a).all() for a in leaves(after.params).values())
  with pytest.raises(UsageError, match="'hat' needs a model that names its units"):
    Bench("hat", three, MODEL._replace(units=()))
  with pytest.raises(UsageError, match="'hat' needs units that form a chain; 'head/kernel' is not 'hidden_0/kernel'"):
    Bench("hat", three, MODEL._replace(units=(MODEL.units[1], MODEL.units[0])))
