"""Forgetting on a model of one's own, without Learner or engine."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from bench import Bench, assert_near

import cljax
from cljax import unlearning

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 5)).astype(np.float32)
Y = (RNG.integers(0, 3, 40)).astype(np.int32)
PARAMS = {"w": jnp.asarray(RNG.normal(size=(5, 3)), jnp.float32), "b": jnp.zeros(3)}
FORGET, RETAIN = {"x": X[:8], "y": Y[:8], "id": np.arange(8)}, (X[8:], Y[8:])


def loss_fn(params, batch):
  return optax.softmax_cross_entropy_with_integer_labels(batch.x @ params["w"] + params["b"], batch.y)


def test_ssd_on_a_foreign_model_against_numpy():
  after = unlearning.ssd(loss_fn, PARAMS, forget=FORGET, retain=RETAIN, alpha=1.1, dampening=0.8, batch=7)
  logits = X @ np.asarray(PARAMS["w"])
  p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
  delta = p - np.eye(3)[Y]
  squares = {"w": (X[:, :, None] * delta[:, None]) ** 2, "b": delta**2}
  for name, each in squares.items():
    f, d, old = each[:8].mean(0), each.mean(0), np.asarray(PARAMS[name])
    want = np.where(f > 1.1 * d, old * np.minimum(0.8 * d / f, 1), old)
    assert (want != old).any() or name == "b"
    np.testing.assert_allclose(after[name], want, rtol=2e-5, atol=1e-7)


def test_a_stored_importance_needs_no_retain_data():
  full = unlearning.squared_gradients(loss_fn, PARAMS, (X, Y))
  stored = unlearning.ssd(loss_fn, PARAMS, forget=FORGET, full_importance=full, alpha=1.1)
  assert_near(stored, unlearning.ssd(loss_fn, PARAMS, forget=FORGET, retain=RETAIN, alpha=1.1), 1e-6)


def test_the_registry_and_the_pure_call_agree(class_stream, small_model):
  bench = Bench("ssd", class_stream, small_model, {"alpha": 1.2, "search": 0})
  learner = bench.train(4, (0,))
  after, (gone, held) = bench.forget_class(learner)
  split = class_stream.dataset.train

  def loss(params, batch):
    out, _ = small_model.apply(params, learner.model_state, batch.x, train=False, key=None, task=None, mask=None)
    return optax.softmax_cross_entropy_with_integer_labels(out.logits, batch.y)

  rows = lambda at: (split.x[at], split.y[at])
  call = jax.jit(lambda p: unlearning.ssd(loss, p, forget=rows(gone), retain=rows(held), alpha=1.2))
  assert_near(call(learner.params), after.params, 1e-5)


@pytest.mark.parametrize("call", [unlearning.graddiff, unlearning.geometric_disentanglement])
def test_a_foreign_model_forgets_and_keeps(call):
  options = {"forget": FORGET, "retain": RETAIN, "steps": 40, "forget_weight": 0.3}
  after = jax.jit(lambda p: call(loss_fn, p, **options))(PARAMS)
  mean = lambda p, x, y: float(loss_fn(p, cljax.Batch(x, y, None, None, None)).mean())
  assert mean(after, X[:8], Y[:8]) > mean(PARAMS, X[:8], Y[:8])
  assert mean(after, X[8:], Y[8:]) < mean(PARAMS, X[8:], Y[8:])


@pytest.mark.parametrize(
  ("forget", "text"),
  [
    ([1, 2], "forget: got list; expected"),
    ({"x": X}, "forget: got only x; expected x and y"),
    ({"x": X, "y": Y, "rows": Y}, "forget: got an unknown key 'rows'"),
    ((X, Y[:3]), "forget: y: has 3 rows; x has 40"),
  ],
)
def test_rows_are_checked_at_the_edge(forget, text):
  with pytest.raises(cljax.UsageError, match=text):
    unlearning.graddiff(loss_fn, PARAMS, forget=forget, retain=RETAIN)
