"""Steps, boundaries and predictions of methods of plasticity, pruning, masks and edits, in float64 NumPy."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bench import Bench, assert_same
from by_hand import RATE, batch_of, cross_entropy, forward, gradient, leaves, log_softmax

from cljax import methods, optimizers, recipe, types

RNG = np.random.default_rng(7)
KERNELS = ("hidden_0/kernel", "head/kernel")


def near(params, want, atol=2e-6, rtol=2e-4):
  got = leaves(params)
  assert set(got) == set(want)
  for name, value in want.items():
    np.testing.assert_allclose(got[name], value, rtol, atol, err_msg=name)


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


def masks_of(scores, task, sparsity):
  """The kernels' masks: the smallest ``floor(sparsity n)`` scores are out."""
  out = {}
  for name, s in scores.items():
    size = np.abs(s[task])
    out[name] = (size >= np.sort(size.ravel())[int(sparsity * size.size)]).astype(float)
  return out


@pytest.fixture(scope="module")
def supsup(class_stream, small_model):
  return {
    how: Bench("supsup", class_stream, small_model, {"sparsity": 0.4, "inference": how}) for how in ("row", "batch")
  }


def test_supsup_trains_the_scores_of_its_task_alone(supsup):
  """``s -= rate sign(s) W dL/d(W mask)``: frozen weights, the gradient straight through the mask."""
  bench = supsup["row"]
  learner = bench.start()
  begun = bench.boundary("start_task", learner, 1)
  fresh, was = leaves(begun.params), leaves(learner.params)
  for name, fan_in in (("hidden_0/kernel", 16), ("head/kernel", 8)):
    np.testing.assert_array_equal(fresh[name][0], was[name][0])
    assert np.abs(fresh[name][1] - was[name][1]).min() > 0
    assert 0.8 / np.sqrt(fan_in) < np.abs(fresh[name][1]).max() <= 1 / np.sqrt(fan_in)
  assert_same(bench.boundary("start_task", begun, 1, met=(0, 1)).params, begun.params)  # it came back: kept
  frozen, scores = leaves(begun.model_state["frozen"]), leaves(begun.params)
  for k in range(2):
    masks = masks_of(scores, 1, 0.4)
    p = {n: v * masks.get(n, 1.0) for n, v in frozen.items()}
    g = gradient(p, *batch_of(bench, 1, k))
    for n in KERNELS:
      scores[n][1] -= RATE * np.sign(scores[n][1]) * frozen[n] * g[n]
    begun = bench.step(begun, *bench.arguments(1, k))[0]
    near(begun.params, scores, 1e-6)
    assert_same(begun.model_state["frozen"], learner.model_state["frozen"])
  ended = bench.boundary("end_task", begun, 1)
  np.testing.assert_array_equal(ended.method_state, [False, True])


@pytest.mark.parametrize("how", ["row", "batch"])
def test_supsup_infers_the_task_of_the_steepest_entropy(supsup, how, class_stream):
  """The slope of the entropy under ``W sum_t alpha_t mask_t`` by central differences in float64."""
  bench = supsup[how]
  learner = bench.start()
  frozen, scores = leaves(learner.model_state["frozen"]), leaves(learner.params)
  masks = [masks_of(scores, t, 0.4) for t in (0, 1)]
  x = np.asarray(class_stream.dataset.test.x[:24])
  under = lambda mask: forward({n: v * mask.get(n, 1.0) for n, v in frozen.items()}, x)[1]

  def entropy(alphas):
    log = log_softmax(under({n: alphas[0] * masks[0][n] + alphas[1] * masks[1][n] for n in KERNELS}))
    return -(np.exp(log) * log).sum(-1)

  half, eps = np.array([0.5, 0.5]), 1e-6
  slope = np.stack([(entropy(half + e) - entropy(half - e)) / 2 / eps for e in eps * np.eye(2)], 1)
  slope = np.broadcast_to(slope.sum(0), slope.shape) if how == "batch" else slope
  chosen = slope.argmin(1)
  assert how == "batch" or 0 < chosen.mean() < 1
  each = np.stack([under(m) for m in masks])
  predict = jax.jit(bench.parts.predict)
  for learned in ([False, False], [True, True]):  # before the first: all of them
    got = predict(learner._replace(method_state=jnp.asarray(learned)), jnp.asarray(x), jnp.int32(0))
    np.testing.assert_allclose(got, each[chosen, np.arange(24)], rtol=1e-4, atol=1e-5)
  got = predict(learner._replace(method_state=jnp.asarray([False, True])), jnp.asarray(x), jnp.int32(0))
  np.testing.assert_allclose(got, each[1], rtol=1e-4, atol=1e-5)


def test_clnp_prunes_to_the_margin_and_trains_what_is_free(class_stream, small_model):
  strength, margin, count = 0.01, 0.1, 30
  bench = Bench("clnp", class_stream, small_model, {"strength": strength, "margin": margin, "thresholds": count,
                                                    "samples": 400})  # fmt: skip
  learner = bench.start()
  p = leaves(learner.params)
  owned, classes = np.zeros(8, bool), np.zeros(4, bool)
  for task in (0, 1):
    for k in range(6):
      g = gradient(p, *batch_of(bench, task, k))
      g = {n: v + strength * np.sign(p[n]) * (n in KERNELS) for n, v in g.items()}
      for n in g:
        g[n][..., owned if n.startswith("hidden") else classes] = 0
      p = {n: v - RATE * g[n] for n, v in p.items()}
      learner = bench.step(learner, *bench.arguments(task, k))[0]
    near(learner.params, p, 1e-5)
    rows = class_stream.train[task]
    x, y = class_stream.dataset.train.x[rows], class_stream.dataset.train.y[rows]
    activity, own = forward(p, x)[0].mean(0), class_stream.classes_of_task[task]

    def cut(threshold, p=p, owned=owned, classes=classes, own=own, activity=activity):
      used, known = owned | (activity > threshold), classes | own
      kernel = p["head/kernel"] * ~(~used[:, None] & known[None])
      return used, {**p, "head/kernel": kernel}

    def accuracy(threshold, own=own, x=x, y=y):
      return (np.where(own, forward(cut(threshold)[1], x)[1], -np.inf).argmax(1) == y).mean()

    tried = [t for t in np.linspace(0, activity.max(), count) if accuracy(t) >= accuracy(0) - margin]
    owned, p = cut(max(tried))
    classes = classes | own
    learner = bench.boundary("end_task", learner, task)
    near(learner.params, p, 1e-5)
    state = optimizers.clnp_state(learner.opt_state)
    np.testing.assert_array_equal(state.owned[0], owned)
    np.testing.assert_array_equal(state.outputs, classes)
    assert task == 1 or 0 < owned.sum() < 8


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
    given = learner._replace(params=params, method_state=learner.method_state._replace(odds=q))
    adapts = limit * (odds > 0)
    adapted = {n: v * (1 + adapts * np.tanh(a[n])) if n in KERNELS else v for n, v in m.items()}
    p, r = 1 / (1 + np.exp(-odds)), 1 / (1 + np.exp(-prior))
    each = 0.0 if odds == prior else p * np.log(p / r) + (1 - p) * np.log((1 - p) / (1 - r))
    bernoulli = each * (8 + 4)
    want = cross_entropy(forward(adapted, x)[1], y).mean() + strength * (gauss + bernoulli) / bench.spec.task_rows
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
