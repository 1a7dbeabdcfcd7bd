"""X-DER against NumPy in float64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bench import Bench
from by_hand import RATE, batch_of, forward, log_softmax

from cljax import methods, models, streams
from cljax.core.types import UsageError
from cljax.engine.setup import spec_of
from cljax.methods.replay import xder

HYPER = {"capacity": 12, "replay_batch": 12, "consistency": False, "eta": 0.5, "margin": 0.4, "gamma": 0.8}


@pytest.fixture(scope="module")
def three(make_blobs):
  """Three tasks of two classes."""
  return streams.build(make_blobs(classes=6), "class", tasks=3, validation=0.0)


@pytest.fixture(scope="module")
def model():
  return models.mlp((4, 4, 1), 6, hidden=(8,))


@pytest.fixture(scope="module")
def trained(three, model):
  """A bench; after one task; a step into the second, and after another, whose loss is told; after the second."""
  bench = Bench("xder", three, model, HYPER)
  one = bench.train(3, (0,))
  begun = bench.step(one, *bench.arguments(1, 1))[0]
  after, _, loss = bench.step(begun, *bench.arguments(1, 0))
  return bench, one, begun, after, float(loss), bench.boundary("end_task", after, 1)


def held(z, label, columns, gamma):
  """``z [C]`` whose columns are not above the label's logit."""
  top = z[columns].max()
  if top > label:
    z = z.copy()
    z[columns] = z[columns] * gamma * label / top if label > 0 else z[columns] - (top - label)
  return z


def softmax(z):
  return np.exp(log_softmax(z))


def by_hand(params, state, x, y, split):
  """The loss of a step in the second of three tasks: old classes 0 and 1, new ones 2 and 3."""
  n = int(state.count)
  ids, kept = np.asarray(state.rows["id"])[:n], np.asarray(state.rows["logits"], np.float64)[:n]
  z, old, label = forward(params, x)[1], forward(params, split.x[ids])[1], split.y[ids]
  assert set(label) == {0, 1}
  ce = lambda z, y: -log_softmax(z)[np.arange(len(y)), y].mean()
  total = ce(z[:, 2:4], y - 2) + 0.3 * ((old - kept) ** 2).mean() + 0.8 * ce(old[:, :2], label)
  p = softmax(z[:, :4])
  hinge = lambda gap: gap[gap > 0].mean() if (gap > 0).any() else 0.0
  past = p[:, :2].max(-1) + 0.4 - p[:, 2:].max(-1)
  future = np.r_[z[:, 4:].max(-1) + 0.4 - z[:, 2:4].max(-1), old[:, 4:].max(-1) + 0.4 - old[:, :2].max(-1)]
  assert (past > 0).any()
  assert (future > 0).any()
  return total + 0.5 * (hinge(past) + hinge(future))


def test_xder_s_loss_is_of_heads(trained):
  """Current rows compete within their task, replayed ones within classes met before; logits of all heads are held; the
  probabilities of old classes and the logits of later ones lie below, each drawn row counted once."""
  bench, _, begun, _, loss, _ = trained
  want = by_hand(begun.params, begun.method_state, *batch_of(bench, 1, 0), bench.stream.dataset.train)
  np.testing.assert_allclose(loss, want, rtol=1e-5)


def test_xder_s_gradient_by_differences(trained):
  """But for the old classes' probability, which is told, not pulled."""
  bench, _, begun, after, *_ = trained
  split, (x, y) = bench.stream.dataset.train, batch_of(bench, 1, 0)
  rng = np.random.default_rng(0)
  double = lambda tree: jax.tree.map(lambda a: np.asarray(a, np.float64), tree)
  now = double(begun.params)
  step = jax.tree.map(lambda a, b: (np.asarray(a, np.float64) - b) / -RATE, after.params, now)
  fixed = softmax(forward(now, x)[1][:, :4])[:, :2].max(-1)
  for _ in range(3):
    direction = jax.tree.map(lambda a: rng.normal(size=a.shape), now)

    def at(t, direction=direction):
      params = jax.tree.map(lambda p, d: p + t * d, now, direction)
      p = softmax(forward(params, x)[1][:, :4])
      moving, still = (q + 0.4 - p[:, 2:].max(-1) for q in (p[:, :2].max(-1), fixed))
      assert ((moving > 0) == (still > 0)).all()
      hit = still > 0
      return by_hand(params, begun.method_state, x, y, split) + 0.5 * (still[hit].mean() - moving[hit].mean())

    slope = (at(1e-6) - at(-1e-6)) / 2e-6
    want = sum((a * b).sum() for a, b in zip(jax.tree.leaves(step), jax.tree.leaves(direction), strict=True))
    np.testing.assert_allclose(want, slope, rtol=2e-3)


def test_stored_logits_learn_of_current_and_later_heads(trained):
  """The first time a row is drawn always; the n-th with probability 1 / n, in this task; old heads stay."""
  bench, one, begun, after, _, two = trained
  before, first, second = (l.method_state.rows for l in (one, begun, after))
  split = bench.stream.dataset.train
  np.testing.assert_array_equal(before["times"], 0)
  np.testing.assert_array_equal(first["times"], 1)
  np.testing.assert_array_equal(second["times"], 2)
  x, y = split.x[np.asarray(before["id"])], split.y[np.asarray(before["id"])]
  for kept, now, got in ((before, one, first), (first, begun, second)):
    z, logits = forward(now.params, x)[1], np.asarray(kept["logits"], np.float64)
    z = np.stack([held(a, l[c], np.arange(6) >= 2, 0.8) for a, l, c in zip(z, logits, y, strict=True)])
    np.testing.assert_array_equal(np.asarray(got["logits"])[:, :2], logits[:, :2])
    new = np.abs(np.asarray(got["logits"])[:, 2:] - z[:, 2:]).max(-1) < 1e-5
    same = (np.asarray(got["logits"])[:, 2:] == np.asarray(kept["logits"])[:, 2:]).all(-1)
    assert (new | same).all()
    if got is first:
      assert new.all()
    else:
      assert 1 <= new.sum() <= 11
  np.testing.assert_array_equal(two.method_state.rows["times"], 0)


def test_xder_stores_logits_when_a_task_ends(trained):
  """As many of each class; of new rows those of then, the old heads held down; old rows learn of the current ones."""
  bench, one, _, after, _, two = trained
  split = bench.stream.dataset.train
  for learner, quota in ((one, 6), (two, 3)):
    ids = np.asarray(learner.method_state.rows["id"])
    assert np.bincount(split.y[ids]).tolist() == [quota] * (12 // quota)
  ids = np.asarray(one.method_state.rows["id"])
  np.testing.assert_allclose(one.method_state.rows["logits"], forward(one.params, split.x[ids])[1], atol=1e-5)
  state = two.method_state.rows
  ids, y = np.asarray(state["id"]), np.asarray(state["y"])
  z = forward(two.params, split.x[ids])[1]
  before = dict(
    zip(np.asarray(after.method_state.rows["id"]).tolist(), np.asarray(after.method_state.rows["logits"]), strict=True)
  )
  for i, c, row, got in zip(ids.tolist(), y, z, np.asarray(state["logits"]), strict=True):
    if c >= 2:
      want = held(row, row[c], np.arange(6) < 2, 0.8)
    else:
      want = np.r_[before[i][:2], held(row, before[i][c], np.arange(6) >= 2, 0.8)[2:]]
    np.testing.assert_allclose(got, want, atol=2e-5)
  gone = jnp.zeros(bench.spec.num_rows, bool).at[ids[:5]].set(True)
  left = jax.jit(bench.parts.scrub)(two, gone, jnp.zeros(6, bool)).method_state
  np.testing.assert_array_equal(left.rows["id"][:7], ids[5:])
  assert not any(np.asarray(left.rows[f])[7:].any() for f in ("x", "logits", "times"))


def test_transplanted_logits_do_not_pass_their_label_s():
  """Scaled below gamma z_y where that is positive; moved down where it is not, with their order, where the released
  code flips signs: 1.74 becomes -0.43. What is given is left as it is."""
  kept = jnp.array([[2.0, 0.1, 9.0], [-0.5, 0.2, 9.0], [2.0, 0.3, 9.0], [0.0, 0.3, 9.0]])
  now = jnp.array([[0.0, 3.0, 4.0], [0.0, 0.87, 1.74], [0.0, 1.0, -1.0], [0.0, 1.0, 2.0]])
  y, columns = jnp.zeros(4, jnp.int32), jnp.array([False, True, True])
  got = np.asarray(xder.transplanted(kept, now, y, columns, 0.85))
  np.testing.assert_allclose(got[0], [2, 3 * 1.7 / 4, 1.7], rtol=1e-6)
  np.testing.assert_allclose(got[1], [-0.5, 0.87 - 2.24, -0.5], atol=1e-6)
  np.testing.assert_allclose(got[2], [2, 1, -1])
  np.testing.assert_allclose(got[3], [0, -1, 0], atol=1e-6)
  released = np.asarray(xder.transplanted(kept, now, y, columns, 0.85, "released"))
  np.testing.assert_allclose(released[0], got[0])
  np.testing.assert_allclose(released[1, 2], -0.425, rtol=1e-5)
  np.testing.assert_array_equal(now[1], jnp.array([0.0, 0.87, 1.74]))
  none = xder.transplanted(kept, now, y, jnp.zeros(3, bool), 0.85)
  np.testing.assert_array_equal(none, kept)


def test_the_last_task_has_no_later_heads_and_the_first_no_old_ones(three, model, trained):
  """The first step's loss is the cross-entropy and the hinge of later heads; the last task's has none of these."""
  bench = trained[0]
  start, (x, y) = bench.start(), batch_of(bench, 0, 0)
  z = forward(start.params, x)[1]
  gap = z[:, 2:].max(-1) + 0.4 - z[:, :2].max(-1)
  want = -log_softmax(z[:, :2])[np.arange(8), y].mean() + 0.5 * gap[gap > 0].mean()
  np.testing.assert_allclose(float(bench.step(start, *bench.arguments(0, 0))[2]), want, rtol=1e-5)
  one = streams.build(three.dataset, "class", tasks=1, validation=0.0)
  alone = Bench("xder", one, model, HYPER)
  x, y = batch_of(alone, 0, 0)
  start = alone.start()
  want = -log_softmax(forward(start.params, x)[1])[np.arange(8), y].mean()
  np.testing.assert_allclose(float(alone.step(start, *alone.arguments(0, 0))[2]), want, rtol=1e-5)


def test_xder_s_later_heads_are_contrasted(three, model, trained, monkeypatch):
  """``lambd`` times the sum of a row's two views' SupCon, the mean over rows and later tasks; drawn rows once."""
  factors = iter((2.0, 3.0) * 9)  # views are traced in turn, the first one first
  monkeypatch.setattr(xder, "second_view", lambda key, x, *_: next(factors) * x)
  bench, plain = Bench("xder", three, model, {**HYPER, "consistency": True, "lambd": 0.1}), trained[0]
  begun, split = trained[2], three.dataset.train
  loss, without = (float(b.step(begun, *b.arguments(1, 0))[2]) for b in (bench, plain))
  state = begun.method_state
  x, y = batch_of(bench, 1, 0)
  ids = np.asarray(state.rows["id"])
  x, y = np.concatenate([x, split.x[ids]]), np.r_[y, split.y[ids]]
  unit = lambda a: a / np.linalg.norm(a, axis=-1, keepdims=True)
  z = np.concatenate([unit(forward(begun.params, s * x)[1][:, 4:]) for s in (2.0, 3.0)])
  label, each = np.r_[y, y], []
  for i in range(len(z)):
    others = np.arange(len(z)) != i
    s = z @ z[i] / 5.0
    each.append(-(s - np.logaddexp.reduce(s[others]))[others & (label == label[i])].mean())
  np.testing.assert_allclose(loss - without, 0.1 * 2 * np.mean(each), rtol=1e-4)


def test_xder_needs_pictures_for_its_views(three, model):
  spec = spec_of(three, 8)
  with pytest.raises(UsageError, match=r"method.consistency: got True, which needs pictures \[H, W, C\]"):
    methods.make("xder", model, spec._replace(shown=jax.ShapeDtypeStruct((5,), jnp.float32)))
  methods.make("xder", model, spec._replace(shown=jax.ShapeDtypeStruct((5,), jnp.float32)), consistency=False)
