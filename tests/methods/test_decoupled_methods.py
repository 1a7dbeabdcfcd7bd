"""Decoupled penalties in the engine: ``theta <- (theta' + a theta*) / (1 + a)`` behind the optimizer, before
projectors of updates, at the step's rate; against NumPy in float64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from bench import Bench, assert_same
from by_hand import batch_of, gradient, leaves

import cljax
from cljax import UsageError, methods, regularizers
from cljax.engine import recipe
from cljax.engine.step import state_between_tasks

TRAIN = cljax.Recipe(batch_size=8, epochs=2)


def pulled(theta, rate, terms):
  """The formula with an anchor and a curvature for each task."""
  top = {p: v + sum(rate * h[p] * star[p] for star, h in terms) for p, v in theta.items()}
  return {p: v / (1 + sum(rate * h[p] for _, h in terms)) for p, v in top.items()}


def near(learner, want, atol=1e-5):
  for path, value in leaves(learner.params).items():
    np.testing.assert_allclose(value, want[path], atol=atol, err_msg=path)


def test_ewc_at_the_rate_of_a_schedule_behind_momentum(class_stream, small_model):
  """Momentum has the loss's gradients alone; the second task's pulls sum over both tasks."""
  strength, momentum = 20.0, 0.9
  optimizer = recipe.make_optimizer("momentum", learning_rate=0.2, momentum=momentum, schedule="linear", warmup=0.2)
  bench = Bench("ewc", class_stream, small_model, {"strength": strength, "decoupled": True}, optimizer=optimizer)
  learner = bench.start()
  theta, terms, fisher, step = leaves(learner.params), [], {p: 0.0 for p in leaves(learner.params)}, 0
  trace = dict.fromkeys(theta, 0.0)
  for task in (0, 1, 0):
    for k in range(3):
      g = gradient(learner.params, *batch_of(bench, task, k))
      trace = {p: g[p] + momentum * trace[p] for p in g}
      rate = 0.2 * min(step / 10 / 0.2, 1) * (1 - max(step / 10 - 0.2, 0) / 0.8)
      free = {p: v - rate * trace[p] for p, v in theta.items()}
      theta = pulled(free, rate, terms)
      learner, step = bench.step(learner, *bench.arguments(task, k))[0], step + 1
      near(learner, theta)
      assert not terms or rate == 0 or max(np.abs(free[p] - theta[p]).max() for p in theta) > 1e-3
    learner = bench.boundary("end_task", learner, task)
    (state,) = regularizers.find(state_between_tasks(learner))
    total = leaves(state.importance)
    terms.append((theta, {p: strength * (total[p] - fisher[p]) for p in total}))
    fisher = total


def test_si_under_adam_at_an_injected_rate(class_stream, small_model):
  """The path is that of the loss's gradient and of the movement that Adam and the pull make."""
  strength, damping, rates = 50.0, 0.05, [0.05, 0.02, 0.04, 0.03, 0.01, 0.05, 0.02, 0.03]
  schedule = lambda count: jnp.asarray(rates)[count]
  optimizer = optax.chain(optax.identity(), optax.inject_hyperparams(optax.adam)(learning_rate=schedule))
  hyper = {"strength": strength, "damping": damping, "decoupled": True}
  bench = Bench("si", class_stream, small_model, hyper, optimizer=optimizer)
  learner = bench.start()
  theta = leaves(learner.params)
  omega, star, m, v, step = *({p: np.zeros_like(x) for p, x in theta.items()} for _ in range(4)), 0
  for task in (0, 1):
    begin, path = theta, {p: 0.0 for p in theta}
    for k in range(4):
      g = gradient(learner.params, *batch_of(bench, task, k))
      m, v = ({p: b * old[p] + (1 - b) * g[p] ** e for p in g} for b, e, old in ((0.9, 1, m), (0.999, 2, v)))
      scale = 1 - 0.9 ** (step + 1), 1 - 0.999 ** (step + 1)
      rate = rates[step]
      free = {p: x - rate * (m[p] / scale[0]) / (np.sqrt(v[p] / scale[1]) + 1e-8) for p, x in theta.items()}
      new = pulled(free, rate, [(star, {p: 2 * strength * np.maximum(w, 0) for p, w in omega.items()})])
      path = {p: path[p] - g[p] * (new[p] - theta[p]) for p in g}
      theta, step = new, step + 1
      learner = bench.step(learner, *bench.arguments(task, k))[0]
      near(learner, theta, atol=2e-4)  # Adam's first steps divide by gradients near 0
      assert task == 0 or max(np.abs(free[p] - theta[p]).max() for p in theta) > 1e-3
    star = theta
    omega = {p: omega[p] + path[p] / ((theta[p] - begin[p]) ** 2 + damping) for p in omega}
    learner = bench.boundary("end_task", learner, task)
    for p, w in leaves(learner.opt_state.pull.importance).items():
      np.testing.assert_allclose(w, omega[p], rtol=0.02, atol=2e-3, err_msg=p)


def test_l2_shrinks_from_the_first_step(class_stream, small_model):
  bench = Bench("l2", class_stream, small_model, {"strength": 2.0, "decoupled": True})
  start = bench.start()
  g = gradient(start.params, *batch_of(bench, 0, 0))
  near(bench.step(start, *bench.arguments(0))[0], {p: (v - 0.1 * g[p]) / 1.4 for p, v in leaves(start.params).items()})


def test_gpm_keeps_its_promise_whichever_way_the_hybrid_is_written(class_stream, small_model):
  """The applied update is what is left of EWC's pulled step beside the bases of old inputs: ``M^T moved = 0``."""
  parts = {
    "gpm": ("gpm", {"threshold": 0.9, "samples": 20}),
    "ewc": ("ewc", {"strength": 100.0, "decoupled": True}),
  }
  ends = []
  for order in (("gpm", "ewc"), ("ewc", "gpm")):
    bench = Bench({n: parts[n] for n in order}, class_stream, small_model)
    learner = bench.train(3, tasks=(0,))
    star = leaves(learner.params)
    for k in range(3):
      after = bench.step(learner, *bench.arguments(1, k))[0]
      bases, importance = learner.opt_state.finalize["gpm"].bases, leaves(learner.opt_state.pull["ewc"].importance)
      theta, g = leaves(learner.params), gradient(learner.params, *batch_of(bench, 1, k))
      free = {p: theta[p] - 0.1 * g[p] for p in theta}
      aimed = pulled(free, 0.1, [(star, {p: 100 * f for p, f in importance.items()})])
      for p, moved in ((p, v - theta[p]) for p, v in leaves(after.params).items()):
        if p not in bases:
          assert not moved.any()  # held after the first task
          continue
        basis = np.asarray(bases[p], np.float64)
        off = lambda u, basis=basis: u - basis @ (basis.T @ u)
        assert np.abs(basis).max() > 0.1
        assert np.abs(basis.T @ moved).max() < 1e-3 * np.abs(moved).max()
        np.testing.assert_allclose(moved, off(aimed[p] - theta[p]), atol=2e-6)
        assert np.abs(off(aimed[p] - free[p])).max() > 0.03 * np.abs(moved).max() > 1e-5
      learner = after
    ends.append(learner)
  assert_same(ends[0].params, ends[1].params)


def test_no_strength_makes_a_run_diverge(class_stream, small_model):
  """Strengths and rates are swept in one program, with the bits of single runs; the plain penalty dies of the same."""
  values = ((1e6, 0.1), (1e30, 0.3), (0.0, 0.1))
  grid = [cljax.Member(0, {"method.strength": s, "optimizer.learning_rate": r}) for s, r in values]
  many = cljax.run(class_stream, small_model, "ewc", {"decoupled": True}, population=grid, training=TRAIN)
  assert many.compilations["chunk"] == 1
  assert len(set(many.params_sha256)) == 3
  one = cljax.run(
    class_stream, small_model, "ewc", {"strength": 1e30, "decoupled": True}, optimizer_options={"learning_rate": 0.3},
    training=TRAIN,
  )  # fmt: skip
  assert one.params_sha256[0] == many.params_sha256[1]
  assert one.accuracy[0, 2, 0] == one.accuracy[0, 1, 0] > 0.9  # nothing that the first task needs has moved
  free = cljax.run(class_stream, small_model, training=TRAIN)
  np.testing.assert_allclose(free.accuracy[0], many.accuracy[2], atol=0.02)
  with pytest.raises(cljax.DivergedError):
    cljax.run(class_stream, small_model, "ewc", {"strength": 1e6}, training=TRAIN)


def test_where_it_makes_no_sense_it_is_refused(class_stream, small_model):
  for name in ("spectral", "wasserstein", "lwf", "unified", "er"):
    with pytest.raises(UsageError, match=f"method.decoupled: '{name}' has no such option"):
      methods.check_options(name, {"decoupled": True})
  with pytest.raises(UsageError, match=r"method\.decoupled: got 1 of type int; expected bool"):
    methods.check_options("ewc", {"decoupled": 1})
  takes = {n for n, entry in methods.METHODS.items() if "decoupled" in entry.options}
  assert takes == {"ewc", "online_ewc", "si", "mas", "hierarchical", "l2", "l2_previous", "l2_init", "rwalk"}
  injected = optax.inject_hyperparams(optax.sgd)(learning_rate=0.1)
  skips = optax.MultiSteps(injected, 2).gradient_transformation()
  for optimizer in (optax.sgd(0.1), skips, optax.chain(injected, injected)):
    bench = Bench("l2", class_stream, small_model, {"decoupled": True}, optimizer=optimizer)
    with pytest.raises(UsageError, match=r"method\.decoupled: .* whose learning rate can not be seen") as error:
      jax.eval_shape(bench.parts.init, jax.random.key(0))
    assert "\n" not in str(error.value)
