"""Estimators, edits and bookkeeping against NumPy, in float64; random draws are JAX's own, by the documented keys."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize
import scipy.stats

from cljax import optimizers as O
from cljax.optimizers._common import random_like


@pytest.fixture(autouse=True)
def double():
  with jax.enable_x64(True):
    yield


RNG = np.random.default_rng(3)
A = RNG.normal(size=(5, 5))
A = A @ A.T / 5 + np.eye(5)
THETA = RNG.normal(size=5)
flat = lambda t: np.concatenate([np.ravel(t["a"]), np.ravel(t["b"])])
loss_at = lambda v: 0.5 * v @ A @ v


def quadratic(p):
  v = jnp.concatenate([p["a"], p["b"][:, 0]])
  return 0.5 * v @ jnp.asarray(A) @ v, {"first": p["a"][0]}


def wide():
  """The parameters in float64: the module is read before x64 is on."""
  return {"a": jnp.asarray(THETA[:3]), "b": jnp.asarray(THETA[3:].reshape(2, 1))}


@functools.partial(jax.jit, static_argnames="draw")
def like(key, draw=jax.random.normal):
  return random_like(key, wide(), draw)


def direction(key, q=0):
  """The q-th direction that an estimator draws from ``key``."""
  return flat(like(jax.random.fold_in(key, q)))


@jax.jit
def sparse(key, mask):
  return [
    O.zo_sign(key, quadratic, wide(), sparsity=0.5, sparsity_key=mask, scalar_sign=scalar)[1]
    for scalar in (False, True)
  ]


@pytest.mark.parametrize("one_sided", [False, True])
def test_zo_sgd_on_a_quadratic(one_sided):
  """``(L(t + e z) - L(t - e z)) / 2e = <g, z>``; one-sided there is ``e/2 z A z`` more."""
  key, mask, e = jax.random.key(1), jax.random.key(2), 0.3
  for sparsity, queries in ((0.0, 1), (0.5, 3)):
    options = {"sparsity": sparsity, "sparsity_key": mask} if sparsity else {}
    program = jax.jit(
      lambda k, o, q=queries: O.zo_sgd(k, quadratic, wide(), epsilon=e, queries=q, one_sided=one_sided, **o)
    )
    (loss, aux), g = program(key, options)
    kept = flat(like(mask, draw=jax.random.uniform)) >= sparsity
    want, losses = 0, []
    for q in range(queries):
      z = direction(key, q) * kept
      slope = A @ THETA @ z + (0.5 * e * z @ A @ z if one_sided else 0)
      want = want + slope * z / queries
      losses.append(loss_at(THETA) + (0 if one_sided else 0.5 * e**2 * z @ A @ z))
    np.testing.assert_allclose(flat(g), want, rtol=1e-9)
    np.testing.assert_allclose(loss, np.mean(losses), rtol=1e-12)
    np.testing.assert_allclose(aux["first"], THETA[0] - (0 if one_sided else e * z[0]), rtol=1e-12)


def test_zo_sign_and_the_released_sign():
  key, mask = jax.random.key(4), jax.random.key(2)
  kept = flat(like(mask, draw=jax.random.uniform)) >= 0.5
  assert 0 < kept.sum() < 5
  z = kept * direction(key)
  slope = A @ THETA @ z
  paper, released = sparse(key, mask)
  np.testing.assert_array_equal(flat(paper), np.sign(slope * z))
  np.testing.assert_allclose(flat(released), np.sign(slope) * z)


def test_zo_conserve_takes_the_best_of_three():
  """Of a loss and of its negative; a negative rate makes ``-g`` the best."""
  program = jax.jit(
    lambda key, sign, rate: O.zo_conserve(
      key, lambda p: (sign * quadratic(p)[0], quadratic(p)[1]), wide(), rate, epsilon=0.2
    )
  )
  chosen = set()
  for seed, sign, rate in ((0, 1.0, 0.02), (1, -1.0, 0.05), (2, 1.0, 9.0), (3, 1.0, -0.02), (4, 1.0, 0.02)):
    key = jax.random.key(seed)
    z = direction(key)
    g = sign * (A @ THETA @ z) * z
    best = int(np.argmin([sign * loss_at(THETA - s * rate * g) for s in (0, 1, -1)]))
    chosen.add(best)
    (here, aux), got = program(key, sign, rate)
    np.testing.assert_allclose(flat(got), (0, 1, -1)[best] * g, rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose([here, aux["first"]], [sign * loss_at(THETA), THETA[0]], rtol=1e-12)
  assert chosen == {0, 1, 2}
  far = lambda p: (jnp.where(jnp.abs(p["a"][0] - THETA[0]) > 50, jnp.nan, quadratic(p)[0]), ())
  _, got = O.zo_conserve(jax.random.key(0), far, wide(), 1e4, epsilon=0.2)  # both ways lead to NaN
  np.testing.assert_array_equal(flat(got), 0)


def test_forward_gradient_is_the_slope_along_its_direction():
  key = jax.random.key(5)
  (loss, aux), g = O.forward_gradient(key, quadratic, wide())
  v = flat(like(key))
  np.testing.assert_allclose(flat(g), (A @ THETA @ v) * v, rtol=1e-10)
  np.testing.assert_allclose([loss, aux["first"]], [loss_at(THETA), THETA[0]])


def test_hybrid_is_exact_before_the_switch():
  key = jax.random.key(6)
  z = direction(key, 0)
  program = jax.jit(lambda step: O.hybrid(key, quadratic, wide(), step, 3))
  for step, want in ((2, A @ THETA), (3, (A @ THETA @ z) * z), (4, (A @ THETA @ z) * z)):
    (_, aux), g = program(step)
    np.testing.assert_allclose(flat(g), want, rtol=1e-6)
    assert aux["first"].shape == ()


def test_averages_leaf_by_leaf():
  a, b = RNG.normal(size=(2, 3)), RNG.normal(size=(2, 3))
  np.testing.assert_allclose(O.ema({"w": a}, {"w": b}, 0.7)["w"], 0.7 * a + 0.3 * b)
  np.testing.assert_allclose(O.reptile({"w": jnp.asarray(a)}, {"w": jnp.asarray(b)}, 0.3)["w"], b + 0.3 * (a - b))
  for step, moved in ((0, False), (3, True), (4, False), (6, True)):
    got, snapshot = O.reptile_every(step, {"w": jnp.asarray(a)}, {"w": jnp.asarray(b)}, 3, 0.25)
    want = b + 0.25 * (a - b)
    np.testing.assert_allclose(got["w"], want if moved else a)
    np.testing.assert_allclose(snapshot["w"], want if moved else b)


def test_lcia_falls_back_where_its_weight_leaves_the_open_interval():
  """Weight 0 (the parameters stand still) and weight 1: neither is inside, the average keeps 0.99."""
  one, zero = ({"w": jnp.full(1, v)} for v in (1.0, 0.0))
  still = O.lcia(zero, one, one, {"w": jnp.full(1, 2.0)}, zero)  # |t - t_last| = 0
  np.testing.assert_allclose(still["w"], 0.01)
  whole = O.lcia(zero, one, zero, zero, one)  # (0 + 1) / (1 * 1 / 1)
  np.testing.assert_allclose(whole["w"], 0.01)


def test_schedules_without_warmup_or_cooldown():
  rate = O.rewarm_redecay(2.0, 0.5, 0, 10)
  np.testing.assert_allclose([rate(0), rate(5), rate(10)], [2, 1.25, 2], rtol=1e-6)
  rate = O.infinite(2.0, 1.0, 0.25, 0, 0, 4, 2)
  np.testing.assert_allclose(
    [rate(0), rate(1), rate(4), rate(5), rate(6), rate(9)], [2, 1, 1, 0.5, 0.25, 0.25], rtol=1e-6
  )


def test_the_gate_of_classp_is_strict():
  tx = O.classp(0.5, threshold=0.25, power=2.0, eps=0.0)
  g = jnp.asarray([0.5, -0.5, -2.0, 0.0])
  got, state = tx.update({"w": g}, tx.init({"w": g}))
  np.testing.assert_allclose(got["w"], [0, 0, 0.5, 0])
  np.testing.assert_allclose(state[0].accumulated["w"], [0, 0, 4, 0])


def test_ratios_are_shifted_and_cut_until_the_mean_is_right():
  for mean in (0.1, 0.5, 0.95):
    raw = RNG.normal(size=6) * 2
    shift = scipy.optimize.brentq(lambda s, m=mean, r=raw: np.mean(np.clip(r + s, 0, 1)) - m, -20, 20, xtol=1e-14)
    np.testing.assert_allclose(O.project_ratios(raw, mean), np.clip(raw + shift, 0, 1), atol=1e-10)


def test_forgotten_weights_are_drawn_evenly():
  """``round(0.26 * 10)`` of ten weights, each as often as any other; of a matching tensor alone."""
  params, fresh = {"in": jnp.zeros(10), "out": jnp.zeros((5, 2))}, {"in": jnp.ones(10), "out": jnp.ones((5, 2))}
  each = jax.jit(jax.vmap(lambda k: O.fomo_forget(k, params, fresh, 0.26, ["out"])))(
    jax.random.split(jax.random.key(0), 400)
  )
  taken = np.asarray(each["out"]).reshape(400, 10)
  np.testing.assert_array_equal(taken.sum(1), 3)
  assert scipy.stats.chisquare(taken.sum(0)).pvalue > 1e-3
  assert not np.any(each["in"])
  both = O.fomo_forget(jax.random.key(1), params, fresh, 0.26)
  assert [int(np.sum(both[k])) for k in ("in", "out")] == [3, 3]
  assert np.any(np.ravel(both["in"]) != np.ravel(both["out"]))  # not the same places in each


def test_mean_field_by_hand():
  key, soft = jax.random.key(7), lambda r: np.log1p(np.exp(r))
  q = O.MeanField({"a": jnp.asarray(RNG.normal(size=(2, 2))), "b": jnp.asarray(RNG.normal(size=3))},
                  {"a": jnp.asarray(RNG.normal(size=(2, 2))), "b": jnp.asarray(RNG.normal(size=3))})  # fmt: skip
  noise = np.asarray(jax.random.normal(key, (7,)))
  drawn, (first, second) = jax.jit(lambda q: (O.mean_field_sample(key, q), O.natural_parameters(q)))(q)
  g = jax.tree.map(lambda x: x + 0.5, q)
  tx = O.natural_gradient(3.0)
  step, _ = tx.update(g, tx.init(q), q)
  for k, e in (("a", noise[:4].reshape(2, 2)), ("b", noise[4:])):
    m, r = np.asarray(q.mean[k]), np.asarray(q.spread[k])
    s = soft(r)
    np.testing.assert_allclose(drawn[k], m + s * e, rtol=1e-6)
    np.testing.assert_allclose(first[k], m / s**2, rtol=1e-6)
    np.testing.assert_allclose(second[k], -0.5 / s**2, rtol=1e-6)
    slope = 1 / (1 + np.exp(-r))  # ds/dr
    np.testing.assert_allclose(step.mean[k], 3 * s**2 * (m + 0.5), rtol=1e-6)
    np.testing.assert_allclose(step.spread[k], 3 * s**2 / (2 * slope**2) * (r + 0.5), rtol=1e-6)
  start = O.mean_field(q.mean, 0.02)
  np.testing.assert_allclose(soft(np.asarray(start.spread["a"])), 0.02, rtol=1e-6)
  np.testing.assert_array_equal(start.mean["b"], q.mean["b"])


def test_claw_adapts_each_neuron_by_its_relaxed_choice():
  key, kernel, amount = jax.random.key(8), RNG.normal(size=(3, 4)), RNG.normal(size=4)
  p, limit, temperature = np.array([0.2, 0.5, 0.9, 0.0]), np.array([0.5, 0.3, 1.0, 1.0]), 0.7
  u = np.asarray(jax.random.logistic(key, (4,)))
  inner = np.maximum(p, 1e-6)
  a = (p > 0) / (1 + np.exp(-(np.log(inner / (1 - inner)) + u) / temperature))
  got = jax.jit(lambda kernel: O.claw_adapt(key, kernel, amount, p, limit, temperature))(kernel)
  np.testing.assert_allclose(got, kernel * (1 + a * limit * np.tanh(amount)), rtol=1e-6)
  slope = jax.grad(lambda p: O.claw_adapt(key, jnp.asarray(kernel), amount, p, limit).sum())(
    jnp.asarray([0, 1.0, 0.5, 1])
  )
  assert np.all(np.isfinite(slope))


class Unit(NamedTuple):
  in_kernel: str
  in_bias: str
  out_kernel: str
  hidden: int


UNITS = (Unit("a/kernel", "a/bias", "b/kernel", 0), Unit("b/kernel", "b/bias", "c/kernel", 1))
SIZES = {"a": (4, 5), "b": (5, 3), "c": (3, 2)}


def network(seed):
  rng = np.random.default_rng(seed)
  return {n: {"kernel": rng.normal(size=s), "bias": rng.normal(size=s[1])} for n, s in SIZES.items()}


def arrays(tree):
  return jax.tree.map(jnp.asarray, tree)


def same(got, want):
  for layer, parts in want.items():
    for part, value in parts.items():
      np.testing.assert_allclose(got[layer][part], value, rtol=1e-12, err_msg=f"{layer}/{part}")


def test_clnp_over_two_tasks():
  """Used neurons and met classes are owned; edges from free neurons into them are cut, and no update enters them."""
  params, updates = network(0), network(1)
  tx = O.clnp(UNITS)
  state = tx.init(arrays(params))
  bare = O.clnp_init(arrays(params), UNITS)
  assert [o.shape for o in (*bare.owned, bare.outputs)] == [(5,), (3,), (2,)]
  same(tx.update(arrays(updates), state)[0], updates)
  owned = [np.zeros(5, bool), np.zeros(3, bool), np.zeros(2, bool)]
  tasks = [([1, 0, 0, 1, 0], [0, 1, 0], [1, 0]), ([1, 1, 0, 0, 0], [0, 0, 1], [0, 1])]
  got, opt_state = arrays(params), (optax.EmptyState(), state)
  for used_1, used_2, classes in tasks:
    used = (np.array(used_1, bool), np.array(used_2, bool))
    direct = O.clnp_end_task(got, bare, UNITS, used, np.array(classes, bool))
    got, opt_state = O.clnp_consolidate(got, opt_state, UNITS, used, np.array(classes, bool))
    bare = direct[1]
    owned = [o | u for o, u in zip(owned, (*used, np.array(classes, bool)), strict=True)]
    for layer, before, after in (("b", owned[0], owned[1]), ("c", owned[1], owned[2])):
      params[layer]["kernel"][np.ix_(~before, after)] = 0
    same(got, params)
    same(direct[0], params)
    held = network(1)
    for layer, o in zip("abc", owned, strict=True):
      held[layer]["kernel"][:, o] = 0
      held[layer]["bias"][o] = 0
    same(tx.update(arrays(updates), opt_state[1])[0], held)
    same(O.clnp_trainable(arrays(updates), bare, UNITS), held)
    for o, a, b in zip(owned, (*opt_state[1].owned, opt_state[1].outputs), (*bare.owned, bare.outputs), strict=True):
      np.testing.assert_array_equal(a, o)
      np.testing.assert_array_equal(b, o)


def test_lifecycle_over_six_epochs():
  """A copy in NumPy that keeps for each weight the value it fell asleep with; it wakes when both its ends are awake."""
  probability, duration = 0.3, 2
  now = network(0)
  state = O.lifecycle_init(arrays(now), UNITS)
  same(state.stored, now)
  tx = optax.sgd(0.1, momentum=0.9)
  opt = tx.init(arrays(now))
  timers = [np.zeros(5, int), np.zeros(3, int)]
  ends = lambda timers: {
    "a": {"kernel": np.tile(timers[0] > 0, (4, 1)), "bias": timers[0] > 0},
    "b": {"kernel": (timers[0] > 0)[:, None] | (timers[1] > 0), "bias": timers[1] > 0},
    "c": {"kernel": np.tile((timers[1] > 0)[:, None], (1, 2)), "bias": np.zeros(2, bool)},
  }
  asleep, memory, fell, woke = ends(timers), network(0), 0, 0
  step = jax.jit(lambda k, p, o, s: O.lifecycle_epoch(k, p, o, s, UNITS, probability=probability, duration=duration))
  for t in range(6):
    key = jax.random.key(t)
    params, opt, state = step(key, arrays(now), opt, state)
    timers = [np.maximum(s - 1, 0) for s in timers]
    for i, s in enumerate(timers):
      falls = (np.asarray(jax.random.uniform(jax.random.fold_in(key, i), s.shape)) < probability) & (s == 0)
      s[falls] = duration
      fell += falls.sum()
    still, before = ends(timers), asleep
    continued = ends([np.where(s == duration, 0, s) for s in timers])  # asleep for longer than this epoch
    for layer in now:
      for part, value in now[layer].items():
        was, kept, new = before[layer][part], continued[layer][part], still[layer][part]
        whole = np.where(was, memory[layer][part], value)
        woke += np.sum(was & ~new)
        memory[layer][part] = np.where(kept & was, memory[layer][part], whole)
        now[layer][part] = np.where(new, 0, whole)
    asleep = still
    same(params, now)
    for s, got in zip(timers, state.sleep, strict=True):
      np.testing.assert_array_equal(got, s)
    same(O.lifecycle_mask(arrays(network(9)), state, UNITS),
         {n: {k: np.where(asleep[n][k], 0, v) for k, v in p.items()} for n, p in network(9).items()})  # fmt: skip
    trace = next(s.trace for s in jax.tree.leaves(opt, is_leaf=lambda s: hasattr(s, "trace")) if hasattr(s, "trace"))
    assert all(not np.any(np.asarray(trace[n][k])[asleep[n][k]]) for n in SIZES for k in ("kernel", "bias"))
    if t:
      assert all(
        np.all(np.asarray(trace[n][k])[~asleep[n][k] & ~before[n][k]] != 0) for n in SIZES for k in ("kernel",)
      )
    grads = network(20 + t)
    updates, opt = tx.update(arrays(grads), opt, params)
    moved = optax.apply_updates(params, updates)
    params = O.lifecycle_mask(moved, state, UNITS)
    now = jax.tree.map(lambda x: np.array(x), params)
  assert fell > 8
  assert woke > 8


def test_refresh_over_two_steps():
  """Ascent along ``F^-1`` with noise of deviation ``noise sqrt(2 step F^-1)``, anew each step; and as released."""
  key, fisher = jax.random.key(11), np.array([0.0, 1.0, 10.0, 2.0, 0.3])
  trees = {"a": jnp.asarray(fisher[:3]), "b": jnp.asarray(fisher[3:].reshape(2, 1))}
  theta = THETA.copy()
  for j in range(2):
    e, inverse = direction(key, j), 1 / (fisher + 0.2)
    theta = theta + 0.01 * inverse * (A @ theta) + 0.5 * np.sqrt(2 * 0.01 * inverse) * e
  step = jax.jit(lambda p, size: O.refresh(key, quadratic, p, trees, step_size=size, steps=2, damping=0.2, noise=0.5))
  still = {**wide(), "a": jnp.asarray([-0.0, 1.0, 0.0])}
  np.testing.assert_array_equal(np.signbit(step(still, 0.0)["a"]), [True, False, False])  # neutral to the bit
  got = step(wide(), 0.01)
  np.testing.assert_allclose(flat(got), theta, rtol=1e-9)
  theta = THETA.copy()
  for j in range(2):
    e, g = direction(key, j), 0.05 * A @ theta
    size = lambda v: np.repeat([np.linalg.norm(v[:3]), np.linalg.norm(v[3:])], [3, 2])
    theta = theta + 0.01 / (1 + 0.2 * fisher) * (size(theta) / size(g) * g + 0.5 * e)
  options = {"step_size": 0.01, "steps": 2, "damping": 0.2, "noise": 0.5, "inner_rate": 0.05}
  got = O.refresh(key, quadratic, wide(), trees, released=True, **options)
  np.testing.assert_allclose(flat(got), theta, rtol=1e-9)


@pytest.mark.parametrize("utility", ["contribution", "adaptable"])
def test_continual_backprop_step_with_a_convolution(utility):
  """One step of two layers, the first a convolution: utilities, the choice, and all that a reset writes."""
  rng = np.random.default_rng(0)
  draw = lambda *s: rng.normal(size=s)
  params = {"one": {"kernel": draw(3, 3, 2, 4), "bias": draw(4)}, "two": {"kernel": draw(4, 3), "bias": draw(3)},
            "head": {"kernel": draw(3, 2), "bias": draw(2)}}  # fmt: skip
  units = (Unit("one/kernel", "one/bias", "two/kernel", 0), Unit("two/kernel", "two/bias", "head/kernel", 1))
  hidden, weight = (draw(5, 2, 2, 4), draw(5, 3)), np.array([1, 2, 1, 1, 0])
  age, worth, mean = ([7, 9, 3, 8], [5, 9, 9]), (draw(4) ** 2, draw(3) ** 2), (draw(4), draw(3))
  due, decay, rate, maturity, gain = (0.5, 0.2), 0.9, 0.5, 5, 1.3
  state = O.CbpState(*(tuple(map(jnp.asarray, v)) for v in (age, worth, mean, due)))
  moments = optax.TraceState(jax.tree.map(jnp.ones_like, arrays(params)))
  key = jax.random.key(0)
  options = {"rate": rate, "maturity": maturity, "decay": decay, "utility": utility, "gain": gain}
  step = jax.jit(lambda p, m, s, h, w: O.continual_backprop_step(key, p, m, s, h, w, units, **options))
  shown = tuple(map(jnp.asarray, hidden))
  nobody = step(arrays(params), moments, state, shown, jnp.zeros(5, jnp.int32))[2]
  np.testing.assert_allclose(nobody.mean[0][2], decay * mean[0][2], rtol=1e-6)  # unit 2 is too young to go
  got, opt, new = step(arrays(params), moments, state, shown, jnp.asarray(weight, jnp.int32))
  want, ones = jax.tree.map(np.copy, params), jax.tree.map(np.ones_like, params)
  layers = (("one", "two", (0, 1, 2)), ("two", "head", (0,)))
  for i, (layer, after, axes) in enumerate(layers):
    h = hidden[i][weight != 0].reshape(-1, hidden[i].shape[-1])
    a = np.asarray(age[i]) + 1
    c = 1 - decay**a
    f = decay * mean[i] + (1 - decay) * h.mean(0)
    out = np.abs(params[after]["kernel"]).mean(1)
    now = np.abs(h).mean(0) * out
    if utility == "adaptable":
      now = np.abs(h - f / c).mean(0) * out / np.abs(params[layer]["kernel"]).mean(axes)
    u = decay * worth[i] + (1 - decay) * now
    eligible = a > maturity
    total = due[i] + rate * eligible.sum()
    count = int(np.floor(total))
    gone = np.argsort(np.where(eligible, u / c, np.inf))[:count]
    assert 0 < count < eligible.sum()
    shape = params[layer]["kernel"].shape
    bound = gain * np.sqrt(3 / np.prod(shape[:-1]))
    drawn = np.asarray(jax.random.uniform(jax.random.fold_in(key, i), shape, jnp.float64, -1.0, 1.0)) * bound
    want[layer]["kernel"][..., gone] = drawn[..., gone]
    want[layer]["bias"][gone] = 0
    want[after]["bias"] += (f / c)[gone] @ want[after]["kernel"][gone]
    want[after]["kernel"][gone] = 0
    ones[layer]["kernel"][..., gone] = ones[layer]["bias"][gone] = ones[after]["kernel"][gone] = 0
    for x in (a, u, f):
      x[gone] = 0
    for value, x in ((new.age, a), (new.utility, u), (new.mean, f), (new.due, total - count)):
      np.testing.assert_allclose(value[i], x, rtol=1e-6)
  for layer, parts in want.items():
    for part, value in parts.items():
      np.testing.assert_allclose(got[layer][part], value, rtol=1e-6, atol=1e-9, err_msg=f"{layer}/{part}")
  same(opt.trace, ones)


def test_states_start_at_zero():
  """Of continual backprop, from the sizes of what the units write."""
  params = arrays(network(0))
  state = O.continual_backprop_init(params, UNITS)
  for values in state[:3]:
    assert [v.shape for v in values] == [(5,), (3,)]
  assert [v.shape for v in state.due] == [(), ()]
  assert not any(np.any(v) for v in jax.tree.leaves(state))


def test_freeze_zeroes_what_matches():
  updates = {"embed": RNG.normal(size=3), "layers": RNG.normal(size=(2, 2))}
  tx = O.freeze(("embed",))
  got, _ = tx.update(updates, tx.init(updates))
  np.testing.assert_array_equal(got["embed"], 0)
  np.testing.assert_array_equal(got["layers"], updates["layers"])
  idle = O.freeze(("embed",), active=0)
  np.testing.assert_array_equal(idle.update(updates, idle.init(updates))[0]["embed"], updates["embed"])


@pytest.mark.parametrize("base", ["rmsprop", "adagrad", "adam"])
def test_scale_by_tag_stores_directions_and_second_moments(base):
  tx = O.scale_by_tag(2, b=1.5, base=base)
  params, g = {"w": jnp.zeros(3)}, RNG.normal(size=(2, 3))
  state, update = tx.init(params), jax.jit(tx.update)
  m, v = np.zeros(3), np.zeros(3)
  for x in g:
    _, state = update({"w": jnp.asarray(x)}, state)
    m, v = 0.9 * m + 0.1 * x, (v + x**2 if base == "adagrad" else 0.99 * v + 0.01 * x**2)
  np.testing.assert_allclose(state.first["w"], m, rtol=1e-6)
  state = O.tag_next_task((state,))[0]
  np.testing.assert_allclose(state.directions["w"], [m / np.linalg.norm(m), np.zeros(3)], rtol=1e-6)
  np.testing.assert_allclose(state.seconds["w"], [v, np.zeros(3)], rtol=1e-6)
  assert (int(state.task), int(state.count)) == (1, 0)
  assert not np.any(state.first["w"])
  assert not np.any(state.second["w"])
