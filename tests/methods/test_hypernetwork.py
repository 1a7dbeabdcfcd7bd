"""The hypernetwork: what it makes, what it asks of old tasks' weights, and its steps, against NumPy in float64."""

from __future__ import annotations

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bench import Bench
from by_hand import RATE, backward, batch_of, forward, leaves, near
from isolation_by_hand import OPTIMIZERS, answers, learn
from normed import normed

from cljax import models, streams
from cljax.core import tree
from cljax.methods.hypernetworks.hypernetwork import hyper_network

MODEL = models.mlp((4, 4, 1), 6, hidden=(4,))
NAMES = ("hidden_0/kernel", "hidden_0/bias", "head/kernel", "head/bias")
HYPER = {"size": 3, "width": 5, "strength": 0.3}


@pytest.fixture(scope="module")
def three(make_blobs):
  return streams.build(make_blobs(classes=6), "task", tasks=3, validation=0.0)


def hidden(p, e):
  return np.maximum(e @ p["hidden/kernel"] + p["hidden/bias"], 0)


def made(p, e):
  h = hidden(p, e)
  return {n: np.tensordot(h, p[f"out/{n}/kernel"], 1) + p[f"out/{n}/bias"] for n in NAMES}


def back(p, e, slope):
  """The gradient in the hypernetwork and in e of a loss whose slope in what it makes is ``slope``."""
  h = hidden(p, e)
  g = {f"out/{n}/kernel": np.tensordot(h, slope[n], 0) for n in NAMES} | {f"out/{n}/bias": slope[n] for n in NAMES}
  into = sum((p[f"out/{n}/kernel"] * slope[n]).reshape(len(h), -1).sum(1) for n in NAMES) * (h > 0)
  return {**g, "hidden/kernel": np.outer(e, into), "hidden/bias": into}, p["hidden/kernel"] @ into


def task_slope(p, x, y, own, e):
  net = made(p, e)
  z = np.where(own, forward(net, x)[1], -np.inf)
  d = np.exp(z - np.logaddexp.reduce(z, -1, keepdims=True))
  d[np.arange(len(y)), y] -= 1
  return back(p, e, backward(net, x, d / len(y)))


def kept_slope(p, was, others, strength):
  total = {n: np.zeros_like(v) for n, v in p.items()}
  for j in others:
    e = was["embeddings"][j]
    now, then = made(p, e), made(was, e)
    for n, g in back(p, e, {k: 2 * strength / len(others) * (now[k] - then[k]) for k in NAMES})[0].items():
      total[n] += g
  return total


@pytest.mark.parametrize("lookahead", [0.0, 0.2])
def test_hypernetwork_s_steps_by_hand(lookahead, three):
  """Three tasks: the third asks for what the other two were given, with and without the step ahead."""
  bench = Bench("hypernetwork", three, MODEL, {**HYPER, "lookahead": lookahead})
  learner, order = bench.start(), (2, 0, 1)
  p = leaves(learner.params)
  for slot, task in enumerate(order):
    met, was = order[:slot], {n: v.copy() for n, v in p.items()}
    learner = bench.boundary("start_task", learner, task, met)
    for k in range(2):
      e = p["embeddings"][slot]
      g, own = task_slope(p, *batch_of(bench, task, k), three.classes_of_task[task], e)
      ahead = {n: p[n] - lookahead * g.get(n, 0) for n in p}
      more = kept_slope(ahead, was, range(slot), HYPER["strength"]) if slot else {}
      moved = {n: p[n] - RATE * (g[n] + more.get(n, 0)) for n in g}
      p = {**p, **moved}
      p["embeddings"] = p["embeddings"].copy()
      p["embeddings"][slot] -= RATE * own
      learner = bench.step(learner, *bench.arguments(task, k, met=met))[0]
      near(learner.params, p, 1e-5)
  x = three.dataset.test.x[np.asarray(three.test[0])]
  np.testing.assert_allclose(
    answers(bench, learner, 0), forward(made(p, p["embeddings"][1]), x)[1], rtol=1e-4, atol=1e-5
  )


def test_a_hypernetwork_begins_near_the_network(three):
  """Its biases are the model's initial weights, and what it adds has at most their spread."""
  learner = Bench("hypernetwork", three, models.mlp((4, 4, 1), 6, hidden=(40,)), {"width": 50}).start()
  p = leaves(learner.params)
  assert p["embeddings"].shape == (3, 8)
  for n in ("hidden_0/kernel", "head/kernel"):
    spread = p[f"out/{n}/bias"].std()
    assert p[f"out/{n}/kernel"].std() * np.sqrt(50) == pytest.approx(spread, rel=0.05)
  assert not p["out/head/bias/kernel"].any()
  assert abs(p["hidden/kernel"].std() - 0.5) < 0.06


def test_each_leaf_of_a_hypernetwork_is_its_own_beyond_ten_in_a_list():
  """Sorted by their names the tenth comes before the second; with kernels of zeros H makes the initial weights."""
  start = {"deep": [jnp.full((2, 2), i, jnp.float32) for i in range(12)], "head": jnp.full((2, 6), 12.0)}
  model = models.from_apply(lambda key: start, lambda p, x: x.reshape(-1, 2) @ p["deep"][2] @ p["deep"][10] @ p["head"])
  network = hyper_network(model, SimpleNamespace(num_tasks=2), 3, 4)
  params, state = network.init(jax.random.key(0))
  np.testing.assert_array_equal(params["out"]["deep/10"]["bias"], start["deep"][10])
  x = jnp.float32([[1, 2], [3, 4]])
  got = network.apply(params, state, x, train=False, key=None, task=jnp.int32(1))[0].logits
  np.testing.assert_allclose(got, np.repeat([[3 * 2 * 2 * 2 * 10 * 12], [7 * 2 * 2 * 2 * 10 * 12]], 6, axis=1))


def test_strength_holds_old_weights_and_embeddings_stand(three):
  """Under momentum and decay no other task's embedding moves; weights of old tasks drift less the stronger the pull; a
  task that comes back is not asked for what it was."""
  drift = {}
  for strength in (0.0, 1.0):
    bench = Bench("hypernetwork", three, MODEL, {**HYPER, "strength": strength}, optimizer=OPTIMIZERS["adamw"]())
    first = learn(bench, bench.start(), 0, ())
    begun = bench.boundary("start_task", first, 1, (0,))
    assert begun.method_state.others.tolist() == [True, False, False]
    second = learn(bench, first, 1, (0,))
    np.testing.assert_array_equal(second.params["embeddings"][0], first.params["embeddings"][0])
    assert np.abs(np.asarray(second.params["embeddings"][1] - first.params["embeddings"][1])).max() > 0
    drift[strength] = np.abs(answers(bench, second, 0) - answers(bench, first, 0)).max()
  assert drift[1.0] < 0.5 * drift[0.0]
  again = bench.boundary("start_task", second, 0, (0, 1))
  assert again.method_state.others.tolist() == [False, True, False]
  near(again.method_state.params, leaves(second.params))


def test_each_task_of_a_hypernetwork_has_batch_statistics(task_stream):
  bench = Bench("hypernetwork", task_stream, normed(), {})
  first = learn(bench, bench.start(), 1, (), steps=2)
  second = learn(bench, first, 0, (1,), steps=2)
  mean = [np.asarray(tree.by_path(l.model_state.inner)["batch_stats/norm/mean"]) for l in (first, second)]
  np.testing.assert_array_equal(mean[0][0], mean[1][0])
  assert np.abs(mean[1][0] - mean[1][1]).max() > 0
