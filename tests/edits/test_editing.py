"""Edits by path: freezing, LiNeS, block averaging, random forgetting; elephant, refresh and lifecycle."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cljax import UsageError
from cljax import optimizers as O
from cljax.core import tree


def stack(seed, layers=12):
  rng = np.random.default_rng(seed)
  draw = lambda *s: jnp.array(rng.normal(size=s), jnp.float32)
  return {
    "embed": {"kernel": draw(3, 2)},
    "layers": {str(i): {"kernel": draw(2, 2), "mlp": {"1": {"bias": draw(2)}}} for i in range(layers)},
    "head": {"kernel": draw(2, 3)},
  }


BLOCKS = [f"layers/{i}" for i in range(12)]


@pytest.mark.parametrize(
  "optimizer", [optax.adamw(0.1, weight_decay=0.1), optax.sgd(0.1, momentum=0.9)], ids=["adamw", "sgd"]
)
def test_freeze_keeps_tensors_to_the_bit(optimizer):
  start = stack(0)
  start["embed"]["kernel"] = start["embed"]["kernel"].at[0, 0].set(-0.0)
  tx = optax.chain(optimizer, O.freeze(("embed", "layers/1", "layers/*/mlp/1/bias")))
  params, state = start, tx.init(start)
  update = jax.jit(tx.update)
  for _ in range(3):
    updates, state = update(jax.tree.map(jnp.ones_like, params), state, params)
    params = optax.apply_updates(params, updates)
  for path, a, b in zip(tree.paths(start), jax.tree.leaves(start), jax.tree.leaves(params), strict=True):
    frozen = path.startswith(("embed/", "layers/1/")) or path.endswith("bias")  # and not layers/10, layers/11
    assert (tree.digest(a) == tree.digest(b)) == frozen, path


def test_freeze_may_begin_later_and_names_what_is_missing():
  grads = stack(1)
  f = jax.jit(lambda active: (lambda tx: tx.update(grads, tx.init(grads))[0])(O.freeze("embed", active=active)))
  assert tree.digest(f(0)) == tree.digest(grads)
  assert np.all(np.asarray(f(1)["embed"]["kernel"]) == 0)
  with pytest.raises(UsageError, match="freeze: pattern 'embeds' matches no parameter; the paths are embed/kernel"):
    O.freeze("embeds").init(grads)
  with pytest.raises(UsageError, match="freeze: give at least one"):
    O.freeze(())
  mask = O.path_mask(grads, ["head"])
  assert jax.tree.leaves(mask) == [p.startswith("head") for p in tree.paths(grads)]
  whole = next(p for p in tree.paths(grads) if p.endswith("bias"))
  either = O.path_mask(grads, ["head", whole])
  assert jax.tree.leaves(either) == [p.startswith("head") or p == whole for p in tree.paths(grads)]


def test_lines_scales_depth_linearly():
  base, tuned = stack(0), stack(1)
  got = O.lines(base, tuned, BLOCKS, 0.3, 0.7)
  for path, b, t, g in zip(tree.paths(base), *map(jax.tree.leaves, (base, tuned, got)), strict=True):
    scale = 0.3 + (0.7 * int(path.split("/")[1]) / 11 if path.startswith("layers/") else 0)
    np.testing.assert_allclose(g, np.float64(b) + scale * (np.float64(t) - np.float64(b)), rtol=1e-4, atol=1e-5)
  assert tree.digest(O.lines(base, tuned, BLOCKS, 1.0, 0.0)) == tree.digest(tuned)
  assert tree.digest(O.lines(base, tuned, BLOCKS, 0.0, 0.0)) == tree.digest(base)
  with pytest.raises(UsageError, match="is in two blocks"):
    O.lines(base, tuned, ["layers/1", "layers"], 1.0, 0.0)
  with pytest.raises(UsageError, match="matches no parameter"):
    O.lines(base, tuned, ["blocks/0"], 1.0, 0.0)


def test_heterogeneous_averaging_and_its_constraint():
  base, tuned = stack(0), stack(1)
  blocks = ["layers/[0-5]/*", "layers/[6-9]/*", "layers/1[01]/*"]
  ratios = jnp.array([0.1, 0.5, 0.9])
  got = O.heterogeneous_averaging(base, tuned, blocks, ratios)
  for path, b, t, g in zip(tree.paths(base), *map(jax.tree.leaves, (base, tuned, got)), strict=True):
    r = 0.5
    if path.startswith("layers/"):
      i = int(path.split("/")[1])
      r = 0.1 if i < 6 else 0.5 if i < 10 else 0.9
    np.testing.assert_allclose(g, r * np.float64(t) + (1 - r) * np.float64(b), rtol=1e-4, atol=1e-5)
  assert tree.digest(O.heterogeneous_averaging(base, tuned, blocks, jnp.ones(3))) == tree.digest(tuned)
  with pytest.raises(UsageError, match="ratios"):
    O.heterogeneous_averaging(base, tuned, blocks, jnp.ones(2))
  rng = np.random.default_rng(0)
  project = jax.jit(O.project_ratios)
  for mean in (0.0, 0.2, 0.6, 1.0):
    for _ in range(5):
      raw = rng.normal(size=4).astype(np.float32) * 2
      r = np.asarray(project(raw, mean))
      np.testing.assert_allclose(r.mean(), mean, atol=1e-5)
      assert np.all((r >= 0) & (r <= 1))
      for _ in range(30):  # no feasible point is nearer
        other = np.clip(r + rng.normal(size=4) * 0.1, 0, 1)
        other = np.asarray(project(other.astype(np.float32), mean))
        assert np.sum((r - raw) ** 2) <= np.sum((other - raw) ** 2) + 1e-4


def test_fomo_replaces_exactly_a_share():
  params, fresh = stack(0), stack(1)
  f = jax.jit(lambda k, s: O.fomo_forget(k, params, fresh, s, ["layers/1?", "head"]))
  got = f(jax.random.key(0), 0.25)
  for path, p, n, g in zip(tree.paths(params), *map(jax.tree.leaves, (params, fresh, got)), strict=True):
    taken = np.asarray(g) == np.asarray(n)
    assert np.all(taken | (np.asarray(g) == np.asarray(p)))
    chosen = path.startswith(("layers/10/", "layers/11/", "head/"))
    assert taken.sum() == (round(0.25 * p.size) if chosen else 0)
  assert tree.digest(f(jax.random.key(0), 0.0)) == tree.digest(params)
  assert tree.digest(f(jax.random.key(1), 0.25)) != tree.digest(got)


@pytest.mark.parametrize(("width", "height", "power"), [(0.2, 1.0, 4.0), (0.08, 2.0, 8.0), (1.0, 1.0, 1.5)])
def test_elephant(width, height, power):
  x = np.concatenate([np.linspace(-3, 3, 61), [1e8, -1e30]])
  f = lambda v: O.elephant(v, width, height, power)
  y = f(jnp.array(x, jnp.float32))
  size = np.maximum(np.abs(np.float32(x).astype(np.float64) / width), 1e-12)
  np.testing.assert_allclose(y, height / (1 + size**power), rtol=1e-4, atol=1e-6)
  np.testing.assert_allclose(f(jnp.array([0.0, width, -width])), [height, height / 2, height / 2], rtol=1e-5)
  slope = jax.vmap(jax.grad(f))(jnp.array(x, jnp.float32))
  with np.errstate(over="ignore"):
    want = -height * power * np.sign(x) / (width * size * (size**-power + 2 + size**power) + 1e-300)
  np.testing.assert_allclose(slope, want, rtol=2e-3, atol=1e-5)
  for bad in (0.0, 1e30, -1e30):
    grads = jax.jit(jax.grad(lambda v, w, h, d: O.elephant(v, w, h, d), argnums=(0, 1, 2, 3)))(
      bad, width, height, power
    )
    assert np.all(np.isfinite(grads))
  assert O.elephant(0.0, height=100.0, power=1.01) == 100  # where a millionth of a width would be seen
  with pytest.raises(UsageError, match="elephant: power"):
    O.elephant(0.0, power=1.0)


PARAMS = {"w": jnp.array([[0.5, -1.0], [2.0, 0.3]]), "b": jnp.array([1.0, -2.0])}
FISHER = {"w": jnp.array([[0.0, 1.0], [10.0, 100.0]]), "b": jnp.array([3.0, 0.0])}
quartic = lambda p: (jnp.sum(p["w"] ** 4) + jnp.sum(jnp.sin(p["b"])), ())


@functools.partial(jax.jit, static_argnames=("released", "steps"))
def refreshed(key, step_size, noise, damping=1e-3, fisher=FISHER, released=False, steps=1):
  return O.refresh(
    key, quartic, PARAMS, fisher, step_size=step_size, noise=noise, damping=damping, released=released, steps=steps
  )


def test_refresh_is_preconditioned_ascent():
  key = jax.random.key(0)
  for released in (False, True):
    assert tree.digest(refreshed(key, 0.0, 1.0, released=released)) == tree.digest(PARAMS)  # neutral
  got = refreshed(key, 1e-3, 0.0, damping=0.5)
  grads = {"w": 4 * np.float64(PARAMS["w"]) ** 3, "b": np.cos(np.float64(PARAMS["b"]))}
  for k, g in grads.items():
    want = np.float64(PARAMS[k]) + 1e-3 * g / (np.float64(FISHER[k]) + 0.5)
    np.testing.assert_allclose(got[k], want, rtol=1e-5)
  assert quartic(got)[0] > quartic(PARAMS)[0]
  noisy = jax.vmap(lambda k: refreshed(k, 1e-2, 1.0, damping=0.5))(jax.random.split(key, 500))
  spread = {k: np.asarray(v).std(0) for k, v in noisy.items()}
  for k in PARAMS:
    np.testing.assert_allclose(spread[k], np.sqrt(2e-2 / (np.asarray(FISHER[k]) + 0.5)), rtol=0.15)


def test_refresh_as_released():
  key = jax.random.key(0)
  none = jax.tree.map(jnp.zeros_like, FISHER)
  got = refreshed(key, 1e-2, 0.0, fisher=none, released=True)
  for k in PARAMS:  # each tensor moves by step_size times its own norm, along the gradient
    moved = np.asarray(got[k]) - np.asarray(PARAMS[k])
    np.testing.assert_allclose(np.linalg.norm(moved), 1e-2 * np.linalg.norm(PARAMS[k]), rtol=1e-3)
    assert np.sum(moved * np.asarray(jax.grad(lambda p: quartic(p)[0])(PARAMS)[k])) > 0
  careful = refreshed(key, 1e-2, 0.0, damping=1.0, released=True)
  ratio = (np.asarray(careful["w"]) - np.asarray(PARAMS["w"])) / (np.asarray(got["w"]) - np.asarray(PARAMS["w"]))
  np.testing.assert_allclose(ratio, 1 / (1 + np.asarray(FISHER["w"])), rtol=2e-2)
  twice = refreshed(key, 1e-2, 0.0, fisher=none, released=True, steps=2)
  assert quartic(twice)[0] > quartic(got)[0]


class Unit(NamedTuple):
  in_kernel: str
  in_bias: str
  out_kernel: str
  hidden: int


UNITS = (Unit("a/kernel", "a/bias", "b/kernel", 0), Unit("b/kernel", "b/bias", "c/kernel", 1))


def network(seed=0):
  rng = np.random.default_rng(seed)
  draw = lambda *s: jnp.array(rng.normal(size=s), jnp.float32)
  return {n: {"kernel": draw(i, o), "bias": draw(o)} for n, i, o in (("a", 4, 8), ("b", 8, 6), ("c", 6, 2))}


def forward(p, x):
  h = jax.nn.relu(x @ p["a"]["kernel"] + p["a"]["bias"])
  return jax.nn.relu(h @ p["b"]["kernel"] + p["b"]["bias"]) @ p["c"]["kernel"] + p["c"]["bias"]


def test_lifecycle_sleeps_and_wakes_with_what_was_stored():
  start = network()
  tx = optax.adamw(0.1)
  epoch = jax.jit(
    lambda k, p, o, s, pr: O.lifecycle_epoch(k, p, o, s, UNITS, probability=pr, duration=2), static_argnums=()
  )
  opt = tx.init(start)
  _, opt = tx.update(jax.tree.map(jnp.ones_like, start), opt, start)
  state = O.lifecycle_init(start, UNITS)
  same, same_opt, same_state = epoch(jax.random.key(0), start, opt, state, 0.0)
  assert tree.digest((same, same_opt)) == tree.digest((start, opt))
  params, opt, state = epoch(jax.random.key(1), start, opt, same_state, 0.4)
  asleep = [np.asarray(s) > 0 for s in state.sleep]
  assert all(0 < a.sum() < a.size for a in asleep)
  x = jnp.array(np.random.default_rng(2).normal(size=(5, 4)), jnp.float32)
  # The function is that of the network without the sleepers; they get no gradient and carry no moment.
  masked = jax.tree.map(lambda v: v, start)
  masked["b"] = masked["b"] | {"kernel": masked["b"]["kernel"] * ~asleep[0][:, None]}
  masked["c"] = masked["c"] | {"kernel": masked["c"]["kernel"] * ~asleep[1][:, None]}
  np.testing.assert_allclose(forward(params, x), forward(masked, x), rtol=1e-5, atol=1e-6)
  grads = jax.grad(lambda p: jnp.sum(forward(p, x) ** 2))(params)
  for part in (grads["a"]["kernel"], grads["a"]["bias"], opt[0].mu["a"]["kernel"], opt[0].nu["a"]["bias"]):
    assert np.all(np.asarray(part)[..., asleep[0]] == 0)
  assert np.all(np.asarray(grads["b"]["kernel"])[asleep[0]] == 0)
  updates, opt = tx.update(grads, opt, params)
  moved = O.lifecycle_mask(optax.apply_updates(params, updates), state, UNITS)
  assert np.all(np.asarray(moved["a"]["kernel"])[:, asleep[0]] == 0)
  assert np.any(np.asarray(moved["a"]["kernel"])[:, ~asleep[0]] != np.asarray(start["a"]["kernel"])[:, ~asleep[0]])
  # Two epochs later all are awake again, with the very weights they had; the others keep what they learned.
  for t in range(2):
    moved, opt, state = epoch(jax.random.key(5 + t), moved, opt, state, 0.0)
  assert all(np.all(np.asarray(s) == 0) for s in state.sleep)
  np.testing.assert_array_equal(
    np.asarray(moved["a"]["kernel"])[:, asleep[0]], np.asarray(start["a"]["kernel"])[:, asleep[0]]
  )
  np.testing.assert_array_equal(
    np.asarray(moved["c"]["kernel"])[asleep[1]], np.asarray(start["c"]["kernel"])[asleep[1]]
  )
  both = np.ix_(asleep[0], asleep[1])
  np.testing.assert_array_equal(np.asarray(moved["b"]["kernel"])[both], np.asarray(start["b"]["kernel"])[both])
  assert np.any(np.asarray(moved["a"]["kernel"])[:, ~asleep[0]] != np.asarray(start["a"]["kernel"])[:, ~asleep[0]])


def test_lifecycle_overlapping_spells_store_once():
  """A weight whose two ends fall asleep at different times wakes with the value it had before the first."""
  start = network()
  sleepy = O.lifecycle_init(start, UNITS)
  state = sleepy._replace(sleep=(jnp.full(8, 2, jnp.int32), jnp.zeros(6, jnp.int32)))
  params = O.lifecycle_mask(start, state, UNITS)
  opt = ()
  step = jax.jit(lambda k, p, s, pr: O.lifecycle_epoch(k, p, opt, s, UNITS, probability=pr, duration=3))
  params, _, state = step(jax.random.key(0), params, state, 1.0)  # the second layer falls asleep while the first sleeps
  for t in range(5):
    params, _, state = step(jax.random.key(t), params, state, 0.0)
  assert tree.digest(params) == tree.digest(start)
  with pytest.raises(UsageError, match="lifecycle"):
    O.lifecycle_init(start, ())
