"""Merging rules, units in another order, and barriers, against NumPy in float64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cljax import UsageError, edits, metrics, models
from cljax.core import tree

RNG = np.random.default_rng(3)
SHAPES = {"a": {"kernel": (3, 4), "bias": (4,)}, "b": {"kernel": (4, 2)}}


def draw():
  made = jax.tree.map(lambda s: RNG.normal(size=s).astype(np.float32), SHAPES, is_leaf=lambda s: isinstance(s, tuple))
  return {**made, "steps": np.int32(7)}


BASE, TUNED = draw(), [draw() for _ in range(3)]
flat = lambda p: np.concatenate([np.float64(v).ravel() for n, v in tree.by_path(p).items() if n != "steps"])
VECTORS = [flat(t) - flat(BASE) for t in TUNED]


def same(got, want, **more):
  np.testing.assert_allclose(flat(got), want, rtol=1e-5, atol=1e-6, **more)
  assert int(got["steps"]) == 7


def test_a_soup_is_the_weighted_mean():
  same(edits.soup(TUNED), np.mean([flat(t) for t in TUNED], 0))
  same(edits.soup(TUNED, [1, 0, 3]), (flat(TUNED[0]) + 3 * flat(TUNED[2])) / 4)
  half = edits.soup([jax.tree.map(lambda a: a.astype(jnp.bfloat16) if a.dtype == np.float32 else a, t) for t in TUNED])
  assert half["a"]["kernel"].dtype == jnp.bfloat16


def test_task_arithmetic_adds_and_takes_away():
  same(edits.task_arithmetic(BASE, TUNED), flat(BASE) + np.sum(VECTORS, 0))
  same(edits.task_arithmetic(BASE, TUNED, [0.5, -1, 0]), flat(BASE) + 0.5 * VECTORS[0] - VECTORS[1])
  same(edits.task_arithmetic(BASE, TUNED[:1], 1.0), flat(TUNED[0]))
  for vector, want in zip(edits.task_vectors(BASE, TUNED), VECTORS, strict=True):
    np.testing.assert_allclose(flat(vector), want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("keep", [0.2, 0.5, 1.0])
def test_ties_trims_elects_and_averages(keep):
  """By hand: the largest of all numbers of a network, whatever tensor they are in; the sign of the sum; the mean of who
  agrees with it."""
  trimmed = []
  for v in VECTORS:
    least = np.sort(np.abs(v))[len(v) - max(1, round(keep * len(v)))]
    trimmed.append(np.where(np.abs(v) >= least, v, 0))
  sign = np.sign(np.sum(trimmed, 0))
  want = np.zeros(len(sign))
  for i, s in enumerate(sign):
    mine = [t[i] for t in trimmed if t[i] != 0 and np.sign(t[i]) == s]
    want[i] = np.mean(mine) if mine else 0
  same(jax.jit(lambda b, t: edits.ties(b, t, keep, 0.7))(BASE, TUNED), flat(BASE) + 0.7 * want)
  if keep == 1:
    same(edits.ties(BASE, TUNED[:1], 1.0), flat(TUNED[0]))


def test_dare_drops_a_share_and_is_task_arithmetic_in_the_mean():
  same(edits.dare(jax.random.key(0), BASE, TUNED, 0.0, [1, 2, 3]), flat(edits.task_arithmetic(BASE, TUNED, [1, 2, 3])))
  one = jax.jit(lambda key: edits.dare(key, BASE, TUNED[:1], 0.75))
  draws = np.stack([flat(one(jax.random.key(s))) for s in range(400)]) - flat(BASE)
  gone = np.isclose(draws, 0, atol=1e-6)
  np.testing.assert_allclose(gone.mean(), 0.75, atol=0.02)
  left = np.where(gone, np.nan, draws / VECTORS[0])
  np.testing.assert_allclose(left[~gone], 4, rtol=1e-3)
  np.testing.assert_allclose(draws.mean(0), VECTORS[0], atol=0.35 * np.abs(VECTORS[0]).max())


def test_lines_of_several_scales_by_depth():
  blocks = ["a", "b"]
  got = edits.lines_of_several(BASE, TUNED[:2], blocks, 0.2, 0.6)
  scale = np.concatenate([np.full(v.size, {"a": 0.2, "b": 0.8}[n.split("/")[0]])
                          for n, v in tree.by_path(BASE).items() if n != "steps"])  # fmt: skip
  same(got, flat(BASE) + scale * (VECTORS[0] + VECTORS[1]))
  one = edits.lines_of_several(BASE, TUNED[:1], blocks, 0.2, 0.6)
  same(one, flat(edits.lines(BASE, TUNED[0], blocks, 0.2, 0.6)))


def test_a_path_has_its_ends_to_the_bit():
  for alpha, end in ((0.0, BASE), (1.0, TUNED[0])):
    for a, b in zip(jax.tree.leaves(edits.interpolate(BASE, TUNED[0], alpha)), jax.tree.leaves(end), strict=True):
      np.testing.assert_array_equal(a, b)
  same(edits.interpolate(BASE, TUNED[0], 0.25), flat(BASE) + 0.25 * VECTORS[0])


@pytest.mark.parametrize(
  ("call", "said"),
  [
    (lambda: edits.soup([]), "soup: tuned holds no parameters"),
    (lambda: edits.soup(TUNED, [1, 2]), r"soup: weights has shape \(2,\); expected one number, or 3"),
    (lambda: edits.task_arithmetic(BASE, [{"a": BASE["a"]}]), r"tuned\[0\] has other leaves or shapes than base"),
    (lambda: edits.ties(BASE, TUNED, 0.0), "ties: keep must be between 0 and 1; got 0"),
    (lambda: edits.dare(jax.random.key(0), BASE, TUNED, 1.0), "dare: drop must be below 1"),
    (lambda: edits.match_units(BASE, BASE, ()), "match_units: units is empty"),
    (lambda: edits.permute_units(BASE, (1,), ()), "permute_units: order has 0 permutations; expected 1"),
    (lambda: metrics.barrier([1, 2], [0, 2]), r"alphas: got \[0.0, 2.0\] of 2 losses"),
    (lambda: metrics.barrier([1, 2, 3], [0, 1]), r"alphas: got \[0.0, 1.0\] of 3 losses"),
  ],
)
def test_refusals(call, said):
  with pytest.raises(UsageError, match=said):
    call()


NETS = [models.mlp((5,), 3, hidden=(6, 7)), models.cnn((6, 6, 1), 3, widths=(4, 5))]


@pytest.mark.parametrize("model", NETS, ids=["mlp", "cnn"])
def test_units_in_another_order_are_the_same_function_and_found_again(model):
  shape = (5,) if model is NETS[0] else (6, 6, 1)
  params, state = model.init(jax.random.key(1))
  params = jax.tree.map(lambda a: a + 0.1 * RNG.normal(size=a.shape).astype(np.float32), params)
  sizes = [tree.by_path(params)[u.in_bias].shape[0] for u in model.units]
  order = [RNG.permutation(n) for n in sizes]
  turned = edits.permute_units(params, model.units, order)
  x = RNG.normal(size=(9, *shape)).astype(np.float32)
  logits = lambda p: np.asarray(model.apply(p, state, x, train=False, key=None)[0].logits)
  np.testing.assert_allclose(logits(turned), logits(params), atol=2e-5)
  assert any(
    (np.asarray(a) != np.asarray(b)).any() for a, b in zip(*map(jax.tree.leaves, (turned, params)), strict=True)
  )
  found = edits.match_units(params, turned, model.units)
  back = edits.permute_units(turned, model.units, found)
  for a, b in zip(jax.tree.leaves(back), jax.tree.leaves(params), strict=True):
    np.testing.assert_array_equal(a, b)
  for l, p in enumerate(edits.match_units(params, params, model.units)):
    np.testing.assert_array_equal(p, np.arange(sizes[l]))


def test_alignment_takes_the_barrier_away():
  """Between a network and itself in another order of units there is one on the straight path, and none once aligned."""
  model = NETS[0]
  params = jax.tree.map(lambda a: RNG.normal(size=a.shape).astype(np.float32), model.init(jax.random.key(2))[0])
  turned = edits.permute_units(params, model.units, [np.roll(np.arange(6), 1), np.roll(np.arange(7), 2)])
  x = RNG.normal(size=(200, 5)).astype(np.float32)
  label = np.argmax(model.apply(params, {}, x, train=False, key=None)[0].logits, -1)
  alphas = np.linspace(0, 1, 11)

  def error(p):
    return float((np.argmax(model.apply(p, {}, x, train=False, key=None)[0].logits, -1) != label).mean())

  straight = [error(edits.interpolate(params, turned, a)) for a in alphas]
  aligned = edits.permute_units(turned, model.units, edits.match_units(params, turned, model.units))
  assert metrics.barrier(straight, alphas) > 0.1
  assert metrics.barrier([error(edits.interpolate(params, aligned, a)) for a in alphas], alphas) == 0


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 20))
def test_barriers_by_hand(seed, count):
  """Of a quadratic the way above the chord is ``-a (1 - a) d^T H d / 2``; constants and the direction do not matter."""
  rng = np.random.default_rng(seed)
  root = rng.normal(size=(4, 4))
  bend = root + root.T  # no sign: curves both ways
  one, other = rng.normal(size=(2, 4))
  loss = lambda t: 0.5 * t @ bend @ t + 1.3
  alphas = np.linspace(0, 1, count + 1)
  losses = np.array([loss((1 - a) * one + a * other) for a in alphas])
  d = other - one
  want = max(0.0, *(-a * (1 - a) * (d @ bend @ d) / 2 for a in alphas))
  np.testing.assert_allclose(metrics.barrier(losses, alphas), want, atol=1e-9)
  np.testing.assert_allclose(metrics.barrier(losses[::-1] + 5, alphas), want, atol=1e-9)
  both = metrics.barrier(np.stack([losses, 0 * losses], 1), alphas)
  np.testing.assert_allclose(both, [want, 0], atol=1e-9)
  np.testing.assert_allclose(
    metrics.barrier(losses, alphas, True), losses.max() - max(losses[0], losses[-1]), atol=1e-12
  )


@pytest.mark.parametrize("decides", ["in_kernel", "in_bias", "out_kernel"])
def test_each_of_a_unit_s_weights_can_tell_which_it_is(decides):
  """All that reaches a unit or reads it is alike but for one of the three, which then says who goes with whom."""
  model = models.mlp((3,), 2, hidden=(4,))
  unit = model.units[0]
  rng = np.random.default_rng(0)
  shapes = {n: v.shape for n, v in tree.by_path(model.init(jax.random.key(0))[0]).items()}
  told = rng.normal(size=shapes[getattr(unit, decides)]).astype(np.float32)
  if decides == "in_bias":
    told = np.array([-3.0, -1.0, 1.0, 3.0], np.float32)
  order = np.array([2, 0, 3, 1])

  def params(turned: bool):
    axis = 0 if decides == "out_kernel" else -1
    mine = {n: np.ones(s, np.float32) for n, s in shapes.items()}
    mine[getattr(unit, decides)] = np.take(told, order, axis) if turned else told
    return tree.map_named(lambda n, _: jnp.asarray(mine[n]), model.init(jax.random.key(0))[0])

  (found,) = edits.match_units(params(False), params(True), model.units)
  np.testing.assert_array_equal(found, np.argsort(order))
