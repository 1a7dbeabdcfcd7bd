"""Networks in two parts: together they are the network, and what lies below has no part in the upper one."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from bench import assert_same
from normed import normed

from cljax import models
from cljax.core.types import Outputs, UsageError
from cljax.engine.setup import spec_of
from cljax.models import splitting

TOLD = {"key": jax.random.key(0), "task": None}


@pytest.fixture(scope="module")
def spec(class_stream):
  return spec_of(class_stream, 8)


def made(model, spec, layer="auto"):
  cut = splitting.split(model, spec, layer, "remind")
  params, state = model.init(jax.random.key(1))
  x = np.random.default_rng(0).normal(size=(5, 4, 4, 1)).astype(np.float32)
  return cut, params, state, x


NETWORKS = {
  "mlp": (lambda: models.mlp((4, 4, 1), 4, hidden=(7, 5)), "auto", "hidden_1", {"hidden_0/kernel", "hidden_0/bias"}),
  "one_layer": (lambda: models.mlp((4, 4, 1), 4, hidden=(7,)), "auto", "head", {"hidden_0/kernel", "hidden_0/bias"}),
  "cnn": (lambda: models.cnn((4, 4, 1), 4, widths=(3, 4)), "auto", "conv_1", {"conv_0/kernel", "conv_0/bias"}),
  "normed": (normed, "head", "head", {"in/kernel", "in/bias", "norm/scale", "norm/bias"}),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_both_parts_are_the_network(name, spec):
  make, layer, path, below = NETWORKS[name]
  model = make()
  cut, params, state, x = made(model, spec, layer)
  assert cut.path == path
  assert {n for n in models.growing.names_of(model) if cut.below(n)} == below
  value = cut.lower(params, state, x, TOLD["key"])
  assert (value.shape[1:], value.dtype) == (cut.value.shape, cut.value.dtype)
  whole = model.apply(params, state, x, train=False, mask=None, **TOLD)[0]
  out, moved = cut.upper(params, state, value, train=False, mask=None, **TOLD)
  np.testing.assert_allclose(out.logits, whole.logits, rtol=1e-6)
  np.testing.assert_allclose(out.features, whole.features, rtol=1e-6)
  assert out.hidden == ()
  assert_same(moved, state)
  grads = jax.grad(lambda p: cut.upper(p, state, value, train=True, mask=None, **TOLD)[0].logits.sum())(params)
  for leaf, grad in zip(models.growing.names_of(model), jax.tree.leaves(grads), strict=True):
    assert bool(np.asarray(grad).any()) != cut.below(leaf)


def test_statistics_below_the_cut_stand_and_those_above_move(spec):
  """Cut behind a BatchNorm, its statistics do not take the zeros of rows without inputs; before it, they move."""
  behind, params, state, x = made(normed(), spec, "head")
  value = behind.lower(params, state, x, TOLD["key"])
  assert_same(behind.upper(params, state, value, train=True, mask=None, **TOLD)[1], state)
  before = splitting.split(normed(), spec, "norm", "remind")
  value = before.lower(params, state, x, TOLD["key"])
  moved = before.upper(params, state, value, train=True, mask=None, **TOLD)[1]
  want = 0.9 * np.asarray(state["batch_stats"]["norm"]["mean"]) + 0.1 * np.asarray(value).mean(0)
  np.testing.assert_allclose(moved["batch_stats"]["norm"]["mean"], want, rtol=1e-5)


class Block(nn.Module):
  @nn.compact
  def __call__(self, x):
    return x + nn.relu(nn.Dense(5, name="inner")(x))


class Residual(nn.Module):
  @nn.compact
  def __call__(self, x):
    x = nn.Dense(5, name="stem")(x.reshape(x.shape[0], -1))
    for i in range(2):
      x = Block(name=f"block_{i}")(x)
    return Outputs(nn.Dense(4, name="head")(x), x)


def test_a_residual_block_is_cut_before_it_or_not_at_all(spec):
  """A network of residual blocks is cut before its last one; a layer within a block is gone around."""
  model = models.from_linen(Residual(), (4, 4, 1))
  cut, params, state, x = made(model, spec)
  assert cut.path == "block_1"
  assert not cut.below("block_1/inner/kernel")
  assert cut.below("block_0/inner/kernel")
  whole = model.apply(params, state, x, train=False, mask=None, **TOLD)[0]
  value = cut.lower(params, state, x, TOLD["key"])
  np.testing.assert_allclose(cut.upper(params, state, value, train=False, **TOLD)[0].logits, whole.logits, rtol=1e-6)
  with pytest.raises(UsageError, match=r"method.layer: got 'block_1/inner', at which 'remind' can not cut"):
    splitting.split(model, spec, "block_1/inner", "remind")


def test_what_can_not_be_cut_is_said(spec, small_model):
  with pytest.raises(UsageError, match=r"method.layer: got 'no'; allowed: 'auto', hidden_0, head"):
    splitting.split(small_model, spec, "no", "remind")
  with pytest.raises(UsageError, match=r"got 'hidden_0', at which 'remind' can not cut: .*no parameter lies before it"):
    splitting.split(small_model, spec, "hidden_0", "remind")
  plain = models.from_apply(lambda key: jnp.zeros((16, 4)), lambda p, x: x.reshape(len(x), -1) @ p)
  with pytest.raises(UsageError, match="'remind' cuts a Linen module in two; the model is none"):
    splitting.split(plain, spec, "auto", "remind")
  flat = models.mlp((4, 4, 1), 4, hidden=())
  with pytest.raises(UsageError, match="'remind' finds no module at which the network can be cut"):
    splitting.split(flat, spec, "auto", "remind")


def test_held_leaves_stand_once_they_are_held():
  tx = optax.chain(splitting.hold(lambda n: n == "a", begins=False))
  tree = {"a": jnp.ones(2), "b": jnp.ones(2)}
  state = tx.init(tree)
  assert_same(tx.update(tree, state)[0], tree)
  after = tx.update(tree, splitting.held_from_now(state))[0]
  np.testing.assert_array_equal(after["a"], 0)
  np.testing.assert_array_equal(after["b"], 1)
  begun = splitting.hold(lambda n: n == "a", begins=True)
  np.testing.assert_array_equal(begun.update(tree, begun.init(tree))[0]["a"], 0)


def test_what_a_program_reads():
  """Of nested trees, through programs of programs; what is not read is found so, and a result that is an input."""
  fn = lambda a, b: jax.jit(lambda u: u * 2)(a["x"]) + jnp.ones(()) + 0 * b[0].shape[0]
  got = splitting.reached(fn, {"x": jnp.ones(()), "y": jnp.ones(())}, (jnp.ones(3),))
  assert got == ({"x": True, "y": False}, (False,))
  assert splitting.reached(lambda a, b: (b, 1.0), jnp.ones(()), jnp.ones(())) == (False, True)
