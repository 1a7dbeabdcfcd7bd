"""Projections made in the backward pass: where they are, and that they are those of the gradients."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import cljax
from cljax import methods, models, projectors
from cljax.core import tree
from cljax.engine import layerwise, recipe
from cljax.engine.setup import spec_of
from cljax.projectors.gpm import gpm_rows


class Odd(nn.Module):
  """Dense layers with more rows than outputs, called twice, of few and of many rows, and under a scan."""

  @nn.compact
  def __call__(self, x):
    x = nn.tanh(nn.Dense(12, name="wide")(x))
    x = nn.Dense(12, name="again", use_bias=False)(x)
    same = nn.Dense(12, name="twice")
    x = same(nn.tanh(same(x)))
    again = nn.Dense(12, name="often")
    x = again(x) + again(jnp.tile(x, (4, 1))).sum(0)
    scanned = nn.scan(lambda module, x, _: (module(x), None), variable_axes={"params": 0}, split_rngs={"params": True})
    x = scanned(nn.Dense(12, name="stack"), x, jnp.zeros(2))[0]
    return nn.Dense(3, name="narrow")(x)


@pytest.fixture(scope="module")
def odd():
  """``(params, states, loss)``, all kernels of two axes with a basis of two directions in room for four."""
  module, rng = Odd(), np.random.default_rng(0)
  x = jnp.asarray(rng.normal(size=(5, 7)), jnp.float32)
  params = module.init(jax.random.key(0), x)["params"]
  states = {}
  for name, leaf in ((n, a) for n, a in tree.by_path(params).items() if a.ndim >= 2):
    width = leaf.shape[-2]
    basis = np.zeros((width, 4), np.float32)
    basis[:, :2] = np.linalg.qr(rng.normal(size=(width, 2)))[0]
    states[name] = (jnp.asarray(basis), jnp.int32(2))
  loss = lambda p: ((module.apply({"params": p}, x) ** 2).sum(), x.shape)
  return params, states, loss


def test_gradients_of_few_rows_are_projected_and_no_others(odd):
  params, states, loss = odd
  run = jax.jit(lambda p: layerwise.value_and_grad(loss, p, states, gpm_rows)[:2])
  names = layerwise.value_and_grad(loss, params, states, gpm_rows)[2]
  assert names == {"wide/kernel", "again/kernel", "twice/kernel"}
  (value, aux), got = run(params)
  (want_value, want_aux), want = jax.value_and_grad(loss, has_aux=True)(params)
  np.testing.assert_allclose(value, want_value, rtol=1e-6)
  assert aux == want_aux
  for layer, leaves in want.items():
    for leaf, g in leaves.items():
      name = f"{layer}/{leaf}"
      if name in names:
        m = np.float64(states[name][0])
        g = g - m @ (m.T @ np.float64(g))
      np.testing.assert_allclose(got[layer][leaf], g, rtol=1e-4, atol=1e-5)


def test_a_kernel_that_is_read_elsewhere_is_left_out(odd):
  """By a penalty in the loss, in a jitted function, in a loop: else a part of its gradient would not be projected."""
  params, states, loss = odd
  square = lambda w: (w**2).sum()
  more = (
    lambda p: square(p["wide"]["kernel"]),
    lambda p: jax.jit(lambda w: w.sum() + square(w))(p["wide"]["kernel"]),
    lambda p: jax.lax.scan(lambda c, _: (c + square(p["wide"]["kernel"]), None), 0.0, jnp.zeros(2))[0],
  )
  for extra in more:
    both = lambda p, extra=extra: (loss(p)[0] + extra(p), ())
    assert layerwise.value_and_grad(both, params, states, gpm_rows)[2] == {"again/kernel", "twice/kernel"}
  rows = lambda p: jax.vmap(lambda x: nn.Dense(12).apply({"params": p["wide"]}, x[None]))(jnp.ones((5, 7))).sum()
  assert not layerwise.value_and_grad(lambda p: (rows(p), ()), params, states, gpm_rows)[2]
  inside = jax.jit(lambda p: loss(p)[0])
  assert not layerwise.value_and_grad(lambda p: (inside(p), ()), params, states, gpm_rows)[2]


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("penalty", [False, True])
def test_agem_of_factors_is_agem_of_gradients(sign, penalty):
  """Layers with and without factors, of the two losses differently many rows; a kernel that a penalty reads as well."""
  rng = np.random.default_rng(1)
  draw = lambda *s: jnp.asarray(rng.normal(size=s), jnp.float32)
  model = nn.Sequential([nn.Dense(30), nn.tanh, nn.Dense(14), nn.tanh, nn.LayerNorm(), nn.Dense(3)])
  x, y, u, v = draw(5, 7), draw(5, 3), draw(9, 7), draw(9, 3)
  params = model.init(jax.random.key(0), x)["params"]
  more = lambda p: (p["layers_0"]["kernel"] ** 2).sum() if penalty else 0.0
  loss = lambda p: (((model.apply({"params": p}, x) - y) ** 2).mean() + more(p), "aux")
  reference = lambda p: sign * ((model.apply({"params": p}, u) - v) ** 2).mean()
  sizes = {name: found[0].shape for name, found in layerwise._factors(loss, params)[2].items()}
  both = {"layers_0/kernel": (5, 7), "layers_2/kernel": (5, 30)}
  assert sizes == ({"layers_2/kernel": (5, 30)} if penalty else both)
  (value, aux), got, fired = layerwise.against_reference(loss, reference, params, 1e-7)
  (want_value, _), g = jax.value_and_grad(loss, has_aux=True)(params)
  r, tx = jax.grad(reference)(params), projectors.agem(epsilon=1e-7)
  want, state = tx.update(g, tx.init(params), references={"memory": r})
  np.testing.assert_allclose(value, want_value, rtol=1e-6)
  assert aux == "aux"
  assert bool(fired) == bool(state.projected)
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
  same, told = tx.update(got, tx.init(params), references=None, fired=fired)
  assert same is got
  assert int(told.projected) == int(state.projected)


def test_an_empty_basis_leaves_the_gradient_alone(odd):
  params, states, loss = odd
  empty = {name: (jnp.zeros_like(basis), jnp.int32(0)) for name, (basis, _) in states.items()}
  got = layerwise.value_and_grad(loss, params, empty, gpm_rows)[1]
  want = jax.grad(loss, has_aux=True)(params)[0]
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)


def test_where_it_applies(class_stream, small_model):
  """Before any optimizer, behind plain SGD alone, and where no other transform or gradient has a say."""
  spec = spec_of(class_stream, 8)
  make = lambda on: methods.make("gpm", small_model, spec, on=on)
  sgd, decayed, momentum = recipe.make_optimizer("sgd"), recipe.make_optimizer("sgd", weight_decay=0.1), "momentum"
  others = (decayed, recipe.make_optimizer(momentum), optax.sgd(0.1))
  assert layerwise.applies(make("update"), sgd)
  assert not any(layerwise.applies(make("update"), o) for o in others)
  assert all(layerwise.applies(make("gradient"), o) for o in (sgd, *others))
  penalty = methods.make("l2", small_model, spec)
  for on in ("update", "gradient"):
    assert not layerwise.applies(make(on)._replace(penalty=penalty.penalty), sgd)
    assert not layerwise.applies(make(on)._replace(gradient=lambda *a: a), sgd)
    assert not layerwise.applies(cljax.compose(gpm=make(on), l2=penalty), sgd)
  assert not layerwise.applies(make("update")._replace(pull=penalty.penalty), sgd)
  assert not layerwise.applies(methods.make("finetune", small_model, spec), sgd)
  agem = methods.make("agem", small_model, spec)
  assert layerwise.averages(agem)
  assert not layerwise.averages(methods.make("agem", small_model, spec, on="update"))
  assert not layerwise.averages(methods.make("er_agem", small_model, spec))
  assert not layerwise.averages(cljax.compose(agem=agem, l2=penalty))
  assert not layerwise.averages(agem._replace(penalty=penalty.penalty))
  assert not layerwise.averages(agem._replace(after_step=lambda key, learner, info: learner))


@pytest.mark.parametrize(
  ("name", "hyper"),
  [
    ("gpm", {"on": "update", "threshold": 0.7}),
    ("gpm", {"on": "gradient", "threshold": 0.7}),
    ("agem", {"capacity": 8}),
  ],
)
def test_a_run_is_that_of_projected_updates(name, hyper, class_stream, monkeypatch):
  given = {"seeds": 1, "training": cljax.Recipe(batch_size=4), "optimizer_options": {"learning_rate": 0.1}}
  model = models.mlp((4, 4, 1), 4, hidden=(12,))
  run = lambda: cljax.run(class_stream, model, name, hyper, **given).learner
  learner = run()
  got = learner.params
  with monkeypatch.context() as patch:
    patch.setattr(layerwise, "applies", lambda *a: False)
    patch.setattr(layerwise, "averages", lambda *a: False)
    plain = run()
  want = plain.params
  if name == "agem":
    fired = int(learner.opt_state.transform.projected[0])
    assert fired == int(plain.opt_state.transform.projected[0]) > 0
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
