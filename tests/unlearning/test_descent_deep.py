"""Forgetting in a small network of one's own: what each method does to a class, and what it leaves alone."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import cljax
from cljax import losses, methods, unlearning
from cljax.core.rows import as_rows, few_of_each
from cljax.core.tree import fold
from cljax.core.types import UsageError
from cljax.unlearning._common import minimize
from cljax.unlearning.gs_lora import factors_of, groups_of, merged, prototypes_of
from cljax.unlearning.unsir import learn_noise

RNG = np.random.default_rng(0)
Y = np.repeat(np.arange(3), 20).astype(np.int32)
X = (RNG.normal(size=(3, 6))[Y] + 0.3 * RNG.normal(size=(60, 6))).astype(np.float32)
FORGET, RETAIN = (X[Y == 1], Y[Y == 1]), (X[Y != 1], Y[Y != 1])
CLASSES = jnp.array([False, True, False])


def init_fn(key):
  sizes = {"a": (6, 12), "b": (12, 8), "head": (8, 3)}
  keys = dict(zip(sizes, (jax.random.fold_in(key, i) for i in range(3)), strict=True))
  return {
    n: {"kernel": jax.random.normal(keys[n], s) * s[0] ** -0.5, "bias": jnp.zeros(s[1])} for n, s in sizes.items()
  }


def apply_fn(params, batch):
  h, hidden = batch.x, []
  for name in ("a", "b"):
    h = jax.nn.relu(h @ params[name]["kernel"] + params[name]["bias"])
    hidden.append(h)
  return cljax.Outputs(h @ params["head"]["kernel"] + params["head"]["bias"], h, tuple(hidden))


def loss_fn(params, batch):
  return losses.cross_entropy(apply_fn(params, batch).logits, batch.y)


def batch_of(x, y):
  return as_rows("rows", (x, y)).batch(0, len(y))


@jax.jit
def learned():
  everything = batch_of(X, Y)
  objective = lambda key, p, step: loss_fn(p, everything).mean()
  return minimize(jax.random.key(0), objective, init_fn(jax.random.key(1)), steps=100, optimizer=optax.adam(0.02))


@pytest.fixture(scope="module")
def params():
  made = learned()
  assert accuracy(made, X, Y) == 1.0
  return made


def outputs(params, x):
  return jax.tree.map(np.asarray, apply_fn(jax.tree.map(np.asarray, params), batch_of(x, np.zeros(len(x), np.int32))))


def accuracy(params, x, y):
  return float((outputs(params, x).logits.argmax(1) == y).mean())


def true_probability(params, x, y):
  z = outputs(params, x).logits
  e = np.exp(z - z.max(1, keepdims=True))
  return float((e / e.sum(1, keepdims=True))[np.arange(len(y)), y].mean())


def same(a, b):
  return all(np.array_equal(u, v) for u, v in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def assert_forgotten(after, params):
  """The class is less probable, the rest is known."""
  assert true_probability(after, *FORGET) < true_probability(params, *FORGET) - 0.1
  assert accuracy(after, *RETAIN) >= 0.95


def test_unsir_forgets_a_class_whose_rows_it_never_saw(params):
  run = jax.jit(
    lambda p, classes: unlearning.unsir(
      loss_fn, p, retain=RETAIN, classes=classes, batch=16, optimizer=optax.adam(0.01)
    )
  )
  assert_forgotten(run(params, CLASSES), params)
  access = methods.METHODS["unsir"].access
  assert not access.forget_data  # so that the engine withholds them
  assert same(run(params, jnp.zeros(3, bool)), params)  # a request that names no class
  raw = (RETAIN[0].astype(np.uint8), RETAIN[1])  # pictures as stored: the noise between them is not rounded
  shapes = jax.eval_shape(lambda p: unlearning.unsir(loss_fn, p, retain=raw, classes=CLASSES), params)
  assert jax.tree.map(lambda a: a.dtype, shapes) == jax.tree.map(lambda a: a.dtype, params)
  with pytest.raises(cljax.UsageError, match="classes: got int32"):
    unlearning.unsir(loss_fn, params, retain=RETAIN, classes=jnp.array([1]))


def test_unsir_noise_raises_the_loss_and_scales_with_the_inputs(params):
  """The same noise, in the units of x, where the first layer takes x times 100."""
  template = batch_of(X[:8], np.ones(8, np.int32))

  @jax.jit
  def noise(params, scale, penalty):
    options = {"key": jax.random.key(0), "mean": 0.1 * scale, "std": 0.5 * scale, "penalty": penalty}
    start, made = (learn_noise(loss_fn, params, template, steps=n, **options) for n in (0, 25))
    return made.x, loss_fn(params, made).mean() - loss_fn(params, start).mean()

  x, rise = noise(params, 1.0, 0.1)
  assert rise > 1.0
  other = {**params, "a": {**params["a"], "kernel": params["a"]["kernel"] / 100}}
  np.testing.assert_allclose(noise(other, 100.0, 0.1)[0], 100 * x, rtol=2e-3, atol=1.0)
  assert np.std(noise(params, 1.0, 10.0)[0]) < 0.7 * np.std(x)


def test_contrast_against_numpy():
  a, o = RNG.normal(size=(5, 4)), RNG.normal(size=(6, 4))
  y, other_y = np.array([0, 0, 1, 0, 2]), np.array([0, 1, 1, 2, 3, 0])
  weight, other_weight = np.array([1, 1, 1, 0, 1.0]), np.array([1, 1, 0, 1, 1, 1.0])
  unit = lambda v: v / np.linalg.norm(v, axis=1, keepdims=True)
  s, t = unit(a) @ unit(o).T / 0.5, unit(a) @ unit(a).T / 0.5
  wanted, within = [], []
  for i in range(5):
    kept = [j for j in range(6) if other_weight[j]]
    mates = [j for j in range(5) if j != i and weight[j] and y[j] == y[i]]
    bottom = np.log(sum(np.exp(s[i, j]) for j in kept) + sum(np.exp(t[i, j]) for j in mates))
    wanted.append(np.mean([bottom - s[i, j] for j in kept if other_y[j] != y[i]]))
    there = [j for j in range(5) if weight[j]]
    others = [j for j in there if y[j] != y[i]]
    within.append(np.mean([np.log(sum(np.exp(t[i, k]) for k in there)) - t[i, j] for j in others]))

  @jax.jit
  def program(a, o, y):
    value = lambda a, o: losses.contrast(a, y, o, other_y, weight, other_weight, 0.5)
    return value(a, o), jax.grad(lambda o: value(a, o).sum())(o), losses.contrast_within(a, y, weight, 0.5)

  value, to_others, inside = program(a, o, y)
  np.testing.assert_allclose(value, wanted, rtol=1e-4)
  np.testing.assert_allclose(inside, within, rtol=1e-4)
  assert not np.asarray(to_others).any()
  assert not np.asarray(program(a, o, np.zeros(5, int))[2]).any()  # the release's, where one class is forgotten


def test_erase_at_the_core_reaches_the_first_layer(params):
  sets = {"forget": FORGET, "retain": RETAIN, "batch": 16, "optimizer": optax.adam(0.01)}
  run = jax.jit(lambda p, stage: unlearning.erase_at_the_core(apply_fn, p, stage_weight=stage, **sets))

  def kinship(after):
    """Mean cosine of the forget rows' first hidden values with those of before, each without its mean."""
    h, old = (outputs(p, FORGET[0]).hidden[0] - outputs(p, X).hidden[0].mean(0) for p in (after, params))
    return float(np.mean((h * old).sum(1) / np.linalg.norm(h, axis=1) / np.linalg.norm(old, axis=1)))

  deep, plain = run(params, 3.0), run(params, 0.0)
  assert_forgotten(deep, params)
  assert kinship(deep) < kinship(plain) - 0.05


@pytest.fixture(scope="module")
def gs_lora():
  sets = {"forget": FORGET, "retain": RETAIN, "batch": 16, "rank": 2, "prototypes": True, "rate_schedule": "constant"}
  run = jax.jit(lambda p, steps, traced: unlearning.gs_lora(apply_fn, p, steps=steps, **sets, **traced))
  names = ("forget_weight", "bound", "sparsity", "prototype_forget_weight", "prototype_retain_weight")
  usual = {**dict.fromkeys(names, 0.0), "forget_weight": 0.15, "bound": 2.0, "prototype_bound": 2.0}
  return lambda params, steps, **traced: run(params, steps, {**usual, **traced})


def test_gs_lora_changes_dense_kernels_by_few_directions(params, gs_lora):
  start = factors_of(jax.random.key(0), params, 2)
  assert sorted(start) == ["a/kernel", "b/kernel", "head/kernel"]
  limit = np.sqrt(6 / (51 * 12))
  assert limit * 0.7 < np.abs(start["b/kernel"][0]).max() <= limit
  assert same(merged(params, start), params)
  after = gs_lora(params, 20)
  for name in ("a", "b", "head"):
    assert np.array_equal(after[name]["bias"], params[name]["bias"])
    assert np.linalg.matrix_rank(np.asarray(after[name]["kernel"] - params[name]["kernel"]), tol=1e-4) == 2


def test_gs_lora_stops_ascending_at_the_bound(params, gs_lora):
  """A bound below the forget loss leaves it no gradient, whatever its weight."""
  plain = gs_lora(params, 10, forget_weight=0.0)
  assert same(gs_lora(params, 10, forget_weight=9.0, bound=0.0), plain)
  assert_forgotten(gs_lora(params, 100, forget_weight=0.5, sparsity=0.01), params)
  assert same(gs_lora(params, 1, sparsity=1.0), gs_lora(params, 1))  # quiet at first
  assert not same(gs_lora(params, 10, forget_weight=0.0, sparsity=1.0), plain)


def test_group_lasso_and_prototypes(params, gs_lora):
  a, b = RNG.normal(size=(3, 2)), RNG.normal(size=(2, 2))
  groups = [(a, b), (0 * a, 0 * b)]
  value, slopes = jax.jit(jax.value_and_grad(losses.group_lasso))(groups)
  norm = np.sqrt((a**2).sum() + (b**2).sum())
  np.testing.assert_allclose(value, norm, rtol=1e-5)
  for slope, wanted in zip(jax.tree.leaves(slopes), (a / norm, b / norm, 0 * a, 0 * b), strict=True):
    np.testing.assert_allclose(slope, wanted, rtol=1e-5)
  total, count = prototypes_of(apply_fn, params, as_rows("rows", (X, Y)), 4, 7)
  features = outputs(params, X).features
  wanted = np.stack([features[c == Y].mean(0) for c in range(3)])
  np.testing.assert_array_equal(count, [20, 20, 20, 0])
  np.testing.assert_allclose(total[:3] / count[:3, None], wanted, rtol=1e-4)

  def distance(after, x, y):
    q, p = (np.asarray(jax.nn.softmax(v)) for v in (wanted[y], outputs(after, x).features))
    return float((q * np.log(q / p)).sum(1).mean())

  plain = gs_lora(params, 30, forget_weight=0.0)
  near, far = (gs_lora(params, 30, forget_weight=0.0, **{f"prototype_{s}_weight": 5.0}) for s in ("retain", "forget"))
  assert distance(near, *RETAIN) < 0.7 * distance(plain, *RETAIN)
  assert distance(far, *FORGET) > 2 * distance(plain, *FORGET)
  held = gs_lora(params, 30, forget_weight=0.0, prototype_forget_weight=5.0, prototype_bound=0.0)
  assert same(held, plain)


def test_prototypes_weigh_as_in_the_release_where_they_are_asked_for(params):
  """GS-LoRA++ at its defaults is GS-LoRA with weights of .015 and .012 and the averaging; each of them acts."""
  sets = {"forget": FORGET, "retain": RETAIN, "batch": 16, "rank": 2, "steps": 10}
  call = lambda **more: jax.jit(lambda p: unlearning.gs_lora(apply_fn, p, **sets, **more))(params)
  plus, plain = call(prototypes=True), call()
  weights = {"prototype_forget_weight": 0.015, "prototype_retain_weight": 0.012, "ema_decay": 0.9}
  assert same(plus, call(prototypes=True, **weights))
  assert same(plain, call(prototypes=True, **dict.fromkeys(weights, 0.0)))
  for name in weights:
    assert not same(plus, call(prototypes=True, **{name: 0.0})), name


def test_layers_of_one_block_are_a_group(params):
  """By NumPy's norms over the factors; and layers that are not named stay as they are."""
  factors = factors_of(jax.random.key(0), params, 2)
  factors = {path: (a, b + 0.5) for path, (a, b) in factors.items()}
  norm = lambda *paths: np.sqrt(sum((np.asarray(v, np.float64) ** 2).sum() for p in paths for v in factors[p]))
  for pattern, wanted in (
    ("", norm("a/kernel") + norm("b/kernel") + norm("head/kernel")),
    ("^[ab]/", norm("a/kernel") + norm("b/kernel") + norm("head/kernel")),  # finds two texts
    ("kernel", norm("a/kernel", "b/kernel", "head/kernel")),
    ("(?<=^[ab]/)kernel", norm("a/kernel", "b/kernel") + norm("head/kernel")),
  ):
    np.testing.assert_allclose(losses.group_lasso(groups_of(factors, pattern)), wanted, rtol=1e-6)
  sets = {"forget": FORGET, "retain": RETAIN, "batch": 16, "rank": 2, "steps": 5}
  after = unlearning.gs_lora(apply_fn, params, layers="^[ab]/", **sets)
  assert same(after["head"], params["head"])
  assert not same(after["a"], params["a"])
  with pytest.raises(UsageError, match="params: has no 2-D leaf to adapt that 'fc' finds among a/bias"):
    unlearning.gs_lora(apply_fn, params, layers="fc", **sets)
  with pytest.raises(UsageError, match="rate_schedule: got 'linear'; allowed: constant, cosine"):
    unlearning.gs_lora(apply_fn, params, rate_schedule="linear", **sets)


def test_few_shots_are_the_rows_that_are_kept_right(params):
  """Two of each class that is there; the edit is the one that is given these rows alone, and not that of all."""
  key = fold(jax.random.key(0), "gs_lora")
  few = few_of_each(fold(key, "few"), as_rows("retain", RETAIN), 2, 3)
  chosen = few.batch(0, few.capacity)
  there = np.asarray(chosen.weight) > 0
  assert np.bincount(np.asarray(chosen.y)[there]).tolist() == [2, 0, 2]
  sets = {"forget": FORGET, "batch": 16, "rank": 2, "steps": 5}
  alone = {"x": np.asarray(chosen.x)[there], "y": np.asarray(chosen.y)[there]}
  found = unlearning.gs_lora(apply_fn, params, retain=RETAIN, few_shot=2, **sets)
  same_few = unlearning.gs_lora(apply_fn, params, retain=alone, **sets)
  for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(same_few), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-6)
  assert not same(found, unlearning.gs_lora(apply_fn, params, retain=RETAIN, **sets))
