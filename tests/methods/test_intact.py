"""InTAct and intervals against NumPy in float64."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bench import Bench, assert_same
from by_hand import RATE, batch_of, cross_entropy

from cljax import methods, models, streams
from cljax.core import tree
from cljax.core.types import Batch, Learner, UsageError, rows_from_arrays
from cljax.engine.setup import spec_of
from cljax.methods import intervals
from cljax.methods.intervals import Box
from cljax.methods.penalties import intact

WEIGHTS = {"variance": 0.3, "drift": 0.7, "features": 0.9, "alignment": 0.4}
HYPER = {**WEIGHTS, "lower": 0.1, "upper": 0.8, "classifier": "held"}
DEEP = models.mlp((4, 4, 1), 4, hidden=(6, 5))


def double(params):
  return dict(zip(tree.paths(params), (np.asarray(v, np.float64) for v in jax.tree.leaves(params)), strict=True))


def activations(p, x):
  """The inputs of the second and third layer, and the logits."""
  a = np.maximum(np.asarray(x, np.float64).reshape(len(x), -1) @ p["hidden_0/kernel"] + p["hidden_0/bias"], 0)
  b = np.maximum(a @ p["hidden_1/kernel"] + p["hidden_1/bias"], 0)
  return {"hidden_1": a, "head": b}, b @ p["head/kernel"] + p["head/bias"]


def drift_of(w, b, low, high):
  """By all the corners of the box of each number's own terms."""
  lower = b + np.minimum(low[:, None] * w, high[:, None] * w).sum(0)
  upper = b + np.maximum(low[:, None] * w, high[:, None] * w).sum(0)
  return (lower**2).mean() + (upper**2).mean()


def parts_of(p, old, boxes, x, y, held=("hidden_1", "head"), masks=None):
  """Cross-entropy, variance, drift, features, alignment."""
  acts, z = activations(p, x)
  before, _ = activations(old, x)
  v = sum(a.var(0).mean() for a in acts.values())
  d = sum(drift_of(p[f"{n}/kernel"] - old[f"{n}/kernel"], p[f"{n}/bias"] - old[f"{n}/bias"], *boxes[n]) for n in held)
  a, (low, high) = acts["hidden_1"], boxes["hidden_1"]
  inside = (a >= low) & (a <= high) if masks is None else masks
  f = (((before["hidden_1"] - a) ** 2)[inside]).sum() / max(inside.sum(), 1)
  g = 0.0
  for n, a in acts.items():
    low, high = boxes[n]
    apart = (a.min(0) > high) | (a.max(0) < low)
    gap = ((a.min(0) + a.max(0) - low - high) / 2)[apart]
    g += np.linalg.norm(gap) / ((high - low) / 2).mean()
  return np.array([cross_entropy(z, y).mean(), v, d, f, g])


def boxes_of(learner):
  return {n: (np.float64(b.low), np.float64(b.high)) for n, b in learner.method_state.boxes.items()}


@pytest.fixture(scope="module")
def trained(class_stream):
  """A bench, its learner after task 0, and after a step of task 1, with narrow boxes moved off for some numbers."""
  bench = Bench("intact", class_stream, DEEP, HYPER)
  one = bench.train(4, (0,))
  begun = bench.step(one, *bench.arguments(1, 1))[0]
  shift = lambda b: Box(b.low.at[0].add(9.0), b.high.at[0].add(9.0))  # one number of each layer does not meet its box
  state = begun.method_state._replace(boxes={n: shift(b) for n, b in begun.method_state.boxes.items()})
  return bench, one, begun._replace(method_state=state)


def test_boxes_are_quantiles_of_a_task_s_activations(trained, class_stream):
  bench, one, _ = trained
  x = class_stream.dataset.train.x[np.asarray(class_stream.train[0])]
  acts, _ = activations(double(one.params), x)
  for name, a in acts.items():
    low, high = boxes_of(one)[name]
    np.testing.assert_allclose(low, np.quantile(a, 0.1, axis=0), atol=1e-5)
    np.testing.assert_allclose(high, np.quantile(a, 0.8, axis=0), atol=1e-5)
  assert_same(one.method_state.teacher.params, one.params)
  assert not bool(bench.start().method_state.begun)
  two = bench.boundary("end_task", bench.steps(one, 1, 3, met=(0,)), 1)
  x = class_stream.dataset.train.x[np.asarray(class_stream.train[1])]
  acts, _ = activations(double(two.params), x)
  for name, a in acts.items():
    (low, high), (old_low, old_high) = boxes_of(two)[name], boxes_of(one)[name]
    np.testing.assert_allclose(low, np.minimum(old_low, np.quantile(a, 0.1, axis=0)), atol=1e-5)
    np.testing.assert_allclose(high, np.maximum(old_high, np.quantile(a, 0.8, axis=0)), atol=1e-5)
    assert (high - low > old_high - old_low).any()


def test_intact_s_loss_and_step_are_by_hand(trained):
  """Each of its four terms; the step by differences, of which a row's place in a box is no part."""
  bench, one, begun = trained
  old, boxes = double(one.params), boxes_of(begun)
  x, y = batch_of(bench, 1, 0)
  after, _, loss = bench.step(begun, *bench.arguments(1, 0))
  weights = np.array([1.0, *WEIGHTS.values()])
  want = parts_of(double(begun.params), old, boxes, x, y)
  assert want.min() > 1e-4
  np.testing.assert_allclose(float(loss), weights @ want, rtol=1e-5)
  now, rng = double(begun.params), np.random.default_rng(0)
  step = {n: (v - now[n]) / -RATE for n, v in double(after.params).items()}
  for _ in range(4):
    d = {n: rng.normal(size=v.shape) for n, v in now.items()}
    at = lambda t, d=d: weights @ parts_of({n: v + t * d[n] for n, v in now.items()}, old, boxes, x, y)
    slope = (at(1e-7) - at(-1e-7)) / 2e-7
    np.testing.assert_allclose(sum((step[n] * d[n]).sum() for n in d), slope, rtol=2e-3, atol=1e-4)


def test_absent_rows_have_no_part_in_intact(trained, class_stream):
  """Rows that only fill a batch up, whatever stands in them, change no spread, range or place in a box."""
  bench, _, begun = trained
  term = methods.make("intact", DEEP, spec_of(class_stream, 8), **HYPER).terms["intact"]
  x, y = (np.asarray(a) for a in batch_of(bench, 1, 0))

  def loss(more: int):
    rows = np.concatenate([x, np.full((more, *x.shape[1:]), 50.0)]).astype(np.float32)
    weight = jnp.asarray(np.arange(len(rows)) < len(x), jnp.float32)
    ids = jnp.asarray(np.where(weight > 0, 0, -1), jnp.int32)
    labels = jnp.asarray(np.concatenate([y, np.zeros(more, int)]), jnp.int32)
    batch = Batch(jnp.asarray(rows), labels, weight, ids, jnp.ones(len(rows), jnp.int32))
    return float(term(jax.random.key(0), begun.params, begun, batch, None))

  assert loss(0) > 0.01
  np.testing.assert_allclose(loss(3), loss(0), rtol=1e-5)


@pytest.mark.parametrize("part", list(WEIGHTS))
def test_each_part_of_intact_has_its_weight(trained, part):
  bench, one, begun = trained
  x, y = batch_of(bench, 1, 0)
  want = parts_of(double(begun.params), double(one.params), boxes_of(begun), x, y)[1 + list(WEIGHTS).index(part)]
  off = {k: 0.0 for k in WEIGHTS}
  loss = [float(bench.step(begun, *bench.arguments(1, 0), **{**off, part: v})[2]) for v in (0.0, 2.0)]
  assert want > 1e-4
  np.testing.assert_allclose(loss[1] - loss[0], 2 * want, rtol=1e-3)


def test_the_drift_reaches_the_loss_and_the_layers(trained):
  """Where the released commit loses it: with drift alone a changed layer is pulled back, and its loss is above."""
  bench, _, begun = trained
  off = {k: 0.0 for k in WEIGHTS}
  plain, held = (bench.step(begun, *bench.arguments(1, 0), **{**off, "drift": v}) for v in (0.0, 5.0))
  assert float(held[2]) > float(plain[2])
  for name in ("hidden_1", "head"):
    moved = np.asarray(held[0].params[name]["kernel"] - plain[0].params[name]["kernel"])
    assert np.abs(moved).max() > 1e-4
  same = np.asarray(held[0].params["hidden_0"]["kernel"] - plain[0].params["hidden_0"]["kernel"])
  np.testing.assert_allclose(same, 0, atol=1e-6)


def test_before_the_first_boundary_only_variances_count(class_stream):
  bench = Bench("intact", class_stream, DEEP, HYPER)
  start = bench.start()
  moved = start._replace(params=jax.tree.map(lambda a: 1.1 * a + 0.01, start.params))
  some = {**WEIGHTS, "drift": 9.0, "features": 9.0, "alignment": 9.0}
  one, other = (bench.step(moved, *bench.arguments(0), **w) for w in ({}, some))
  assert_same(one[0].params, other[0].params)
  x, y = batch_of(bench, 0, 0)
  acts, z = activations(double(moved.params), x)
  want = cross_entropy(z, y).mean() + 0.3 * sum(a.var(0).mean() for a in acts.values())
  np.testing.assert_allclose(float(one[2]), want, rtol=1e-5)


def test_bounds_hold_every_point_and_are_met_at_corners():
  """For every x in the box ``x W + b`` lies within; per number both bounds are met; by all corners."""
  rng = np.random.default_rng(0)
  w, b = rng.normal(size=(4, 3)), rng.normal(size=3)
  low = rng.normal(size=4)
  high = low + rng.uniform(0.1, 2, 4)
  made = intervals.affine(*(jnp.float32(a) for a in (w, b)), Box(jnp.float32(low), jnp.float32(high)))
  corners = np.array(list(itertools.product(*zip(low, high, strict=True)))) @ w + b
  np.testing.assert_allclose(made.low, corners.min(0), atol=1e-5)
  np.testing.assert_allclose(made.high, corners.max(0), atol=1e-5)
  inside = rng.uniform(low, high, (500, 4)) @ w + b
  assert (inside >= np.asarray(made.low) - 1e-5).all()
  assert (inside <= np.asarray(made.high) + 1e-5).all()


def test_no_change_drifts_nowhere_and_a_point_s_drift_is_its_own():
  """``W = W_old`` and ``b = b_old``: 0 and flat. A box of one point x: ``2 mean (x dW + db)^2``."""
  rng = np.random.default_rng(1)
  w, b, x = rng.normal(size=(4, 3)), rng.normal(size=3), rng.normal(size=4)
  change = {"kernel": jnp.float32(w), "bias": jnp.float32(b)}
  point, wide = Box(*[jnp.float32(x)] * 2), Box(jnp.float32(x - 1), jnp.float32(x + 1))
  np.testing.assert_allclose(intact.drifted(change, point), 2 * ((x @ w + b) ** 2).mean(), rtol=1e-5)
  none = jax.tree.map(jnp.zeros_like, change)
  assert float(intact.drifted(none, wide)) == 0
  assert not any(np.asarray(g).any() for g in jax.tree.leaves(jax.grad(intact.drifted)(none, wide)))
  # At weight 0 a point's slope is its own: not 0, as that of two rectified halves is.
  slope = jax.grad(lambda k: intervals.affine(k, jnp.zeros(3), point).high.sum())(none["kernel"])
  np.testing.assert_allclose(slope, np.tile(x[:, None], 3), rtol=1e-6)
  slope = jax.grad(lambda k: intervals.affine(k, jnp.zeros(3), wide).high.sum())(none["kernel"])
  np.testing.assert_allclose(slope, np.tile(x[:, None], 3), rtol=1e-6)
  # Worked: dW = (1, -2), db = 0.5 over [0, 1] x [0, 1] gives [-1.5, 1.5].
  worked = intervals.affine(jnp.float32([[1], [-2]]), jnp.float32([0.5]), Box(jnp.zeros(2), jnp.ones(2)))
  np.testing.assert_allclose([worked.low[0], worked.high[0]], [-1.5, 1.5])


def test_masked_quantiles_are_numpy_s():
  rng = np.random.default_rng(2)
  a, there = rng.normal(size=(11, 3)), np.arange(11) % 3 != 1
  for share in (0.0, 0.05, 0.4, 0.95, 1.0):
    got = intervals.quantile(jnp.float32(a), jnp.asarray(there), jnp.float32(share))
    np.testing.assert_allclose(got, np.quantile(a[there], share, axis=0), atol=1e-5)
  assert not np.asarray(intervals.quantile(jnp.float32(a), jnp.zeros(11, bool), 0.5)).any()
  one = intervals.quantile(jnp.float32(a), jnp.arange(11) == 4, 0.3)
  np.testing.assert_allclose(one, a[4], rtol=1e-6)


def test_boxes_only_grow():
  rng = np.random.default_rng(3)
  box, begun = Box(jnp.zeros(5), jnp.zeros(5)), jnp.asarray(False)
  for _ in range(4):
    low = rng.normal(size=5) + 3  # a first box that keeps the zeros it began with would be too wide
    new = Box(jnp.float32(low), jnp.float32(low + 0.5))
    both = intervals.joined(box, new, begun)
    if begun:
      assert (both.low <= box.low).all()
      assert (both.high >= box.high).all()
    else:
      np.testing.assert_array_equal(both.low, new.low)
    assert (both.low <= new.low).all()
    assert (both.high >= new.high).all()
    box, begun = both, jnp.asarray(True)


def test_nothing_inside_and_no_width_give_zero_and_no_nan():
  """An empty mask, a row at the old one's place, no gap, and a box of one point."""
  a, there = jnp.float32([[1.0, 2.0], [3.0, 4.0]]), jnp.ones(2, bool)
  far, point = Box(jnp.float32([8, 8]), jnp.float32([9, 9])), Box(*[jnp.float32([8, 8])] * 2)
  around = Box(jnp.float32([0, 0]), jnp.float32([5, 5]))
  for fn in (
    lambda a: intact.moved_inside(a, a + 1, there, far),
    lambda a: intact.moved_inside(a, jax.lax.stop_gradient(a), there, around),
    lambda a: intact.misaligned(a, there, around),
    lambda a: intact.misaligned(a, there, point),
    lambda a: intact.misaligned(a, there & False, far),
    lambda a: intact.moved_inside(a, a + 1, there & False, around),
    lambda a: intact.spread(a, there & False),
  ):
    value, slope = jax.value_and_grad(fn)(a)
    assert float(value) == 0
    np.testing.assert_array_equal(slope, 0)
  # Worked: ranges [1, 3] and [2, 4] against [8, 9]: gaps 6.5 and 5.5 over a radius of 0.5.
  np.testing.assert_allclose(intact.misaligned(a, there, far), np.hypot(6.5, 5.5) / 0.5, rtol=1e-6)
  np.testing.assert_allclose(intact.moved_inside(a, a + 2, there, Box(jnp.float32([0, 3]), far.high)), 4.0, rtol=1e-6)


def test_the_classifier_is_held_where_tasks_share_classes(dataset, class_stream):
  """By 'auto': not where new classes would have to be learned; 'free' and 'held' say so."""

  def moved(stream, model, classifier):
    """The drift of a network of which the head alone has changed."""
    off = {**{k: 0.0 for k in WEIGHTS}, "drift": 1.0}
    method = methods.make("intact", model, spec_of(stream, 8), **off, classifier=classifier)
    params, state = model.init(jax.random.key(0))
    learner = Learner(0, jax.random.key(0), params, state, (), ())
    kept = method.init(jax.random.key(0), learner)
    boxes = jax.tree.map(lambda a: a + 1.0, kept.boxes)
    learner = learner._replace(method_state=kept._replace(boxes=boxes, begun=jnp.asarray(True)))
    change = lambda n, w: w + 0.1 if n.startswith("head") else w
    rows = rows_from_arrays(dataset.train.x[:8], jnp.zeros(8, jnp.int32)).batch(0, 8)
    term = jax.jit(lambda params: method.terms["intact"](None, params, learner, rows, None))
    return float(term(tree.map_named(change, params)))

  domain = streams.build(dataset, "domain", tasks=2, validation=0.125)
  two = models.mlp((4, 4, 1), 2, hidden=(6, 5))
  # Worked: each of 2 or 4 outputs moves by 5 times 0.1 and 0.1, at both ends.
  for stream, model, classifier, want in (
    (domain, two, "auto", 0.72), (domain, two, "free", 0), (class_stream, DEEP, "auto", 0),
    (class_stream, DEEP, "held", 0.72),
  ):  # fmt: skip
    np.testing.assert_allclose(moved(stream, model, classifier), want, rtol=1e-5)


def test_intact_needs_a_dense_layer_behind_another(class_stream, small_model):
  spec = spec_of(class_stream, 8)
  with pytest.raises(UsageError, match="'intact' needs a model whose layers are captured"):
    methods.make("intact", small_model._replace(capture=None), spec)
  with pytest.raises(UsageError, match="'intact' needs a model with a dense layer behind another layer"):
    methods.make("intact", models.mlp((4, 4, 1), 4, hidden=()), spec)
  assert intact.protected(small_model, spec) == {"head": (8, True)}
  assert intact.protected(DEEP, spec) == {"hidden_1": (6, False), "head": (5, True)}
  assert list(intact.protected(models.cnn((4, 4, 1), 4, widths=(3, 5)), spec)) == ["head"]
