"""Mean-field learners: the bound, the boundary, natural gradients, adaptation; against independent NumPy."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bench import Bench, assert_near, assert_same
from by_hand import batch_of, cross_entropy, forward, leaves

from cljax import optimizers
from cljax.core import tree
from cljax.core.types import Learner, Task
from cljax.methods.penalties import variational
from cljax.optimizers import MeanField

RNG = np.random.default_rng(0)


def softplus(r):
  return np.log1p(np.exp(np.asarray(r, np.float64)))


def kl_by_hand(q, p):
  """``KL(q || p)`` of diagonal Gaussians, leaf by leaf in float64."""
  total = 0.0
  for m, r, n, s in zip(*map(jax.tree.leaves, (*q, *p)), strict=True):
    m, n, a, b = np.asarray(m, np.float64), np.asarray(n, np.float64), softplus(r), softplus(s)
    total += (np.log(b / a) + (a**2 + (m - n) ** 2) / (2 * b**2) - 0.5).sum()
  return total


HYPER = {"strength": 0.3, "prior_deviation": 0.7}


@pytest.fixture(scope="module")
def uneven(class_stream):
  """The second task has fewer rows than the first."""
  return class_stream._replace(train=(class_stream.train[0], class_stream.train[1][:9]))


@pytest.fixture(scope="module")
def vcl(uneven, small_model):
  return Bench("vcl", uneven, small_model, HYPER)


def test_the_loss_is_the_bound(vcl):
  """With hardly any deviation the expectation is the loss at the means; the KL term is added per row of the task."""
  learner = vcl.start()
  narrow = learner.params._replace(spread=jax.tree.map(lambda r: jnp.full_like(r, -9.0), learner.params.spread))
  learner = learner._replace(params=narrow)
  prior = MeanField(tree.zeros_like(learner.params.mean), tree.zeros_like(learner.params.mean))
  prior = prior._replace(spread=jax.tree.map(lambda z: z + np.log(np.expm1(0.7)), prior.spread))
  sizes = [len(rows) for rows in vcl.stream.train]
  assert sizes[1] == 9 < sizes[0] == vcl.spec.task_rows
  for task, rows in enumerate(sizes):
    learner = vcl.boundary("start_task", learner, task)
    x, y = batch_of(vcl, task, 0)
    _, z = forward(learner.params.mean, x)
    want = cross_entropy(z, y).mean() + 0.3 * kl_by_hand(learner.params, prior) / rows
    learner, _, loss = vcl.step(learner, *vcl.arguments(task, 0))
    np.testing.assert_allclose(float(loss), want, rtol=1e-3)
    learner = vcl.boundary("end_task", learner, task)
    prior = learner.params
    assert_same(learner.method_state.prior, prior)


def test_the_posterior_predicts_by_its_means_or_by_samples(vcl, class_stream, small_model):
  x = jnp.asarray(class_stream.dataset.test.x)
  many = Bench("vcl", class_stream, small_model, {"samples": 2000})
  learner = many.start()
  wide = learner.params._replace(
    spread=jax.tree.map(lambda r: jnp.full_like(r, np.log(np.expm1(0.6))), learner.params.spread)
  )
  learner = learner._replace(params=wide)
  _, z = forward(learner.params.mean, x)
  np.testing.assert_allclose(vcl.parts.predict(learner, x, jnp.int32(0)), z, atol=1e-5)
  p = {k: v[None] + 0.6 * RNG.normal(size=(2000, *v.shape)) for k, v in leaves(learner.params.mean).items()}
  h = np.maximum(np.asarray(x).reshape(1, len(x), -1) @ p["hidden_0/kernel"] + p["hidden_0/bias"][:, None], 0)
  z = h @ p["head/kernel"] + p["head/bias"][:, None]
  e = np.exp(z - z.max(-1, keepdims=True))
  want = (e / e.sum(-1, keepdims=True)).mean(0)
  got = np.exp(jax.jit(many.parts.predict)(learner, x, jnp.int32(0)))
  np.testing.assert_allclose(got.sum(-1), 1, atol=1e-5)
  np.testing.assert_allclose(got, want, atol=0.04)


def gaussian_tree(spread=0.3):
  draw = lambda: {
    "a": jnp.asarray(RNG.normal(size=(3, 2)), jnp.float32),
    "b": jnp.asarray(RNG.normal(size=2), jnp.float32),
  }
  return MeanField(draw(), jax.tree.map(lambda v: v * spread - 1, draw()))


def test_natural_gradient_is_the_inverse_fisher():
  """Against the Hessian of ``KL(q || q')`` at ``q' = q``, which is the Fisher matrix in (mean, spread)."""
  q = gaussian_tree()
  g = gaussian_tree()
  flat, back = jax.flatten_util.ravel_pytree(q)
  fisher = jax.jit(jax.hessian(lambda v: optimizers.mean_field_kl(q, back(v))))(flat)
  want = 5.0 * np.linalg.solve(np.asarray(fisher, np.float64), np.asarray(jax.flatten_util.ravel_pytree(g)[0]))
  tx = optimizers.natural_gradient(5.0)
  got, _ = tx.update(g, tx.init(q), q)
  np.testing.assert_allclose(jax.flatten_util.ravel_pytree(got)[0], want, rtol=2e-3, atol=1e-4)


def test_a_natural_step_mixes_natural_parameters():
  """For a quadratic loss of curvature h over N rows: ``precision <- (1 - rate) precision + rate (old + N h)``."""
  n, rate = 50, 1e-3
  prior, q, h, b = gaussian_tree(), gaussian_tree(), 0.8, 0.4

  def bound(q):  # E_q[h/2 w^2 - b w] has a closed form
    moments = jax.tree.map(lambda m, r: jnp.sum(h / 2 * (m**2 + jax.nn.softplus(r) ** 2) - b * m), *q)
    return sum(jax.tree.leaves(moments)) + optimizers.mean_field_kl(q, prior) / n

  tx = optimizers.natural_gradient(n)
  step, _ = tx.update(jax.jit(jax.grad(bound))(q), tx.init(q), q)
  new = jax.tree.map(lambda p, u: p - rate * u, q, step)
  eta, old = (optimizers.natural_parameters(v) for v in (q, prior))
  for k in q.mean:
    precision, before = 1 / softplus(q.spread[k]) ** 2, 1 / softplus(prior.spread[k]) ** 2
    want = (1 - rate) * precision + rate * (before + n * h)
    np.testing.assert_allclose(1 / softplus(new.spread[k]) ** 2, want, rtol=1e-3)
    np.testing.assert_allclose(-2 * eta[1][k], precision, rtol=1e-5)
    want = rate * (np.asarray(old[0][k]) + n * b - (before + n * h) * np.asarray(q.mean[k])) / precision
    np.testing.assert_allclose(new.mean[k] - q.mean[k], want, rtol=1e-2, atol=1e-5)


def test_natural_vcl_has_the_rows_of_a_task_as_scale(vcl, small_model):
  """Those of the largest before any task began, then each task's own."""
  method = variational.vcl(small_model, vcl.spec, strength=1.0, deviation=0.1, prior_deviation=1.0, natural=True)
  q, g = gaussian_tree(), gaussian_tree()
  learner = Learner(0, None, q, {}, ("before", method.transform.init(q)), ())
  learner = learner._replace(method_state=method.init(None, learner))
  for rows in (vcl.spec.task_rows, 9):
    got, state = method.transform.update(g, learner.opt_state[1], q)
    assert_same(state, learner.opt_state[1])
    for k, r in q.spread.items():
      np.testing.assert_allclose(got.mean[k], rows * softplus(r) ** 2 * g.mean[k], rtol=1e-5)
      slope = 1 / (1 + np.exp(-np.asarray(r, np.float64)))
      np.testing.assert_allclose(got.spread[k], rows * softplus(r) ** 2 / (2 * slope**2) * g.spread[k], rtol=1e-5)
    learner = method.start_task(None, learner, Task(None, None, jnp.int32(9)))
    assert learner.opt_state[0] == "before"
    assert float(learner.method_state.rows) == 9
  assert vcl.parts.method.transform is None


@pytest.fixture(scope="module")
def claw(uneven, small_model):
  return Bench("claw", uneven, small_model, {**HYPER, "limit": 0.4})


def test_claw_without_room_to_adapt_is_vcl(vcl, claw):
  """``limit`` 0: the posterior of a two-task run is that of vcl; with room it is not."""
  mine = claw.train(limit=0.0)
  assert_near(mine.params.posterior, vcl.train().params)
  adapted = claw.step(claw.start(), *claw.arguments(0))[0].params
  assert all(np.abs(np.asarray(a)).max() > 0 for a in jax.tree.leaves(adapted.amount) if a.size)  # it reaches the loss


def test_claw_folds_its_adaptation_into_the_prior(claw, class_stream):
  """At a boundary outputs stay, means have moved by at most the limit's share, and adaptation starts afresh."""
  limit, learner = 0.4, claw.start()
  amount = jax.tree.map(lambda a: jnp.asarray(RNG.normal(size=a.shape) * 3, jnp.float32), learner.params.amount)
  odds = jax.tree.map(lambda a: jnp.asarray(RNG.normal(size=a.shape), jnp.float32), learner.params.odds)
  learner = learner._replace(params=learner.params._replace(amount=amount, odds=odds))
  after = claw.boundary("end_task", learner, 0)
  x = jnp.asarray(class_stream.dataset.test.x)
  np.testing.assert_allclose(
    claw.parts.predict(after, x, jnp.int32(0)), claw.parts.predict(learner, x, jnp.int32(0)), atol=1e-5
  )
  before, now = leaves(learner.params.posterior.mean), leaves(after.params.posterior.mean)
  a, o = leaves(amount), leaves(odds)
  for k in ("head/kernel", "hidden_0/kernel"):
    share = limit * np.tanh(a[k]) / (1 + np.exp(-o[k]))
    np.testing.assert_allclose(now[k], before[k] * (1 + share), rtol=1e-5)
    assert np.abs(now[k] / before[k] - 1).max() <= limit
  assert not any(np.asarray(v).any() for v in jax.tree.leaves(after.params.amount))
  assert_same(after.method_state.prior, after.params.posterior)
  assert_same(after.method_state.odds, odds)


def test_bernoulli_kl():
  odds, prior = {"a": jnp.array([0.3, -2.0, 40.0])}, {"a": jnp.array([1.0, 0.5, 1.0])}
  p, q = (1 / (1 + np.exp(-np.asarray(v["a"], np.float64))) for v in (odds, prior))
  want = (p * np.log(p / q) + np.where(p < 1, (1 - p) * np.log(np.maximum(1 - p, 1e-30) / (1 - q)), 0)).sum()
  np.testing.assert_allclose(variational.bernoulli_kl(odds, prior), want, rtol=1e-5)
  assert variational.bernoulli_kl(odds, odds) == 0
