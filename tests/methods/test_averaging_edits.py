"""Averages of weights, schedules, edits, sleeping and pruned units as methods, against NumPy and against plain runs."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bench import BATCH, Bench, assert_near, assert_same

import cljax
from cljax import edits, methods, streams
from cljax.core import tree
from cljax.engine import recipe
from cljax.engine.setup import spec_of

RATE = 0.1
BUFFER = {"capacity": 12}


@pytest.fixture(scope="module")
def plain(class_stream, small_model):
  return Bench("finetune", class_stream, small_model)


@pytest.fixture(scope="module")
def er(class_stream, small_model):
  return Bench("er", class_stream, small_model, BUFFER)


def leaves(params):
  return dict(zip(tree.paths(params), (np.asarray(v, np.float64) for v in jax.tree.leaves(params)), strict=True))


def steps(bench, learner, task, count):
  """The learner before the first and after each of ``count`` steps of a task."""
  out = [learner]
  for k in range(count):
    out.append(bench.step(out[-1], *bench.arguments(task, k))[0])
  return out


def gradients(trail):
  """By plain SGD, from the parameters along a trail."""
  for a, b in itertools.pairwise(trail):
    one, two = leaves(a.params), leaves(b.params)
    yield {k: (one[k] - two[k]) / RATE for k in one}


def test_ema_trains_as_er_and_predicts_with_the_average(class_stream, small_model, er):
  bench = Bench("ema", class_stream, small_model, {"decay": 0.9, "early_decay": 0.5, "early_steps": 3, **BUFFER})
  trail, base = steps(bench, bench.start(), 0, 5), er.start()
  mean = leaves(trail[0].params)
  for k, learner in enumerate(trail[1:]):
    base = er.step(base, *er.arguments(0, k))[0]
    assert_same(learner.params, base.params)
    decay = 0.5 if k + 1 <= 3 else 0.9
    mean = {n: decay * mean[n] + (1 - decay) * v for n, v in leaves(learner.params).items()}
  for name, value in leaves(trail[-1].method_state.own.params).items():
    np.testing.assert_allclose(value, mean[name], atol=1e-6, err_msg=name)
  x = jnp.asarray(class_stream.dataset.test.x[:5])
  own, _ = small_model.apply(trail[-1].method_state.own.params, {}, x, train=False, key=None)
  now, _ = small_model.apply(trail[-1].params, {}, x, train=False, key=None)
  np.testing.assert_allclose(bench.parts.predict(trail[-1], x, 0), own.logits, atol=1e-6)
  assert np.abs(own.logits - now.logits).max() > 1e-2
  # After a deletion request the average still knows the rows: the parameters that were edited take over.
  gone = jnp.zeros(bench.spec.num_rows, bool), jnp.zeros(bench.spec.num_classes, bool)
  scrubbed = bench.parts.scrub(trail[-1], *gone)
  np.testing.assert_allclose(bench.parts.predict(scrubbed, x, 0), now.logits, atol=1e-6)
  after = bench.step(scrubbed, *bench.arguments(0, 5))[0]
  assert_near(after.method_state.own.params, after.params, 1e-6)


@pytest.mark.parametrize("balance", ["paper", "released"])
def test_lcia_ends_a_task_at_its_average(class_stream, small_model, plain, balance):
  bench = Bench("lcia", class_stream, small_model, {"balance": balance})
  first = steps(bench, bench.start(), 0, 3)
  assert_near(first[-1].params, steps(plain, plain.start(), 0, 3)[-1].params)
  anchor = bench.boundary("end_task", first[-1], 0)
  assert_same(anchor.params, first[-1].params)  # the first task trains plainly
  trail = steps(bench, anchor, 1, 4)
  mean, last = leaves(anchor.params), {k: 0 * v for k, v in leaves(anchor.params).items()}
  inside = 0
  for before, after, g in zip(trail[:-1], trail[1:], gradients(trail), strict=True):
    old, new = leaves(before.params), leaves(after.params)
    for k in mean:
      size = lambda v: np.abs(v).sum()
      curve = size(new[k] - mean[k]) * size(g[k] - last[k])
      weight = (2 if balance == "released" else size(new[k] - old[k])) * (1 + size(g[k])) / curve
      inside += 0 < weight < 1
      share = (1 - weight if balance == "released" else weight) if 0 < weight < 1 else 0.99
      mean[k] = share * mean[k] + (1 - share) * new[k]
    last = g
  assert inside >= 3 or balance == "released"  # which falls back on tensors as small as these
  ended = bench.boundary("end_task", trail[-1], 1)
  for name, value in leaves(ended.params).items():
    np.testing.assert_allclose(value, mean[name], atol=2e-4, err_msg=name)
  assert any(np.abs(v - leaves(trail[-1].params)[k]).max() > 1e-3 for k, v in leaves(ended.params).items())


def test_reptile_s_period_is_a_twentieth_of_a_pass(class_stream, small_model, monkeypatch):
  """Of the largest task, at least two steps; and the one that is given where one is."""
  asked, inner = [], edits.reptile_every
  monkeypatch.setattr(edits, "reptile_every", lambda *a: asked.append(a[3]) or inner(*a))
  for rows, every in ((30, 0), (BATCH * 119 + 1, 0), (BATCH * 119, 0), (BATCH * 119, 3)):
    bench = Bench("reptile", class_stream._replace(row_room=rows), small_model, {"capacity": 8, "every": every})
    jax.eval_shape(bench.parts.step, bench.start(), *bench.arguments(0))
  assert asked == [2, 6, 5, 3]


def test_reptile_goes_back_every_few_steps(class_stream, small_model, er):
  bench = Bench("reptile", class_stream, small_model, {"epsilon": 0.25, "every": 2, **BUFFER})
  for start in (bench.start(), steps(bench, bench.start(), 0, 2)[-1]):
    one = steps(bench, start, 0, 2)
    other = steps(
      er, er.start()._replace(step=start.step, params=start.params, method_state=start.method_state.base), 0, 2
    )
    assert_same(one[1].params, other[1].params)
    want = jax.tree.map(lambda a, b: a + 0.25 * (b - a), start.params, other[2].params)
    assert_near(one[2].params, want, 1e-6)
    assert_same(one[2].method_state.own, one[2].params)


@pytest.mark.parametrize("name", ["rewarm_redecay", "infinite"])
def test_schedules_scale_the_update(class_stream, small_model, plain, name):
  options = {
    "rewarm_redecay": {"floor": 0.2, "warmup": 0.25},
    "infinite": {
      "constant": 0.5,
      "floor": 0.1,
      "warmup_steps": 2,
      "cooldown_steps": 4,
      "anneal_start": 8,
      "anneal_steps": 2,
    },
  }[name]
  bench = Bench(name, class_stream, small_model, options)
  if name == "rewarm_redecay":
    wanted = [n / 2.5 if n < 2.5 else 0.2 + 0.4 * (1 + np.cos(np.pi * (n - 2.5) / 7.5)) for n in range(10)]
  else:
    cool = [0.5 + 0.25 * (1 + np.cos(np.pi * x / 4)) for x in range(5)]
    wanted = [0, 0.5, *cool, 0.5, 0.5, 0.5 * 0.2**0.5, 0.1]
  learner, base = bench.start(), plain.start()
  for n in range(10):  # a task of the bench has 10 steps
    after = bench.step(learner, *bench.arguments(0, n))[0]
    whole = plain.step(base._replace(params=learner.params, step=learner.step), *plain.arguments(0, n))[0]
    moved, full = tree.axpy(-1.0, learner.params, after.params), tree.axpy(-1.0, learner.params, whole.params)
    assert_near(moved, tree.scale(wanted[n], full), 1e-6)
    learner = after


def test_freeze_holds_layers_from_the_second_task_on(class_stream, small_model):
  momentum = recipe.make_optimizer("momentum", learning_rate=RATE)
  bench = Bench("freeze", class_stream, small_model, optimizer=momentum)  # default: the bottom layer
  first = bench.train(tasks=(0,))
  assert all(np.abs(v - leaves(bench.start().params)[k]).max() > 1e-3 for k, v in leaves(first.params).items())
  second = steps(bench, first, 1, 3)[-1]
  assert_same(second.params["hidden_0"], first.params["hidden_0"])
  assert all(
    np.abs(np.asarray(second.params["head"][k] - first.params["head"][k])).max() > 1e-3 for k in ("kernel", "bias")
  )
  with pytest.raises(cljax.UsageError, match="nowhere"):
    Bench("freeze", class_stream, small_model, {"patterns": "hidden_0, nowhere"}).start()


def test_lines_scales_the_change_by_depth(class_stream, small_model):
  bench = Bench("lines", class_stream, small_model, {"alpha": 0.25})
  first = steps(bench, bench.start(), 0, 2)[-1]
  before = bench.boundary("end_task", first, 0)
  assert_same(before.params, first.params)  # nothing to go back to
  tuned = steps(bench, before, 1, 3)[-1]
  ended = bench.boundary("end_task", tuned, 1)
  assert_same(ended.params["head"], tuned.params["head"])
  half = jax.tree.map(lambda a, b: a + 0.25 * (b - a), before.params["hidden_0"], tuned.params["hidden_0"])
  assert_near(ended.params["hidden_0"], half, 1e-6)
  assert_same(ended.method_state, ended.params)


def test_heterogeneous_averaging_keeps_the_mean_ratio_and_beats_equal_ones(class_stream, small_model):
  options = {"ratio": 0.4, "learning_rate": 0.2, "samples": 40}
  bench = Bench("heterogeneous_averaging", class_stream, small_model, options)
  before = bench.train(steps=6, tasks=(0,))
  tuned = steps(bench, before, 1, 6)[-1]
  ended = bench.boundary("end_task", tuned, 1)
  old, new, mixed = (leaves(v.params) for v in (before, tuned, ended))
  ratios = {}
  for k in mixed:
    moved = (new[k] - old[k]).ravel()
    ratios[k] = moved @ (mixed[k] - old[k]).ravel() / (moved @ moved)
    np.testing.assert_allclose(mixed[k], old[k] + ratios[k] * (new[k] - old[k]), atol=1e-5)
  per_block = [ratios["hidden_0/kernel"], ratios["head/kernel"]]
  np.testing.assert_allclose(per_block, [ratios["hidden_0/bias"], ratios["head/bias"]], atol=1e-3)
  np.testing.assert_allclose(np.mean(per_block), 0.4, atol=1e-3)
  assert abs(per_block[0] - per_block[1]) > 0.05
  rows = class_stream.train[1]
  x, y = class_stream.dataset.train.x[rows], class_stream.dataset.train.y[rows]

  def loss(params):
    logits = small_model.apply(params, {}, jnp.asarray(x), train=False, key=None)[0].logits
    return float(cljax.losses.cross_entropy(logits, jnp.asarray(y)).mean())

  equal = jax.tree.map(lambda a, b: 0.6 * a + 0.4 * b, before.params, tuned.params)
  assert loss(ended.params) < loss(equal)


def test_lifecycle_wakes_units_as_they_fell_asleep(class_stream, small_model, plain):
  bench = Bench("lifecycle", class_stream, small_model, {"probability": 0.4, "duration": 2, "period": 3})
  trail = steps(bench, bench.start(), 0, 10)
  assert_near(trail[3].params, steps(plain, plain.start(), 0, 3)[-1].params)
  asleep = [np.asarray(t.method_state.sleep[0]) > 0 for t in trail]
  fell = asleep[4]  # periods end before steps 3, 6 and 9
  assert not asleep[3].any()
  assert 0 < fell.sum() < 8
  for t in range(4, 10):
    p = leaves(trail[t].params)
    assert np.all(p["hidden_0/kernel"][:, fell] == 0)
    assert np.all(p["hidden_0/bias"][fell] == 0)
    assert np.all(p["head/kernel"][fell] == 0)
  woke = fell & ~asleep[10]
  assert woke.any()

  def by_hand(now, stored, axis):  # what step 9 starts from
    at = lambda mask: mask if axis else mask[:, None]
    return jnp.where(at(asleep[10]), 0, jnp.where(at(woke), stored, now))

  now, stored = trail[9].params, trail[3].params
  hidden = {k: by_hand(now["hidden_0"][k], stored["hidden_0"][k], 1) for k in ("kernel", "bias")}
  kernel = by_hand(now["head"]["kernel"], stored["head"]["kernel"], 0)
  start = plain.start()._replace(params={"hidden_0": hidden, "head": {**now["head"], "kernel": kernel}})
  assert_near(trail[10].params, plain.step(start, *plain.arguments(0, 9))[0].params, 1e-6)


def test_fomo_forgets_a_share_and_predicts_with_the_stable_model(class_stream, small_model, plain):
  options = {"fraction": 0.25, "decay": 0.3, "strength": 0.0, "period": 2, "warmup": 2, "patterns": "head"}
  bench = Bench("fomo", class_stream, small_model, options)
  trail = steps(bench, bench.start(), 0, 4)
  never = steps(plain, plain.start(), 0, 4)
  assert_near(trail[3].params, never[3].params)  # step 2 is warm-up
  got, had = leaves(trail[4].params), leaves(never[4].params)
  np.testing.assert_allclose(got["hidden_0/kernel"], had["hidden_0/kernel"], atol=1e-6)
  assert (np.abs(got["head/kernel"] - had["head/kernel"]) > 1e-5).sum() == round(0.25 * 32)
  start, two, four = leaves(trail[0].params), leaves(trail[2].params), had
  want = {k: 0.3 * (0.3 * start[k] + 0.7 * two[k]) + 0.7 * four[k] for k in start}
  for name, value in leaves(trail[4].method_state.params).items():
    np.testing.assert_allclose(value, want[name], atol=1e-5, err_msg=name)
  x = jnp.asarray(class_stream.dataset.test.x[:5])
  stable, _ = small_model.apply(trail[4].method_state.params, {}, x, train=False, key=None)
  np.testing.assert_allclose(bench.parts.predict(trail[4], x, 0), stable.logits, atol=1e-6)


def test_fomo_pulls_to_the_stable_model(class_stream, small_model):
  """The loss of the step after the first consolidation has ``strength KL(stable || f)`` in it."""
  options = {"fraction": 0.0, "decay": 0.5, "strength": 2.0, "period": 2}
  bench = Bench("fomo", class_stream, small_model, options)
  learner = steps(bench, bench.start(), 0, 2)[-1]
  loss = bench.step(learner, *bench.arguments(0, 2))[2]
  index = np.asarray(bench.rows(0, 2)[0])
  x, y = class_stream.dataset.train.x[index], class_stream.dataset.train.y[index]
  log = lambda p: np.asarray(
    jax.nn.log_softmax(small_model.apply(p, {}, jnp.asarray(x), train=False, key=None)[0].logits)
  )
  now, stable = log(learner.params), log(learner.method_state.params)
  kl = (np.exp(stable) * (stable - now)).sum(-1).mean()
  assert kl > 1e-4
  np.testing.assert_allclose(float(loss), -now[np.arange(BATCH), y].mean() + 2 * kl, rtol=1e-4)


def test_clnp_keeps_what_a_task_answers_to_the_bit(task_stream, small_model):
  margin = 0.05
  bench = Bench("clnp", task_stream, small_model, {"margin": margin, "samples": 48, "held_out": 0.0})
  tuned = steps(bench, bench.start(), 0, 6)[-1]
  first = bench.boundary("end_task", tuned, 0)
  state = edits.clnp_state(first.opt_state)
  owned = np.asarray(state.owned[0])
  assert 0 < owned.sum() < 8
  np.testing.assert_array_equal(state.outputs, task_stream.classes_of_task[0])
  rows = task_stream.train[0]
  x, y = jnp.asarray(task_stream.dataset.train.x[rows]), task_stream.dataset.train.y[rows]
  own = np.flatnonzero(task_stream.classes_of_task[0])
  logits = lambda learner: np.asarray(bench.parts.predict(learner, x, 0))[:, own]
  right = lambda learner: (own[logits(learner).argmax(-1)] == y).mean()
  assert right(first) >= right(tuned) - margin - 1e-6
  second = steps(bench, first, 1, 6)[-1]
  np.testing.assert_array_equal(logits(second), logits(first))
  assert (
    np.abs(leaves(second.params)["hidden_0/kernel"] - leaves(first.params)["hidden_0/kernel"])[:, ~owned].max() > 1e-4
  )
  ended = bench.boundary("end_task", second, 1)
  np.testing.assert_array_equal(logits(ended), logits(first))
  assert np.all(np.asarray(edits.clnp_state(ended.opt_state).owned[0])[owned])


def test_wrong_arguments(dataset, class_stream, small_model):
  permuted = spec_of(streams.build(dataset, "permuted", tasks=2), BATCH)
  with pytest.raises(cljax.UsageError, match="share classes"):
    methods.make("clnp", small_model, permuted)
  bare = small_model._replace(units=())
  spec = spec_of(class_stream, BATCH)
  for name, option in (("freeze", "patterns"), ("lines", "blocks"), ("fomo", "patterns")):
    with pytest.raises(cljax.UsageError, match=f"method.{option}"):
      methods.make(name, bare, spec)
