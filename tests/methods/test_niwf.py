"""Non-interfering weight fields against NumPy in float64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bench import Bench
from by_hand import RATE, batch_of, leaves
from isolation_by_hand import answers, learn, old_answers_stay
from normed import normed

from cljax import models, streams
from cljax.core import tree
from cljax.core.types import UsageError
from cljax.methods.hypernetworks import niwf

NAME = "hidden_0/kernel"
A, B = f"{NAME}/lora_a", f"{NAME}/lora_b"
MODEL = models.mlp((4, 4, 1), 6, hidden=(8,))
HYPER = {"strength": 0.02, "radius": 0.2, "rank": 2, "size": 3, "width": 6, "anchors": 3}
DISJOINT = {n: v for n, v in HYPER.items() if n != "strength"}


@pytest.fixture(scope="module")
def three(make_blobs):
  return streams.build(make_blobs(classes=6), "task", tasks=3, validation=0.0)


@pytest.fixture(scope="module")
def bench(three):
  return Bench("niwf", three, MODEL, HYPER)


class Hand:
  """The field, the network and their slopes."""

  def __init__(self, learner):
    kept = learner.model_state.kept
    self.p = leaves(learner.params)
    self.frozen = {n: np.asarray(a, np.float64) for n, a in kept.frozen.items()}
    self.centres, self.around = (np.asarray(a, np.float64) for a in (kept.centres, kept.around))

  def hidden(self, c):
    return np.maximum(c @ self.p["field/hidden/kernel"] + self.p["field/hidden/bias"], 0)

  def made(self, c):
    h = self.hidden(c)
    out = lambda n: np.tensordot(h, self.p[f"field/out/{n}/kernel"], 1) + self.p[f"field/out/{n}/bias"]
    return {n: out(n) for n in (A, B)}

  def back(self, c, slopes):
    """The gradient in the field's leaves of what has these slopes in what the field makes at c."""
    h, g, down = self.hidden(c), {}, 0.0
    for n, d in slopes.items():
      g[f"field/out/{n}/kernel"], g[f"field/out/{n}/bias"] = np.multiply.outer(h, d), d
      down = down + np.tensordot(self.p[f"field/out/{n}/kernel"], d, d.ndim)
    down = down * (h > 0)
    return g | {"field/hidden/kernel": np.outer(c, down), "field/hidden/bias": down}

  def network(self, c, slot, x):
    made = self.made(c)
    flat = np.asarray(x, np.float64).reshape(len(x), -1)
    h = np.maximum(flat @ (self.frozen[NAME] + made[A] @ made[B]) + self.frozen["hidden_0/bias"], 0)
    return made, flat, h, h @ self.p["own/head/kernel"][slot] + self.p["own/head/bias"][slot]

  def task(self, c, slot, x, y, classes):
    """The loss and its gradient."""
    made, flat, h, z = self.network(c, slot, x)
    z = np.where(classes, z, -np.inf)
    loss = (np.logaddexp.reduce(z, -1) - z[np.arange(len(y)), y]).mean()
    d = np.exp(z - np.logaddexp.reduce(z, -1, keepdims=True))
    d[np.arange(len(y)), y] -= 1
    d /= len(y)
    kernel = flat.T @ ((d @ self.p["own/head/kernel"][slot].T) * (h > 0))
    g = self.back(c, {A: kernel @ made[B].T, B: made[A].T @ kernel})
    return loss, g, {"own/head/kernel": h.T @ d, "own/head/bias": d.sum(0)}


def offset_of(learner, radius):
  key = tree.fold(jax.random.fold_in(learner.key, learner.step), "gradient")
  return radius * np.asarray(jax.random.uniform(key, (3,), jnp.float32, -1.0, 1.0), np.float64)


def test_niwf_s_steps_by_hand(bench, three):
  """A step within the region, and a lock of all that was committed at the anchors of other tasks."""
  learner, snaps = bench.start(), {}
  for slot, task in enumerate((2, 0)):
    met, classes = (2,)[:slot], three.classes_of_task[task]
    learner = bench.boundary("start_task", learner, task, met)
    for k in range(3):
      hand, (x, y) = Hand(learner), batch_of(bench, task, k)
      u = offset_of(learner, 0.2)
      assert 0 < np.abs(u).max() <= 0.2
      loss, g, own = hand.task(hand.centres[slot] + u, slot, x, y, classes)
      for at, snap in snaps.items():
        made = hand.made(np.array(at))
        loss += 0.02 * sum(((made[n] - snap[n]) ** 2).sum() for n in snap)
        more = hand.back(np.array(at), {n: 0.04 * (made[n] - snap[n]) for n in snap})
        g = {n: g[n] + more[n] for n in g}
      learner, _, told = bench.step(learner, *bench.arguments(task, k, met=met))
      np.testing.assert_allclose(float(told), loss, rtol=1e-5, atol=1e-6)
      want = {n: hand.p[n] - RATE * g[n] if n in g else hand.p[n].copy() for n in hand.p}
      for n, v in own.items():
        want[n][slot] -= RATE * v
      for n, v in leaves(learner.params).items():
        np.testing.assert_allclose(v, want[n], rtol=1e-4, atol=3e-6, err_msg=n)
    learner = bench.boundary("end_task", learner, task, met)
    hand = Hand(learner)
    for j in range(3):
      at = hand.centres[slot] + 0.2 * hand.around[slot, j]
      snaps[tuple(at)] = hand.made(at)
      for n, v in snaps[tuple(at)].items():
        np.testing.assert_allclose(learner.method_state.values[n][slot, j], v, rtol=1e-4, atol=1e-6)
  assert not hand.around[:, 0].any()
  assert np.abs(hand.around[:, 1:]).max() <= 1
  np.testing.assert_array_equal(learner.method_state.done, [True, True, False])


def test_a_field_begins_without_effect(bench, three):
  """To the bit the network that was given, at every coordinate; A has the spread of its start around it."""
  learner = bench.start()
  params, state = MODEL.init(tree.fold(jax.random.key(0), "model"))
  x = jnp.asarray(three.dataset.test.x[np.asarray(three.test[1])])
  want = MODEL.apply(params, state, x, train=False, key=None, task=None, mask=None)[0].logits
  np.testing.assert_array_equal(answers(bench, learner, 1), want)
  wide = niwf.begun(jax.random.key(0), {"a": jnp.zeros((50, 4))}, ["a"], 3, 5, 200)
  a = wide["out"]["a/lora_a"]
  np.testing.assert_allclose(np.asarray(a["kernel"]).std() * 200**0.5, np.asarray(a["bias"]).std(), rtol=0.1)
  np.testing.assert_allclose(np.asarray(wide["hidden"]["kernel"]).std(), (2 / 5) ** 0.5, rtol=0.1)
  assert not np.asarray(wide["out"]["a/lora_b"]["kernel"]).any()
  assert np.asarray(learner.model_state.kept.centres).std() > 0.3


def test_a_lock_keeps_what_was_committed(bench):
  """Held to it, what the field gives at the anchors of the first task moves less, and so do its answers."""
  first = learn(bench, bench.start(), 0, ())
  ends = {}
  for strength in (0.0, 0.01):
    learner = bench.boundary("start_task", first, 1, (0,))
    learner = bench.steps(learner, 1, 20, None, (0,), strength=strength)
    now, snap = Hand(learner), first.method_state.values
    gaps = [
      np.abs(now.made(now.centres[0] + 0.2 * now.around[0, j])[n] - np.asarray(snap[n][0, j])).max()
      for n in (A, B) for j in range(3)
    ]  # fmt: skip
    ends[strength] = max(gaps), np.abs(answers(bench, learner, 0) - answers(bench, first, 0)).max()
  assert ends[0.01][0] < 0.2 * ends[0.0][0]
  assert ends[0.01][1] < 0.2 * ends[0.0][1]


def test_a_task_that_comes_back_is_unlocked_and_committed_anew(bench):
  learner = learn(bench, learn(bench, bench.start(), 0, (), 3), 1, (0,), 3)
  before = learner.method_state
  back = bench.boundary("start_task", learner, 0, (0, 1))
  np.testing.assert_array_equal(back.method_state.locked, [False, True, False])
  ended = bench.boundary("end_task", bench.steps(back, 0, 3, None, (0, 1)), 0, (0, 1))
  for n in (A, B):
    np.testing.assert_array_equal(ended.method_state.values[n][1], before.values[n][1])
    assert np.abs(np.asarray(ended.method_state.values[n][0] - before.values[n][0])).max() > 1e-5


@pytest.mark.parametrize(("optimizer", "norm"), [("sgd", True), ("adamw", False)])
def test_old_answers_stay_with_disjoint_regions(optimizer, norm, three, task_stream):
  """To the bit, under momentum and weight decay, over later tasks and returns; the network itself too."""
  hyper, stands = {**DISJOINT, "regions": "disjoint"}, []
  stream, model, order = (task_stream, normed(), (1, 0, 1)) if norm else (three, MODEL, (1, 0, 1, 2))
  check = lambda learner, seen: stands.append(tree.digest((learner.model_state.kept, learner.params["offset"])))
  bench, learner = old_answers_stay("niwf", stream, model, hyper, optimizer, order, check)
  assert len(set(stands)) == 1
  if not norm:
    start, p = leaves(bench.start().params), leaves(learner.params)
    np.testing.assert_array_equal(p[f"field/out/{A}/bias"], start[f"field/out/{A}/bias"])
    used = np.abs(p[f"field/out/{B}/kernel"]).max((1, 2)).reshape(3, 2)  # two units for each of three tasks
    assert (used.max(-1) > 0).all()


def test_disjoint_regions_need_units(three):
  with pytest.raises(UsageError, match=r"method\.width: got 2; disjoint regions of 3 tasks need at least as many"):
    Bench("niwf", three, MODEL, {**DISJOINT, "regions": "disjoint", "width": 2})
  with pytest.raises(UsageError, match=r"method\.layers: 'conv' finds no frozen leaf"):
    Bench("niwf", three, MODEL, {**HYPER, "layers": "conv"})
  with pytest.raises(UsageError, match=r"method\.trained: 'tail' finds no leaf"):
    Bench("niwf", three, MODEL, {**HYPER, "trained": "tail"})


def test_coordinates_compose(bench):
  """Between two centres the field gives another adapter, by the same formula."""
  learner = learn(bench, learn(bench, bench.start(), 0, (), 4), 1, (0,), 4)
  hand = Hand(learner)
  c = hand.centres[:2].mean(0)
  made = niwf.field(learner.params["field"], jnp.asarray(c, jnp.float32), jnp.ones(6))
  for n, value in hand.made(c).items():
    np.testing.assert_allclose(made[n], value, rtol=1e-4, atol=1e-6)
  assert np.abs(made[B] - hand.made(hand.centres[0])[B]).max() > 1e-5
  gated = niwf.field(learner.params["field"], jnp.asarray(c, jnp.float32), jnp.zeros(6))
  np.testing.assert_array_equal(gated[A], learner.params["field"]["out"][A]["bias"])


def test_after_a_request_all_is_committed_anew(bench):
  """An edit of the field is not pulled back to what it was; what was not committed stays so."""
  learner = learn(bench, bench.start(), 0, (), 3)
  edited = learner._replace(params=jax.tree.map(lambda a: a * 1.1, learner.params))
  after = bench.parts.method.after_forget(edited, learner.params)
  hand = Hand(edited)
  for j in range(3):
    for n, v in hand.made(hand.centres[0] + 0.2 * hand.around[0, j]).items():
      np.testing.assert_allclose(after.method_state.values[n][0, j], v, rtol=1e-4, atol=1e-6)
      assert not np.asarray(after.method_state.values[n][1:]).any()
  np.testing.assert_array_equal(after.method_state.done, [True, False, False])
