"""Adversarial training as an objective: its loss and scores against NumPy's attack, and a run."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from objective_laws import batch, check_absent, scored, value_and_slope

import cljax
from cljax import models, objectives, streams
from cljax.core.types import Spec, UsageError

RNG = np.random.default_rng(6)
B, D, C = 6, 4, 3
X = RNG.integers(0, 17, (B, D)).astype(np.uint8)
Y = RNG.integers(0, C, B).astype(np.int32)
W = RNG.normal(size=(D, C)).astype(np.float32)
WEIGHT = np.float32([1, 1, 0, 2, 1, 1])
SCALE = 1 / 16
VALUES = {"objective.radius": 0.2, "objective.low": 0.0, "objective.high": 1.0}


def made(scale=SCALE, **given):
  spec = Spec(C, 1, (D,), np.uint8, B, B, B, B, np.ones((1, C), bool), scale=scale)
  return objectives.adversarial(**given)(None, spec, VALUES if "radius" not in given else {})


def model(params, x, key):
  del key
  return (x.astype(jnp.float32) * SCALE) @ params  # as the engine's models eat stored rows


def by_hand(weights, radius, steps, mask=None, y=Y):
  """The worst inputs in [0, 1], by steps of the sign; float64."""
  x, w = X * SCALE, weights.astype(np.float64)
  z = x.copy()
  for _ in range(steps):
    logits = np.where(np.ones((B, C), bool) if mask is None else mask, z @ w, -np.inf)
    p = np.exp(logits - logits.max(-1, keepdims=True))
    up = np.sign((p / p.sum(-1, keepdims=True) - np.eye(C)[y]) @ w.T)
    z = np.clip(np.clip(z + 2.5 * radius / steps * up, x - radius, x + radius), 0, 1)
  return z


def log_p(logits):
  m = logits.max(-1, keepdims=True)
  return logits - m - np.log(np.exp(logits - m).sum(-1, keepdims=True))


@pytest.mark.parametrize(("attack", "steps"), [("pgd", 5), ("fgsm", 5)])
def test_the_loss_is_that_of_the_worst_inputs(attack, steps):
  one = made(attack=attack, steps=steps)
  value, slope = value_and_slope(one, model)(jnp.asarray(W), batch(X, Y, WEIGHT))
  z = by_hand(W, 0.2, steps) if attack == "pgd" else np.clip(
    X * SCALE + 0.2 * np.sign((np.exp(log_p(X * SCALE @ W)) - np.eye(C)[Y]) @ W.T), 0, 1
  )  # fmt: skip
  each = -log_p(z @ W)[np.arange(B), Y]
  np.testing.assert_allclose(value, (WEIGHT * each).sum() / WEIGHT.sum(), rtol=1e-5)
  # Danskin: the gradient is that at the fixed worst inputs.
  p = WEIGHT[:, None] / WEIGHT.sum() * (np.exp(log_p(z @ W)) - np.eye(C)[Y])
  np.testing.assert_allclose(slope, z.T @ p, rtol=1e-4, atol=1e-6)


def test_scores_are_of_the_rows_and_of_the_worst_inputs_among_the_open_classes():
  """Of labels that are right but for one row."""
  one, mask = made(test_steps=7, radius=0.5), np.asarray([[True] * C] * 3 + [[True, True, False]] * 3)
  y = np.where(mask, X * SCALE @ W, -np.inf).argmax(-1).astype(np.int32)
  y[0] = (y[0] + 1) % C
  given = batch(X, y, WEIGHT)._replace(class_mask=jnp.asarray(mask))
  found, there = scored(one, model)(jnp.asarray(W), given), WEIGHT > 0
  right = lambda z: (np.where(mask, z @ W, -np.inf).argmax(-1) == y)[there].sum()
  np.testing.assert_array_equal(found["accuracy"], [4, 5])
  np.testing.assert_array_equal(found["robust_accuracy"], [right(by_hand(W, 0.5, 7, mask, y)), 5])
  assert 0 < found["robust_accuracy"][0] < 4


def test_a_radius_of_0_is_classification():
  spec = Spec(C, 1, (D,), np.uint8, B, B, B, B, np.ones((1, C), bool), scale=SCALE)
  one = objectives.adversarial(radius=0.0)(None, spec, {})
  given, params = batch(X, Y, WEIGHT), jnp.asarray(W)
  plain = value_and_slope(objectives.classification()(None, spec, {}), model)(params, given)
  for a, b in zip(value_and_slope(one, model)(params, given), plain, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-6)


def test_absent_rows_are_as_if_absent_under_attack():
  given = batch(X.astype(np.float32), Y, np.float32([1, 2, 1, 1, 0, 0]))
  check = lambda params, x, key: jnp.where(jnp.isnan(x), 0.0, x) @ params  # the engine sets absent rows to 0
  check_absent(made(scale=1.0, steps=2, test_steps=2), check, jnp.asarray(W), given, 4)


def test_inputs_that_can_not_be_moved_are_refused():
  one = made(scale=None)
  with pytest.raises(UsageError, match="'adversarial' moves inputs, which are uint8; expected real numbers"):
    value_and_slope(one, model)(jnp.asarray(W), batch(X, Y))
  with pytest.raises(UsageError, match="'adversarial' moves inputs, which are a dict; expected real numbers"):
    value_and_slope(one, lambda p, x, key: model(p, x["x"], key))(jnp.asarray(W), batch({"x": X}, Y))


def test_training_on_worst_inputs_is_more_robust_and_a_run_scores_it():
  """On digits; the robust score of the run is the accuracy under NumPy's own attack on its parameters."""
  stream = streams.build(cljax.data.load("digits"), "class", tasks=1, validation=0.0)
  options = {"radius": 0.15, "steps": 3, "test_steps": 4}
  given = {"training": cljax.Recipe(batch_size=64, epochs=4), "optimizer_options": {"learning_rate": 0.1}}
  linear = models.mlp((8, 8, 1), 10, hidden=(32,))
  found = {}
  for steps in (0, 3):
    result = cljax.run(stream, linear, objective="adversarial", objective_options={**options, "steps": steps}, **given)
    assert list(result.scores) == ["accuracy", "robust_accuracy"]
    found[steps] = result.scores["robust_accuracy"][0, -1, 0]
    params, test = jax.tree.map(lambda a: np.asarray(a[0], np.float64), result.learner.params), stream.dataset.test
    (first, second), x = [params[k] for k in sorted(params, reverse=True)], test.x.reshape(len(test.y), -1) / 16.0
    z, hot = x.copy(), np.eye(10)[test.y]
    for _ in range(4):
      a = z @ first["kernel"] + first["bias"]
      p = np.exp(log_p(np.maximum(a, 0) @ second["kernel"] + second["bias"]))
      up = np.sign(((p - hot) @ second["kernel"].T * (a > 0)) @ first["kernel"].T)
      z = np.clip(np.clip(z + 2.5 * 0.15 / 4 * up, x - 0.15, x + 0.15), 0, 1)
    logits = np.maximum(z @ first["kernel"] + first["bias"], 0) @ second["kernel"] + second["bias"]
    np.testing.assert_allclose(found[steps], (logits.argmax(-1) == test.y).mean(), atol=0.006)
  assert found[3] > found[0] + 0.05
