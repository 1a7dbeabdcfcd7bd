"""Independent labels: losses, scores, draws, information and divergence against float64 NumPy, and a run."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from objective_laws import batch, check_absent, run, scored, spoiled, stream_of

from cljax import models, objectives
from cljax.core.types import UsageError
from cljax.objectives import objective

B, C = 5, 3
RNG = np.random.default_rng(8)
Z, T = RNG.normal(size=(2, B, C)).astype(np.float32) * 2
Y = RNG.integers(2, size=(B, C)).astype(np.int32)
WEIGHT = np.float64([1, 2, 1, 0, 1])
sigmoid = lambda z: 1 / (1 + np.exp(-np.asarray(z, np.float64)))


def close(a, b, rtol=1e-5, atol=1e-6):
  np.testing.assert_allclose(np.asarray(a, np.float64), b, rtol=rtol, atol=atol)


def one():
  return objectives.multi_label()(None, None, {})


def test_multi_label_by_hand():
  p, q = sigmoid(Z), sigmoid(T / 3)
  rows = -(Y * np.log(p) + (1 - Y) * np.log(1 - p)).sum(-1)
  given, there = batch(Z, Y, WEIGHT), WEIGHT > 0
  each, inside = one().each(jnp.asarray(Z), given)
  close(np.asarray(each)[there], rows[there])
  assert inside is None
  close(objective.reduced(each, inside, given), (WEIGHT * rows).sum() / WEIGHT.sum())
  right = (p > 0.5) == Y
  scores = scored(one(), lambda params, x, key: x)(None, given)
  close(scores["accuracy"], [right[there].sum(), C * there.sum()])
  close(scores["exact_match"], [right.all(-1)[there].sum(), there.sum()])
  close(scores["cross_entropy"], [rows[there].sum(), there.sum()])
  assert [s.better for s in one().scores.values()] == ["higher", "higher", "lower"]
  # The information is the variance of the label, by the score's own second moment.
  factor = np.asarray(one().factor(jnp.asarray(Z), given), np.float64)
  second = [[np.diag(p[i] * (1 - p[i]) ** 2 + (1 - p[i]) * p[i] ** 2)] for i in range(B)]
  close(np.einsum("bij,bkj->bik", factor, factor), np.concatenate(second))
  own = sigmoid(Z / 3)
  kl = (q * np.log(q / own) + (1 - q) * np.log((1 - q) / (1 - own))).sum(-1)
  close(np.asarray(one().divergence(Z, T, given, 3.0))[there], kl[there])


def test_drawn_labels_follow_their_sigmoids():
  draw = jax.jit(jax.vmap(lambda k: one().sample(k, jnp.asarray(Z), batch(Z, Y)).y))
  drawn = np.asarray(draw(jax.random.split(jax.random.key(4), 4000)))
  assert drawn.dtype == np.int32
  assert set(np.unique(drawn)) == {0, 1}
  close(drawn.mean(0), sigmoid(Z), 0, 4.5 * np.sqrt(0.25 / 4000))


def test_absent_rows_of_labels_are_as_if_absent():
  params = jnp.asarray(RNG.normal(size=(C, C)).astype(np.float32))
  given = batch(Z, np.float32(Y), [1, 2, 1, 0, 0])
  model = lambda params, x, key: jnp.where(jnp.isnan(x), 0, x) @ params
  check_absent(one(), model, params, given, 3)
  slope = jax.grad(lambda z: objective.reduced(*one().each(z, spoiled(given)), given))(spoiled(given).x)
  assert (np.asarray(slope)[3:] == 0).all()
  assert np.isfinite(np.asarray(slope)).all()


def test_a_run_of_labels_learns_and_wrong_shapes_are_one_line():
  rng = np.random.default_rng(3)
  x, group = rng.normal(size=(32, 3)).astype(np.float32), np.repeat([0, 1], 16)
  y = (x @ rng.normal(size=(3, C)) > 0).astype(np.int32)
  stream = stream_of(x, y, group, 1.0, C)
  result = run(stream, models.mlp((3,), C, hidden=(8,)), "multi_label")
  z = np.asarray(result.predict(stream.dataset.test.x))
  for t, rows in enumerate(stream.test):
    close(result.scores["accuracy"][0, -1, t], ((z > 0) == stream.dataset.test.y)[rows].mean())
  assert (result.scores["cross_entropy"][0, -1] < result.scores["cross_entropy"][0, 0]).all()
  with pytest.raises(UsageError, match=r"y: a row has targets \(3,\); the model gives logits \(2,\)"):
    run(stream, models.mlp((3,), 2), "multi_label")
