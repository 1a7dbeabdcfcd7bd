"""IL2M against NumPy in float64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bench import Bench, assert_same
from by_hand import RATE, backward, forward, log_softmax, near

from cljax import methods, models, streams
from cljax.core.types import UsageError
from cljax.engine.setup import spec_of
from cljax.methods.replay import il2m

HYPER = {"capacity": 12, "replay_batch": 12}


@pytest.fixture(scope="module")
def three(make_blobs):
  """Three tasks of two classes."""
  return streams.build(make_blobs(classes=6), "class", tasks=3, validation=0.0)


@pytest.fixture(scope="module")
def model():
  return models.mlp((4, 4, 1), 6, hidden=(8,))


@pytest.fixture(scope="module")
def trained(three, model):
  """The learner when each of three tasks has been trained on, and behind its end; a step in the third, and its loss."""
  bench = Bench("il2m", three, model, HYPER)
  learner, found = bench.start(), []
  for task in range(3):
    learner = bench.boundary("start_task", learner, task)
    begun = learner = bench.steps(learner, task, 4, met=range(task))
    learner, _, loss = bench.step(learner, *bench.arguments(task, 0, met=range(task)))
    found.append((begun, learner, float(loss)))
    learner = bench.boundary("end_task", learner, task)
    found[-1] += (learner,)
  return bench, found


def stored(state):
  return np.asarray(state.rows["id"])[: int(state.count)]


def probabilities(params, x, met):
  return np.exp(log_softmax(np.where(met, forward(params, x)[1], -np.inf)))


def known(bench, found, task):
  """``(first, now, confidence, last)`` by hand, when ``task`` has ended."""
  split, first, confidence, now = bench.stream.dataset.train, np.zeros(6), np.zeros(6), np.zeros(6)
  for t in range(task + 1):
    learner, met = found[t][1], np.arange(6) < 2 * (t + 1)
    rows = np.asarray(bench.stream.train[t])
    p, y = probabilities(learner.params, split.x[rows], met), split.y[rows]
    for c in (2 * t, 2 * t + 1):
      first[c], confidence[c] = p[y == c, c].mean(), p.max(1).mean()
  kept = stored(learner.method_state.memory)
  if not task:
    return first, now, confidence, confidence[0]
  p, y = probabilities(learner.params, split.x[kept], met), split.y[kept]
  for c in range(2 * task):
    now[c] = p[y == c, c].mean()
  return first, now, confidence, confidence[2 * task]


def test_il2m_keeps_what_classes_scored_when_they_were_learned(trained):
  """On all rows of their task, and again on what is stored, before the lists are cut; old numbers are not touched."""
  bench, found = trained
  for task in range(3):
    state = found[task][3].method_state
    first, now, confidence, last = known(bench, found, task)
    for name, want in (("first", first), ("now", now), ("confidence", confidence), ("last", last)):
      np.testing.assert_allclose(getattr(state, name), want, rtol=1e-4, atol=1e-7, err_msg=name)
    np.testing.assert_array_equal(state.newest, np.arange(6) // 2 == task)
    np.testing.assert_array_equal(state.met, np.arange(6) < 2 * (task + 1))
    assert len(stored(state.memory)) == 12


def test_il2m_s_answers_are_rectified_where_a_new_class_is_largest(trained):
  """Probabilities times the factor; where an old class is largest, or after the first task, they are as they are."""
  bench, found = trained
  x = bench.stream.dataset.test.x
  predict = jax.jit(lambda l: bench.parts.predict(l, jnp.asarray(x), jnp.int32(0)))
  plain = Bench("il2m", bench.stream, models.mlp((4, 4, 1), 6, hidden=(8,)), {**HYPER, "rectify": False}).parts.predict
  for task in range(3):
    end, met = found[task][3], np.arange(6) < 2 * (task + 1)
    p = probabilities(end.params, x, met)
    first, now, confidence, last = known(bench, found, task)
    old = np.arange(6) < 2 * task
    with np.errstate(divide="ignore", invalid="ignore"):
      factor = np.where(old, first / now * last / confidence, 1.0)
    new = p.argmax(1) >= 2 * task
    want = np.where(new[:, None], p * factor, p)
    got = np.exp(np.asarray(predict(end), np.float64))
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-9)
    np.testing.assert_allclose(np.exp(plain(end, jnp.asarray(x), jnp.int32(0))), p, rtol=1e-4, atol=1e-9)
    assert (got[:, ~met] == 0).all()
    if task:
      assert (np.abs(factor[old] - 1) > 1e-3).all()
      assert new.any()
      assert not new.all()
  start = bench.start()
  np.testing.assert_allclose(predict(start), log_softmax(forward(start.params, x)[1]), atol=1e-5)


def state_of(**given):
  base = {
    "memory": None, "rows": 0.0, "first": [0.9, 0.8, 0.7], "now": [0.3, 0.4, 0.0], "confidence": [0.9, 0.5, 0.6],
    "last": 0.6, "newest": [False, False, True], "met": [True] * 3,
  }  # fmt: skip
  array = lambda v: v if v is None else jnp.asarray(v)
  return il2m.DualMemory(**{k: array(v) for k, v in {**base, **given}.items()})


def test_a_factor_above_one_raises_an_old_class():
  """Of probabilities; of log-probabilities, or of logits below 0, it would lower it. New classes keep their score."""
  p = np.array([[0.2, 0.1, 0.7], [0.6, 0.1, 0.3]])
  got = np.exp(np.asarray(il2m.rectified(jnp.log(jnp.asarray(p, jnp.float32)), state_of())))
  np.testing.assert_allclose(got[0], [0.2 * 3 * 0.6 / 0.9, 0.1 * 2 * 0.6 / 0.5, 0.7], rtol=1e-5)
  np.testing.assert_allclose(got[1], p[1], rtol=1e-5)


@pytest.mark.parametrize("field", ["first", "now", "confidence"])
def test_a_class_of_which_nothing_is_known_keeps_its_score(field):
  """Statistics that did not change make the factor 1 too."""
  log_p = jnp.log(jnp.array([[0.2, 0.1, 0.7]]))
  state = state_of(**{field: [0.0, 0.4, 0.5]})
  got = np.asarray(il2m.rectified(log_p, state))
  assert got[0, 0] == log_p[0, 0]
  assert abs(got[0, 1] - log_p[0, 1]) > 0.1
  np.testing.assert_array_equal(il2m.rectified(log_p, state_of(last=0.0)), log_p)
  still = state_of(now=[0.9, 0.8, 0.7], confidence=[0.6, 0.6, 0.6])
  np.testing.assert_allclose(il2m.rectified(log_p, still), log_p, atol=1e-6)


def test_il2m_trains_on_the_union_without_distillation(trained):
  """Each of the two means has its share of the rows."""
  bench, found = trained
  begun, after, loss, _ = found[2]
  split, total, slopes = bench.stream.dataset.train, 0.0, []
  kept = stored(begun.method_state.memory)
  assert np.bincount(split.y[kept], minlength=6).tolist() == [3, 3, 3, 3, 0, 0]
  count = len(bench.stream.train[2])
  share = 12 / (12 + count)
  for part, rows in ((1 - share, np.asarray(bench.rows(2, 0)[0])), (share, kept)):
    x, y = split.x[rows], split.y[rows]
    log_p = log_softmax(forward(begun.params, x)[1])
    total -= part * log_p[np.arange(len(y)), y].mean()
    slopes.append(backward(begun.params, x, part * (np.exp(log_p) - np.eye(6)[y]) / len(y)))
  np.testing.assert_allclose(loss, total, rtol=1e-5)
  want = {p: -RATE * (slopes[0][p] + slopes[1][p]) for p in slopes[0]}
  near(jax.tree.map(lambda a, b: a - b, after.params, begun.params), want)


def test_il2m_s_end_of_a_task_moves_no_weight(trained):
  _, found = trained
  for _, after, _, end in found:
    assert_same(end.params, after.params)


def test_il2m_forgets_exemplars_and_what_is_known_of_whole_classes(trained):
  bench, found = trained
  end = found[2][3]
  state = end.method_state
  kept = stored(state.memory)
  gone = np.r_[kept[:1], np.flatnonzero(bench.stream.dataset.train.y == 3)]
  named = jnp.zeros(bench.spec.num_rows, bool).at[gone].set(True)
  left = jax.jit(bench.parts.scrub)(end, named, jnp.arange(6) == 3).method_state
  assert stored(left.memory).tolist() == [i for i in kept if i not in gone]
  assert not np.asarray(left.memory.rows["x"])[int(left.memory.count) :].any()
  for name in ("first", "now", "confidence"):
    want = np.where(np.arange(6) == 3, 0, getattr(state, name))
    np.testing.assert_array_equal(getattr(left, name), want)


def test_il2m_needs_an_exemplar_for_each_class(three, model):
  with pytest.raises(UsageError, match=r"capacity: got 5, below the 6 classes"):
    methods.make("il2m", model, spec_of(three, 8), capacity=5)
