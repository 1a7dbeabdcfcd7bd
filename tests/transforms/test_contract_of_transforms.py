"""One contract over every exported transform, as optax has one for its own: containers, wrappers, dtypes, settings.

The values are those of the formulas in float64 NumPy (``cases.py``), so a transform that does nothing fails.
"""

import inspect
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from transforms.cases import (
  CONTAINERS,
  G0,
  LEAVES,
  REFUSED,
  ROWS,
  A,
  F,
  G,
  R,
  Values,
  W,
  at,
  kernels_only,
  make,
  readme,
  references,
  values,
)
from transforms.places import PLACES, layer_of, loop

from cljax import edits, optimizers, projectors, regularizers
from cljax.core.types import UsageError

DICT = PLACES["dict"]
DTYPES = [("bfloat16", "float32"), ("float32", "bfloat16"), ("bfloat16", "bfloat16"), ("float16", "float32")]
rows = pytest.mark.parametrize("name", ROWS)


def close(got: dict, want: dict, atol):
  assert set(got) == set(want)
  for n in want:
    np.testing.assert_allclose(np.asarray(got[n], np.float64), want[n], atol=atol, rtol=atol)


def prepared(name, tx, place=DICT, ended=None):
  """``(state after the boundary, params and gradient now)`` of a plain loop."""
  row = ROWS[name]
  before, now = (row.lift(at(place, t), True) for t in (A, W))
  state = tx.init(before)
  if row.first:
    _, state = tx.update(row.lift(at(place, G0), False), state, before, references=references(place))
  return (ended or row.end)(state, at(place, A), place), now, row.lift(at(place, G), False)


def test_every_exported_transform_has_a_row():
  found = set()
  for module in (regularizers, projectors, optimizers, edits):
    for name in module.__all__:
      thing = getattr(module, name)
      if inspect.isfunction(thing) and "GradientTransformation" in str(inspect.signature(thing).return_annotation):
        found.add(name)
  assert found == set(ROWS)


@pytest.mark.parametrize("container", CONTAINERS)
@rows
def test_acts_in_every_container(name, container):
  row, place = ROWS[name], PLACES[container]
  tx = make(row, place)
  # A posterior is no model, and optax.masked itself refuses a model with functions beside gradients without.
  models = name != "natural_gradient" and (row.vectors or container == "NNX")
  users = loop(container, tx, row.lift(at(place, A), True), models)
  if row.first:
    users.step(row.lift(at(place, G0), False), row.lift(at(place, A), True), references=references(place))
  users.end(lambda state, params: row.end(state, params, place))
  out = users.step(row.lift(at(place, G), False), row.lift(at(place, W), True), references=references(place))
  got = {n: np.asarray(x) for n, x in place.unwrap(row.lower(out)).items()}
  want = row.expected(values(layer_of(container)))
  assert any(not np.allclose(want[n], G[n], atol=1e-2) for n in want)  # the formula does something here
  close(got, want, max(row.atol, 2e-5))


def injected(row):
  static = tuple(a for a in row.static) + tuple(
    a for a, v in row.arguments(DICT).items() if a in ("skip", "layout", "freeze_vectors", "units")
  )
  tx = optax.inject_hyperparams(row.factory, static_args=static)(**row.arguments(DICT))
  return tx if row.vectors else optax.masked(tx, kernels_only)


@rows
def test_inject_hyperparams(name):
  row = ROWS[name]
  tx = injected(row)
  state, now, grads = prepared(name, tx)
  out, _ = tx.update(grads, state, now, references=references(DICT))
  close(row.lower(out), row.expected(values(layer_of("dict"))), row.atol)


@rows
def test_multi_steps_apply_if_finite_and_chain(name):
  row = ROWS[name]
  inner = optax.apply_if_finite(optax.chain(make(row, DICT), optax.scale(-0.5)), 3)
  tx = optax.MultiSteps(inner, 2)
  before, now = row.lift(at(DICT, A), True), row.lift(at(DICT, W), True)
  state = tx.init(before)
  step = jax.jit(lambda g, s, p, r: tx.update(g, s, p, references=r))  # both conditions are compiled anew otherwise

  def mean_of_two(grads, state, params):
    for factor in (0.5, 1.5):
      scaled = row.lift(at(DICT, {n: factor * x for n, x in grads.items()}), False)
      out, state = step(scaled, state, params, references(DICT))
    return out, state

  if row.first:
    _, state = mean_of_two(G0, state, before)
  out, _ = mean_of_two(G, row.end(state, at(DICT, A), DICT), now)
  want = row.expected(values(layer_of("dict")))
  close(row.lower(out), {n: -0.5 * x for n, x in want.items()}, row.atol)


@pytest.mark.parametrize("wrapper", ["masked", "partition"])
@rows
def test_masks(name, wrapper):
  """Behind a mask a transform sees, and acts on, its own leaves; the trees given at a boundary come whole."""
  row = ROWS[name]
  kept = ("out",) if name != "freeze" else ("kernel",)
  mask = row.lift({n: n in kept for n in LEAVES}, False)
  tx = row.factory(**row.arguments(DICT))
  if wrapper == "masked":
    tx = optax.masked(tx, mask)
  else:
    tx = optax.partition({True: tx, False: optax.identity()}, mask)
  if not row.masked:
    with pytest.raises(UsageError, match="no parameter at"):
      tx.init(row.lift(at(DICT, A), True))
    return
  state, now, grads = prepared(name, tx)
  out, _ = tx.update(grads, state, now, references=references(DICT))
  want = {n: np.float64(G[n]) for n in LEAVES} | row.expected(values(layer_of("dict")).only(kept))
  close(row.lower(out), want, row.atol)


@rows
def test_map_params_is_the_identity(name):
  row = ROWS[name]
  tx = make(row, DICT)
  state, now, _ = prepared(name, tx)
  same = optax.tree.map_params(tx, lambda x: x, state)
  assert jax.tree.structure(same) == jax.tree.structure(state)
  assert all(x is y for x, y in zip(jax.tree.leaves(same), jax.tree.leaves(state), strict=True))
  if row.vectors:  # a tree like the parameters goes along, as shardings do
    same = optax.tree.map_params(tx, lambda x, p: x, state, now)
    assert jax.tree.structure(same) == jax.tree.structure(state)


@rows
def test_jit_donation_and_vmap(name):
  row = ROWS[name]
  tx = make(row, DICT)
  state, now, grads = prepared(name, tx)
  refs = references(DICT)
  pair = lambda t: jax.tree.map(lambda x: jnp.stack([x, x]), t)
  opposite = jax.tree.map(lambda x: jnp.stack([x, -x]), grads)
  step = jax.jit(jax.vmap(lambda g, s, p, r: tx.update(g, s, p, references=r)), donate_argnums=(1,))
  both, after = step(opposite, pair(state), pair(now), pair(refs))
  want = row.expected(values(layer_of("dict")))
  close(jax.tree.map(lambda x: x[0], row.lower(both)), want, row.atol)
  alone, _ = tx.update(jax.tree.map(jnp.negative, grads), state, now, references=refs)
  close(jax.tree.map(lambda x: x[1], row.lower(both)), jax.tree.map(np.float64, row.lower(alone)), row.atol)
  step(opposite, after, pair(now), pair(refs))  # what came out may be donated again


def cast(tree, dtype):
  return jax.tree.map(lambda x: jnp.asarray(x, dtype), tree)


def traced(tx, state, grads, params, refs):
  """What three steps in a scan return, by types alone; a state that changes its types is a TypeError."""

  def run(state, grads, params, refs):
    step = lambda s, _: tx.update(grads, s, params, references=refs)[::-1]
    return jax.lax.scan(step, state, length=3)

  return jax.eval_shape(run, state, grads, params, refs)


@pytest.mark.parametrize(("params_dtype", "grads_dtype"), DTYPES)
@rows
def test_dtypes_and_scan(name, params_dtype, grads_dtype):
  """The update has the gradient's dtype, and a scan's carry keeps its types, whatever the parameters' dtype is."""
  row = ROWS[name]
  tx = make(row, DICT)
  state, now, grads = (
    tx.init(cast(row.lift(at(DICT, A), True), params_dtype)),
    cast(row.lift(at(DICT, W), True), params_dtype),
    cast(row.lift(at(DICT, G), False), grads_dtype),
  )
  refs = cast(references(DICT), grads_dtype)
  new, updates = traced(tx, state, grads, now, refs)
  assert {x.dtype for x in jax.tree.leaves(updates)} == {jnp.dtype(grads_dtype)}
  assert jax.tree.map(lambda x: (x.shape, x.dtype), new) == jax.tree.map(lambda x: (x.shape, x.dtype), state)
  ended = jax.eval_shape(lambda s, p: row.end(s, p, DICT), state, cast(at(DICT, A), params_dtype))
  assert jax.tree.map(lambda x: (x.shape, x.dtype), ended) == jax.tree.map(lambda x: (x.shape, x.dtype), state)


@pytest.mark.parametrize("setting", ["strict", "x64", "nans"])
@rows
def test_careful_settings(name, setting):
  """Strict promotion and no broadcasting of ranks, in bfloat16 too; 64 bits; and no NaN on the way."""
  row = ROWS[name]
  tx = make(row, DICT)
  if setting == "nans":
    with jax.debug_nans(True):
      state, now, grads = prepared(name, tx)
      tx.update(grads, state, now, references=references(DICT))
    return
  wide = jnp.float64 if setting == "x64" else jnp.float32
  with jax.enable_x64(setting == "x64"), jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
    for dtype in (wide, jnp.dtype(jnp.bfloat16)):
      before, whole, grads = (
        cast(t, dtype) for t in (row.lift(at(DICT, A), True), at(DICT, A), row.lift(at(DICT, G), False))
      )
      state = jax.eval_shape(lambda s, p: row.end(s, p, DICT), jax.eval_shape(tx.init, before), whole)
      _, updates = traced(tx, state, grads, before, cast(references(DICT), dtype))
      assert {x.dtype for x in jax.tree.leaves(updates)} == {jnp.dtype(dtype)}


@rows
def test_arguments_meant_for_others_are_let_through(name):
  row = ROWS[name]
  tx = make(row, DICT)  # bare: no chain around it that would sort arguments out
  state, now, grads = prepared(name, tx)
  out, _ = tx.update(grads, state, now, references=references(DICT), value=1.0, unheard_of=None)
  close(row.lower(out), row.expected(values(layer_of("dict"))), row.atol)


def as_complex(t):
  return {n: jnp.asarray(x + 1j * np.flip(x), jnp.complex64) for n, x in t.items()}


def as_pairs(t):
  return {n: np.stack([np.float64(x), np.float64(np.flip(x))]) for n, x in t.items()}


@rows
def test_complex_parameters_are_right_or_refused(name):
  """A complex tree is the real tree of its two parts: its inner product is ``Re sum conj(a) b``."""
  row, tx = ROWS[name], make(ROWS[name], DICT)
  before = row.lift(as_complex(A), True)
  refs = {"memory": as_complex(R), "retain": jax.tree.map(jnp.negative, as_complex(R))}
  if row.complex_ == REFUSED:
    with pytest.raises(UsageError, match="complex"):
      tx.update(row.lift(as_complex(G), False), tx.init(before), before, references=refs)
    return
  state = tx.init(before)
  if row.first:
    _, state = tx.update(as_complex(G0), state, before, references=refs)
  directions = jax.tree.map(lambda x: x[None], as_complex(R))
  extend = {"ogd": projectors.ogd_extend, "pca_ogd": lambda s, d: projectors.pca_ogd_extend(s, d, 1)}.get(name)
  state = extend(state, directions) if extend else row.end(state, before, DICT)
  out, _ = tx.update(as_complex(G), state, as_complex(W), references=refs)
  pairs = [as_pairs(t) for t in (A, W, G, G0, R)]
  importance = {n: np.float64(x)[None] for n, x in F.items()}  # real, one for both parts
  want = row.expected(Values(*pairs, importance, layer=layer_of("dict")))
  close({n: np.stack([np.real(x), np.imag(x)]) for n, x in out.items()}, want, row.atol)


def test_the_page_says_what_the_table_says():
  text = (pathlib.Path(__file__).parents[2] / "docs" / "own_loop.md").read_text()
  begin, end = "<!-- transforms:begin -->", "<!-- transforms:end -->"
  assert begin in text, "docs/own_loop.md lacks the text that python tests/transforms/cases.py prints"
  assert text.split(begin)[1].split(end)[0].strip() == readme().strip()
