"""Continual active learning against NumPy in float64, and against training on all labelled rows."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bench import Bench, assert_near
from by_hand import RATE, backward, batch_of, cross_entropy, forward, gradient, leaves, log_softmax, near

import cljax
from cljax import methods, models, streams
from cljax.engine.setup import spec_of
from cljax.methods.replay import cal, stored

MODEL = models.mlp((4, 4, 1), 4, hidden=(8,))
HYPER = {"capacity": 40, "replay_batch": 16}
STORED = {"alpha": 0.7, "beta": 0.4}


def second_round(stream, **hyper):
  """A bench, the learners at the first round's two steps, the one at the start of the second round, and its step."""
  bench = Bench("cal", stream, MODEL, {**HYPER, **hyper})
  one = bench.boundary("start_task", bench.start(), 0)
  two = bench.steps(one, 0, 1)
  end = bench.step(two, *bench.arguments(0, 1))[0]
  new = bench.boundary("start_task", bench.boundary("end_task", end, 0), 1)
  after, _, loss = bench.step(new, *bench.arguments(1, 0))
  return bench, (one, two), new, after, float(loss)


def history(bench, firsts):
  """The rows of the first round, and their logits of when they came."""
  x, y = (np.concatenate(a) for a in zip(*(batch_of(bench, 0, k) for k in (0, 1)), strict=True))
  logits = [forward(l.params, batch_of(bench, 0, k)[0])[1] for k, l in enumerate(firsts)]
  return x, y, np.concatenate(logits)


def divergence(now, kept):
  q, p = log_softmax(kept), log_softmax(now)
  return (np.exp(q) * (q - p)).sum(-1)


def scaled_loss(bench, new, old, kept):
  """Scaled distillation by hand, of a step on the first new batch and the rows ``old``."""
  x, y = batch_of(bench, 1, 0)
  n, m = len(bench.stream.train[1]), 16
  now = forward(new.params, old[0])[1]
  replayed = 0.7 * divergence(now, kept).mean() + 0.4 * cross_entropy(now, old[1]).mean()
  return (n * cross_entropy(forward(new.params, x)[1], y).mean() + m * replayed) / (n + m)


def test_scaled_distillation_weighs_new_rows_by_their_share(class_stream):
  """The loss and the step, on all 16 rows of the history; the logits are of when a row came."""
  bench, firsts, new, after, loss = second_round(class_stream, **STORED)
  x, y, kept = history(bench, firsts)
  np.testing.assert_allclose(loss, scaled_loss(bench, new, (x, y), kept), rtol=1e-5)
  n, own = len(class_stream.train[1]), batch_of(bench, 1, 0)
  assert n == float(new.method_state.rows) > 16
  slope = np.exp(log_softmax(forward(new.params, x)[1])) - np.exp(log_softmax(kept))
  held, labels = backward(new.params, x, slope / 16), gradient(new.params, x, y)
  first = gradient(new.params, *own)
  step = {k: (n * first[k] + 16 * (0.7 * held[k] + 0.4 * labels[k])) / (n + 16) for k in first}
  near(after.params, {k: p - RATE * step[k] for k, p in leaves(new.params).items()})


def test_der_adds_both_terms_of_one_draw(class_stream):
  bench, firsts, new, _, loss = second_round(class_stream, variant="der", **STORED)
  x, y, kept = history(bench, firsts)
  own, now = batch_of(bench, 1, 0), forward(new.params, x)[1]
  want = cross_entropy(forward(new.params, own[0])[1], own[1]).mean()
  want += 0.7 * ((now - kept) ** 2).mean() + 0.4 * cross_entropy(now, y).mean()
  np.testing.assert_allclose(loss, want, rtol=1e-5)


def test_er_is_the_mean_over_new_and_old_rows(class_stream):
  bench, firsts, new, after, loss = second_round(class_stream, variant="er")
  x, y, _ = history(bench, firsts)
  own = batch_of(bench, 1, 0)
  x, y = np.concatenate([own[0], x]), np.concatenate([own[1], y])
  np.testing.assert_allclose(loss, cross_entropy(forward(new.params, x)[1], y).mean(), rtol=1e-5)
  near(after.params, {k: p - RATE * gradient(new.params, x, y)[k] for k, p in leaves(new.params).items()})
  assert "logits" not in new.method_state.replay.memory.rows


def test_mir_replays_the_highest_rises_of_all_candidates(class_stream):
  bench, firsts, new, _, loss = second_round(
    class_stream, variant="mir", replay_batch=3, candidates=16, virtual_rate=0.3
  )
  x, y, _ = history(bench, firsts)
  own = batch_of(bench, 1, 0)
  slope, params = gradient(new.params, *own), leaves(new.params)
  moved = {"hidden_0": {}, "head": {}}
  for k, p in params.items():
    layer, kind = k.split("/")
    moved[layer][kind] = p - 0.3 * slope[k]
  rise = cross_entropy(forward(moved, x)[1], y) - cross_entropy(forward(new.params, x)[1], y)
  order = np.argsort(-rise)
  assert rise[order[2]] - rise[order[3]] > 1e-5
  x, y = np.concatenate([own[0], x[order[:3]]]), np.concatenate([own[1], y[order[:3]]])
  np.testing.assert_allclose(loss, cross_entropy(forward(new.params, x)[1], y).mean(), rtol=1e-5)


def objective(likeness, value, strength, picked):
  covered = likeness[:, picked].max(1).sum() if len(picked) else 0.0
  return covered + strength * np.log1p(value[list(picked)].sum())


def greedy(likeness, value, strength, n):
  """By trying every row in each turn."""
  picked: list[int] = []
  for _ in range(n):
    rest = [j for j in range(len(value)) if j not in picked]
    picked.append(max(rest, key=lambda j: objective(likeness, value, strength, [*picked, j])))
  return picked


@pytest.mark.parametrize("uncertainty", [0.0, 3.0])
def test_sds2_replays_rows_that_cover_the_candidates(class_stream, uncertainty):
  """What is drawn is all of the history; what is picked of it covers it, and is uncertain."""
  bench, firsts, new, _, loss = second_round(
    class_stream, variant="sds2", replay_batch=4, candidates=16, kernel_width=0.2, uncertainty=uncertainty, **STORED
  )
  x, y, kept = history(bench, firsts)
  now = forward(new.params, x)[1]
  likeness = np.exp(-((now[:, None] - now[None]) ** 2).sum(-1) / 0.2)
  doubt = 1 - np.exp(log_softmax(now)).max(-1)
  picked = greedy(likeness, doubt, uncertainty, 4)
  assert picked != greedy(likeness, doubt, 3.0 - uncertainty, 4)
  want = scaled_loss(bench, new, (x[picked], y[picked]), kept[picked])
  np.testing.assert_allclose(loss, want, rtol=1e-5)


def test_covering_is_greedy_over_rows_that_are_there():
  """Against the search by loops, and within 1 - 1/e of the best set; an absent row neither counts nor is picked."""
  rng = np.random.default_rng(0)
  z = rng.normal(size=(9, 2))
  likeness = np.exp(-((z[:, None] - z[None]) ** 2).sum(-1))
  value, there = rng.uniform(size=9), np.r_[np.ones(7), np.zeros(2)]
  pick = lambda weight, n, strength: stored.covering(
    {"at": jnp.arange(9)}, jnp.asarray(weight, jnp.float32), jnp.asarray(likeness), jnp.asarray(value), strength, n
  )
  rows, weight = pick(there, 3, 0.8)
  few = likeness[:7, :7]
  assert list(np.asarray(rows["at"])) == greedy(few, value[:7], 0.8, 3)
  np.testing.assert_array_equal(weight, 1)
  best = max(objective(few, value[:7], 0.8, list(s)) for s in itertools.combinations(range(7), 3))
  assert objective(few, value[:7], 0.8, list(np.asarray(rows["at"]))) >= (1 - 1 / np.e) * best
  rows, weight = pick(np.r_[np.zeros(6), 1.0, 1.0, 0.0], 4, 0.0)
  np.testing.assert_array_equal(weight, [1, 1, 0, 0])
  assert set(np.asarray(rows["at"])[:2]) == {6, 7}
  assert pick(there, 20, 0.5)[1].shape == (9,)
  assert float(pick(there, 9, 0.5)[1].sum()) == 7


def test_likeness_and_doubt_are_over_the_classes_of_the_mask():
  z = np.random.default_rng(0).normal(size=(5, 3))
  mask = jnp.broadcast_to(jnp.asarray([True, False, True]), (5, 3))
  for m, part in ((None, z), (mask, z[:, [0, 2]])):
    alike, doubt = cal.likeness_and_doubt(jnp.asarray(z, jnp.float32), m, 0.7)
    np.testing.assert_allclose(alike, np.exp(-((part[:, None] - part[None]) ** 2).sum(-1) / 0.7), rtol=1e-5)
    np.testing.assert_allclose(doubt, 1 - np.exp(log_softmax(part)).max(-1), rtol=1e-5)


ROUNDS = (14, 9, 6)


@pytest.fixture(scope="module")
def rounds(dataset):
  """Three rounds of rows of every class; all test rows in each."""
  order = np.random.default_rng(0).permutation(len(dataset.train.y))
  train = np.split(order[: sum(ROUNDS)], np.cumsum(ROUNDS)[:-1])
  labels = np.tile(np.arange(4), (3, 1))
  return streams.from_tasks(dataset, train, [np.arange(len(dataset.test.y))] * 3, labels=labels)


def train(stream, method, hyper=None, batch=64, epochs=3):
  return cljax.run(stream, MODEL, method, hyper, training=cljax.Recipe(batch_size=batch, epochs=epochs))


WHOLE = [
  ("er", {}), ("mir", {"candidates": 40}), ("sd", {"alpha": 0.0, "beta": 1.0}),
  ("sds2", {"alpha": 0.0, "beta": 1.0, "candidates": 40}),
]  # fmt: skip


@pytest.mark.parametrize(("variant", "more"), WHOLE, ids=[v for v, _ in WHOLE])
def test_with_all_new_and_all_old_rows_it_is_training_on_everything(variant, more, rounds):
  """Steps of all new rows and the whole history: those of ``cumulative``, which trains on all labelled rows."""
  hyper = {"variant": variant, "capacity": 40, "replay_batch": 40, **more}
  ours, whole = train(rounds, "cal", hyper), train(rounds, "cumulative")
  assert_near(ours.learner.params, whole.learner.params)
  assert ours.steps == whole.steps == 9
  alone = train(rounds, "finetune")
  gap = [np.abs(np.asarray(a - b)).max() for a, b in zip(
    jax.tree.leaves(alone.learner.params), jax.tree.leaves(whole.learner.params), strict=True)]  # fmt: skip
  assert max(gap) > 1e-2


def test_steps_of_a_round_follow_its_new_rows(rounds):
  """Not all labelled rows; the history holds each of them once, with the logits of its first pass."""
  ours = train(rounds, "cal", {"capacity": 40}, batch=4, epochs=2)
  whole = train(rounds, "cumulative", batch=4, epochs=2)
  assert ours.steps == 2 * sum(-(-n // 4) for n in ROUNDS)
  assert whole.steps == 2 * sum(-(-n // 4) for n in np.cumsum(ROUNDS))
  state = ours.learner.method_state
  rows = jax.tree.map(lambda a: np.asarray(a)[0], state.replay.memory.rows)
  held = rows["id"][: sum(ROUNDS)]
  np.testing.assert_array_equal(np.sort(held), np.sort(np.concatenate(rounds.train)))
  assert not rows["logits"][sum(ROUNDS) :].any()
  assert np.abs(rows["logits"][: sum(ROUNDS)]).max(1).min() > 0
  np.testing.assert_array_equal(np.asarray(state.rows), 0)


def test_rows_of_the_round_itself_are_not_replayed(class_stream):
  """The first round trains as if nothing were stored; a row that comes again is not stored again."""
  bench = Bench("cal", class_stream, MODEL, HYPER)
  plain = Bench("finetune", class_stream, MODEL)
  assert_near(bench.train(4, (0,)).params, plain.train(4, (0,)).params)
  again = bench.train(2, (0, 1, 0))
  ids = np.asarray(again.method_state.replay.memory.rows["id"])[: int(again.method_state.replay.memory.count)]
  assert len(set(ids.tolist())) == len(ids)


def test_cal_forgets_rows_and_its_share_follows(class_stream):
  """Erased rows are gone with their logits, and m is of those that are left: by the loss of the next step."""
  bench, firsts, new, _, _ = second_round(class_stream, **STORED)
  x, y, kept = history(bench, firsts)
  rows = np.concatenate([np.asarray(bench.rows(0, k)[0]) for k in (0, 1)])
  gone = jnp.zeros(bench.spec.num_rows, bool).at[rows[:5]].set(True)
  left = jax.jit(bench.parts.scrub)(new, gone, jnp.zeros(4, bool))
  memory = left.method_state.replay.memory
  assert not np.asarray(memory.rows["logits"])[int(memory.count) :].any()
  loss = float(bench.step(left, *bench.arguments(1, 0))[2])
  (own_x, own_y), n = batch_of(bench, 1, 0), len(class_stream.train[1])
  now = forward(new.params, x[5:])[1]
  old = 0.7 * divergence(now, kept[5:]).mean() + 0.4 * cross_entropy(now, y[5:]).mean()
  want = (n * cross_entropy(forward(new.params, own_x)[1], own_y).mean() + 11 * old) / (n + 11)
  np.testing.assert_allclose(loss, want, rtol=1e-5)


def test_cal_draws_no_more_than_it_looks_at(class_stream):
  spec = spec_of(class_stream, 8)
  for variant in ("mir", "sds2"):
    with pytest.raises(ValueError, match=r"method.replay_batch: got 9, above method.candidates, which is 8"):
      methods.make("cal", MODEL, spec, replay_batch=9, candidates=8, variant=variant)
    bench = Bench("cal", class_stream, MODEL, {"capacity": 40, "candidates": 5, "variant": variant, "replay_batch": 0})
    made = jax.eval_shape(bench.parts.method.prepare, jax.random.key(0), bench.start(), batch_for(bench))[1]
    assert made.weight.shape == (13,)
  assert methods.make("cal", MODEL, spec, replay_batch=150)


def batch_for(bench):
  x, y = batch_of(bench, 1, 0)
  number = jnp.ones(8, jnp.int32)
  visit = bench.where(1).visit
  return cljax.core.types.Batch(jnp.asarray(x), jnp.asarray(y), jnp.ones(8), number, number, None, visit=visit)
