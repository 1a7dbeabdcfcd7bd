"""The variants of zeroth-order training and of evolution strategies, a few steps each."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from bench import Bench

from cljax import methods
from cljax.core import tree
from cljax.core.types import UsageError
from cljax.engine import recipe

RATE = 0.1


@pytest.fixture(scope="module")
def plain(class_stream, small_model):
  return Bench("finetune", class_stream, small_model)


def steps(bench, count):
  """Parameters before and after each of ``count`` steps of the first task, and the losses seen."""
  learner, out, losses = bench.start(), [], []
  for k in range(count):
    before = learner
    learner, _, loss = bench.step(learner, *bench.arguments(0, k))
    out.append((before.params, learner.params))
    losses.append(float(loss))
  return out, losses


def moved(pair):
  return jax.tree.map(lambda a, b: np.asarray(b, np.float64) - np.asarray(a, np.float64), *pair)


def down(plain, params, k):
  """What a plain SGD step on batch ``k`` adds to these parameters."""
  after, _, loss = plain.step(plain.start()._replace(params=params), *plain.arguments(0, k))
  return moved((params, after.params)), float(loss)


def cosine(a, b):
  return tree.dot(a, b) / np.sqrt(tree.dot(a, a) * tree.dot(b, b))


def variant(name, class_stream, small_model, **hyper):
  base = {"queries": 1, "shrink": False} if name == "zeroth_order" else {}
  return Bench(name, class_stream, small_model, base | hyper)


def test_sign_with_a_sparse_mask(class_stream, small_model):
  """Every coordinate moves by the rate or not at all, and those of the mask never do."""
  pairs, _ = steps(variant("zeroth_order", class_stream, small_model, update="sign", sparsity=40), 3)
  flat = [np.concatenate([np.ravel(v) for v in jax.tree.leaves(moved(p))]) for p in pairs]
  still = [np.abs(f) < 1e-6 for f in flat]
  for f, s in zip(flat, still, strict=True):
    np.testing.assert_allclose(np.abs(f[~s]), RATE, rtol=1e-4)
    np.testing.assert_array_equal(s, still[0])
  assert 0.25 < still[0].mean() < 0.55


def test_scalar_sign_moves_by_the_direction_alone(class_stream, small_model):
  """The step is ``-rate sign z`` with standard normal z, whatever the slope."""
  (pair,), _ = steps(variant("zeroth_order", class_stream, small_model, update="scalar_sign", estimator="one_sided"), 1)
  flat = np.concatenate([np.ravel(v) for v in jax.tree.leaves(moved(pair))]) / RATE
  assert 0.85 < flat.std() < 1.15


def test_conserve_never_raises_the_loss_of_the_batch(plain, class_stream, small_model):
  """At a rate so large that most steps along the estimate overshoot: then it stays."""
  large = recipe.make_optimizer("sgd", learning_rate=1.0)
  hyper = {"queries": 1, "update": "conserve", "learning_rate": 1.0, "shrink": False}
  pairs, _ = steps(Bench("zeroth_order", class_stream, small_model, hyper, optimizer=large), 8)
  changed = []
  for k, (before, after) in enumerate(pairs):
    was, now = down(plain, before, k)[1], down(plain, after, k)[1]
    assert now <= was + 1e-6
    changed.append(now < was - 1e-6)
  assert 0 < sum(changed) < 8


@pytest.mark.parametrize("estimator", ["two_point", "forward"])
def test_one_query_moves_along_its_own_direction_by_the_slope(estimator, plain, class_stream, small_model):
  """``step = -r (g.z) z``: it never climbs, and ``|step|^2 = r |z|^2 (step . -g)`` with ``|z|^2`` near its mean d."""
  (pair,), _ = steps(variant("zeroth_order", class_stream, small_model, estimator=estimator, epsilon=1e-3), 1)
  step, (fall, _) = moved(pair), down(plain, pair[0], 0)
  along = tree.dot(step, fall) / RATE
  assert along > 0
  assert 0.7 < tree.dot(step, step) / (RATE * along * tree.size(step)) < 1.3


def test_hybrid_with_history(plain, class_stream, small_model):
  """First-order steps before the switch, smoothed: ``h1 = 0.5 g1 + 0.5 h0``; afterwards another direction."""
  bench = variant("zeroth_order", class_stream, small_model, switch_step=2, smoothing="history", alpha=0.5)
  pairs, _ = steps(bench, 3)
  falls = [down(plain, before, k)[0] for k, (before, _) in enumerate(pairs)]
  smooth = falls[0]
  for k in range(2):
    smooth = falls[0] if k == 0 else jax.tree.map(lambda h, g: 0.5 * h + 0.5 * g, smooth, falls[k])
    for got, want in zip(*map(jax.tree.leaves, (moved(pairs[k]), smooth)), strict=True):
      np.testing.assert_allclose(got, want, atol=2e-6)
  rest = jax.tree.map(lambda m, h: m - 0.5 * h, moved(pairs[2]), smooth)
  assert cosine(rest, falls[2]) < 0.9


def test_antithetic_evolution_follows_the_gradient(plain, class_stream, small_model):
  bench = Bench("evolution_strategy", class_stream, small_model, {"population": 200, "antithetic": True})
  (pair,), losses = steps(bench, 1)
  fall, loss = down(plain, pair[0], 0)
  assert cosine(moved(pair), fall) > 0.5
  np.testing.assert_allclose(losses[0], loss, rtol=1e-5)


@pytest.mark.parametrize(
  ("hyper", "said"),
  [
    ({"estimator": "forward", "queries": 2}, "method.estimator: 'forward' takes update 'sgd', queries 1"),
    ({"estimator": "forward", "update": "sign"}, "method.estimator"),
    ({"update": "scalar_sign", "queries": 3}, "method.queries: got 3"),
  ],
)
def test_combinations_that_mean_nothing_are_refused(hyper, said, plain, small_model):
  with pytest.raises(UsageError, match=said):
    methods.make("zeroth_order", small_model, plain.spec, **hyper)
