"""PackNet: owners, pruning and held weights, against NumPy and counts by hand."""

from __future__ import annotations

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bench import Bench
from by_hand import RATE, backward, batch_of, forward, leaves, near
from isolation_by_hand import answers, learn, old_answers_stay, slopes
from normed import normed

import cljax
from cljax import models, streams
from cljax.core.types import Model, Outputs, UsageError
from cljax.methods.told import task_at_test
from cljax.models import isolated
from cljax.models.masks import smallest

NAME = "hidden_0/kernel"
FREE = 3
MODEL = models.mlp((4, 4, 1), 6, hidden=(8,))


@pytest.fixture(scope="module")
def three(make_blobs):
  """Three tasks of two classes, told at test."""
  return streams.build(make_blobs(classes=6), "task", tasks=3, validation=0.0)


@pytest.fixture(scope="module")
def bench(three):
  return Bench("packnet", three, MODEL, {"prune": 0.5, "retrain": 0.4})


def owners(learner):
  return np.asarray(learner.model_state.kept[NAME])


def test_the_smallest_of_a_set():
  size, among = jnp.float32([5, 1, 2, 2, 0, 3]), jnp.bool_([1, 1, 1, 1, 0, 1])
  of = lambda count: smallest(size, among, jnp.int32(count)).astype(int).tolist()
  assert of(0) == [0] * 6
  assert of(1) == [0, 1, 0, 0, 0, 0]
  assert of(2) == of(3) == [0, 1, 1, 1, 0, 0]  # tied
  assert of(4) == [0, 1, 1, 1, 0, 1]
  assert of(5) == [1, 1, 1, 1, 0, 1]


def cut_by_hand(w, owner, slot, share):
  """``(w, owner)``: the round(share n) smallest of the weights of a place are 0 and free."""
  w, owner = w.copy(), owner.copy()
  at = np.flatnonzero(owner.ravel() == slot)
  gone = at[np.argsort(np.abs(w.ravel()[at]))][: round(share * len(at))]
  w.ravel()[gone], owner.ravel()[gone] = 0, FREE
  return w, owner


def seen(p, owner, slot, place):
  """The network of the task in a place, of parameters by name."""
  out = {n: v[place] if n.startswith("head") else v for n, v in p.items()}
  return {**out, NAME: p[NAME] * (owner <= slot)}


def test_packnet_s_steps_by_hand(bench):
  """All free weights train, the smallest half of them goes behind 6 of 10 steps, what is kept goes on; the second task
  trains what went, behind weights and biases that stand."""
  learner, owner = bench.start(), np.full((16, 8), FREE)
  np.testing.assert_array_equal(owners(learner), owner)
  p = leaves(learner.params)
  for slot, task in enumerate((2, 0)):  # places are of the order
    met = (2,)[:slot]
    own = bench.stream.classes_of_task[task]
    learner = bench.boundary("start_task", learner, task, met)
    owner = np.where(owner == FREE, slot, owner)
    np.testing.assert_array_equal(owners(learner), owner)
    for k in range(8):
      x, y = batch_of(bench, task, k)
      net = seen(p, owner, slot, slot)
      z = np.where(own, forward(net, x)[1], -np.inf)
      d = np.exp(z - np.logaddexp.reduce(z, -1, keepdims=True))
      d[np.arange(len(y)), y] -= 1
      g = backward(net, x, d / len(y))
      p[NAME] = p[NAME] - RATE * g[NAME] * (owner == slot)
      if slot == 0:
        p["hidden_0/bias"] = p["hidden_0/bias"] - RATE * g["hidden_0/bias"]
      for n in ("head/kernel", "head/bias"):
        p[n][slot] -= RATE * g[n]
      learner = bench.step(learner, *bench.arguments(task, k, met=met))[0]
      if k == 5:
        p[NAME], owner = cut_by_hand(p[NAME], owner, slot, 0.5)
        assert (owner == slot).sum() == 64 >> slot
      near(learner.params, p, 1e-5)
      np.testing.assert_array_equal(owners(learner), owner)
    learner = bench.boundary("end_task", learner, task, met)
    near(learner.params, p, 1e-5)  # pruned once


def test_owned_counts_are_those_by_hand(make_blobs):
  """Of 1000 weights halves are kept: 500, 250, 125, 63, and 62 are free; 'even' gives each of 4 tasks 250."""
  stream = streams.build(make_blobs(classes=8, rows=4), "task", tasks=4, validation=0.0)

  def init(key):
    head = {"kernel": jax.random.normal(key, (50, 8)), "bias": jnp.zeros(8)}
    return {"body": jax.random.normal(key, (20, 50)), "head": head}

  def apply(params, x):
    wide = jnp.tile(x.reshape(x.shape[0], -1), 2)[:, :20]
    return jnp.tanh(wide @ params["body"]) @ params["head"]["kernel"] + params["head"]["bias"]

  model = models.from_apply(init, apply)
  for how, want in (("fixed", [500, 250, 125, 63, 62]), ("even", [250, 250, 250, 250, 0])):
    given = {"shares": how} if how == "even" else {"prune": 0.5}
    bench = Bench("packnet", stream, model, given, rows=4)
    learner = bench.start()
    for task in range(4):
      learner = bench.boundary("start_task", learner, task)
      before = np.asarray(learner.model_state.kept["body"])
      assert (before == 4).sum() == 0
      body = np.where(before == task, np.random.default_rng(task).normal(size=(20, 50)), learner.params["body"])
      learner = learner._replace(params={**learner.params, "body": jnp.float32(body)})
      learner = bench.boundary("end_task", learner, task)  # not pruned yet: where it ends
      after = np.asarray(learner.model_state.kept["body"])
      np.testing.assert_array_equal(after[before < task], before[before < task])
    assert np.bincount(after.ravel(), minlength=5).tolist() == want
    assert not np.asarray(learner.params["body"])[after == 4].any()


@pytest.mark.parametrize(("optimizer", "norm"), [("sgd", True), ("adamw", False)])
def test_old_answers_of_packnet_stay_to_the_bit(optimizer, norm, three, task_stream):
  """Under momentum and weight decay, over later tasks and returns, with BatchNorm; owners never change."""
  known = []

  def check(learner, seen):
    now = {n: np.asarray(o) for n, o in learner.model_state.kept.items()}
    for before, slots in known:
      for n, o in before.items():
        np.testing.assert_array_equal(now[n][o < slots], o[o < slots])
    known.append((now, int((np.asarray(learner.model_state.slots) >= 0).sum())))

  stream, model, order = (task_stream, normed(), (1, 0, 1, 0)) if norm else (three, MODEL, (1, 0, 1, 2, 0))
  bench, learner = old_answers_stay("packnet", stream, model, {}, optimizer, order, check)
  if norm:
    mean = np.asarray(learner.model_state.inner["batch_stats"]["norm"]["mean"])
    assert np.abs(mean[0] - mean[1]).max() > 0
  # a plain gradient mask lets momentum and decay move what is owned: with all movable the answers change
  every = jax.tree.map(lambda s: jnp.ones_like(s), learner.opt_state.finalize.share)
  was = answers(bench, learner, order[0])
  loose = learner._replace(opt_state=isolated.held(learner.opt_state, every))
  moved = bench.step(loose, *bench.arguments(order[-2], met=order))[0]
  assert np.abs(answers(bench, moved, order[0]) - was).max() > 0


def test_a_task_that_comes_back_trains_its_classifier_alone(bench):
  learner = learn(bench, learn(bench, bench.start(), 0, ()), 1, (0,))
  before, back = leaves(learner.params), learn(bench, learner, 0, (0, 1))
  after = leaves(back.params)
  np.testing.assert_array_equal(owners(back), owners(learner))
  for n in (NAME, "hidden_0/bias"):
    np.testing.assert_array_equal(before[n], after[n])
  assert np.abs(before["head/kernel"][0] - after["head/kernel"][0]).max() > 0
  np.testing.assert_array_equal(before["head/kernel"][1:], after["head/kernel"][1:])


def test_what_earlier_tasks_own_has_no_gradient(bench):
  """So that it counts in no norm by which an optimizer clips."""
  learner = bench.boundary("start_task", learn(bench, bench.start(), 0, ()), 1, (0,))
  g, owner = slopes(bench, learner, 1)[NAME], owners(learner)
  assert not g[owner == 0].any()
  assert np.abs(g[owner == 1]).max() > 0


def test_the_task_is_told_or_inferred_by_entropy(class_stream, small_model):
  """Of each met task's network the entropy over its own classes; the smallest answers, in NumPy."""
  with pytest.raises(UsageError, match="needs the task id at test; this stream gives none"):
    Bench("packnet", class_stream, small_model)
  bench = Bench("packnet", class_stream, small_model, {"inference": "entropy"})
  assert not bench.parts.method.access.task_id_at_test
  x = class_stream.dataset.test.x
  learner = bench.start()
  predict = jax.jit(bench.parts.predict)
  for count, task in enumerate((1, 0), 1):
    learner = learn(bench, learner, task, (1,)[: count - 1])
    p, owner = leaves(learner.params), np.asarray(learner.model_state.kept[NAME])
    logits, entropies = [], []
    for slot, t in list(enumerate((1, 0)))[:count]:
      own = class_stream.classes_of_task[t]
      z = forward(
        {n: v[slot] if n.startswith("head") else v * (owner <= slot if n == NAME else 1) for n, v in p.items()}, x
      )[1]
      q = np.exp(z[:, own] - np.logaddexp.reduce(z[:, own], -1, keepdims=True))
      entropies.append(-(q * np.log(q)).sum(-1))
      logits.append(np.where(own, z, -np.inf))
    chosen = np.argmin(entropies, 0)
    got = predict(learner, jnp.asarray(x), jnp.int32(0))
    np.testing.assert_allclose(got, np.stack(logits)[chosen, np.arange(len(x))], rtol=1e-4, atol=1e-5)
  assert 0 < chosen.mean() < 1
  started = np.asarray(predict(bench.start(), jnp.asarray(x), jnp.int32(0)))
  assert (np.isfinite(started).sum(-1) == 2).all()  # before the first task all are known


def test_entropy_is_not_how_small_the_least_probable_is():
  """Of three classes: .8, .1, .1 is less uncertain than .5, .5, 1e-6; of two any measure orders alike."""
  z = jnp.log(jnp.float32([[0.5, 0.5, 1e-6, 1, 1, 1], [1, 1, 1, 0.8, 0.1, 0.1]]))
  network = Model(lambda key: ({}, {}), lambda params, state, x, *, task, **told: (Outputs(z[task][None]), state))
  spec = SimpleNamespace(num_tasks=2, classes_of_task=np.repeat(np.eye(2, dtype=bool), 3, axis=1))
  learner = SimpleNamespace(params={}, model_state=SimpleNamespace(slots=jnp.int32([0, 1])))
  got = task_at_test(network, spec, "entropy")["predict"](None, learner, jnp.zeros((1, 1)), jnp.int32(0))
  np.testing.assert_array_equal(got, [[-np.inf] * 3 + z[1, 3:].tolist()])


def test_inference_serves_a_run_without_told_tasks(class_stream, small_model):
  given = {"inference": "entropy", "prune": 0.3}
  result = cljax.run(class_stream, small_model, "packnet", given, training=cljax.Recipe(batch_size=8, epochs=2))
  assert np.isfinite(result.predict(class_stream.dataset.test.x[:3])).any(-1).all()
