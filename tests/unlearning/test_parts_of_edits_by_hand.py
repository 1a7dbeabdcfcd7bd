"""The parts of edits, and edits that are one closed form, against NumPy, scikit-learn and plain Python."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.ensemble import IsolationForest

import cljax
from cljax import losses, unlearning

RNG = np.random.default_rng(7)


def mixed(i: int) -> int:
  """A 32-bit mixing hash, on Python's integers."""
  i = ((i ^ (i >> 16)) * 0x7FEB352D) & 0xFFFFFFFF
  i = ((i ^ (i >> 15)) * 0x846CA68B) & 0xFFFFFFFF
  return i ^ (i >> 16)


def test_shards_by_the_hash_and_what_they_cost():
  ids = np.r_[np.arange(40), 10**6, 2**31 - 1].astype(np.int32)
  want = np.array([mixed(int(i)) % 5 for i in ids])
  np.testing.assert_array_equal(unlearning.shard_of(ids, 5), want)
  np.testing.assert_array_equal(unlearning.shard_of(jnp.asarray(ids), 5), want)
  gone = np.isin(ids, [3, 17])
  touched = [i for i in range(42) if not gone[i] and want[i] in set(want[gone])]
  assert len(set(want[gone])) == 2
  assert unlearning.sisa_cost(ids, gone, 5) == pytest.approx(len(touched) / 40)
  assert unlearning.sisa_cost(ids, np.ones(42, bool), 5) == 0


def test_squared_gradients_are_a_weighted_mean_of_squares():
  x, y = RNG.normal(size=(7, 3)), RNG.integers(0, 4, 7)
  w, weight = RNG.normal(size=(3, 4)), np.array([1, 0.5, 0, 2, 1, 1, 3.0])
  loss_fn = lambda p, b: losses.cross_entropy(b.x @ p["w"], b.y)
  given = {"x": np.float32(x), "y": y.astype(np.int32), "weight": np.float32(weight)}
  got = jax.jit(lambda p: unlearning.squared_gradients(loss_fn, p, given, batch=3))({"w": jnp.asarray(w, jnp.float32)})
  p = np.exp(x @ w) / np.exp(x @ w).sum(1, keepdims=True)
  each = (x[:, :, None] * (p - np.eye(4)[y])[:, None]) ** 2
  np.testing.assert_allclose(got["w"], np.einsum("n,nij->ij", weight, each) / weight.sum(), rtol=1e-4)


def test_dampening_by_hand():
  """Selected strictly above alpha, never made larger; 0 where the whole set does not need a weight."""
  p, f = np.array([1.0, -2, 3, 4, 5, -6]), np.array([3.0, 2, 8, 1, 2, 0])
  d = np.array([1.0, 1, 1, 1, 0, 0])
  call = lambda alpha, dampening: unlearning.dampen(*map(jnp.asarray, (p, f, d)), alpha=alpha, dampening=dampening)
  np.testing.assert_allclose(call(2.0, 0.9), [0.9 / 3, -2, 3 * 0.9 / 8, 4, 0, -6], rtol=1e-6)
  np.testing.assert_allclose(call(1.0, 4.0), [1, -2, 3 * 4 / 8, 4, 0, -6], rtol=1e-6)


def test_a_datamodel_is_the_ridge_regression_of_outputs_on_rows():
  """``(A'A + ridge I)^-1 A'Z`` of centred columns: by least squares on stacked rows."""
  included, outputs = RNG.integers(0, 2, (9, 5)).astype(float), RNG.normal(size=(9, 2, 3))
  gone = np.array([True, False, True, False, False])
  a, z = included - included.mean(0), (outputs - outputs.mean(0)).reshape(9, 6)
  tau = np.linalg.lstsq(np.r_[a, np.sqrt(0.7) * np.eye(5)], np.r_[z, np.zeros((5, 6))], rcond=None)[0]
  got = unlearning.datamodel_effect(*(jnp.asarray(v, jnp.float32) for v in (outputs, included)), jnp.asarray(gone), 0.7)
  np.testing.assert_allclose(got, tau[gone].sum(0).reshape(2, 3), rtol=1e-3, atol=1e-5)


def test_statistics_of_features_are_sums_by_class():
  x, y = RNG.normal(size=(11, 2, 3)), RNG.integers(0, 3, 11)
  weight = np.array([1.0, 0, 1, 1, 1, 0, 1, 1, 1, 1, 1])
  bad = np.float32(x)
  bad[1] = np.nan  # of weight 0
  apply_fn = lambda p, b: cljax.Outputs(b.x[:, 0], p["s"] * b.x)
  rows = {"x": bad, "y": y.astype(np.int32), "weight": np.float32(weight)}
  call = jax.jit(lambda p: unlearning.feature_statistics(apply_fn, p, rows, 4, batch=4))
  got = call({"s": jnp.float32(2.0)})
  h = 2 * x.reshape(11, 6)
  for c in range(4):
    mine = h[(y == c) & (weight > 0)]
    assert got.count[c] == len(mine)
    np.testing.assert_allclose(got.total[c], mine.sum(0), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(got.outer[c], mine.T @ mine, rtol=1e-5, atol=1e-5)
  with pytest.raises(cljax.UsageError, match="need the features"):
    unlearning.feature_statistics(lambda p, b: b.x[:, 0], {}, rows, 4)


def test_modhifi_by_the_definition_of_fidelity():
  """In each layer the same share of its units goes; a kernel of patches has its units on the last axis but one."""
  x, forget = RNG.normal(size=(9, 5)), {"y": np.zeros(9, np.int32)}
  params = {"a": RNG.normal(size=(5, 3)), "conv": RNG.normal(size=(2, 5, 3)), "other": RNG.normal(size=(5, 3))}
  patches = lambda v: jnp.concatenate([v, jnp.roll(v, 1, 1) ** 2, v**2, jnp.ones_like(v)], 1).reshape(-1, 10)
  read = lambda p, b: {"a": b.x, "conv": patches(b.x)}
  as_jax = jax.tree.map(lambda v: jnp.asarray(v, jnp.float32), params)
  forget["x"], forget["weight"] = np.float32(x), np.array([1, 1, 0, 1, 1, 1, 1, 1, 1], np.float32)
  got = jax.jit(lambda p: unlearning.modhifi_u(read, p, forget=forget, share=0.4, batch=4))(as_jax)
  kept = x[forget["weight"] > 0]
  for name, inputs in (("a", kept), ("conv", np.asarray(patches(jnp.asarray(kept))))):
    parts = inputs.reshape(len(inputs), -1, 5), params[name].reshape(-1, 5, 3)
    each = np.einsum("nsu,suo->uno", *parts)  # what each unit adds
    whole = each.sum(0)
    score = [(v * whole).sum() ** 2 / (v**2).sum() / (whole**2).sum() for v in each]
    want = params[name].copy()
    want[..., np.argsort(score)[-2:], :] = 0
    np.testing.assert_allclose(got[name], want, rtol=1e-6)
  np.testing.assert_array_equal(got["other"], as_jax["other"])
  only = unlearning.modhifi_u(read, as_jax, forget=forget, share=0.4, kernels="conv", batch=4)
  np.testing.assert_array_equal(only["a"], as_jax["a"])
  np.testing.assert_array_equal(only["conv"], got["conv"])


def test_a_silent_unit_has_no_fidelity():
  sums = jnp.array([3.0, 0, -2]), jnp.array([4.0, 0, 1]), jnp.float32(5.0)
  np.testing.assert_allclose(unlearning.fidelity(sums), [9 / 20, 0, 4 / 5], rtol=1e-6)
  np.testing.assert_array_equal(unlearning.fidelity((jnp.zeros(2), jnp.ones(2), jnp.float32(0.0))), 0)


def expected_length(members: tuple[float, ...], value: float, levels: int) -> float:
  """The mean length of the path of ``value`` over all uniform splits of ``members``, which are sorted."""
  n = len(members)
  if not levels or n < 2:
    return 2 * (np.log(n - 1) + np.euler_gamma) - 2 * (n - 1) / n if n > 2 else float(n == 2)
  low, high = members[0], members[-1]
  ends = sorted({*members, min(max(value, low), high)})
  out = 1.0
  for a, b in itertools.pairwise(ends):  # a split between them
    side = tuple(m for m in members if (m >= b) == (value >= b))
    out += (b - a) / (high - low) * expected_length(side, value, levels - 1)
  return out


@pytest.mark.parametrize(("size", "levels"), [(6, 3), (3, 2), (2, 1)])
def test_path_lengths_in_expectation(size, levels):
  """Of rows on a line, a constant feature and a row of weight 0 beside them, over all samples of ``size`` rows.

  In 3000 trees, of which the lengths differ by about 1: 0.06 are three to five sigma.
  """
  points = (0.0, 1.0, 2.0, 4.0, 5.0, 60.0)
  want = [np.mean([expected_length(some, v, levels) for some in itertools.combinations(points, size)]) for v in points]
  order = np.array([3, 0, 5, 1, 2, 4])
  x = np.stack([np.insert(np.array(points)[order], 2, 300.0), np.full(7, 3.0)], 1).astype(np.float32)
  weight = np.insert(np.ones(6, np.float32), 2, 0.0)
  got = unlearning.path_lengths(x, weight, jax.random.key(1), trees=3000, subsample=size)
  np.testing.assert_allclose(np.delete(np.asarray(got), 2), np.array(want)[order], atol=0.06)
  assert np.ptp(want) > 0.5 or size == 2  # of pairs, all paths are one split long


def test_the_core_is_that_of_scikit_learns_forest():
  """Where outliers are plain: both leave the same rows out. The features are those of the model."""
  x = np.r_[RNG.normal(size=(27, 3)), 30 * np.eye(3)].astype(np.float32)
  order = RNG.permutation(30)
  x = x[order]
  inlier = IsolationForest(random_state=42, contamination=0.1).fit_predict(x) > 0
  assert inlier.sum() == 27
  np.testing.assert_array_equal(unlearning.inliers(x, np.ones(30), 0.1), inlier)
  apply_fn = lambda p, b: cljax.Outputs(b.x[:, :2], b.x.reshape(-1, 1, 3) * p["s"])
  weight = np.ones(30, np.float32)
  weight[order == 4] = 0  # a plain row that is not there
  rows = {"x": x, "y": np.zeros(30, np.int32), "weight": weight, "id": np.arange(30)}
  run = lambda p, c: unlearning.core_rows(apply_fn, p, rows, contamination=c, batch=7).batch(0, 32)
  core = jax.jit(run)({"s": jnp.float32(2.0)}, 0.1)
  kept = np.asarray(core.id)[np.asarray(core.weight) > 0]
  np.testing.assert_array_equal(np.sort(kept), np.flatnonzero(inlier & (weight > 0)))
  with pytest.raises(cljax.UsageError, match="needs the features"):
    unlearning.core_rows(lambda p, b: b.x, {}, rows)


def test_upcore_hands_its_seed_to_the_forest(monkeypatch):
  """Where outliers are not plain, the seed decides which rows are the core."""
  from cljax.unlearning import coreset

  seen = []

  def spied(*args, **options):
    seen.append(options["random_state"])
    return original(*args, **options)

  original = coreset.core_rows
  monkeypatch.setattr(coreset, "core_rows", spied)
  apply_fn = lambda p, b: cljax.Outputs(b.x @ p["w"], b.x)
  x, y = RNG.normal(size=(20, 3)).astype(np.float32), np.zeros(20, np.int32)
  given = {"forget": (x, y), "retain": (x, y), "steps": 1, "batch": 4, "random_state": 7}
  unlearning.upcore(apply_fn, {"w": jnp.zeros((3, 2))}, **given)
  assert seen == [7]
