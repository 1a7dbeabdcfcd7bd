"""What the projectors guarantee, on random trees, in float32 and float64.

Tolerances are in rounding units of the sums taken: ``TOL eps |a| |b|`` for an inner product of a and b.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cljax.projectors import agem, gem, geometric_disentanglement, gpm, gpm_extend, ogd, ogd_extend, on_update

from .test_qp import enumerate_sets

TOL = 64
NESTED, TINY = {"a": [(5,), {"k": (2, 2, 3, 2)}]}, [(2,), (1, 1)]
STRUCTURES = [(NESTED, np.float32), (NESTED, np.float64), (TINY, np.float64)]  # TINY: more constraints than dimensions
K = 4
few = settings(deadline=None, max_examples=25, derandomize=True)
cases = st.fixed_dictionaries(
  {
    "structure": st.sampled_from([0, 1, 2]),
    "seed": st.integers(0, 10_000),
    "scale": st.sampled_from([1e-4, 1.0, 1e4]),
    "pull": st.sampled_from([-3.0, -0.1, 0.0, 1.0]),  # how far references lie along the gradient
    "spread": st.sampled_from([1.0, 1e-2]),  # small: the references are nearly parallel
  }
)
is_shape = lambda s: isinstance(s, tuple) and all(isinstance(i, int) for i in s)


class Case:
  """A gradient, a stack of K references and helpers, built inside the precision of the case."""

  def __init__(self, structure, seed, scale, pull, spread):
    self.shapes, self.dtype = STRUCTURES[structure]
    self.eps = np.finfo(self.dtype).eps
    rng = np.random.default_rng(seed)
    n = sum(int(np.prod(s)) for s in jax.tree.leaves(self.shapes, is_leaf=is_shape))
    g = rng.normal(size=n)
    common = rng.normal(size=n) + pull * g
    self.g = self.tree(scale * g)
    self.stack = self.tree(np.stack([common + spread * rng.normal(size=n) for _ in range(K)]))
    self.one = jax.tree.map(lambda x: x[0], self.stack)

  def tree(self, flat):
    """Cuts ``[..., n]`` into the case's tree."""
    leaves, structure = jax.tree.flatten(self.shapes, is_leaf=is_shape)
    at = np.cumsum([0] + [int(np.prod(s)) for s in leaves])
    parts = [flat[..., a:b].reshape(*flat.shape[:-1], *s) for a, b, s in zip(at, at[1:], leaves, strict=False)]
    return structure.unflatten([jnp.asarray(p, self.dtype) for p in parts])


def flat(a, lead=0):
  return np.concatenate([np.asarray(x, np.float64).reshape(*x.shape[:lead], -1) for x in jax.tree.leaves(a)], -1)


def same_bits(a, b):
  return all(
    np.asarray(x).tobytes() == np.asarray(y).tobytes() and x.dtype == y.dtype
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
  )


def in_precision(test):
  @functools.wraps(test)
  def run(case):
    with jax.enable_x64(STRUCTURES[case["structure"]][1] is np.float64):
      test(Case(**case))

  del run.__wrapped__
  return given(cases)(run)


@functools.cache
def stepper(make):
  tx = make()
  return jax.jit(lambda g, refs: tx.update(g, tx.init(g), references=refs))


@jax.jit
def gem_step(g, stack, margin=0.0, ridge=0.0):
  """One program for every margin and ridge: they may be traced."""
  tx = gem(margin=margin, ridge=ridge)
  return tx.update(g, tx.init(g), references={"memory": stack})


@few
@in_precision
def test_agem_meets_its_constraint_and_does_not_grow(case):
  g, r = flat(case.g), flat(case.one)
  out, state = stepper(agem)(case.g, {"memory": case.one})
  x = flat(out)
  room = TOL * case.eps * np.linalg.norm(g) * np.linalg.norm(r)
  assert x @ r >= -room
  assert np.linalg.norm(x) <= np.linalg.norm(g) * (1 + TOL * case.eps)
  if int(state.projected):
    assert abs(x @ r) <= room
    again, _ = stepper(agem)(out, {"memory": case.one})
    np.testing.assert_allclose(flat(again), x, atol=TOL * case.eps * np.linalg.norm(g))
  else:
    assert same_bits(out, case.g)
    assert g @ r >= -room


@few
@in_precision
def test_gem_is_the_projection_on_the_cone(case):
  g, rows = flat(case.g), flat(case.stack, 1)
  out, state = gem_step(case.g, case.stack)
  x = flat(out)
  size = np.linalg.norm(g)
  # x - g = G^T v: the coefficients say how large the sums were, and so how far they may round.
  v = np.linalg.lstsq(rows.T, x - g, rcond=None)[0]
  sums = size + np.abs(v) @ np.linalg.norm(rows, axis=1)
  assert (rows @ x / np.linalg.norm(rows, axis=1)).min() >= -TOL * case.eps * sums
  assert np.linalg.norm(x) <= size + TOL * case.eps * sums
  assert abs((x - g) @ x) <= TOL * case.eps * sums**2
  nearest = nearest_in_cone(g, rows)
  assert np.linalg.norm(x - g) <= np.linalg.norm(nearest - g) + TOL * case.eps * sums
  if int(state.projected) == 0:
    assert same_bits(out, case.g)
    assert float(state.kkt) == 0
  else:
    assert float(state.kkt) <= TOL * case.eps * sums / np.abs(rows @ g / np.linalg.norm(rows, axis=1)).max()


def nearest_in_cone(g, rows):
  """Projection of g on ``rows x >= 0`` by enumeration of active sets."""
  best, where = np.inf, g
  for bits in range(2 ** len(rows)):
    on = rows[[k for k in range(len(rows)) if bits >> k & 1]]
    x = g - on.T @ np.linalg.lstsq(on.T, g, rcond=None)[0] if len(on) else g
    if (rows @ x >= -1e-9 * np.linalg.norm(rows, axis=1) * np.linalg.norm(g)).all() and np.linalg.norm(x - g) < best:
      best, where = np.linalg.norm(x - g), x
  return where


@few
@in_precision
def test_gem_with_margin_and_ridge_is_the_dual_solution(case):
  """Against the program solved by enumeration in float64; then ``G x >= -ridge v``."""
  g, rows = flat(case.g), flat(case.stack, 1)
  out, state = gem_step(case.g, case.stack, 0.5, 1e-3)
  x, products = flat(out), rows @ g
  if int(state.projected) == 0:
    assert same_bits(out, case.g)
    assert products.min() >= -TOL * case.eps * np.linalg.norm(g) * np.linalg.norm(rows, axis=1).max()
    return
  v, _ = enumerate_sets(rows @ rows.T + 1e-3 * np.eye(K), products, 0.5)
  sums = np.linalg.norm(g) + v @ np.linalg.norm(rows, axis=1)
  # Nearly parallel references: v is as sensitive as the ridge allows, x = g + G^T v much less.
  np.testing.assert_allclose(x, g + v @ rows, atol=1e2 * TOL * case.eps * sums)
  assert (rows @ x >= -1e-3 * v * (1 + 1e-6) - TOL * case.eps * sums * np.linalg.norm(rows, axis=1)).all()


@few
@in_precision
def test_one_constraint_gem_is_agem(case):
  a, _ = stepper(agem)(case.g, {"memory": case.one})
  b, _ = gem_step(case.g, jax.tree.map(lambda x: x.at[1:].set(0), case.stack))  # zero rows are no constraints
  np.testing.assert_allclose(flat(a), flat(b), atol=TOL * case.eps * np.linalg.norm(flat(case.g)))


@few
@in_precision
def test_zero_references_leave_bits(case):
  g = jax.tree.map(lambda x: x.at[(0,) * x.ndim].set(-0.0), case.g)
  zero = jax.tree.map(jnp.zeros_like, case.stack)
  assert same_bits(gem_step(g, zero)[0], g)
  assert same_bits(gem_step(g, zero, 0.5, 1e-3)[0], g)
  assert same_bits(stepper(agem)(g, {"memory": jax.tree.map(lambda x: x[0], zero)})[0], g)


def test_absent_tasks_are_no_constraints_and_updates_are_the_mirror_image():
  case = Case(structure=0, seed=0, scale=1.0, pull=-1.0, spread=1.0)
  g, rows = flat(case.g), flat(case.stack, 1)
  absent = jax.tree.map(lambda x: x.at[jnp.asarray([1, 3])].set(0), case.stack)
  v, _ = enumerate_sets(rows[[0, 2]] @ rows[[0, 2]].T + 1e-3 * np.eye(2), rows[[0, 2]] @ g, 0.5)
  np.testing.assert_allclose(flat(gem_step(case.g, absent, 0.5, 1e-3)[0]), g + v @ rows[[0, 2]], atol=1e-4)
  tree = jax.tree.map(lambda x: x[0], absent)  # a tree without the leading axis is one constraint
  one, _ = stepper(gem)(case.g, {"memory": tree})
  np.testing.assert_allclose(flat(one), g + max(0.5, -rows[0] @ g / (rows[0] @ rows[0] + 1e-3)) * rows[0], atol=1e-4)
  u, _ = stepper(lambda: on_update(agem()))(jax.tree.map(lambda x: -x, case.g), {"memory": case.one})
  down, _ = stepper(agem)(case.g, {"memory": case.one})
  assert same_bits(u, jax.tree.map(lambda x: -x, down))
  assert not same_bits(down, case.g)


@functools.cache
def ogd_programs():
  tx = ogd(capacity=6)
  return jax.jit(tx.init), jax.jit(ogd_extend), jax.jit(tx.update)


@few
@in_precision
def test_ogd_basis_and_projection(case):
  if case.shapes is NESTED and case.dtype is np.float64:
    return  # one precision of each structure is enough here
  init, extend, update = ogd_programs()
  state = extend(extend(init(case.g), case.stack), case.stack)  # the second time adds nothing new
  basis, rank, g = flat(state.basis, 1), int(state.rank), flat(case.g)
  n = len(g)
  assert rank == min(K, n)
  assert int(state.dropped) == 0
  assert np.abs(basis @ basis.T - np.diag(np.arange(6) < rank)).max() < TOL * case.eps
  rows = flat(case.stack, 1)
  assert np.abs(rows - rows @ basis.T @ basis).max() < TOL * case.eps * np.abs(rows).max() * 10
  out, _ = update(case.g, state)
  assert np.abs(basis @ flat(out)).max() <= TOL * case.eps * np.linalg.norm(g)
  assert np.linalg.norm(flat(out)) <= np.linalg.norm(g) * (1 + TOL * case.eps)
  np.testing.assert_allclose(flat(update(out, state)[0]), flat(out), atol=TOL * case.eps * np.linalg.norm(g))
  assert same_bits(update(case.g, init(case.g))[0], case.g)


@functools.cache
def gpm_programs():
  tx = gpm(freeze_vectors=False)
  return jax.jit(tx.init), jax.jit(gpm_extend), jax.jit(tx.update)


@few
@given(wide=st.booleans(), seed=st.integers(0, 10_000), spread=st.sampled_from([1.0, 1e-3]), n=st.sampled_from([2, 9]))
def test_gpm_basis_and_projection(wide, seed, spread, n):
  with jax.enable_x64(wide):
    dtype = jnp.float64 if wide else jnp.float32
    eps, rng = float(jnp.finfo(dtype).eps), np.random.default_rng(seed)
    g = {"kernel": jnp.asarray(rng.normal(size=(8, 3)), dtype)}
    init, extend, update = gpm_programs()
    state, center = init(g), rng.normal(size=8)
    for _ in range(3):
      x = (center + spread * rng.normal(size=(9, 8))) * (np.arange(9) < n)[:, None]
      state = extend(state, {"kernel": jnp.asarray(x, dtype)}, 1.0)
    basis, rank = np.asarray(state.bases["kernel"], np.float64), int(state.ranks["kernel"])
    assert np.abs(basis.T @ basis - np.diag(np.arange(8) < rank)).max() < TOL * eps
    assert rank == min(3 * n, 8)
    out, _ = update(g, state)
    assert np.abs(basis.T @ np.asarray(out["kernel"], np.float64)).max() < TOL * eps * np.linalg.norm(g["kernel"])
    assert jnp.linalg.norm(out["kernel"]) <= jnp.linalg.norm(g["kernel"]) * (1 + TOL * eps)
    np.testing.assert_allclose(update(out, state)[0]["kernel"], out["kernel"], atol=TOL * eps * 5)


def descent():
  return geometric_disentanglement()


def orthogonal():
  return geometric_disentanglement(constraint="orthogonal")


@few
@in_precision
def test_geometric_constraints(case):
  if case.shapes is NESTED and case.dtype is np.float64:
    return  # one precision of each structure is enough here
  d, rows = flat(case.g), flat(case.stack, 1)
  lengths = np.linalg.norm(rows, axis=1)
  for make in (descent, orthogonal):
    out, state = stepper(make)(case.g, {"retain": case.stack})
    x = flat(out)
    v = np.linalg.lstsq(rows.T, x - d, rcond=None)[0]
    slack = TOL * case.eps * (np.linalg.norm(d) + np.abs(v) @ lengths)
    assert (rows @ x / lengths).max() <= slack
    if make is orthogonal:
      assert (rows @ x / lengths).min() >= -slack
    assert np.linalg.norm(x) <= np.linalg.norm(d) + slack
    if int(state.projected) == 0:
      assert same_bits(out, case.g)


@pytest.mark.parametrize("wide", [False, True])
def test_enable_x64_reaches_the_states(wide):
  with jax.enable_x64(wide):
    g = {"w": jnp.ones((3, 2), jnp.float64 if wide else jnp.float32)}
    states = [gem().init(g).kkt, ogd(2).init(g).basis["w"], gpm().init(g).bases["w"]]
    assert {s.dtype for s in states} == {g["w"].dtype}
