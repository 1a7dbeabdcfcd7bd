"""Closed forms on frozen features against NumPy; their laws in float64, to 1e-13; requests answered by subtraction."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from bench import Bench, assert_same
from by_hand import forward

import cljax
from cljax import estimators, methods, models, streams
from cljax.core.types import Outputs, UsageError, rows_from_arrays
from cljax.methods.prototypes import acil, fecam, ranpac, slda

FROZEN = {"first_task": "frozen"}
NAMES = ("simplecil", "slda", "ranpac", "acil", "fecam")
SMALL = {"ranpac": {"width": 12}, "acil": {"width": 12}, "fetril": {"passes": 2, "batch_size": 8}}
CLASSES = 4


BENCHES: dict = {}  # programs are compiled once


def bench_of(name, stream, model, hyper=None):
  given = {**FROZEN, **SMALL.get(name, {}), **(hyper or {})}
  key = name, repr(given), id(model)
  if key not in BENCHES:
    BENCHES[key] = Bench(name, stream, model, given)
  return BENCHES[key]


def ended(name, stream, model, hyper=None, tasks=(0, 1)):
  """``(bench, learner, features [N, D], y, test features)``: after both tasks, with the network as it began."""
  bench = bench_of(name, stream, model, hyper)
  learner = bench.start()
  for i, task in enumerate(tasks):
    learner = bench.boundary("end_task", learner, task, tasks[:i])
  at = np.concatenate([stream.train[t] for t in dict.fromkeys(tasks)])
  split, test = stream.dataset.train, stream.dataset.test.x
  return bench, learner, forward(learner.params, split.x[at])[0], split.y[at], forward(learner.params, test)[0]


def said(bench, learner):
  x = jnp.asarray(bench.stream.dataset.test.x)
  if not hasattr(bench, "predicted"):
    bench.predicted = jax.jit(lambda l: bench.parts.predict(l, x, jnp.int32(0)))
  return np.asarray(bench.predicted(learner))


def means_of(f, y):
  return np.stack([f[y == c].mean(0) for c in range(CLASSES)])


class WithStatistics(nn.Module):
  @nn.compact
  def __call__(self, x, train=False):
    x = nn.BatchNorm(use_running_average=not train)(nn.Dense(6)(x.reshape(x.shape[0], -1)))
    return Outputs(nn.Dense(4)(x), nn.relu(x))


def normed(f):
  return f / np.linalg.norm(f, axis=-1, keepdims=True)


def test_simplecil_is_the_cosine_to_means_that_are_not_normalised(class_stream, small_model):
  """The mean of features, which the cosine then normalises; not the mean of normalised ones."""
  bench, learner, f, y, test = ended("simplecil", class_stream, small_model)
  got = said(bench, learner)
  np.testing.assert_allclose(got, normed(test) @ normed(means_of(f, y)).T, atol=2e-6)
  assert np.abs(got - normed(test) @ normed(means_of(normed(f), y)).T).max() > 1e-3


def test_simplecil_knows_no_order_and_new_classes_move_no_mean(class_stream, small_model):
  states = [ended("simplecil", class_stream, small_model, tasks=t)[1].method_state for t in ((0, 1), (1, 0), (0,))]
  np.testing.assert_array_equal(states[0].statistics.means, states[1].statistics.means)
  of_first = np.asarray(states[2].statistics.counts) > 0
  np.testing.assert_array_equal(states[0].statistics.means[of_first], states[2].statistics.means[of_first])


def test_aper_is_simplecil_on_both_networks_features(class_stream, small_model):
  """Where nothing was tuned the features are there twice, and the cosine is SimpleCIL's."""
  hyper = {"first_task": "train", "features": "both"}
  bench, learner, *_ = ended("simplecil", class_stream, small_model, hyper)
  assert learner.method_state.statistics.means.shape == (CLASSES, 16)
  plain = ended("simplecil", class_stream, small_model)
  np.testing.assert_allclose(said(bench, learner), said(*plain[:2]), atol=1e-6)
  first = bench.start()
  tuned = bench.train(steps=3)
  split = class_stream.dataset.train
  at = np.concatenate(class_stream.train)
  both = lambda x: np.concatenate([forward(p, x)[0] for p in (first.params, tuned.params)], axis=1)
  want = normed(both(class_stream.dataset.test.x)) @ normed(means_of(both(split.x[at]), split.y[at])).T
  np.testing.assert_allclose(said(bench, tuned), want, atol=2e-5)


def lda(f, y, test, covariance, shrinkage):
  inverse = np.linalg.pinv((1 - shrinkage) * covariance + shrinkage * np.eye(f.shape[1]))
  means = means_of(f, y)
  return test @ inverse @ means.T - 0.5 * np.einsum("cd,de,ce->c", means, inverse, means)


def within(f, y):
  return (f - means_of(f, y)[y]).T @ (f - means_of(f, y)[y])


def streamed(f, y):
  """One row after the other, as the released code: weights by the count of all rows, an unseen mean of 0."""
  means, counts, covariance = np.zeros((CLASSES, f.shape[1])), np.zeros(CLASSES), np.zeros((f.shape[1],) * 2)
  for t, (z, c) in enumerate(zip(f, y, strict=True)):
    d = z - means[c]
    covariance = (t * covariance + np.outer(d, d) * t / (t + 1)) / (t + 1)
    means[c] += d / (counts[c] + 1)
    counts[c] += 1
  return covariance


@pytest.mark.parametrize("form", ["exact", "released"])
def test_slda_is_the_discriminant_of_its_streamed_covariance(form, class_stream, small_model):
  bench, learner, f, y, test = ended("slda", class_stream, small_model, {"form": form, "shrinkage": 0.01})
  covariance = within(f, y) / len(y) if form == "exact" else streamed(f, y)
  want = lda(f, y, test, covariance, 0.01)
  np.testing.assert_allclose(said(bench, learner), want, atol=2e-4 * np.abs(want).max())


def random_rows(seed=0, rows=80, width=6):
  rng = np.random.default_rng(seed)
  y = rng.integers(0, CLASSES, rows).astype(np.int32)
  return 2 * rng.normal(size=(CLASSES, width))[y] + rng.normal(size=(rows, width)), y


def folded(statistics, f, y, size, order=None):
  """The state of the rows in batches, in float64; to be called under x64."""
  order = np.arange(len(y)) if order is None else order
  state = statistics.start(CLASSES, f.shape[1], f.dtype)
  add = jax.jit(statistics.add)
  for at in range(0, len(y), size):
    i = order[at : at + size]
    state = add(state, jnp.asarray(f[i]), jnp.asarray(y[i]), jnp.ones(len(i)))
  return state


def test_the_released_slda_counts_first_rows_from_zero_and_the_exact_one_does_not():
  """Streaming against a batch: the exact form is the pooled covariance to 1e-13 in any order; the released one is
  another by percents, and another again in another order. Its means are the same."""
  f, y = random_rows()
  other = np.random.default_rng(1).permutation(len(y))
  with jax.enable_x64(True):
    exact = [folded(estimators.class_moments(), f, y, 1, o) for o in (None, other)]
    batch = folded(estimators.class_moments(), f, y, len(y))
    released = [folded(slda.released_moments(), f, y, s, o) for s, o in ((1, None), (16, None), (1, other))]
  want = within(f, y)
  scale = np.abs(want).max()
  for state in (*exact, batch):
    assert np.abs(np.asarray(state.scatter) - want).max() < 1e-13 * scale
  assert np.abs(np.asarray(released[0].scatter) / len(y) - streamed(f, y)).max() < 1e-13 * scale
  np.testing.assert_array_equal(released[0].scatter, released[1].scatter)  # one row at a time in any batches
  for i in (0, 2):
    assert np.abs(np.asarray(released[i].scatter) - want).max() > 0.01 * scale
    assert np.abs(np.asarray(released[i].means) - means_of(f, y)).max() < 1e-13
  assert np.abs(np.asarray(released[0].scatter - released[2].scatter)).max() > 0.01 * scale


def test_slda_under_an_identity_covariance_is_the_nearest_mean():
  f, y = random_rows()
  with jax.enable_x64(True):
    moments = folded(estimators.class_moments(), f, y, 16)
    for scatter, shrinkage in ((len(y) * np.eye(6), 0.0), (within(f, y), 1.0)):
      weights, bias = slda.discriminant(moments._replace(scatter=jnp.asarray(scatter)), shrinkage)
      scores = f @ np.asarray(weights).T + np.asarray(bias)
      distance = ((f[:, None] - means_of(f, y)) ** 2).sum(-1)
      np.testing.assert_allclose(scores, ((f**2).sum(-1)[:, None] - distance) / 2, atol=1e-12)
    got = slda.discriminant(moments, 1e-4)
  want = lda(f, y, f, within(f, y) / len(y), 1e-4)
  np.testing.assert_allclose(f @ np.asarray(got[0]).T + np.asarray(got[1]), want, atol=1e-13 * np.abs(want).max())


def ridge(x, y, strength):
  return np.linalg.solve(x.T @ x + strength * np.eye(x.shape[1]), x.T @ np.eye(CLASSES)[y])


@pytest.mark.parametrize("width", [12, 0])
def test_ranpac_is_ridge_regression_on_its_projections(width, class_stream, small_model):
  """With the strength that it chose; without a projection on the features themselves."""
  bench, learner, f, y, test = ended("ranpac", class_stream, small_model, {"width": width})
  state = learner.method_state
  h = lambda f: np.maximum(f @ np.asarray(state.fixed, np.float64), 0) if width else f
  strength = float(state.hint.value)
  assert strength == float(state.hint.chosen[1]) > 0
  want = h(test) @ ridge(h(f), y, strength)
  np.testing.assert_allclose(said(bench, learner), want, atol=3e-4 * np.abs(want).max())


def test_ranpac_s_strength_has_the_least_error_on_a_fifth_of_the_rows_of_one_task():
  """Each of 17 strengths, fitted on the drawn four fifths, in NumPy; the choice of the joint rows is another."""
  f, y = random_rows(rows=60)
  key = jax.random.key(3)
  with jax.enable_x64(True):
    rows = rows_from_arrays(jnp.asarray(f), jnp.asarray(y))
    errors, ridges = ranpac.held_out_errors(key, CLASSES, lambda batch: batch.x, rows)
    order = np.argsort(np.asarray(jax.random.bits(key, (60,), jnp.uint32)))
  fit, held = order[:48], order[48:]
  np.testing.assert_allclose(ridges, 10.0 ** np.arange(-8, 9), rtol=1e-12)
  want = [((f[held] @ ridge(f[fit], y[fit], r) - np.eye(CLASSES)[y[held]]) ** 2).sum() for r in ranpac.RIDGES]
  np.testing.assert_allclose(errors, want, rtol=1e-9)
  few = rows_from_arrays(np.float32(f[:1]), y[:1])
  assert np.isnan(ranpac.held_out_errors(key, CLASSES, lambda batch: batch.x, few)[0]).all()


def test_ridge_regression_knows_no_batches_and_no_order():
  """Given the strength, the solution of all rows at once to 1e-13."""
  f, y = random_rows()
  with jax.enable_x64(True):
    for size, order in ((1, None), (7, np.argsort(y)), (80, np.argsort(-y))):
      got = ranpac.ridge_weights(folded(estimators.class_moments(), f, y, size, order), 0.5)
      assert np.abs(np.asarray(got) - ridge(f, y, 0.5)).max() < 1e-13


def test_a_ridge_below_the_rounding_of_the_moments_is_raised():
  f, y = random_rows(width=3)
  f = np.concatenate([f, f], axis=1)  # singular
  moments = jax.tree.map(jnp.float32, folded(estimators.class_moments(), np.float32(f), y, 80))
  assert np.isfinite(np.asarray(ranpac.ridge_weights(moments, 1e-8))).all()
  gram = estimators.second_moment(moments)
  assert float(ranpac.resolved(jnp.float32(1e-8), gram)) > 1e-8
  assert float(ranpac.resolved(jnp.float32(1.0), gram)) == 1.0


def test_acil_s_recursion_is_joint_ridge_regression_in_any_batches_and_order():
  """To 1e-13; a class that has not come is a column of zeros; rows that are taken out were never there."""
  f, y = random_rows()
  recursion = acil.recursive_ridge(0.5)
  with jax.enable_x64(True):
    for size, order in ((1, None), (7, np.argsort(y)), (80, np.argsort(-y))):
      state = folded(recursion, f, y, size, order)
      assert np.abs(np.asarray(state.weights) - ridge(f, y, 0.5)).max() < 1e-13
      assert np.abs(np.asarray(state.inverse) - np.linalg.inv(f.T @ f + 0.5 * np.eye(6))).max() < 1e-13
    some = y < 2
    early = folded(recursion, f[some], y[some], 8)
    assert not np.asarray(early.weights)[:, 2:].any()
    gone = np.arange(len(y)) % 4 == 0
    left = recursion.subtract(state, jnp.asarray(f[gone]), jnp.asarray(y[gone]), jnp.ones(gone.sum()))
    assert np.abs(np.asarray(left.weights) - ridge(f[~gone], y[~gone], 0.5)).max() < 1e-12
    np.testing.assert_array_equal(left.counts, np.bincount(y[~gone], minlength=CLASSES))


def test_acil_s_recursion_stays_symmetric_in_float32():
  f, y = random_rows()
  state = folded(acil.recursive_ridge(0.1), np.float32(30 * f), y, 3)
  np.testing.assert_array_equal(state.inverse, np.asarray(state.inverse).T)


@pytest.mark.parametrize("form", ["moments", "recursion"])
def test_acil_is_ridge_regression_on_its_projections(form, class_stream, small_model):
  bench, learner, f, y, test = ended("acil", class_stream, small_model, {"form": form, "ridge": 0.5})
  h = lambda f: np.maximum(f @ np.asarray(learner.method_state.fixed, np.float64), 0)
  want = h(test) @ ridge(h(f), y, 0.5)
  np.testing.assert_allclose(said(bench, learner), want, atol=1e-3 * np.abs(want).max())


def mahalanobis(f, y, test, shrinks, tukey, g=(1.0, 1.0)):
  f, test = (np.sqrt(v) if tukey else v for v in (f, test))
  means, out = means_of(f, y), []
  for c in range(CLASSES):
    s = np.cov(f[y == c].T, bias=True)
    for _ in range(shrinks):
      on, off = np.diag(s).mean(), (s.sum() - np.trace(s)) / (len(s) * (len(s) - 1))
      s = s + g[0] * on * np.eye(len(s)) + g[1] * off * (1 - np.eye(len(s)))
    d = normed(test) - normed(means[c])
    s = s / np.sqrt(np.outer(np.diag(s), np.diag(s)))
    out.append(-np.einsum("bd,de,be->b", d, np.linalg.pinv(s), d))
  return np.stack(out, 1)


@pytest.mark.parametrize(("shrinks", "tukey"), [(2, True), (1, False)])
def test_fecam_is_the_mahalanobis_distance_of_each_class(shrinks, tukey, class_stream, make_blobs):
  """Of features none of which is dead for a class, for NumPy's correlations have no place for one without shrinking."""
  model = models.mlp((4, 4, 1), 4, hidden=(6,))
  hyper = {"shrinks": shrinks, "tukey": tukey, "variance_shrinkage": 0.5, "correlation_shrinkage": 0.25}
  bench, learner, f, y, test = ended("fecam", class_stream, model, hyper)
  want = mahalanobis(f, y, test, shrinks, tukey, (0.5, 0.25))
  np.testing.assert_allclose(said(bench, learner), want, rtol=2e-3, atol=1e-4)


def test_fecam_s_shrinks_and_correlations():
  """Each shrink doubles the mean of the diagonal, so two make it four times; correlations have a diagonal of 1; a class
  without variance has the identity."""
  f, y = random_rows()
  with jax.enable_x64(True):
    s = jnp.asarray(np.stack([np.cov(f[y == c].T) for c in range(CLASSES)] + [np.zeros((6, 6))]))
    once = fecam.shrunk(s, 1.0, 1.0)
    twice = fecam.shrunk(once, 1.0, 1.0)
    found = np.asarray(fecam.correlations(twice))
  mean = lambda m: np.diagonal(np.asarray(m), axis1=1, axis2=2).mean(1)
  np.testing.assert_allclose(mean(once), 2 * mean(s), rtol=1e-13)
  np.testing.assert_allclose(mean(twice), 4 * mean(s), rtol=1e-13)
  np.testing.assert_allclose(np.diagonal(found, axis1=1, axis2=2), 1, atol=1e-13)
  np.testing.assert_array_equal(found[-1], np.eye(6))


def test_new_classes_change_no_old_score_of_fecam(class_stream, small_model):
  first = said(*ended("fecam", class_stream, small_model, tasks=(0,))[:2])
  both = said(*ended("fecam", class_stream, small_model)[:2])
  old = np.isfinite(first[0])
  assert old.sum() == 2
  np.testing.assert_array_equal(first[:, old], both[:, old])


@pytest.mark.parametrize("optimizer", [optax.adamw(0.1, weight_decay=0.5), optax.sgd(0.1, momentum=0.9)])
def test_the_network_moves_in_the_first_task_alone(optimizer, class_stream):
  """Whatever momentum and decay there is, and statistics of batches too; with 'frozen' it never moves."""
  model = models.from_linen(WithStatistics(), (4, 4, 1))
  bench = Bench("simplecil", class_stream, model, {"first_task": "train"}, optimizer=optimizer)
  start = bench.start()
  learned = bench.train(steps=2, tasks=(0,))
  assert any(
    np.abs(a - b).max() > 0 for a, b in zip(*map(jax.tree.leaves, (start.params, learned.params)), strict=True)
  )
  later = bench.steps(bench.boundary("start_task", learned, 1, (0,)), 1, 2, met=(0,))
  assert_same((later.params, later.model_state), (learned.params, learned.model_state))
  assert int(later.step) == 4
  assert np.asarray(learned.method_state.made_by).tolist() == [True, False]
  never = Bench("simplecil", class_stream, model, FROZEN, optimizer=optimizer)
  start = never.start()
  after = never.train(steps=2, tasks=(0,))
  assert_same((after.params, after.model_state), (start.params, start.model_state))
  assert not np.asarray(after.method_state.made_by).any()


@pytest.mark.parametrize("name", [*NAMES, "fetril"])
def test_a_task_that_comes_back_is_counted_once(name, class_stream, small_model):
  once, again = (ended(name, class_stream, small_model, tasks=t)[1].method_state for t in ((0, 1), (0, 1, 0)))
  assert_same(once, again)


@pytest.mark.parametrize("name", [*NAMES, "fetril"])
def test_before_the_first_end_the_logits_answer_and_then_classes_with_rows(name, class_stream, small_model):
  bench, learner, *_ = ended(name, class_stream, small_model, tasks=(0,))
  assert np.isfinite(said(bench, learner)).all(0).tolist() == [True, True, False, False]
  start = bench.start()
  np.testing.assert_allclose(said(bench, start), forward(start.params, class_stream.dataset.test.x)[1], atol=1e-5)


@pytest.mark.parametrize(("name", "hyper"), [*((n, {}) for n in NAMES), ("acil", {"form": "recursion", "ridge": 1.0})])
def test_rows_that_are_asked_for_are_subtracted(name, hyper, class_stream, small_model):
  """Statistics and answers are those of a learner that never had the rows, and those of no class are left with none."""
  bench, learner, *_ = ended(name, class_stream, small_model, hyper, tasks=(0,))
  rows = np.asarray(class_stream.train[0], np.int32)
  gone = rows[::3]
  kept = np.setdiff1d(rows, gone)
  after, permitted = bench.call("forget", learner, *bench.request(gone, kept))
  assert bool(permitted)
  weight = np.isin(rows, kept)
  index = np.r_[rows[weight], rows[~weight]]
  never = bench.start()
  args = (jnp.asarray(index, jnp.int32), jnp.zeros(len(index), jnp.int32), jnp.int32(len(kept)))
  pad = bench.spec.task_rows - len(index)
  args = (jnp.pad(args[0], (0, pad)), jnp.pad(args[1], (0, pad)), args[2])
  never = bench.call("end_task", never, jnp.asarray(True), bench.data, bench.where(0, ()), *args)
  one, two = (l.method_state._replace(hint=()) for l in (after, never))
  if name == "ranpac":  # the strength stays the one that was chosen with the rows
    assert float(after.method_state.hint.value) == float(learner.method_state.hint.value)
    two = two._replace(rule=ranpac.ridge_weights(two.statistics, after.method_state.hint.value))
  scale = max(float(np.abs(np.asarray(a)).max()) for a in jax.tree.leaves(two.statistics))
  for a, b in zip(jax.tree.leaves(one.statistics), jax.tree.leaves(two.statistics), strict=True):
    np.testing.assert_allclose(a, b, atol=3e-6 * scale)
  a, b = said(bench, after), said(bench, never._replace(method_state=never.method_state._replace(rule=two.rule)))
  np.testing.assert_allclose(a[:, :2], b[:, :2], rtol=5e-3, atol=5e-3 * np.abs(b[:, :2]).max())
  whole, sides = bench.forget_class(learner, 1)
  assert len(sides[0]) > 2
  assert np.isfinite(said(bench, whole)).any(0).tolist() == [True, False, False, False]


def test_rows_that_made_the_network_are_not_subtracted(class_stream, small_model, dataset):
  """Nor is anything where the order of rows went into the statistics."""
  training = cljax.Recipe(batch_size=8)
  stream = lambda classes: streams.build(dataset, "class", tasks=2, forget=[(2, cljax.Forget(classes=classes))])
  run = lambda classes, **hyper: cljax.run(stream(classes), small_model, "slda", hyper, training=training)
  with pytest.raises(UsageError, match="forget: rows of the task that trained the network can not be subtracted"):
    run((0,))
  assert run((2,)).alive.all()
  with pytest.raises(UsageError, match="can not be subtracted"):
    run((2,), form="released")
  with pytest.raises(UsageError, match=r"the method does not; choose one with forget\.name"):
    run((2,), requests="elsewhere")


@pytest.mark.parametrize("name", ["slda", "fecam", "acil"])
def test_another_answer_leaves_the_clearing_of_classes(name, class_stream, small_model):
  """With requests=elsewhere a scrub clears what is kept by class, and the answer is made of the rest."""
  form = {"form": "recursion"} if name == "acil" else {}
  bench, learner, *_ = ended(name, class_stream, small_model, {"requests": "elsewhere", **form})
  assert bench.parts.forget is None
  named = jnp.zeros(bench.spec.num_rows, bool)
  left = jax.jit(bench.parts.scrub)(learner, named, jnp.arange(4) == 2)
  assert np.isfinite(said(bench, left)).any(0).tolist() == [True, True, False, True]
  kept = [0, 1, 3]
  if name != "acil":
    np.testing.assert_array_equal(left.method_state.statistics.means[2], 0)
    np.testing.assert_array_equal(
      left.method_state.statistics.means[jnp.asarray(kept)], learner.method_state.statistics.means[jnp.asarray(kept)]
    )
  elif form:
    assert not np.asarray(left.method_state.statistics.weights)[:, 2].any()


def test_closed_forms_need_features(class_stream, small_model):
  bare = small_model._replace(
    apply=lambda *a, **k: (lambda out, state: (out._replace(features=None), state))(*small_model.apply(*a, **k))
  )
  with pytest.raises(UsageError, match="need a model that returns features"):
    Bench("slda", class_stream, bare).start()
  assert methods.METHODS["slda"].exactness == "exact"
