"""Steps and boundaries of methods of plasticity, posteriors and edits, in float64 NumPy."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bench import Bench, assert_same
from by_hand import KERNELS, RATE, batch_of, cross_entropy, forward, gradient, leaves, log_softmax, near

from cljax import methods
from cljax.core import types
from cljax.engine import recipe

RNG = np.random.default_rng(7)


@pytest.mark.parametrize("scaling", ["after_first_task", "always", "never"])
def test_classp_gates_accumulates_and_divides(class_stream, small_model, scaling):
  threshold, eps = 1e-3, 0.1
  bench = Bench("classp", class_stream, small_model, {"threshold": threshold, "power": 2.0, "eps": eps,
                                                      "scaling": scaling})  # fmt: skip
  learner = bench.start()
  p = leaves(learner.params)
  s = {k: 0.0 * v for k, v in p.items()}
  for task, k in ((0, 0), (0, 1), (1, 0), (1, 1)):
    g = gradient(p, *batch_of(bench, task, k))
    opened = {n: v**2 > threshold for n, v in g.items()}
    assert 0.1 < np.mean(opened["hidden_0/kernel"]) < 0.9
    s = {n: v + opened[n] * g[n] ** 2 for n, v in s.items()}
    divided = scaling == "always" or (scaling == "after_first_task" and task == 1)
    step = {n: opened[n] * (g[n] / np.sqrt(s[n] + eps) if divided else g[n]) for n in p}
    p = {n: v - RATE * step[n] for n, v in p.items()}
    learner = bench.step(learner, *bench.arguments(task, k))[0]
    near(learner.params, p, 1e-5)
  near(learner.opt_state.transform.accumulated, s, 1e-5)


def test_tag_mixes_second_moments_by_direction(class_stream, small_model):
  """RMSprop in the first task; then ``V = exp(-b cos(m, m_0)) v_0 + exp(-b) v``, per tensor."""
  b, b1, b2, scale = 1.5, 0.8, 0.9, 0.03
  bench = Bench("tag", class_stream, small_model, {"b": b, "b1": b1, "b2": b2, "scale": scale})
  learner = bench.start()
  p, old = leaves(learner.params), None
  length = lambda v: np.sqrt((v**2).sum())
  for task in (0, 1):
    m, v = ({n: 0.0 * x for n, x in p.items()} for _ in range(2))
    for k in range(3):
      g = gradient(p, *batch_of(bench, task, k))
      m = {n: b1 * m[n] + (1 - b1) * g[n] for n in p}
      v = {n: b2 * v[n] + (1 - b2) * g[n] ** 2 for n in p}
      mixed = v
      if old is not None:
        cosine = {n: (m[n] * old[0][n]).sum() / length(m[n]) / length(old[0][n]) for n in p}
        mixed = {n: np.exp(-b * cosine[n]) * old[1][n] + np.exp(-b) * v[n] for n in p}
      p = {n: x - RATE * scale * g[n] / (np.sqrt(mixed[n]) + 1e-8) for n, x in p.items()}
      learner = bench.step(learner, *bench.arguments(task, k))[0]
      near(learner.params, p, 2e-5)
    learner = bench.boundary("end_task", learner, task)
    state = learner.opt_state.transform[0]
    assert int(state.task) == task + 1
    for kept, (first, second) in enumerate(filter(None, (old, (m, v)))):
      slot = lambda stack, kept=kept: jax.tree.map(lambda a: a[kept], stack)
      near(slot(state.directions), {n: x / length(x) for n, x in first.items()}, 1e-5)
      near(slot(state.seconds), second, 1e-6, 1e-3)
    old = m, v


@pytest.mark.parametrize("utility", ["contribution", "adaptable"])
def test_continual_backprop_renews_the_least_useful_units(class_stream, small_model, utility):
  """Utilities, ages, the units that go and their momentum; new incoming weights alone are random."""
  rate, decay = 0.31, 0.8
  momentum = recipe.make_optimizer("momentum", learning_rate=RATE, momentum=0.8)
  hyper = {"rate": rate, "decay": decay, "maturity": 1, "utility": utility}
  bench = Bench("continual_backprop", class_stream, small_model, hyper, optimizer=momentum)
  learner = bench.start()
  p, renewed = leaves(learner.params), 0
  trace = {n: 0.0 * v for n, v in p.items()}
  age, u, f, due = np.zeros(8), np.zeros(8), np.zeros(8), 0.0
  for k in range(4):
    x, y = batch_of(bench, 0, k)
    h, _ = forward(p, x)
    g = gradient(p, x, y)
    trace = {n: 0.8 * v + g[n] for n, v in trace.items()}
    p = {n: v - RATE * trace[n] for n, v in p.items()}
    age += 1
    c = 1 - decay**age
    f = decay * f + (1 - decay) * h.mean(0)
    outgoing, incoming = np.abs(p["head/kernel"]).mean(1), np.abs(p["hidden_0/kernel"]).mean(0)
    now = np.abs(h).mean(0) * outgoing
    if utility == "adaptable":
      now = np.abs(h - f / c).mean(0) * outgoing / incoming
    u = decay * u + (1 - decay) * now
    eligible = age > 1
    due += rate * eligible.sum()
    number, due = int(due), due - int(due)
    order = [i for i in np.argsort(np.where(eligible, u / c, np.inf)) if eligible[i]]
    gone = np.isin(np.arange(8), order[:number])
    learner = bench.step(learner, *bench.arguments(0, k))[0]
    fresh = leaves(learner.params)["hidden_0/kernel"][:, gone]
    if gone.any():
      bound = np.sqrt(2) * np.sqrt(3 / 16)
      assert np.abs(fresh).max() <= bound
      assert fresh.std() > 0.4 * bound
      p["head/bias"] = p["head/bias"] + (f / c)[gone] @ p["head/kernel"][gone]
      p["hidden_0/kernel"][:, gone], p["hidden_0/bias"][gone], p["head/kernel"][gone] = fresh, 0, 0
      for moment in (trace["hidden_0/kernel"].T, trace["hidden_0/bias"], trace["head/kernel"]):
        moment[gone] = 0
      age[gone] = u[gone] = f[gone] = 0
    near(learner.params, p, 1e-5)
    state = learner.method_state
    for got, want in zip(state, (age, u, f, due), strict=True):
      np.testing.assert_allclose(got[0], want, rtol=1e-4, atol=1e-6)
    renewed += gone.sum()
  assert renewed >= 4


@pytest.mark.parametrize("begin", [1, 2])
def test_freeze_is_descent_on_the_rest(class_stream, small_model, begin):
  bench = Bench("freeze", class_stream, small_model, {"begin_task": begin})
  learner = bench.start()
  p = leaves(learner.params)
  for task in (0, 1):
    for k in range(2):
      g = gradient(p, *batch_of(bench, task, k))
      still = task >= begin
      p = {n: v - RATE * g[n] * (not still or n.startswith("head")) for n, v in p.items()}
      learner = bench.step(learner, *bench.arguments(task, k))[0]
      near(learner.params, p)


def projected(v, mean):
  """The nearest point with entries in [0, 1] of this mean, by bisection over one shift of all."""
  low, high = v.min() - 1, v.max()
  for _ in range(100):
    middle = (low + high) / 2
    low, high = (middle, high) if np.clip(v - middle, 0, 1).mean() > mean else (low, middle)
  return np.clip(v - middle, 0, 1)


def test_heterogeneous_averaging_climbs_the_likelihood(class_stream, small_model):
  """``dL/dr_k = <gradient, theta^k - theta_before^k>``, projected after each step."""
  ratio, rate, steps = 0.4, 0.3, 6
  hyper = {"ratio": ratio, "learning_rate": rate, "steps": steps, "samples": 64}
  bench = Bench("heterogeneous_averaging", class_stream, small_model, hyper)
  before = bench.train(steps=4, tasks=(0,))
  tuned = before
  for k in range(6):
    tuned = bench.step(tuned, *bench.arguments(1, k))[0]
  ended = bench.boundary("end_task", tuned, 1)
  old, new = leaves(before.params), leaves(tuned.params)
  rows = class_stream.train[1]
  x, y = class_stream.dataset.train.x[rows], class_stream.dataset.train.y[rows]
  block = {n: int(n.startswith("head")) for n in new}
  mix = lambda r: {n: old[n] + r[block[n]] * (new[n] - old[n]) for n in new}
  r = np.full(2, ratio)
  for _ in range(steps):
    g = gradient(mix(r), x, y)
    slope = np.array([sum((g[n] * (new[n] - old[n])).sum() for n in new if block[n] == b) for b in (0, 1)])
    r = projected(r - rate * slope, ratio)
  assert abs(r[0] - r[1]) > 0.05
  near(ended.params, mix(r), 1e-5)
  near(ended.method_state, mix(r), 1e-5)
  near(bench.boundary("end_task", tuned, 1, ratio=1.0).params, new, 0, 0)


def test_claw_s_loss_is_the_bound(class_stream, small_model):
  """At hardly any deviation: the loss of the adapted means where all neurons adapt; and both KL terms."""
  strength, deviation = 0.4, 0.7
  hyper = {"strength": strength, "prior_deviation": deviation, "limit": 0.5}
  bench = Bench("claw", class_stream, small_model, hyper)
  learner = bench.start()
  like = lambda tree, draw: jax.tree.map(lambda a: jnp.asarray(draw(a.shape), jnp.float32), tree)
  posterior = learner.params.posterior
  posterior = posterior._replace(spread=like(posterior.spread, lambda shape: np.full(shape, -9.0)))
  amount = like(learner.params.amount, lambda shape: RNG.normal(size=shape))
  x, y = batch_of(bench, 0, 0)
  m, a = leaves(posterior.mean), leaves(amount)
  small = np.log1p(np.exp(-9.0))
  gauss = sum((np.log(deviation / small) + (small**2 + v**2) / 2 / deviation**2 - 0.5).sum() for v in m.values())
  for limit, odds, prior in ((0.5, 60.0, 60.0), (0.5, -60.0, -60.0), (0.0, 1.0, -0.5)):
    o, q = (like(amount, lambda shape, v=v: np.full(shape, v)) for v in (odds, prior))
    params = learner.params._replace(posterior=posterior, amount=amount, odds=o)
    given = learner._replace(params=params, method_state=learner.method_state._replace(odds=q, rows=jnp.float32(11)))
    adapts = limit * (odds > 0)
    adapted = {n: v * (1 + adapts * np.tanh(a[n])) if n in KERNELS else v for n, v in m.items()}
    p, r = 1 / (1 + np.exp(-odds)), 1 / (1 + np.exp(-prior))
    each = 0.0 if odds == prior else p * np.log(p / r) + (1 - p) * np.log((1 - p) / (1 - r))
    bernoulli = each * (8 + 4)
    want = cross_entropy(forward(adapted, x)[1], y).mean() + strength * (gauss + bernoulli) / 11
    loss = bench.step(given, *bench.arguments(0, 0), limit=limit)[2]
    np.testing.assert_allclose(float(loss), want, rtol=2e-4)


def test_lines_takes_the_blocks_that_it_is_given(class_stream, small_model):
  """From the first task on and shallowest last: the head goes back to a quarter, the rest outside of both as well."""
  blocks = {"alpha": 0.25, "blocks": "head/kernel, hidden_0/kernel", "begin_task": 0}
  bench = Bench("lines", class_stream, small_model, blocks)
  start = bench.start()
  tuned = bench.step(start, *bench.arguments(0, 0))[0]
  p = leaves(start.params)
  g = gradient(p, *batch_of(bench, 0, 0))
  scale = {"head/kernel": 0.25, "hidden_0/kernel": 1.0, "head/bias": 0.25, "hidden_0/bias": 0.25}
  ended = bench.boundary("end_task", tuned, 0)
  near(ended.params, {n: v - RATE * scale[n] * g[n] for n, v in p.items()})


@pytest.mark.parametrize("name", ["vcl", "claw"])
def test_priors_follow_an_edit(class_stream, small_model, name):
  """An edit of the posterior moves the prior by as much, and where they were the same, to the bit."""
  method = methods.make(name, small_model, Bench("finetune", class_stream, small_model).spec)
  params = method.model.init(jax.random.key(0))[0]
  learner = types.Learner(jnp.int32(0), jax.random.key(1), params, {}, (), ())
  learner = learner._replace(method_state=method.init(jax.random.key(2), learner))
  edited = jax.tree.map(lambda v: v + 0.5 * jnp.cos(v), params)
  after = method.after_forget(learner._replace(params=edited), params).method_state
  old, new = (getattr(p, "posterior", p) for p in (params, edited))
  kept, moved = (getattr(s, "prior", s) for s in (learner.method_state, after))
  far = lambda k, b, a: np.asarray(k, np.float64) + np.asarray(a, np.float64) - np.asarray(b, np.float64)
  for k, b, a, got in zip(*map(jax.tree.leaves, (kept, old, new, moved)), strict=True):
    np.testing.assert_allclose(got, far(k, b, a), rtol=1e-5, atol=1e-6)
  if name == "claw":  # the odds start at the prior's
    assert_same(after.odds, edited.odds)


def fisher_by_hand(p, x):
  """``mean_n sum_c p_c (d log p_c / d theta)^2``; a row's squared gradient is a product of squares."""
  h, z = forward(p, x)
  q, flat = np.exp(log_softmax(z)), x.reshape(len(x), -1)
  out = {n: 0.0 * v for n, v in p.items()}
  for c in range(q.shape[1]):
    d = np.eye(q.shape[1])[c] - q
    back = (d @ p["head/kernel"].T) * (h > 0)
    for layer, slope, inputs in (("head", d, h), ("hidden_0", back, flat)):
      squares = slope**2 * q[:, c : c + 1] / len(x)
      out[f"{layer}/bias"] += squares.sum(0)
      out[f"{layer}/kernel"] += (inputs**2).T @ squares
  return out


def test_refresh_climbs_twice_under_an_accumulating_fisher(class_stream, small_model):
  """``F <- decay F + F_t`` at each boundary; two ascents a step over plain descent."""
  size, damping, decay = 2e-3, 0.05, 0.3
  hyper = {"base": "finetune", "step_size": size, "damping": damping, "noise": 0.0, "decay": decay, "steps": 2}
  bench = Bench("refresh", class_stream, small_model, hyper)
  learner = bench.start()
  p = leaves(learner.params)
  fisher = {n: 0.0 * v for n, v in p.items()}
  for task in (0, 1):
    for k in range(2):
      x, y = batch_of(bench, task, k)
      for _ in range(2):
        g = gradient(p, x, y)
        p = {n: v + size / (fisher[n] + damping) * g[n] for n, v in p.items()}
      g = gradient(p, x, y)
      p = {n: v - RATE * g[n] for n, v in p.items()}
      learner = bench.step(learner, *bench.arguments(task, k))[0]
      near(learner.params, p, 2e-5)
    learner = bench.boundary("end_task", learner, task)
    new = fisher_by_hand(p, class_stream.dataset.train.x[class_stream.train[task]])
    fisher = {n: decay * v + new[n] for n, v in fisher.items()}
    near(learner.method_state.fisher, fisher, 1e-5, 1e-3)


def test_refresh_s_noise_is_as_large_as_its_step_says(class_stream, small_model):
  """With no descent: ``(theta' - theta - s g / (F + d)) / (noise sqrt(2 s / (F + d)))`` is standard normal."""
  size, damping, noise = 1e-3, 0.05, 0.3
  hyper = {"base": "finetune", "step_size": size, "damping": damping, "noise": noise}
  still = recipe.make_optimizer("sgd", learning_rate=0.0)
  bench = Bench("refresh", class_stream, small_model, hyper, optimizer=still)
  learner = bench.start()
  draw = np.random.default_rng(2)
  fisher = jax.tree.map(lambda f: jnp.asarray(draw.uniform(0, 0.2, f.shape), jnp.float32), learner.method_state.fisher)
  learner = learner._replace(method_state=learner.method_state._replace(fisher=fisher))
  p, f = leaves(learner.params), leaves(fisher)
  g, drawn = gradient(p, *batch_of(bench, 0, 0)), []
  for k in range(5):  # the same batch under other keys
    given = learner._replace(key=jax.random.key(k), step=jnp.int32(k))
    after = leaves(bench.step(given, *bench.arguments(0, 0))[0].params)
    rest = {n: after[n] - v - size * g[n] / (f[n] + damping) for n, v in p.items()}
    drawn.append(np.concatenate([(v / noise / np.sqrt(2 * size / (f[n] + damping))).ravel() for n, v in rest.items()]))
  e = np.stack(drawn)
  assert abs(e.mean()) < 4 / np.sqrt(e.size)
  assert abs(e.var() - 1) < 4 * np.sqrt(2 / e.size)
  assert abs(np.corrcoef(e[0], e[1])[0, 1]) < 0.4


PERIODS = {
  "ema": {"decay": 0.9, "early_decay": 0.5, "capacity": 12},
  "lifecycle": {"probability": 0.7, "period": 0},
  "fomo": {"fraction": 0.5, "decay": 0.25, "strength": 0.0, "period": 0, "patterns": "head"},
}


@pytest.mark.parametrize("name", PERIODS)
def test_one_pass_is_the_default_length_of_a_period(name, class_stream, small_model):
  """42 rows in batches of 8 are 6 steps: EMA's early steps, and the periods of lifecycle and fomo."""
  bench = Bench(name, class_stream, small_model, PERIODS[name])
  learner = bench.start()
  start = mean = leaves(learner.params)
  for k in range(8):
    learner = bench.step(learner, *bench.arguments(0, k))[0]
    now = leaves(learner.params)
    if name == "ema":
      d = 0.5 if k < 6 else 0.9
      mean = {n: d * mean[n] + (1 - d) * now[n] for n in now}
      near(learner.method_state.own.params, mean, 1e-5)
    elif name == "lifecycle":  # units fall asleep before the seventh step
      assert bool(np.asarray(learner.method_state.sleep[0]).any()) == (k >= 6)
    else:
      stable = leaves(learner.method_state.params)
      assert all(np.array_equal(stable[n], start[n]) for n in start) == (k < 5)
