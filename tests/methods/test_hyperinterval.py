"""HyperInterval against NumPy in float64: bounds of weights, of logits, and the loss of both."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bench import Bench, assert_same
from by_hand import RATE, batch_of, cross_entropy

from cljax import methods, models, streams
from cljax.core.method import Outlook
from cljax.core.types import UsageError
from cljax.engine import recipe
from cljax.engine.setup import spec_of
from cljax.methods import intervals
from cljax.methods.intervals import Box
from cljax.methods.penalties import hyperinterval

HYPER = {"gamma": 2.0, "beta": 0.7, "decay": 0.1, "least": 0.65, "ramp": 4, "embedding": 3, "width": 5}
SHAPES = [(4,), (8, 4), (8,), (16, 8)]  # head bias and kernel, hidden bias and kernel: the leaves in order
LAYERS = ("hidden_0", "hidden_1", "head")


@pytest.fixture(scope="module")
def trained(class_stream, small_model):
  """A bench with decay of weights; after the first task; the second begun, and after two steps of it."""
  optimizer = recipe.make_optimizer("momentum", learning_rate=0.1, momentum=0.0, weight_decay=0.02)
  bench = Bench("hyperinterval", class_stream, small_model, HYPER, optimizer=optimizer)
  one = bench.train(3, (0,))
  begun = bench.boundary("start_task", one, 1, met=(0,))
  two = bench.step(begun, *bench.arguments(1, 0, met=(0,)))[0]
  there = np.r_[np.ones(5), np.zeros(3)].astype(np.int32)
  three, _, loss = bench.step(two, *bench.arguments(1, 1, there, met=(0,)))
  return bench, (one, begun, two, three), float(loss)


def centre(e, gamma=2.0):
  return 0.5 * gamma / len(e) * np.cos(e)


def bounds(p, c, r):
  """Corner by corner: each output's least and greatest value over a box of inputs, weight by weight."""
  low, mid, high = c - r, c, c + r
  for name in LAYERS:
    w, b = p[name]["kernel"], p[name]["bias"]
    ends = np.stack([low[:, None] * w, high[:, None] * w])
    low, mid, high = ends.min(0).sum(0) + b, mid @ w + b, ends.max(0).sum(0) + b
    if name != "head":
      low, mid, high = (np.maximum(v, 0) for v in (low, mid, high))
  return low, mid, high


def network(vector):
  parts = np.split(vector, np.cumsum([np.prod(s) for s in SHAPES])[:-1])
  return [v.reshape(s) for v, s in zip(parts, SHAPES, strict=True)]


def logits(vector, x):
  hb, hk, b, k = network(vector)
  return np.maximum(x.reshape(len(x), -1) @ k + b, 0) @ hk + hb


def worst(low, high, x, y):
  """Of all products of ends the least and the greatest, for each row and weight."""
  (hbl, hkl, bl, kl), (hbh, hkh, bh, kh) = network(low), network(high)
  x = x.reshape(len(x), -1)[:, :, None]
  ends = np.stack([x * kl, x * kh])
  hl, hh = (np.maximum(v, 0)[:, :, None] for v in (ends.min(0).sum(1) + bl, ends.max(0).sum(1) + bh))
  ends = np.stack([hl * hkl, hl * hkh, hh * hkl, hh * hkh])
  zl, zh = ends.min(0).sum(1) + hbl, ends.max(0).sum(1) + hbh
  own = np.eye(4, dtype=bool)[y]
  return np.where(own, zl, zh)


def wide(params):
  return jax.tree.map(lambda a: np.asarray(a, np.float64), params)


def loss_by_hand(p, before, x, y, steps, slot=1):
  """Of the second task, whose steps so far are ``steps``."""
  share = max(1 - 0.1 * steps, 0.65)
  c = centre(p["embeddings"][slot])
  low, _, high = bounds(p, c, 2.0 / 3 * min(steps / 4, 1))
  kept = 0.0
  for a, b in zip(*(bounds(q, centre(before["embeddings"][0]), 2.0 / 3) for q in (p, before)), strict=True):
    kept += ((a - b) ** 2).sum()
  plain = cross_entropy(logits(bounds(p, c, 0)[1], x), y).mean()
  return share * plain + (1 - share) * cross_entropy(worst(low, high, x, y), y).mean() + 0.7 * kept / 3


def test_hyperinterval_s_loss_is_of_the_worst_network_too(trained):
  """The second step: k, the radius on its way, and what the first task's interval becomes; absent rows have no part."""
  bench, (one, _, two, _), loss = trained
  x, y = (np.asarray(a[:5], np.float64 if a.dtype == np.float32 else int) for a in batch_of(bench, 1, 1))
  np.testing.assert_allclose(loss, loss_by_hand(wide(two.params), wide(one.params), x, y, 1), rtol=1e-4)


def test_hyperinterval_s_gradient_by_differences(trained):
  """Along random directions; the first task's embedding stands, decay or not."""
  bench, (one, _, two, three), _ = trained
  x, y = (np.asarray(a[:5], np.float64 if a.dtype == np.float32 else int) for a in batch_of(bench, 1, 1))
  p, q = wide(two.params), wide(three.params)
  step = jax.tree.map(lambda a, b: (a - b) / RATE - 0.02 * a, p, q)
  np.testing.assert_array_equal(q["embeddings"][0], p["embeddings"][0])
  np.testing.assert_array_equal(p["embeddings"][0], wide(one.params)["embeddings"][0])
  assert np.abs(step["embeddings"][1]).max() > 1e-6
  step["embeddings"][0] = 0
  rng = np.random.default_rng(0)
  for _ in range(3):
    direction = jax.tree.map(lambda a: rng.normal(size=a.shape), p)
    direction["embeddings"][0] = 0
    along = lambda t, d=direction: jax.tree.map(lambda v, u: v + t * u, p, d)
    at = lambda t, along=along: loss_by_hand(along(t), wide(one.params), x, y, 1)
    slope = (at(1e-6) - at(-1e-6)) / 2e-6
    got = sum((a * b).sum() for a, b in zip(jax.tree.leaves(step), jax.tree.leaves(direction), strict=True))
    np.testing.assert_allclose(got, slope, rtol=5e-3, atol=1e-4)


def test_a_new_task_begins_with_the_last_embedding(trained):
  _, (one, begun, _, _), _ = trained
  e = np.asarray(begun.params["embeddings"])
  np.testing.assert_array_equal(e[1], e[0])
  assert np.abs(np.asarray(one.params["embeddings"][1]) - e[0]).max() > 1e-3
  assert float(begun.method_state.steps) == 0
  assert float(one.method_state.steps) == 3
  assert_same(one.method_state.before, one.params)


def test_later_tasks_begin_with_the_last_and_one_that_comes_back_with_its_own(make_blobs):
  """Of three tasks, met in another order than their numbers'; a return is asked for what the others were."""
  stream = streams.build(make_blobs(classes=6), "class", tasks=3, validation=0.0)
  bench = Bench("hyperinterval", stream, models.mlp((4, 4, 1), 6, hidden=(3,)), HYPER)
  learner = bench.train(2, (1, 2))
  e = np.asarray(learner.params["embeddings"])
  assert np.abs(e[1] - e[0]).max() > 1e-5
  third = np.asarray(bench.boundary("start_task", learner, 0, met=(1, 2)).params["embeddings"])
  np.testing.assert_array_equal(third, e[[0, 1, 1]])
  for task in (1, 2):
    again = bench.boundary("start_task", learner, task, met=(1, 2))
    np.testing.assert_array_equal(again.params["embeddings"], e)
    again = bench.step(again, *bench.arguments(task, 0, met=(1, 2)))[0]
    told = [float(bench.step(again, *bench.arguments(task, 1, met=(1, 2)), beta=beta)[2]) for beta in (100.0, 0.0)]
    other = e[2 - task]  # of the place of the other one
    both = [np.concatenate(bounds(wide(q), centre(other), 2 / 3)) for q in (again.params, learner.params)]
    np.testing.assert_allclose(told[0] - told[1], 100 * np.square(both[0] - both[1]).sum() / 3, rtol=2e-3)


def test_the_generator_begins_with_the_network_s_weights(class_stream):
  """As the bias of its last layer, whose kernel is small; He's spread in the others, biases of zero."""
  model = models.mlp((4, 4, 1), 4, hidden=(8,))
  bench = Bench("hyperinterval", class_stream, model, {**HYPER, "embedding": 30, "width": 60})
  p = wide(bench.start().params)
  for name, spread in (("hidden_0", (2 / 30) ** 0.5), ("hidden_1", (2 / 60) ** 0.5), ("head", 0.01)):
    np.testing.assert_allclose(p[name]["kernel"].std(), spread, rtol=0.06)
    assert abs(p[name]["kernel"].mean()) < 0.1 * spread
  assert not p["hidden_0"]["bias"].any()
  assert not p["hidden_1"]["bias"].any()
  hb, hk, b, k = network(p["head"]["bias"])
  assert not hb.any()
  assert not b.any()
  assert 0.1 < hk.std() < 1
  assert 0.1 < k.std() < 1
  np.testing.assert_allclose(p["embeddings"].std(), 1, rtol=0.25)


def test_one_network_answers_out_of_what_all_intervals_share(trained):
  """Of the tasks met; not by what the current task's embedding gives."""
  bench, (one, _, _, three), _ = trained
  x = np.asarray(bench.stream.dataset.test.x, np.float64)
  predict = jax.jit(lambda l: bench.parts.predict(l, jnp.asarray(x, jnp.float32), jnp.int32(0)))
  for learner, count in ((bench.start(), 1), (one, 1), (three, 2)):
    p = wide(learner.params)
    c = np.stack([centre(e) for e in p["embeddings"][:count]])
    shared = ((c - 2 / 3).max(0) + (c + 2 / 3).min(0)) / 2
    np.testing.assert_allclose(predict(learner), logits(bounds(p, shared, 0)[1], x), rtol=1e-4, atol=1e-5)


def test_intervals_meet_and_hold_every_point():
  """Of any embeddings: in gamma / n at least. Weights of points of an interval, and logits of such weights, lie within
  the bounds, the middle too, for inputs of both signs; with gamma 0 all is one point."""
  rng = np.random.default_rng(0)
  e = rng.normal(size=(9, 3)) * 3
  shared = np.asarray(hyperinterval.universal(jnp.asarray(e), jnp.arange(9) < 7, 2.0))
  c = np.stack([centre(v) for v in e[:7]])
  low, high = (c - 2 / 3).max(0), (c + 2 / 3).min(0)
  assert (high - low >= 2 / 3 - 1e-9).all()
  np.testing.assert_allclose(shared, (low + high) / 2, atol=1e-6)
  sizes = dict(zip(LAYERS, ((3, 5), (5, 5), (5, 12)), strict=True))
  p = {n: {"kernel": rng.normal(size=s), "bias": rng.normal(size=s[1])} for n, s in sizes.items()}
  given = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), p)
  low, mid, high = (np.asarray(v) for v in hyperinterval.generated(given, jnp.asarray(c[0], jnp.float32), 2 / 3))
  assert (low <= mid).all()
  assert (mid <= high).all()
  for _ in range(50):
    inside = bounds(p, c[0] + rng.uniform(-2 / 3, 2 / 3, 3), 0)[1]
    assert (inside >= low - 1e-4).all()
    assert (inside <= high + 1e-4).all()
  point = hyperinterval.generated(given, hyperinterval.centre_of(jnp.asarray(e[0]), 0.0), 0.0)
  np.testing.assert_allclose(point[0], point[2], atol=1e-6)
  np.testing.assert_allclose(point[1], bounds(p, np.zeros(3), 0)[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("positive", [False, True])
def test_boxes_of_layers_whose_weights_are_boxes(positive):
  """Each bound is met by ends of inputs, weights and biases: the least and greatest of their products, one by one."""
  rng = np.random.default_rng(1)
  box = lambda *s: (lambda a: Box(a.min(0), a.max(0)))(rng.normal(size=(2, *s)))
  w, b, x = box(4, 3), box(3), box(5, 4)
  x = Box(*(np.maximum(v, 0) for v in x)) if positive else Box(x.low, x.low)
  got = intervals.of_positive(w, b, x) if positive else intervals.of_point(w, b, x.low)
  ends = np.stack([u[:, :, None] * v[None] for u in x for v in w])
  np.testing.assert_allclose(got.low, ends.min(0).sum(1) + b.low, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(got.high, ends.max(0).sum(1) + b.high, rtol=1e-5, atol=1e-6)


def test_the_released_form_divides_by_the_tasks_twice(make_blobs):
  """With two earlier tasks what holds their intervals counts half; with one as much. The worst and k are left out."""
  stream = streams.build(make_blobs(classes=6), "class", tasks=3, validation=0.0)
  model = models.mlp((4, 4, 1), 6, hidden=(3,))
  for form, share in (("paper", 1 / 2), ("released", 1 / 4)):
    bench = Bench("hyperinterval", stream, model, {**HYPER, "decay": 0.0, "form": form})
    learner = bench.train(2, (0, 1))
    learner = bench.step(bench.boundary("start_task", learner, 2), *bench.arguments(2, 0))[0]
    told = [float(bench.step(learner, *bench.arguments(2, 1), beta=beta)[2]) for beta in (100.0, 0.0)]
    before, now = wide(learner.method_state.before), wide(learner.params)
    gaps = 0.0
    for e in now["embeddings"][:2]:
      both = [np.concatenate(bounds(q, centre(e), 2 / 3)) for q in (now, before)]
      gaps += np.square(both[0] - both[1]).sum()
    np.testing.assert_allclose(told[0] - told[1], 100 * share * gaps / 3, rtol=2e-3)


def test_schedules_end_where_their_options_say(trained):
  """k falls to ``least`` and stays; the radius grows to its full size, and to half of it over half of the ramp."""
  bench, (one, _, two, _), _ = trained
  x, y = (np.asarray(a, np.float64 if a.dtype == np.float32 else int) for a in batch_of(bench, 1, 1))
  late = two._replace(method_state=two.method_state._replace(steps=jnp.float32(50)))
  loss = lambda learner, **given: float(bench.step(learner, *bench.arguments(1, 1, met=(0,)), **given)[2])
  want = loss_by_hand(wide(two.params), wide(one.params), x, y, 50)
  np.testing.assert_allclose(loss(late), want, rtol=1e-4)
  early = two._replace(method_state=two.method_state._replace(steps=jnp.float32(2)))
  np.testing.assert_allclose(loss(early), loss_by_hand(wide(two.params), wide(one.params), x, y, 2), rtol=1e-4)
  assert abs(loss(early) - want) > 1e-4


def test_after_an_edit_what_is_held_to_follows(trained):
  bench, (one, _, _, _), _ = trained
  moved = one._replace(params=jax.tree.map(lambda a: a + 1.0, one.params))
  after = bench.parts.method.after_forget(moved, one.params)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), after.method_state.before, moved.params)


def test_short_tasks_are_remarked(class_stream, small_model):
  """Where intervals never have their full size; with ramp 0 they have it from the start."""
  spec = spec_of(class_stream, 8)
  said = lambda ramp, steps: methods.make("hyperinterval", small_model, spec, ramp=ramp).remarks(Outlook(steps, (0, 1)))
  assert said(6, 10) == [
    "method.ramp: got 6; a task has about 5 steps here, so that its interval never has its full size"
  ]
  assert said(5, 10) == []
  bench = Bench("hyperinterval", class_stream, small_model, {**HYPER, "ramp": 0, "decay": 1.0, "least": 0.0})
  first = bench.step(bench.start(), *bench.arguments(0, 0))[0]
  x, y = (np.asarray(a, np.float64 if a.dtype == np.float32 else int) for a in batch_of(bench, 0, 1))
  p = wide(first.params)
  low, _, high = bounds(p, centre(p["embeddings"][0]), 2 / 3)
  loss = float(bench.step(first, *bench.arguments(0, 1))[2])
  np.testing.assert_allclose(loss, cross_entropy(worst(low, high, x, y), y).mean(), rtol=1e-4)


def test_hyperinterval_needs_an_mlp_of_relu(class_stream, small_model):
  spec = spec_of(class_stream, 8)
  others = (
    models.mlp((4, 4, 1), 4, hidden=(8,), activation="tanh"),
    models.mlp((4, 4, 1), 4, hidden=(8,), activation="leaky_relu"),
    models.mlp((4, 4, 1), 4, hidden=()),
    models.cnn((4, 4, 1), 4, widths=(3, 4)),
    (deep := models.mlp((4, 4, 1), 4, hidden=(8, 8)))._replace(units=deep.units[::-1]),  # no chain
  )
  for model in others:
    with pytest.raises(UsageError, match="'hyperinterval' makes the weights of an MLP of relu"):
      methods.make("hyperinterval", model, spec)
  params, _ = methods.make("hyperinterval", small_model, spec, embedding=3, width=5).model.init(jax.random.key(0))
  assert params["embeddings"].shape == (2, 3)
  assert params["head"]["kernel"].shape == (5, sum(int(np.prod(s)) for s in SHAPES))
