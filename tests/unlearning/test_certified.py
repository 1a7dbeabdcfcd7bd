"""Certified removal against float64 NumPy: the minimum, the Newton step, the bound and its constant, the budget."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bench import Bench

from cljax import UsageError, unlearning
from cljax.unlearning import certified

RNG = np.random.default_rng(8)
N, D, STRENGTH = 60, 4, 0.01
X = RNG.normal(size=(N, D))
X = X / np.maximum(np.linalg.norm(X, axis=1, keepdims=True), 1)
Y = np.sign(X @ RNG.normal(size=(2, D)).T + 0.3 * RNG.normal(size=(N, 2))).T
NOISE = RNG.normal(size=(2, D))
ONE = np.ones(N)
given = lambda *arrays: tuple(jnp.asarray(a, jnp.float32) for a in arrays)
fit = jax.jit(unlearning.fit_head, static_argnames=("loss",))
remove = jax.jit(unlearning.remove_rows, static_argnames=("loss", "constant"))


def slopes(h, t, x, loss):
  z = x @ h
  if loss == "squared":
    return z - t, np.ones(len(x))
  p = 1 / (1 + np.exp(-z * t))
  return (p - 1) * t, p * (1 - p)


def gradient(h, t, x, b, loss="logistic"):
  return x.T @ slopes(h, t, x, loss)[0] + STRENGTH * len(x) * h + b


def minimum(t, x, b, loss="logistic"):
  h = np.zeros(D)
  for _ in range(200):
    curvature = (x.T * slopes(h, t, x, loss)[1]) @ x + STRENGTH * len(x) * np.eye(D)
    g = gradient(h, t, x, b, loss)
    move = np.linalg.solve(curvature, g)
    h = h - move / (1 + 0.1 * np.linalg.norm(move))
  return h


@pytest.mark.parametrize("loss", ["logistic", "squared"])
def test_a_head_is_the_minimum_of_the_perturbed_loss(loss):
  got = fit(*given(X, Y, ONE, NOISE), STRENGTH, loss=loss)
  for k in range(2):
    np.testing.assert_allclose(got.head[k], minimum(Y[k], X, NOISE[k], loss), atol=1e-3)
    np.testing.assert_allclose(np.linalg.norm(gradient(np.float64(got.head[k]), Y[k], X, NOISE[k], loss)),
                               got.residual[k], atol=2e-5)  # fmt: skip
  assert np.asarray(got.residual).max() < 1e-4
  early = unlearning.fit_head(*given(X, Y, ONE, NOISE), STRENGTH, loss=loss, steps=0)
  for k in range(2):  # where it began, far from the minimum
    there = np.linalg.norm(gradient(np.zeros(D), Y[k], X, NOISE[k], loss))
    assert there > 1
    np.testing.assert_allclose(early.residual[k], there, rtol=1e-4)
  none = unlearning.fit_head(*given(X, Y, 0 * ONE, NOISE), STRENGTH, loss=loss)
  assert not np.asarray(none.head).any()
  assert not np.asarray(none.residual).any()


@pytest.mark.parametrize("loss", ["logistic", "squared"])
def test_a_removal_is_the_newton_step_and_its_bound(loss):
  """Of two rows at once; X's norm by its singular values, where power iteration gives less."""
  head = np.stack([minimum(Y[k], X, NOISE[k], loss) for k in range(2)])
  gone = np.zeros(N, bool)
  gone[[3, 17]] = True
  got = remove(*given(head, X, Y, ONE), jnp.asarray(gone), STRENGTH, loss=loss)
  for k in range(2):
    rest, away = X[~gone], X[gone]
    curvature = (rest.T * slopes(head[k], Y[k, ~gone], rest, loss)[1]) @ rest + STRENGTH * (N - 2) * np.eye(D)
    moved = away.T @ slopes(head[k], Y[k, gone], away, loss)[0] + 2 * STRENGTH * head[k]
    step = np.linalg.solve(curvature, moved)
    np.testing.assert_allclose(got.head[k], head[k] + step, atol=1e-5)
    bound = certified.TIGHT * np.linalg.norm(rest, 2) * np.linalg.norm(step) * np.linalg.norm(rest @ step)
    np.testing.assert_allclose(got.residual[k], 0 if loss == "squared" else bound, rtol=1e-3)
    left = gradient(np.float64(got.head[k]), Y[k, ~gone], rest, NOISE[k], loss)
    if loss == "squared":  # retraining itself
      np.testing.assert_allclose(got.head[k], minimum(Y[k, ~gone], rest, NOISE[k], loss), atol=1e-5)
    else:
      assert np.linalg.norm(left) <= bound + 1e-5
  released = remove(*given(head, X, Y, ONE), jnp.asarray(gone), STRENGTH, loss=loss, constant="released")
  np.testing.assert_array_equal(released.head, got.head)
  np.testing.assert_allclose(
    np.asarray(got.residual) * 0.25, np.asarray(released.residual) * certified.TIGHT, rtol=1e-5
  )


def test_the_constant_is_the_largest_third_derivative_of_the_logistic_loss():
  z = np.linspace(-8, 8, 400_001)
  p = 1 / (1 + np.exp(-z))
  np.testing.assert_allclose(np.abs(p * (1 - p) * (1 - 2 * p)).max(), certified.TIGHT, rtol=1e-9)
  assert round(certified.TIGHT, 4) == 0.0962
  assert certified.CONSTANTS["released"] > 2.5 * certified.TIGHT


def test_residuals_of_removals_in_turn_stay_under_the_sum_of_their_bounds():
  """Twenty rows one by one: the tight sum holds and is far under the released; order matters to the bound's order."""
  fitted = fit(*given(X, Y, ONE, NOISE), STRENGTH)
  ends = []
  for order in (range(20), reversed(range(20))):
    head, weight, total = fitted.head, ONE.copy(), np.asarray(fitted.residual)
    for i in order:
      step = remove(head, *given(X, Y, weight), jnp.arange(N) == i, STRENGTH)
      head, total = step.head, total + np.asarray(step.residual)
      weight[i] = 0
      left = [gradient(np.float64(head[k]), Y[k, weight > 0], X[weight > 0], NOISE[k]) for k in range(2)]
      assert (np.linalg.norm(left, axis=1) <= total + 1e-5).all()
    ends.append(np.asarray(head))
  assert np.linalg.norm(ends[0] - ends[1]) * STRENGTH * 40 <= 2 * total.sum()
  nothing = remove(*given(np.asarray(head), X, Y, weight), jnp.zeros(N, bool), STRENGTH)
  np.testing.assert_array_equal(nothing.head, head)
  np.testing.assert_array_equal(nothing.residual, 0)


def test_the_budget_by_hand():
  np.testing.assert_allclose(unlearning.certified_budget(1.0, 1.0, 1e-4), 1 / np.sqrt(2 * np.log(15000)), rtol=1e-6)
  assert round(float(unlearning.certified_budget(1.0, 1.0, 1e-4)), 3) == 0.228
  parts = unlearning.certified_budget(2.0, 0.5, 1e-4, 10)
  np.testing.assert_allclose(parts, unlearning.certified_budget(2.0, 0.05, 1e-5), rtol=1e-6)
  with pytest.raises(UsageError, match="certified_budget: sigma must be above 0; got 0"):
    unlearning.certified_budget(0.0, 1.0, 1e-4)


def test_features_are_of_length_one_at_most_row_by_row():
  got = np.asarray(unlearning.unit_features(jnp.asarray([[3.0, 4.0], [0.0, 0.0]])))
  np.testing.assert_allclose(got, np.asarray([[0.6, 0.8, 1], [0, 0, 1]]) / np.sqrt(2), rtol=1e-6)


def rows_of(bench, state):
  return np.float64(state.features), np.asarray(state.weight) > 0, np.asarray(state.y)


@pytest.mark.parametrize("epsilon", [1e4, 1e-3])
def test_requests_are_steps_within_the_budget_and_training_anew_beyond(epsilon, class_stream, small_model):
  """A class is forgotten: of a large budget by a step from the trained head; of a small one its bound is over the
  budget, and heads are trained anew on the rows left with other noise. The new head answers; the features are gone."""
  bench = Bench("certified_removal", class_stream, small_model, {"epsilon": epsilon, "strength": 0.01})
  learner = bench.boundary("end_task", bench.start(), 0)
  before = learner.method_state
  x, there, y = rows_of(bench, before)
  assert there.sum() == len(class_stream.train[0])
  assert np.asarray(before.spent).max() < 1e-3
  after_learner, (_, held) = bench.forget_class(learner)
  after = after_learner.method_state
  away = there & (y == 0)
  assert (int(after.trainings), int(after.removals)) == ((1, 1) if epsilon == 1e4 else (2, 0))
  assert not np.asarray(after.features)[away].any()
  assert set(np.asarray(after.id)[away]) == {-1}
  np.testing.assert_array_equal(np.asarray(after.weight) > 0, there & ~away)
  t = 2 * np.eye(4)[y].T - 1
  if epsilon == 1e4:
    want = remove(before.head, *given(x, t, there), jnp.asarray(away), 0.01)
    np.testing.assert_allclose(after.head, want.head, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(after.spent, np.asarray(before.spent) + np.asarray(want.residual), rtol=1e-3)
    np.testing.assert_array_equal(after.noise, before.noise)
    budget = float(unlearning.certified_budget(1.0, epsilon, 1e-4, 4))
    assert np.asarray(after.spent).max() <= budget
  else:
    assert not np.array_equal(after.noise, before.noise)
    want = fit(*given(x, t, there & ~away, np.asarray(after.noise)), 0.01)
    np.testing.assert_allclose(after.head, want.head, rtol=1e-3, atol=1e-3)
  split = class_stream.dataset.train
  for state, l in ((before, learner), (after, after_learner)):
    logits = bench.parts.predict(l, jnp.asarray(split.x[held]), jnp.int32(0))
    hidden = small_model.apply(l.params, {}, split.x[held], train=False, key=None)[0].features
    want = np.asarray(unlearning.unit_features(hidden)) @ np.asarray(state.head).T
    np.testing.assert_allclose(logits, want, atol=1e-4)


def test_requests_in_turn_spend_one_budget(class_stream, small_model):
  """Bounds add up from request to request. A budget a thousandth above the first is enough for it, one below is
  not."""
  options = {"strength": 0.05, "epsilon": 1e4, "sigma": 1.0}
  bench = Bench("certified_removal", class_stream, small_model, options)
  learner = bench.boundary("end_task", bench.start(), 0)
  ids = np.asarray(learner.method_state.id)[np.asarray(learner.method_state.weight) > 0]
  one = lambda l, at: bench.call("forget", l, *bench.request(ids[at : at + 1], np.delete(ids, at)))[0]
  first = one(learner, 0)
  second = one(first, 5)
  begun = np.asarray(learner.method_state.spent)
  cost = [np.asarray(l.method_state.spent) for l in (first, second)]
  assert (cost[0] > begun).all()
  assert (cost[1] > cost[0]).all()
  x, there, y = rows_of(bench, first.method_state)
  gone = np.asarray(first.method_state.id) == ids[5]
  step = remove(first.method_state.head, *given(x, 2 * np.eye(4)[y].T - 1, there), jnp.asarray(gone), 0.05)
  np.testing.assert_allclose(cost[1], cost[0] + np.asarray(step.residual), rtol=1e-3)
  for factor, trainings in ((1.001, 1), (0.999, 2)):
    per_epsilon = float(unlearning.certified_budget(1.0, 1.0, 1e-4, 4))
    tight = Bench("certified_removal", class_stream, small_model,
                  {**options, "epsilon": factor * float(cost[0].max()) / per_epsilon})  # fmt: skip
    after = tight.call("forget", learner, *tight.request(ids[:1], ids[1:]))[0].method_state
    assert int(after.trainings) == trainings


def test_no_step_moves_the_features(class_stream, small_model):
  bench = Bench("certified_removal", class_stream, small_model)
  learner = bench.start()
  after = bench.step(learner, *bench.arguments(0))[0]
  for a, b in zip(jax.tree.leaves(after.params), jax.tree.leaves(learner.params), strict=True):
    np.testing.assert_array_equal(a, b)
