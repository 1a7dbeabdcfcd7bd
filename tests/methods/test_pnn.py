"""PNN: columns and what they read of each other, against NumPy in float64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bench import Bench
from by_hand import RATE, batch_of, leaves, near
from isolation_by_hand import answers, learn, old_answers_stay
from normed import normed

from cljax import models, streams
from cljax.core.types import UsageError

DEEP = models.mlp((4, 4, 1), 6, hidden=(7, 5), activation="tanh")
MODEL = models.mlp((4, 4, 1), 6, hidden=(7,))


@pytest.fixture(scope="module")
def three(make_blobs):
  return streams.build(make_blobs(classes=6), "task", tasks=3, validation=0.0)


def columns_by_hand(p, x, t, layers, act):
  """The logits of column t and, for each column up to it, the inputs of each layer."""
  x = np.asarray(x, np.float64).reshape(len(x), -1)
  every = []
  for k in range(t + 1):
    h, inputs = x, []
    for i, name in enumerate(layers):
      inputs.append(h)
      z = h @ p[f"columns/{name}/kernel"][k] + p[f"columns/{name}/bias"][k]
      if i:
        scale, project = p[f"lateral/{name}/scale"], p[f"lateral/{name}/project"]
        mixed = sum((scale[k, j] * every[j][i] @ project[k, j] for j in range(k)), np.zeros_like(h))
        z = z + np.maximum(mixed, 0) @ p[f"lateral/{name}/out"][k]
      h = act(z) if i < len(layers) - 1 else z
    every.append(inputs)
  return h, every


def test_columns_read_earlier_ones(three):
  """Three columns of two hidden layers, with the network's own activation: each layer but the first is told of."""
  bench = Bench("pnn", three, DEEP, {"scale": 1.5})
  learner = bench.start()
  plain = DEEP.init(jax.random.key(0))[0]
  assert jax.tree.structure(plain) == jax.tree.structure(learner.params["columns"])
  slots = jnp.int32([2, 0, 1])
  learner = learner._replace(model_state=learner.model_state._replace(slots=slots))
  p = leaves(learner.params)
  for task, slot in enumerate((2, 0, 1)):
    x = three.dataset.test.x[np.asarray(three.test[task])]
    want = columns_by_hand(p, x, slot, ("hidden_0", "hidden_1", "head"), np.tanh)[0]
    np.testing.assert_allclose(answers(bench, learner, task), want, rtol=1e-4, atol=1e-5)
  first = jax.tree.map(lambda a: a[0], learner.params["columns"])  # column 1 is the plain network
  x = jnp.asarray(three.dataset.test.x[np.asarray(three.test[1])])
  plain = DEEP.apply(first, {}, x, train=False, key=None)[0].logits
  np.testing.assert_allclose(answers(bench, learner, 1), plain, rtol=1e-5, atol=1e-6)
  out = bench.parts.method.model.apply(learner.params, learner.model_state, x, train=False, key=None, task=jnp.int32(0))
  inputs = columns_by_hand(p, x, 2, ("hidden_0", "hidden_1", "head"), np.tanh)[1][2]
  np.testing.assert_allclose(out[0].features, inputs[2], rtol=1e-4, atol=1e-5)
  columns = leaves(learner.params)["columns/hidden_0/kernel"]
  assert np.abs(columns[0] - columns[1]).max() > 0.01  # each is drawn by itself
  assert (p["lateral/head/scale"] >= 0).all()
  assert 0.9 < p["lateral/head/scale"].max() <= 1.5
  for name, n in (("hidden_1", 7), ("head", 5)):
    assert np.ptp(p[f"lateral/{name}/scale"]) > 0.5
    for part in ("project", "out"):  # of U(-1, 1) / sqrt(n), n what the layer reads
      ends = p[f"lateral/{name}/{part}"].min(), p[f"lateral/{name}/{part}"].max()
      np.testing.assert_allclose(ends, (-(n**-0.5), n**-0.5), rtol=0.1)
      assert np.abs(ends).max() <= n**-0.5


def test_pnn_s_step_by_hand(three):
  """The second column's weights, U, V and alpha learn; the first column stands and feeds it."""
  bench = Bench("pnn", three, MODEL, {"scale": 1.0})
  learner = learn(bench, bench.start(), 2, (), steps=2)
  learner = bench.boundary("start_task", learner, 0, (2,))
  for k in range(2):
    p, (x, y) = leaves(learner.params), batch_of(bench, 0, k)
    z, every = columns_by_hand(p, x, 1, ("hidden_0", "head"), lambda v: np.maximum(v, 0))
    z = np.where(three.classes_of_task[0], z, -np.inf)
    d = np.exp(z - np.logaddexp.reduce(z, -1, keepdims=True))
    d[np.arange(len(y)), y] -= 1
    d, flat, h, old = d / len(y), every[1][0], every[1][1], every[0][1]
    alpha, v = p["lateral/head/scale"][1, 0], p["lateral/head/project"][1, 0].copy()
    mixed = alpha * old @ v
    back = (d @ p["lateral/head/out"][1].T) * (mixed > 0)
    inside = (d @ p["columns/head/kernel"][1].T) * (h > 0)
    assert np.abs(back).max() > 0
    steps = {
      "columns/head/kernel": h.T @ d, "columns/head/bias": d.sum(0), "columns/hidden_0/kernel": flat.T @ inside,
      "columns/hidden_0/bias": inside.sum(0), "lateral/head/out": np.maximum(mixed, 0).T @ d,
    }  # fmt: skip
    for n, g in steps.items():
      p[n][1] -= RATE * g
    p["lateral/head/project"][1, 0] -= RATE * alpha * old.T @ back
    p["lateral/head/scale"][1, 0] -= RATE * np.sum(back * (old @ v))
    learner = bench.step(learner, *bench.arguments(0, k, met=(2,)))[0]
    near(learner.params, p, 1e-5)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_old_answers_of_pnn_stay_to_the_bit(optimizer, three):
  """Under momentum and weight decay, over later tasks and returns, with laterals that later columns use."""
  bench, learner = old_answers_stay("pnn", three, MODEL, {"scale": 1.0}, optimizer, (1, 0, 1, 2, 0))
  if optimizer == "adamw":
    return
  before, back = leaves(learner.params), leaves(learn(bench, learner, 1, (1, 0, 2), steps=2).params)
  changed = {n for n in before if (before[n] != back[n]).any()}
  assert changed >= {"columns/head/kernel", "columns/head/bias"}
  assert all("/head/" in n for n in changed)  # of a task that comes back the output layer alone
  was = answers(bench, learner, 2)
  kernel = learner.params["columns"]["hidden_0"]["kernel"].at[0].mul(2)
  columns = {**learner.params["columns"], "hidden_0": {**learner.params["columns"]["hidden_0"], "kernel": kernel}}
  other = learner._replace(params={**learner.params, "columns": columns})
  assert np.abs(answers(bench, other, 2) - was).max() > 1e-4  # the third column reads the first


def test_columns_of_scale_0_are_independent(three):
  bench = Bench("pnn", three, MODEL, {"scale": 0.0})
  learner = learn(bench, learn(bench, bench.start(), 0, (), steps=2), 1, (0,), steps=3)
  assert not np.asarray(learner.params["lateral"]["head"]["scale"]).any()
  x = jnp.asarray(three.dataset.test.x[np.asarray(three.test[1])])
  own = jax.tree.map(lambda a: a[1], learner.params["columns"])
  plain = MODEL.apply(own, {}, x, train=False, key=None)[0].logits
  np.testing.assert_allclose(answers(bench, learner, 1), plain, rtol=1e-5, atol=1e-6)


def test_what_networks_pnn_takes(three, task_stream):
  for model in (models.cnn((4, 4, 1), 6, widths=(3,)), MODEL._replace(capture=None)):
    with pytest.raises(UsageError, match="'pnn' needs a network of dense layers that keeps no state"):
      Bench("pnn", three, model)
  with pytest.raises(UsageError, match="'pnn' needs a network of dense layers that keeps no state"):
    Bench("pnn", task_stream, normed())
