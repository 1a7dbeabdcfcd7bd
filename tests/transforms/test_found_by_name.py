"""A leaf that is not found by its name is an error: nothing passes unprojected without a word."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from cljax import optimizers as O
from cljax import projectors as P
from cljax.core import tree
from cljax.core.types import UsageError


@pytest.mark.parametrize("jitted", [False, True])
def test_gpm_under_nnx_optimizer(jitted):
  """The example of the report: the basis holds the first input, so the step is [0, -1]; [-1, -1] is unprojected."""
  model = nnx.Linear(2, 1, rngs=nnx.Rngs(0))
  optimizer = nnx.Optimizer(model, optax.chain(P.gpm(freeze_vectors=False), optax.sgd(1.0)), wrt=nnx.Param)
  optimizer.opt_state = P.gpm_extend(optimizer.opt_state, {"kernel": jnp.array([[1.0, 0.0]])}, 1.0)
  before = np.array(model.kernel[...])

  def step(model, optimizer):
    optimizer.update(model, nnx.grad(lambda m: m(jnp.ones((1, 2))).sum())(model))

  (nnx.jit(step) if jitted else step)(model, optimizer)
  np.testing.assert_allclose(np.array(model.kernel[...]) - before, [[0.0], [-1.0]], atol=1e-6)


def test_boundaries_inside_nnx_jit():
  model = nnx.Linear(2, 2, use_bias=False, rngs=nnx.Rngs(0))
  tx = optax.chain(P.gpm(), P.ogd(2), P.cuber(2, 2), P.coso(2, 2))
  optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
  like = jax.tree.structure(optimizer.opt_state)

  @nnx.jit
  def end(model, optimizer):
    x, params = {"kernel": jnp.eye(2)[:1]}, nnx.state(model, nnx.Param)
    state = P.gpm_extend(optimizer.opt_state, x, 1.0)
    state = P.ogd_extend(state, jax.tree.map(lambda v: v[None], params))
    state = P.cuber_start_task(P.cuber_end_task(state, x, params), params, params)
    optimizer.opt_state = P.coso_end_task(state)

  end(model, optimizer)
  assert jax.tree.structure(optimizer.opt_state) == like
  gpm, ogd, cuber, coso = (tree.unboxed(s) for s in optimizer.opt_state)
  assert [int(v) for v in (gpm.ranks["kernel"], ogd.rank, cuber.tasks, coso.count)] == [1, 1, 1, 0]


X = {"a": jnp.ones((2, 3)), "b": jnp.ones(3)}


@pytest.mark.parametrize(
  "tx",
  [P.gpm(), P.sgp(), P.nscl(), P.cuber(2, 2), P.cuber_pull(2, 2), P.cuber_projection(2, 2)],
  ids=["gpm", "sgp", "nscl", "cuber", "cuber_pull", "cuber_projection"],
)
def test_other_names_at_the_update_are_refused(tx):
  state = tx.init(X)
  other = {"c": X["a"], "b": X["b"]}
  with pytest.raises(UsageError, match="the updates lack the kernel 'a'"):
    tx.update(other, state, other)
  more = {**X, "c": X["a"]}
  with pytest.raises(UsageError, match="its state lacks the kernel 'c'"):
    tx.update(more, state, more)
  with pytest.raises(UsageError, match="no kernel to project"):
    tx.init({"b": X["b"]})


def test_more_refusals():
  coso = P.coso(2, 2)
  with pytest.raises(UsageError, match="coso: the updates lack the kernel 'a'"):
    coso.update({"c": X["a"]}, coso.init({"a": X["a"]}))
  with pytest.raises(UsageError, match="gpm: no kernel to project"):
    P.gpm(skip=lambda path: True).init(X)
  with pytest.raises(UsageError, match="freeze: pattern 'c' matches no parameter"):
    O.freeze("c").init(X)
  for wrong in ((), ("a", 1)):
    with pytest.raises(UsageError, match="freeze: give at least one path"):
      O.freeze(wrong)
  with pytest.raises(UsageError, match="several patterns as one tuple"):
    O.freeze("a", "b")


LINEAR = eqx.nn.Linear(2, 2, use_bias=False, key=jax.random.key(0))


def test_the_layout_of_kernels_is_told():
  """Equinox keeps [out, in]: on a square kernel nothing but the caller can say so."""
  params = eqx.filter(LINEAR, eqx.is_array)
  for make in (P.gpm, lambda **k: P.cuber(2, 2, **k), lambda **k: P.coso(2, 2, **k)):
    with pytest.raises(UsageError, match="say layout='out_in'"):
      make().init(params)
  with pytest.raises(UsageError, match="layout is 'oi'"):
    P.gpm(layout="oi")
  grads = jax.tree.map(jnp.ones_like, params)
  for layout, want in (("out_in", [[0, 1], [0, 1]]), ("in_out", [[0, 0], [1, 1]])):
    tx = P.gpm(layout=layout)
    state = P.gpm_extend(tx.init(params), {"weight": jnp.array([[1.0, 0.0]])}, 1.0)
    np.testing.assert_allclose(tx.update(grads, state)[0].weight, want, atol=1e-6)


def test_convolutions_of_both_layouts():
  """[height, width, in, out] and [out, in, height, width]: the rows of inputs come in the kernel's own order."""
  rng = np.random.default_rng(0)
  x, g = rng.normal(size=(3, 2, 2, 3)), rng.normal(size=(2, 2, 3, 4))
  rows = {"in_out": x.reshape(3, -1), "out_in": x.transpose(0, 3, 1, 2).reshape(3, -1)}
  kernels = {"in_out": g, "out_in": g.transpose(3, 2, 0, 1)}
  basis = np.linalg.qr(x.reshape(3, -1).T)[0]
  want = (g.reshape(-1, 4) - basis @ basis.T @ g.reshape(-1, 4)).reshape(g.shape)
  for layout, kernel in kernels.items():
    tx, grads = P.gpm(layout=layout), {"k": jnp.asarray(kernel, jnp.float32)}
    state = P.gpm_extend(tx.init(grads), {"k": jnp.asarray(rows[layout], jnp.float32)}, 1.0)
    got = np.asarray(tx.update(grads, state)[0]["k"])
    np.testing.assert_allclose(got if layout == "in_out" else got.transpose(2, 3, 1, 0), want, atol=1e-5)


def test_moments_of_nnx_states_are_edited_by_name():
  """Units reset by continual backprop lose their moments, which an ``nnx.Optimizer`` keeps in Variables."""
  from cljax.core.opt_state import edit_moments

  model = nnx.Linear(2, 1, rngs=nnx.Rngs(0))
  state = nnx.Optimizer(model, optax.adam(0.1), wrt=nnx.Param).opt_state
  params = nnx.as_pure(nnx.state(model, nnx.Param))
  out = edit_moments(state, params, lambda name, m: m + 1 if name == "kernel" else m)
  assert jax.tree.structure(out) == jax.tree.structure(state)
  assert float(tree.unboxed(out)[0].mu["kernel"].sum()) == 2
  assert float(tree.unboxed(out)[0].nu["bias"].sum()) == 0
