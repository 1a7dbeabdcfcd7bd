"""Edits by units, oracles, class statistics, groups and cores, on models of one's own; against NumPy."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from bench import assert_near

import cljax
from cljax import unlearning
from cljax.unlearning.class_statistics import gaussians, without
from cljax.unlearning.matching import joined, random_subset

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 5)).astype(np.float32)
Y = np.argmax(X @ RNG.normal(size=(5, 3)) + 0.3 * RNG.normal(size=(40, 3)), 1).astype(np.int32)
IDS = np.arange(40, dtype=np.int32)
PARAMS = {
  "first": {"kernel": jnp.asarray(RNG.normal(size=(5, 6)), jnp.float32)},
  "head": {"kernel": jnp.asarray(RNG.normal(size=(6, 3)), jnp.float32)},
}


def rows(at, weight=1.0):
  return {"x": X[at], "y": Y[at], "id": IDS[at], "weight": np.full(len(X[at]), weight, np.float32)}


FORGET, NOTHING, RETAIN = rows(slice(8)), rows(slice(8), 0.0), rows(slice(8, 40))


def apply_fn(params, batch):
  hidden = jnp.tanh(batch.x @ params["first"]["kernel"])
  return cljax.Outputs(head_fn(params, hidden), hidden)


def head_fn(params, hidden):
  return hidden @ params["head"]["kernel"]


def both(x, y):
  return cljax.Batch(x, y, None, None, None)


def init_fn(key):
  draw = lambda i, shape: 0.5 * jax.random.normal(jax.random.fold_in(key, i), shape)
  return {"first": {"kernel": draw(0, (5, 6))}, "head": {"kernel": draw(1, (6, 3))}}


def same(a, b):
  return all((np.asarray(u) == np.asarray(v)).all() for u, v in zip(*map(jax.tree.leaves, (a, b)), strict=True))


def test_fidelity_is_one_minus_residual_over_energy():
  """Against least squares, for a dense kernel and for one of patches."""
  for kernel in (RNG.normal(size=(4, 3)), RNG.normal(size=(2, 2, 4, 3))):
    inputs, weight = RNG.normal(size=(30, kernel[..., 0].size)), RNG.random(30)
    sums = unlearning.fidelity_sums(*(jnp.asarray(a, jnp.float32) for a in (inputs, kernel, weight)))
    score = np.asarray(unlearning.fidelity(sums))
    each = np.einsum("nsu,suo->nuo", inputs.reshape(30, -1, 4), kernel.reshape(-1, 4, 3))
    y, root = each.sum(1), np.sqrt(weight)[:, None]
    for i in range(4):
      a, b = (root * each[:, i]).ravel(), (root * y).ravel()
      residual = b - a * (a @ b) / (a @ a)
      np.testing.assert_allclose(score[i], 1 - residual @ residual / (b @ b), rtol=1e-4)
    assert ((score >= 0) & (score <= 1)).all()


def test_modhifi_zeroes_the_units_of_highest_fidelity():
  inputs_fn = lambda params, batch: {"head/kernel": jnp.tanh(batch.x @ params["first"]["kernel"])}
  call = jax.jit(lambda share, forget: unlearning.modhifi_u(inputs_fn, PARAMS, forget=forget, share=share, batch=5))
  after = call(0.34, FORGET)
  hidden, kernel = np.tanh(X[:8] @ np.asarray(PARAMS["first"]["kernel"])), np.asarray(PARAMS["head"]["kernel"])
  score = np.asarray(
    unlearning.fidelity(unlearning.fidelity_sums(jnp.asarray(hidden), jnp.asarray(kernel), jnp.ones(8)))
  )
  want = kernel.copy()
  want[np.argsort(-score)[:2]] = 0
  np.testing.assert_array_equal(after["head"]["kernel"], want)
  np.testing.assert_array_equal(after["first"]["kernel"], PARAMS["first"]["kernel"])
  assert same(call(0.0, FORGET), PARAMS)
  assert same(call(0.34, NOTHING), PARAMS)
  with pytest.raises(cljax.UsageError, match="matches no layer"):
    unlearning.modhifi_u(inputs_fn, PARAMS, forget=FORGET, kernels="conv")


def test_a_datamodel_is_exact_for_additive_outputs():
  models, n = 30, 12
  included = (RNG.random((models, n)) < 0.5).astype(np.float32)
  effects = RNG.normal(size=(n, 4, 3)).astype(np.float32)
  outputs = 2.0 + np.einsum("mn,nqk->mqk", included, effects)
  gone = np.arange(n) < 5
  found = unlearning.datamodel_effect(*map(jnp.asarray, (outputs, included, gone)), 1e-5)
  np.testing.assert_allclose(found, effects[:5].sum(0), atol=2e-3)
  full = 2.0 + effects.sum(0)  # less what the rows add: the outputs of a model that never saw them
  np.testing.assert_allclose(full - found, 2.0 + effects[5:].sum(0), atol=2e-3)


@pytest.fixture(scope="module")
def match():
  def call(forget, retain, oracle_params):
    given = {"oracle_params": oracle_params, "optimizer": optax.sgd(0.02), "rows": 8, "steps": 300, "batch": 16}
    return unlearning.oracle_matching(apply_fn, PARAMS, forget=forget, retain=retain, **given)

  return jax.jit(call)


def test_oracle_matching_ends_at_the_oracles_mean(match):
  stack = lambda *trees: jax.tree.map(lambda *a: jnp.stack(a), *trees)
  assert_near(match(FORGET, RETAIN, stack(PARAMS, PARAMS)), PARAMS, 1e-5)  # the oracle is the model: no change
  near = lambda s: jax.tree.map(lambda p: p + s * jnp.sin(7 * p), PARAMS)
  oracles = stack(near(0.2), near(0.1))
  assert same(match(NOTHING, RETAIN, oracles), PARAMS)
  after = match(FORGET, RETAIN, oracles)
  z = lambda p: np.asarray(apply_fn(p, cljax.Batch(X, Y, None, None, None)).logits)
  centred = lambda z: z - z.mean(-1, keepdims=True)
  target = centred(z(near(0.2)) + z(near(0.1))) / 2
  distance = lambda p: np.square(centred(z(p)) - target).mean()
  assert distance(after) < 0.1 * distance(PARAMS)
  # Targets belong to rows, not to places.
  order = RNG.permutation(32)
  shuffled = match(FORGET, jax.tree.map(lambda a: a[order], RETAIN), oracles)
  assert distance(shuffled) < 0.1 * distance(PARAMS)


def test_oracles_never_see_a_forget_row_and_the_nets_of_a_datamodel_do():
  """Matching itself reads no labels: other labels of the forget rows reach the result through training alone."""
  other = {**FORGET, "y": (FORGET["y"] + 1) % 3}
  options = {"retain": RETAIN, "init_fn": init_fn, "oracle_learning_rate": 0.4, "steps": 60, "rows": 8, "batch": 16}

  def program(method, oracles, steps):
    given = {**options, "oracles": oracles, "oracle_steps": steps, "optimizer": optax.sgd(0.02)}
    return jax.jit(lambda forget, traced: method(apply_fn, PARAMS, forget=forget, **given, **traced))

  oracle, datamodel = program(unlearning.oracle_matching, 2, 3), program(unlearning.datamodel_matching, 40, 10)
  assert same(oracle(FORGET, {}), oracle(other, {}))
  after = datamodel(FORGET, {"inclusion": 0.5})
  assert not same(after, datamodel(other, {"inclusion": 0.5}))
  # What its nets say the rows add, labels above all, is taken away.
  own = lambda p: jax.nn.log_softmax(apply_fn(p, both(X[:8], Y[:8])).logits)[np.arange(8), Y[:8]].mean()
  assert own(after) < own(PARAMS) - 0.1
  assert same(datamodel(FORGET, {"inclusion": 0.0}), datamodel(other, {"inclusion": 0.0}))  # no net is trained
  with pytest.raises(cljax.UsageError, match="forget: rows are told apart by id"):
    unlearning.datamodel_matching(apply_fn, PARAMS, forget=(X, Y), retain=RETAIN, init_fn=init_fn)


def test_two_sets_are_joined_and_thinned_by_id():
  sides = [cljax.core.types.rows_from_arrays(r["x"], r["y"], ids=r["id"]) for r in (FORGET, RETAIN)]

  @jax.jit
  def read(key):
    both = joined(*sides)
    some, chosen = random_subset(key, both, 0.7)
    return both.batch(0, 48), some.batch(0, 48).weight, chosen(IDS), chosen(IDS[::-1])

  batch, weight, chosen, backwards = read(jax.random.key(0))
  np.testing.assert_array_equal(weight[:40], chosen)
  np.testing.assert_array_equal(backwards, chosen[::-1])
  assert 0.5 < chosen.mean() < 0.9
  assert (read(jax.random.key(1))[1] != weight).any()
  np.testing.assert_array_equal(batch.id[:40], IDS)
  np.testing.assert_array_equal(batch.x[:40], X)
  np.testing.assert_array_equal(batch.weight, np.arange(48) < 40)


def test_statistics_without_rows_are_those_of_the_rest():
  of = jax.jit(lambda r: unlearning.feature_statistics(apply_fn, PARAMS, r, 3, batch=8))
  left = without(of(rows(slice(0, 40))), of(rows(slice(0, 8))))
  assert_near(left, of(RETAIN), 1e-5)
  hidden = np.tanh(X @ np.asarray(PARAMS["first"]["kernel"]))[8:][Y[8:] == 1]
  means, roots = gaussians(left)
  np.testing.assert_allclose(means[1], hidden.mean(0), atol=1e-5)
  np.testing.assert_allclose(roots[1] @ roots[1].T, np.cov(hidden.T, bias=True), atol=1e-5)
  last = of(rows(Y == 2))
  assert not any(np.asarray(a).any() for a in without(last, last._replace(total=0.9 * last.total)))


def test_streaming_forgets_a_class_by_statistics_alone():
  """No retain row is given; the class is gone from the statistics, and from what the model says."""
  loss = jax.jit(
    lambda p, x, y: optax.softmax_cross_entropy_with_integer_labels(apply_fn(p, both(x, y)).logits, y).mean()
  )
  step = jax.jit(lambda p: jax.tree.map(lambda a, g: a - 0.3 * g, p, jax.grad(loss)(p, X, Y)))
  trained = PARAMS
  for _ in range(150):
    trained = step(trained)
  of_class, others = Y == 0, Y != 0

  @jax.jit
  def call(params, weight):
    statistics = unlearning.feature_statistics(apply_fn, params, rows(slice(40)), 3)
    forget = {**rows(of_class), "weight": jnp.full(of_class.sum(), weight)}
    given = {"forget": forget, "statistics": statistics, "steps": 60, "optimizer": optax.sgd(0.2)}
    return *unlearning.streaming(apply_fn, head_fn, params, **given), statistics

  after, left, _ = call(trained, 1.0)
  np.testing.assert_array_equal(left.count, np.bincount(Y) * [0, 1, 1])
  assert loss(after, X[of_class], Y[of_class]) > loss(trained, X[of_class], Y[of_class]) + 0.5
  assert loss(after, X[others], Y[others]) < loss(trained, X[others], Y[others])
  unchanged, kept, before = call(trained, 0.0)
  assert same(unchanged, trained)
  assert_near(kept, before)


GROUPS = jnp.asarray((np.arange(40) % 5 == 0) | (np.arange(40) < 6), jnp.int32)


def test_weights_restore_the_groups_shares():
  sides = [cljax.core.types.rows_from_arrays(r["x"], r["y"], ids=r["id"]) for r in (FORGET, RETAIN)]
  weights = np.asarray(unlearning.group_weights(*sides, GROUPS, 3, batch=7))
  group = np.asarray(GROUPS)
  share = np.bincount(group[8:], weights[group[8:]], 3)
  np.testing.assert_allclose(share, np.bincount(group, minlength=3), rtol=1e-6)
  np.testing.assert_allclose(weights[:2], np.bincount(group) / np.bincount(group[8:]), rtol=1e-6)
  assert weights[2] == 0  # no row is left: nothing, not infinity
  with pytest.raises(cljax.UsageError, match="groups: got 3; expected 0 to 1"):
    unlearning.miu(apply_fn, PARAMS, forget=FORGET, retain=RETAIN, groups=np.full(40, 3))


@jax.jit
def weighted_gradient(weight):
  batch, logits = both(X[8:], Y[8:]), lambda p: apply_fn(p, both(X[8:], Y[8:])).logits
  loss = lambda p: optax.softmax_cross_entropy_with_integer_labels(logits(p), batch.y) @ weight / weight.sum()
  return jax.grad(loss)(PARAMS)


def test_reweighting_descends_on_the_weighted_loss():
  loss_fn = lambda p, b: optax.softmax_cross_entropy_with_integer_labels(apply_fn(p, b).logits, b.y)
  given = {"forget": FORGET, "retain": RETAIN, "groups": GROUPS, "steps": 1, "batch": 2048}
  after = jax.jit(lambda p: unlearning.group_reweight(loss_fn, p, **given, optimizer=optax.sgd(1.0)))(PARAMS)
  group = np.asarray(GROUPS)
  weight = (np.bincount(group) / np.bincount(group[8:]))[group[8:]].astype(np.float32)

  def error(want):
    pairs = zip(*map(jax.tree.leaves, (PARAMS, after, want)), strict=True)
    return sum(np.square(np.asarray(p) - np.asarray(a) - np.asarray(w)).sum() for p, a, w in pairs)

  assert error(weighted_gradient(weight)) < 0.25 * error(weighted_gradient(np.ones_like(weight)))


def test_the_bound_of_a_constant_critic_is_zero():
  bound = jax.jit(unlearning.donsker_varadhan)
  weight = np.asarray([1.0, 2.0, 0.0, 1.0], np.float32)
  assert abs(float(bound(np.full(4, 1.7, np.float32), np.full(4, 1.7, np.float32), weight))) < 1e-6
  joint, marginal = RNG.normal(size=(2, 4)).astype(np.float32)
  want = (joint * weight).sum() / 4 - np.log((np.exp(marginal) * weight).sum() / 4)
  np.testing.assert_allclose(bound(joint, marginal, weight), want, rtol=1e-5)


def test_of_one_group_miu_has_nothing_to_unlink():
  """What is left is fine-tuning on the rows that stay, whatever the critics are; also where the group is not the first
  of those that may be."""
  given = {"forget": FORGET, "retain": RETAIN, "steps": 8, "batch": 8, "optimizer": optax.sgd(0.2)}
  given |= {"hidden": 8, "critic_warmup": 20, "critic_learning_rate": 0.5, "num_groups": 3}
  run = jax.jit(lambda group, c: unlearning.miu(apply_fn, PARAMS, groups=jnp.full(40, group), calibration=c, **given))
  plain = run(0, 0.0)
  assert not same(plain, PARAMS)
  assert same(run(2, 5.0), plain)


def test_miu_unlinks_features_from_the_group():
  """A feature that tells the group of the forget rows is what its steps remove; none, no change."""
  groups = jnp.asarray(X[:, 0] > 0, jnp.int32)
  given = {"forget": rows(slice(20)), "retain": rows(slice(20, 40)), "groups": groups, "hidden": 32, "batch": 64}
  given |= {"critic_warmup": 200, "critic_steps": 5, "critic_learning_rate": 0.1, "optimizer": optax.sgd(0.2)}
  call = jax.jit(lambda steps: unlearning.miu(apply_fn, PARAMS, steps=steps, **given))
  hidden = lambda p: np.tanh(X[:20] @ np.asarray(p["first"]["kernel"]))
  told = lambda p: abs(np.corrcoef(hidden(p).T, groups[:20])[-1, :-1]).mean()
  assert told(call(60)) < 0.75 * told(PARAMS)
  assert same(call(0), PARAMS)


def test_the_core_is_nine_in_ten_the_same_each_time_and_without_outliers():
  features = np.r_[RNG.normal(size=(180, 4)), 12 + RNG.normal(size=(20, 4))]
  weight = np.r_[np.ones(199), 0.0]
  kept = unlearning.inliers(features, weight)
  np.testing.assert_array_equal(kept, unlearning.inliers(features, weight))
  assert abs(kept[:199].mean() - 0.9) < 0.01
  assert kept[:180].mean() > 0.98
  assert not kept[199]
  assert unlearning.inliers(features, weight, 0.0).sum() == 199
  with pytest.raises(cljax.UsageError, match=r"contamination: got 0\.7"):
    unlearning.inliers(features, weight, 0.7)


def test_path_lengths_are_those_of_an_isolation_forest():
  """Against scikit-learn's forest: the same lengths up to the noise of a hundred random trees, the same order."""
  from sklearn.ensemble import IsolationForest

  features = np.r_[RNG.normal(size=(90, 4)), 4 + 3 * RNG.normal(size=(10, 4))].astype(np.float32)
  ours = np.asarray(unlearning.path_lengths(features, np.ones(100), jax.random.key(0)))
  n = 100
  unit = 2 * (np.log(n - 1) + np.euler_gamma) - 2 * (n - 1) / n
  theirs = -np.log2(-IsolationForest(n_estimators=300, random_state=0).fit(features).score_samples(features)) * unit
  assert np.abs(ours - theirs).max() < 1.5
  assert np.corrcoef(ours, theirs)[0, 1] > 0.95


def test_upcore_descends_on_the_core_alone():
  far = {**FORGET, "x": FORGET["x"].copy()}
  far["x"][3] = 30.0
  call = jax.jit(lambda c: unlearning.core_rows(apply_fn, PARAMS, far, contamination=c, batch=3).batch(0, 8).weight)
  kept = np.asarray(call(0.12))
  hidden = np.tanh(far["x"] @ np.asarray(PARAMS["first"]["kernel"]))
  np.testing.assert_array_equal(kept, unlearning.inliers(hidden, np.ones(8), np.float32(0.12)))
  assert kept.sum() == 7
  np.testing.assert_array_equal(call(0.0), 1)
  loss_fn = lambda p, b: optax.softmax_cross_entropy_with_integer_labels(apply_fn(p, b).logits, b.y)
  whole = {**far, "weight": kept}
  given = {"retain": RETAIN, "steps": 3, "batch": 8, "key": jax.random.key(0)}
  pruned = jax.jit(lambda p: unlearning.upcore(apply_fn, p, forget=far, contamination=0.12, **given))(PARAMS)
  assert_near(pruned, jax.jit(lambda p: unlearning.graddiff(loss_fn, p, forget=whole, **given))(PARAMS), 1e-6)
