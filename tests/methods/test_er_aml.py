"""ER-AML against NumPy in float64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from bench import Bench
from by_hand import cross_entropy, forward

from cljax.methods.replay import er_aml

T = 0.2


def unit(f):
  return f / np.linalg.norm(f, axis=-1, keepdims=True)


def contrast(a, c, y, yc, valid):
  """Row by row: each valid anchor against the positives and negatives of all valid ones."""
  there = np.r_[valid, valid]
  each = []
  for i in np.flatnonzero(valid):
    z = c[there] @ a[i] / T
    log_p = z - np.logaddexp.reduce(z)
    each.append(-log_p[yc[there] == y[i]].mean())
  return T / 0.07 * np.mean(each)


def test_asymmetric_contrast_row_by_row():
  rng = np.random.default_rng(0)
  a, c = unit(rng.normal(size=(6, 4))), unit(rng.normal(size=(12, 4)))
  y = np.array([0, 1, 2, 0, 1, 2])
  yc, valid = np.r_[y, (y + 1) % 3], np.array([1, 1, 0, 1, 0, 1], bool)
  got = er_aml.asymmetric_contrast(*(jnp.asarray(v) for v in (a, c, y, yc, valid)), T)
  np.testing.assert_allclose(got, contrast(a, c, y, yc, valid), rtol=1e-5)
  assert er_aml.asymmetric_contrast(jnp.asarray(a), jnp.asarray(c), y, yc, np.zeros(6, bool), T) == 0
  # Of a row that is not valid nothing goes anywhere.
  slope = jax.grad(lambda a: er_aml.asymmetric_contrast(a, jnp.asarray(c), y, yc, valid, T))(jnp.asarray(a))
  assert (np.abs(slope).max(1) > 0).tolist() == valid.tolist()


def test_pairs_are_drawn_from_the_memory_and_the_batch():
  """Positives of the label but not the row itself; negatives of labels that the batch has; both uniform."""
  y, weight = jnp.array([0, 1, 1, 2, 0]), jnp.array([1.0, 1, 1, 1, 0])
  stored_y, stored = jnp.array([0, 0, 1, 3, 2]), jnp.array([1.0, 1, 1, 1, 0])
  draw = jax.vmap(lambda key: er_aml.pairs(key, y, weight, stored_y, stored, 5))
  positive, negative, valid = (np.asarray(v) for v in draw(jax.random.split(jax.random.key(0), 3000)))
  assert (valid == [True, True, True, False, False]).all()  # row 3 has no positive, row 4 is absent
  allowed = [({0, 1}, {2, 6, 7, 8}), ({2, 7}, {0, 1, 5, 8}), ({2, 6}, {0, 1, 5, 8})]
  for i, (ours, theirs) in enumerate(allowed):
    for got, want in ((positive[:, i], ours), (negative[:, i], theirs)):
      values, counts = np.unique(got, return_counts=True)
      assert set(values.tolist()) == want
      np.testing.assert_allclose(counts / 3000, 1 / len(want), atol=0.05)


def test_er_aml_s_loss_is_the_contrast_and_the_memory_s_cross_entropy(class_stream, small_model, monkeypatch):
  """The first step is plain cross-entropy; then ``SupCon + beta CE``, with pairs that are told, not drawn."""
  found = np.array([0, 9, 3, 11, 1, 2, 14, 8]), np.array([8, 1, 10, 0, 15, 9, 4, 3])
  valid = np.array([1, 1, 0, 1, 1, 1, 1, 1], bool)
  told = lambda *_: (*(jnp.asarray(a, jnp.int32) for a in found), jnp.asarray(valid))
  monkeypatch.setattr(er_aml, "pairs", told)
  hyper = {"capacity": 8, "replay_batch": 8, "beta": 0.6, "temperature": T}
  bench = Bench("er_aml", class_stream, small_model, hyper)
  start, split = bench.start(), class_stream.dataset.train
  one, _, first = bench.step(start, *bench.arguments(0, 0))
  index = np.asarray(bench.rows(0, 0)[0])
  loss_of = lambda l, rows: cross_entropy(forward(l.params, split.x[rows])[1], split.y[rows]).mean()
  np.testing.assert_allclose(float(first), loss_of(start, index), rtol=1e-5)
  two, _, loss = bench.step(one, *bench.arguments(1, 0))
  stored = np.asarray(two.method_state.memory.rows["id"])  # eight rows in eight slots
  assert sorted(stored) == sorted(index)
  own = np.asarray(bench.rows(1, 0)[0])
  others = np.r_[stored, own][np.r_[found[0], found[1]]]
  features = lambda rows: unit(forward(one.params, split.x[rows])[0])
  want = contrast(features(own), features(others), split.y[own], split.y[others], valid) + 0.6 * loss_of(one, stored)
  np.testing.assert_allclose(float(loss), want, rtol=1e-4)


def test_new_rows_move_no_logits(class_stream, small_model):
  """Without replay (beta 0) the head stands still from the second step on, while features move."""
  bench = Bench("er_aml", class_stream, small_model, {"capacity": 20, "beta": 0.0})
  one = bench.steps(bench.start(), 0, 1)
  two = bench.steps(one, 0, 2)
  for leaf in ("kernel", "bias"):
    np.testing.assert_array_equal(two.params["head"][leaf], one.params["head"][leaf])
  assert np.abs(np.asarray(two.params["hidden_0"]["kernel"] - one.params["hidden_0"]["kernel"])).max() > 1e-3
