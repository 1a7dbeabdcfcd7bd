"""Methods on tuned models: the base stands still, importance is of the factors, and requests edit these alone."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bench import Bench, assert_same
from by_hand import batch_of

from cljax.core import tree
from cljax.core.types import UsageError
from cljax.engine import recipe
from cljax.models import mlp, tuning


def network(kind="lora", **given):
  return tuning.TUNINGS[kind](mlp((4, 4, 1), 4, hidden=(8,)), **given)


@pytest.mark.parametrize(("kind", "method"), [("lora", "ewc"), ("ssf", "er"), ("adapter", "si"), ("bitfit", "gpm")])
def test_the_base_stands_still_to_the_bit(kind, method, class_stream):
  """Under momentum and weight decay, after two tasks and a return; what is tuned and the head move."""
  optimizer = recipe.make_optimizer("adamw", learning_rate=0.05, weight_decay=0.3)
  bench = Bench(method, class_stream, network(kind), optimizer=optimizer)
  start = bench.start()
  end = bench.train(tasks=(0, 1, 0))
  assert tree.digest(end.model_state["frozen"]) == tree.digest(start.model_state["frozen"])
  moved = jax.tree.map(lambda a, b: np.abs(np.asarray(a - b)).max() > 1e-4, end.params, start.params)
  assert all(jax.tree.leaves(moved["head"]))
  assert any(jax.tree.leaves(moved["hidden_0"]))


def test_ewc_on_factors_by_hand(class_stream):
  """The pull of a second task is ``strength F (theta - theta*)``, F the mean squared slope of A, B and the head."""
  hyper = {"strength": 3.0, "fisher": "empirical"}
  model = network(rank=2)
  bench, plain = (Bench(n, class_stream, model, h) for n, h in (("ewc", hyper), ("finetune", None)))
  learner = bench.steps(bench.boundary("start_task", bench.start(), 0), 0, 3)
  ended = bench.boundary("end_task", learner, 0)
  one = bench.step(ended, *bench.arguments(1, 0))[0]
  pulled = bench.step(one, *bench.arguments(1, 1))[0]
  bare = plain.start()._replace(params=one.params, model_state=one.model_state)
  free = plain.step(bare, *plain.arguments(1, 1))[0]

  split, rows = class_stream.dataset.train, np.asarray(class_stream.train[0])
  base = {n: np.asarray(v, np.float64) for n, v in learner.model_state["frozen"].items()}
  p = {n: np.asarray(v, np.float64) for n, v in tree.by_path(learner.params).items()}
  a, b = p["hidden_0/kernel/lora_a"], p["hidden_0/kernel/lora_b"]
  fisher = {n: np.zeros_like(v) for n, v in p.items()}
  for x, y in zip(split.x[rows].reshape(len(rows), -1).astype(np.float64), split.y[rows], strict=True):
    h = np.maximum(x @ (base["hidden_0/kernel"] + a @ b) + base["hidden_0/bias"], 0)
    z = h @ p["head/kernel"] + p["head/bias"]
    d = np.exp(z - z.max())
    d /= d.sum()
    d[y] -= 1
    back = (p["head/kernel"] @ d) * (h > 0)
    slope = {
      "head/bias": d, "head/kernel": np.outer(h, d),
      "hidden_0/kernel/lora_a": np.outer(x, b @ back), "hidden_0/kernel/lora_b": np.outer(x @ a, back),
    }  # fmt: skip
    for n, g in slope.items():
      fisher[n] += g**2 / len(rows)
  for n, now in tree.by_path(pulled.params).items():
    at, anchor = (np.asarray(tree.by_path(t.params)[n]) for t in (one, learner))
    pull = np.asarray(tree.by_path(free.params)[n]) - np.asarray(now)
    np.testing.assert_allclose(pull, 0.1 * 3.0 * fisher[n] * (at - anchor), rtol=2e-3, atol=2e-7, err_msg=n)
  assert np.abs(fisher["hidden_0/kernel/lora_a"]).max() > 1e-4


@pytest.mark.parametrize("method", ["ssd", "gs_lora"])
def test_requests_edit_what_is_tuned_alone(method, class_stream):
  bench = Bench(method, class_stream, network())
  learner = bench.train(tasks=(0,))
  after, _ = bench.forget_class(learner)
  assert_same(after.model_state, learner.model_state)
  assert tree.digest(after.params) != tree.digest(learner.params)


@pytest.mark.parametrize("method", ["gpm", "sgp", "adam_nscl", "owm", "ncl", "cuber", "trgp"])
def test_projections_of_layer_inputs_refuse_factors(method, class_stream):
  """Behind the first task they would hold the factors, without a word."""
  with pytest.raises(UsageError, match=r"method.skip: got 'auto', which leaves hidden_0/kernel/lora_a to"):
    Bench(method, class_stream, network())


def test_a_head_that_is_not_trained_is_told(class_stream):
  bench = Bench("streaming", class_stream, network(trained=""))
  with pytest.raises(UsageError, match=r"model: head/bias of its head is not among what is trained; name it in"):
    bench.forget_class(bench.start())


def test_answers_are_those_of_the_plain_network(class_stream):
  """What a run learned, folded into the network itself."""
  model, own = network(), mlp((4, 4, 1), 4, hidden=(8,))
  bench = Bench("er", class_stream, model)
  learner = bench.train()
  x = batch_of(bench, 0, 0)[0]
  params, state = model.plain(learner.params, learner.model_state)
  want = own.apply(params, state, jnp.asarray(x), train=False, key=None)[0].logits
  np.testing.assert_allclose(bench.parts.predict(learner, jnp.asarray(x), jnp.int32(0)), want, rtol=1e-5, atol=1e-5)
