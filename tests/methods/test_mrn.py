"""MRN against NumPy in float64: experts, the router's fit, and what they answer together."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bench import Bench
from by_hand import RATE, backward, batch_of, forward, leaves, near
from isolation_by_hand import OPTIMIZERS, learn

from cljax import models, streams
from cljax.core import tree
from cljax.core.types import Outputs, UsageError
from cljax.methods.columns import mrn

MODEL = models.mlp((4, 4, 1), 6, hidden=(8,))
HYPER = {"capacity": 6, "passes": 1, "rate": 0.05, "strength": 3.0, "width": 5}


@pytest.fixture(scope="module")
def three(make_blobs):
  return streams.build(make_blobs(classes=6), "class", tasks=3, validation=0.0)


@pytest.fixture(scope="module")
def bench(three):
  return Bench("mrn", three, MODEL, HYPER)


@pytest.fixture(scope="module")
def two(bench):
  """Tasks 2 and 0, learned in this order."""
  return learn(bench, learn(bench, bench.start(), 2, (), 4), 0, (2,), 4)


def expert(p, slot):
  return {n.removeprefix("experts/"): a[slot] for n, a in p.items() if n.startswith("experts/")}


def said(p, x, order, classes_of_task):
  """Features of norm 1 ``[B, T D]`` of all places and padded logits ``[B, T, C]``."""
  features, logits = [], []
  for slot, task in enumerate(order):
    h, z = forward(expert(p, slot), x)
    features.append(h / np.linalg.norm(h, axis=-1, keepdims=True))
    logits.append(np.where(classes_of_task[task], z, 0.0))
  return np.concatenate(features, 1), np.stack(logits, 1)


def routed(p, f, known):
  h = np.maximum(f @ p["router/hidden/kernel"] + p["router/hidden/bias"], 0)
  g = h @ p["router/out/kernel"] + p["router/out/bias"]
  g[:, known:] = -np.inf
  return h, g, np.exp(g - np.logaddexp.reduce(g, -1, keepdims=True))


def test_an_expert_learns_its_own_classes_by_hand(bench, three):
  """Its own alone are in the softmax; what other tasks have stands, and so does the router."""
  learner = bench.start()
  p = leaves(learner.params)
  for slot, task in enumerate((2, 0)):
    met = (2,)[:slot]
    learner = bench.boundary("start_task", learner, task, met)
    for k in range(2):
      x, y = batch_of(bench, task, k)
      own = expert(p, slot)
      z = np.where(three.classes_of_task[task], forward(own, x)[1], -np.inf)
      d = (np.exp(z - np.logaddexp.reduce(z, -1, keepdims=True)) - np.eye(6)[y]) / len(y)
      for n, g in backward(own, x, d).items():
        p[f"experts/{n}"][slot] -= RATE * g
      learner, _, loss = bench.step(learner, *bench.arguments(task, k, met=met))
      want = (np.logaddexp.reduce(z, -1) - z[np.arange(len(y)), y]).mean()
      np.testing.assert_allclose(float(loss), want, rtol=1e-5)
      near(learner.params, p, 1e-5)


def test_the_router_s_fit_by_hand(bench, three):
  """One step from a fresh router on all six exemplars: both parts of the loss, and their slopes."""
  first = learn(bench, bench.start(), 2, (), 4)
  learner = bench.steps(bench.boundary("start_task", first, 0, (2,)), 0, 4, None, (2,))
  ended = bench.boundary("end_task", learner, 0, (2,))
  memory = ended.method_state.memory
  assert int(memory.count) == 4  # 6 // 4 of each of four classes
  rows = {n: np.asarray(memory.rows[n])[:4] for n in ("x", "y", "task")}
  key = tree.fold(tree.fold(jax.random.fold_in(learner.key, learner.step), "end_task"), "router")
  p = leaves(learner.params)
  for part, (inputs, outputs) in {"hidden": (24, 5), "out": (5, 3)}.items():
    bound = inputs**-0.5
    drawn = jax.random.uniform(tree.fold(key, part), (inputs, outputs), jnp.float32, -bound, bound)
    p[f"router/{part}/kernel"], p[f"router/{part}/bias"] = np.asarray(drawn, np.float64), np.zeros(outputs)
  f, z = said(p, rows["x"], (2, 0, 1), three.classes_of_task)
  h, _, r = routed(p, f, 2)
  place = np.where(rows["task"] == 2, 0, 1)
  seen = three.classes_of_task[[2, 0]].any(0)
  out = np.where(seen, np.einsum("bt,btc->bc", r, z), -np.inf)
  d = np.exp(out - np.logaddexp.reduce(out, -1, keepdims=True)) - np.eye(6)[rows["y"]]
  to_route = np.einsum("bc,btc->bt", 3.0 * np.where(seen, d, 0.0), z)
  to_g = (r * (to_route - (r * to_route).sum(-1, keepdims=True)) + r - np.eye(3)[place]) / 4
  back = (to_g @ p["router/out/kernel"].T) * (h > 0)
  slopes = {"hidden/kernel": f.T @ back, "hidden/bias": back.sum(0), "out/kernel": h.T @ to_g, "out/bias": to_g.sum(0)}
  got = leaves(ended.params)
  for n, g in slopes.items():
    np.testing.assert_allclose(got[f"router/{n}"], p[f"router/{n}"] - 0.05 * g, rtol=1e-4, atol=2e-6, err_msg=n)
  assert int(ended.method_state.known) == 2


@pytest.mark.parametrize("route", ["soft", "hard"])
def test_answers_by_hand(route, bench, two, three):
  """What all experts say, weighed by the router; with a hard route what one of them does; -inf for other classes."""
  of = bench if route == "soft" else Bench("mrn", three, MODEL, {**HYPER, "route": "hard"})
  x = three.dataset.test.x
  p = leaves(two.params)
  f, z = said(p, x, (2, 0, 1), three.classes_of_task)
  _, g, r = routed(p, f, 2)
  np.testing.assert_allclose(r.sum(-1), 1)
  assert len(set(g.argmax(-1))) == 2
  r = r if route == "soft" else np.eye(3)[g.argmax(-1)]
  want = np.where(three.classes_of_task[[2, 0]].any(0), np.einsum("bt,btc->bc", r, z), -np.inf)
  got = np.asarray(jax.jit(of.parts.predict)(two, jnp.asarray(x), jnp.int32(0)))
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
  begun = bench.boundary("start_task", two, 1, (2, 0))
  np.testing.assert_array_equal(jax.jit(of.parts.predict)(begun, jnp.asarray(x), jnp.int32(0)), got)
  if route == "hard":  # a route of one is that expert alone
    told = {"train": False, "key": None, "task": jnp.int32(2), "mask": None}
    alone = of.parts.method.model.apply(two.params, two.model_state, jnp.asarray(x), **told)[0].logits
    own = three.classes_of_task[2]
    np.testing.assert_allclose(got[g.argmax(-1) == 0][:, own], alone[g.argmax(-1) == 0][:, own], rtol=1e-5, atol=1e-6)
    assert not np.isfinite(np.asarray(alone)[:, ~own]).any()


def test_before_the_first_end_the_first_expert_answers(bench, three):
  start, x = bench.start(), three.dataset.test.x[:5]
  z = forward(expert(leaves(start.params), 0), x)[1]
  got = jax.jit(bench.parts.predict)(start, jnp.asarray(x), jnp.int32(0))
  np.testing.assert_allclose(got, np.where(three.classes_of_task[0], z, 0.0), atol=1e-5)
  begun = bench.boundary("start_task", start, 2)
  got = np.asarray(jax.jit(bench.parts.predict)(begun, jnp.asarray(x), jnp.int32(0)))
  np.testing.assert_allclose(got, np.where(three.classes_of_task[2], z, -np.inf), atol=1e-5)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_experts_stand_to_the_bit(optimizer, three):
  """Under momentum and weight decay, over later tasks and a return, at which the router is made anew."""
  bench = Bench("mrn", three, MODEL, HYPER, optimizer=OPTIMIZERS[optimizer]())
  learner, ends, order = bench.start(), {}, (1, 0, 1)
  for i, task in enumerate(order):
    before = leaves(learner.params)
    learner = learn(bench, learner, task, order[:i], 3)
    now = leaves(learner.params)
    slot = (1, 0).index(task)
    for other in {0, 1, 2} - {slot}:
      for n in before:
        if n.startswith("experts/"):
          np.testing.assert_array_equal(now[n][other], before[n][other])
    assert np.abs(now["experts/head/kernel"][slot] - before["experts/head/kernel"][slot]).max() > 1e-3
    ends[i] = now["router/out/kernel"]
  assert np.abs(ends[2] - ends[1]).max() > 1e-4


def test_domains_and_mixtures():
  """Places that the router does not know are out; what an expert does not say counts 0."""
  router = {
    "hidden": {"kernel": jnp.eye(2), "bias": jnp.array([0.0, -1.0])},
    "out": {"kernel": jnp.array([[1.0, 0.0, 2.0], [0.0, 3.0, 0.0]]), "bias": jnp.array([0.5, 0.0, 0.0])},
  }
  got = mrn.domains(router, jnp.array([[2.0, 2.0], [-1.0, 0.5]]), 2)
  np.testing.assert_allclose(got, [[2.5, 3.0, -np.inf], [0.5, 0.0, -np.inf]])
  z = jnp.array([[[1.0, -np.inf], [-np.inf, 4.0]]])
  np.testing.assert_allclose(mrn.mixed(jnp.array([[0.25, 0.75]]), z), [[0.25, 3.0]])
  np.testing.assert_allclose(mrn.mixed(jnp.array([[0.0, 1.0]]), z), [[0.0, 4.0]])


def test_a_request_leaves_no_exemplar_and_the_router_to_its_next_fit(bench, two):
  ids = np.asarray(two.method_state.memory.rows["id"])[:2]
  named = jnp.zeros(bench.spec.num_rows, bool).at[ids].set(True)
  left = jax.jit(bench.parts.scrub)(two, named, jnp.zeros(6, bool))
  assert int(left.method_state.memory.count) == 2
  assert not set(ids.tolist()) & set(np.asarray(left.method_state.memory.rows["id"])[:2].tolist())
  assert tree.digest(left.params) == tree.digest(two.params)
  assert int(left.method_state.known) == 2


def test_what_mrn_refuses(three):
  with pytest.raises(UsageError, match="capacity: got 5, below the 6 classes"):
    Bench("mrn", three, MODEL, {**HYPER, "capacity": 5})

  def bare(*args, **told):
    out, state = MODEL.apply(*args, **told)
    return Outputs(out.logits), state

  with pytest.raises(UsageError, match="'mrn' needs a model that returns features"):
    Bench("mrn", three, MODEL._replace(apply=bare), HYPER)
