"""The unified objective: its divergences in NumPy, and each named case against that method's own implementation."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bench import BATCH, Bench, assert_near
from by_hand import RATE, backward, batch_of, forward, gradient, leaves, log_softmax

from cljax import losses, optimizers, regularizers
from cljax.core.types import Learner, UsageError
from cljax.engine import recipe
from cljax.engine.setup import spec_of
from cljax.methods import check_options
from cljax.methods.penalties import variational
from cljax.methods.replay import unified
from cljax.methods.replay.unified import CASES, parameter_divergence
from cljax.optimizers import MeanField

RNG = np.random.default_rng(0)
output_divergence = jax.jit(unified.output_divergence, static_argnums=0)


def draw(*shape):
  return jnp.asarray(RNG.normal(size=shape), jnp.float32)


def test_output_divergences():
  f, z, y = draw(5, 4), draw(5, 4), jnp.array([0, 3, 1, 1, 2])
  p = np.exp(log_softmax(np.asarray(f, np.float64)))
  np.testing.assert_allclose(output_divergence("logits", f, z), ((np.asarray(f - z)) ** 2).mean(-1), rtol=1e-5)
  np.testing.assert_allclose(
    output_divergence("uniform", f, None), np.log(4) + (p * np.log(p)).sum(-1), rtol=1e-4, atol=1e-6
  )
  hot = jax.nn.one_hot(y, 4)
  general = jax.jit(lambda f: losses.bregman(losses.negative_entropy, hot, jax.nn.softmax(f)))(
    f
  )  # KL(one-hot || p), the target first
  np.testing.assert_allclose(output_divergence("labels", f, y), general, rtol=1e-5)
  np.testing.assert_allclose(general, -np.log(p)[np.arange(5), y], rtol=1e-5)


def test_the_uniform_target_runs_over_the_mask():
  f, mask = 50 * draw(3, 4), jnp.array([[1, 1, 0, 1], [1, 0, 0, 0], [0, 1, 1, 0]], bool)
  got, slope = jax.jit(jax.value_and_grad(lambda f: output_divergence("uniform", f, None, mask).sum()))(f)
  want = 0.0
  for row, m in zip(np.asarray(f, np.float64), np.asarray(mask), strict=True):
    lp = log_softmax(row[m])
    want += np.log(m.sum()) + (np.exp(lp) * lp).sum()
  np.testing.assert_allclose(got, want, rtol=1e-5)
  assert np.isfinite(slope).all()
  assert not np.asarray(slope)[~np.asarray(mask)].any()
  even = jnp.zeros((1, 4))
  np.testing.assert_allclose(output_divergence("uniform", even, None), 0, atol=1e-6)
  np.testing.assert_allclose(output_divergence("uniform", 100 * jnp.eye(4)[:1], None), np.log(4), rtol=1e-5)


def two_trees(n=2):
  return [{"w": draw(3, 2), "b": draw(2)} for _ in range(n)]


def test_parameter_divergences():
  """EWC's quadratic and its gradient; the Gaussians' KL and its gradient, with the old ones first."""
  theta, anchor, f = two_trees(3)
  f = jax.tree.map(jnp.square, f)
  old = regularizers.EwcState((), anchor, f, ())
  got, slope = jax.jit(jax.value_and_grad(lambda p: parameter_divergence("fisher", p, old)))(theta)
  np.testing.assert_allclose(got, regularizers.ewc_penalty(theta, anchor, f), rtol=1e-5)
  assert_near(slope, jax.tree.map(lambda p, a, f: f * (p - a), theta, anchor, f), 1e-6)
  q, p = MeanField(*two_trees()), MeanField(*two_trees())
  kl, want = jax.jit(jax.value_and_grad(optimizers.mean_field_kl))(q, p)
  got, slope = jax.jit(jax.value_and_grad(lambda q: parameter_divergence("gaussian", q, p)))(q)
  np.testing.assert_allclose(got, kl, rtol=1e-4)
  assert_near(slope, want, 1e-4)
  assert abs(parameter_divergence("gaussian", p, q) - kl) > 0.1  # the order matters


def test_bregman_penalty_is_that_of_the_potential():
  p, q = two_trees()
  cube = lambda t: sum(jnp.sum(jnp.abs(v) ** 3) for v in jax.tree.leaves(t))
  a, b = (np.concatenate([np.asarray(v, np.float64).ravel() for v in jax.tree.leaves(t)]) for t in (p, q))
  want = (np.abs(a) ** 3 - np.abs(b) ** 3 - 3 * b * np.abs(b) * (a - b)).sum()
  np.testing.assert_allclose(regularizers.bregman_penalty(cube, p, q, 2.0), 2 * want, rtol=1e-5)
  np.testing.assert_allclose(regularizers.bregman_penalty(cube, p, p), 0, atol=1e-5)
  with pytest.raises(UsageError, match="anchor"):
    regularizers.bregman_penalty(cube, p, {"w": q["w"]})
  with pytest.raises(UsageError, match="importance"):
    regularizers.fisher_potential({"w": q["w"]})(p)


@pytest.mark.parametrize(
  ("case", "name", "hyper"),
  [
    ("ewc", "ewc", {"strength": 15.0}),
    ("vcl", "vcl", {"strength": 0.3, "deviation": 0.1}),
    ("der", "derpp", {"alpha": 0.7, "beta": 0.0, "capacity": 20}),
  ],
)
def test_a_case_is_its_method(case, name, hyper, class_stream, small_model):
  """Two tasks and two boundaries, then a step: the parameters are those of the method itself, to float tolerance."""
  given = {"alpha": hyper.get("alpha", 0.0), "beta": hyper.get("strength", 0.0)}
  shared = {k: v for k, v in hyper.items() if k in ("deviation", "capacity")}
  pair = []
  for n, options in ((name, hyper), ("unified", {**CASES[case], **given, **shared})):
    bench = Bench(n, class_stream, small_model, options)
    learner = bench.train(steps=4)
    pair.append(bench.step(learner, *bench.arguments(0, 4))[0].params)
  assert_near(*pair, 2e-5)


def test_natural_gradient_vcl_is_a_case(class_stream, small_model):
  """The terms' gradient at a posterior that has moved, and what the transform makes of it."""
  spec, hyper = spec_of(class_stream, BATCH), {"deviation": 0.1, "prior_deviation": 1.0}
  pair = (
    variational.vcl(small_model, spec, strength=1.0, natural=True, **hyper),
    unified.unified(small_model, spec, **CASES["natural_gradient_vcl"], **hyper),
  )
  q, p, g = (MeanField(*two_trees()) for _ in range(3))
  found, rows = [], jnp.float32(13)
  for method, state in zip(pair, (variational.VclState(p, rows), unified.Unified((), p, rows)), strict=True):
    learner = Learner(0, None, q, (), (), state)
    slope = jax.jit(jax.grad(lambda q, m=method, n=learner: sum(t(None, q, n, None, None) for t in m.terms.values())))(
      q
    )
    found += [slope, method.transform.update(jax.tree.map(jnp.add, g, slope), variational.NaturalState(rows), q)[0]]
  assert_near(found[0], found[2], 1e-5)
  assert_near(found[1], found[3], 1e-3)


def test_er_is_a_case(class_stream, small_model):
  """ER takes the mean over current and stored rows, the objective the sum of two means: twice ER's gradient.

  With one batch stored and all of it drawn, the step at half the rate is ER's.
  """
  half = recipe.make_optimizer("sgd", learning_rate=RATE / 2)
  plain = Bench("er", class_stream, small_model, {"capacity": 50})
  mine = Bench("unified", class_stream, small_model, {**CASES["er"], "capacity": 50}, optimizer=half)
  one = plain.step(plain.start(), *plain.arguments(0, 0))[0]
  want = plain.step(one, *plain.arguments(0, 1))[0].params
  start = mine.step(mine.start(), *mine.arguments(0, 0))[0]._replace(params=one.params)
  assert_near(mine.step(start, *mine.arguments(0, 1))[0].params, want, 1e-6)
  assert float(np.abs(leaves(want)["head/bias"] - leaves(one.params)["head/bias"]).max()) > 1e-4


def test_cpr_adds_the_negative_entropy_to_ewc(class_stream, small_model):
  """A step from a learner with an anchor, by hand: CE, ``alpha (log C - H(p))`` and EWC's pull."""
  alpha, beta = 0.8, 12.0
  bench = Bench("unified", class_stream, small_model, {**CASES["cpr"], "alpha": alpha, "beta": beta})
  away = bench.start()
  random = lambda: jax.tree.map(lambda v: draw(*v.shape), away.params)
  old = away.method_state.old._replace(anchor=random(), importance=jax.tree.map(jnp.square, random()))
  away = away._replace(method_state=away.method_state._replace(old=old))
  after, _, _ = bench.step(away, *bench.arguments(1, 1))
  x, y = batch_of(bench, 1, 1)
  lp = log_softmax(forward(away.params, x)[1])
  p = np.exp(lp)
  entropy = -(p * lp).sum(-1, keepdims=True)
  pull = backward(away.params, x, p * (lp + entropy) / BATCH)  # of the negative entropy
  g, theta = gradient(away.params, x, y), leaves(away.params)
  star, importance = leaves(old.anchor), leaves(old.importance)
  for k, value in leaves(after.params).items():
    want = theta[k] - RATE * (g[k] + alpha * pull[k] + beta * importance[k] * (theta[k] - star[k]))
    np.testing.assert_allclose(value, want, atol=2e-6, err_msg=k)


def test_cases_name_options_that_exist():
  for options in CASES.values():
    check_options("unified", options)
