"""Bookkeeping of hidden units against NumPy, in float64; random draws are JAX's own, by the documented keys."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cljax import edits
from cljax import optimizers as O


@pytest.fixture(autouse=True)
def double():
  with jax.enable_x64(True):
    yield


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
    free, mine, again = edits.clnp_units(bare, used)
    np.testing.assert_array_equal(mine, [sum(used_1), sum(used_2)])
    np.testing.assert_array_equal(again, [np.sum(o & u) for o, u in zip(owned, used, strict=False)])
    np.testing.assert_array_equal(free, [np.sum(~(o | u)) for o, u in zip(owned, used, strict=False)])
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
  assert not any(np.any(s) for s in state.sleep)
  same(O.lifecycle_mask(arrays(now), state, UNITS), now)  # all are awake
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
  np.testing.assert_allclose(nobody.mean[0][2], decay * mean[0][2], rtol=1e-12)  # unit 2 is too young to go
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
      np.testing.assert_allclose(value[i], x, rtol=1e-12)
  for layer, parts in want.items():
    for part, value in parts.items():
      np.testing.assert_allclose(got[layer][part], value, rtol=1e-12, atol=1e-14, err_msg=f"{layer}/{part}")
  same(opt.trace, ones)


def test_states_start_at_zero():
  """Of continual backprop, from the sizes of what the units write."""
  params = arrays(network(0))
  state = O.continual_backprop_init(params, UNITS)
  for values in state[:3]:
    assert [v.shape for v in values] == [(5,), (3,)]
  assert [v.shape for v in state.due] == [(), ()]
  assert not any(np.any(v) for v in jax.tree.leaves(state))
