"""Leaves have one name in every container, and what wraps a leaf is no part of it."""

import dataclasses
from typing import Any, NamedTuple

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cljax import regularizers
from cljax.core import tree
from cljax.core.types import UsageError


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Attention:
  key: Any
  value: Any


class Pair(NamedTuple):
  value: Any
  other: Any


def test_plain_containers():
  x = jnp.ones(2)
  assert tree.paths({"a": {"kernel": x}, "b": (x, [x])}) == ["a/kernel", "b/0", "b/1/0"]
  assert tree.paths(Attention(x, x)) == ["key", "value"]  # a field of this name is a name
  assert tree.paths({"p": Pair(x, Attention(x, x))}) == ["p/value", "p/other/key", "p/other/value"]
  assert tree.paths(x) == [""]
  assert tree.paths(eqx.filter(eqx.nn.Linear(2, 1, key=jax.random.key(0)), eqx.is_array)) == ["weight", "bias"]


def test_nnx_states_are_named_as_their_pure_form():
  class Net(nnx.Module):
    def __init__(self):
      self.layers = nnx.List([nnx.Linear(2, 3, rngs=nnx.Rngs(0)), nnx.Linear(3, 1, rngs=nnx.Rngs(1))])
      self.value = nnx.Param(jnp.ones(2))

  state = nnx.state(Net(), nnx.Param)
  want = ["layers/0/bias", "layers/0/kernel", "layers/1/bias", "layers/1/kernel", "value"]
  assert tree.paths(state) == want
  assert tree.paths(nnx.as_pure(state)) == want
  assert list(regularizers._state.by_path(state)) == want
  assert all(isinstance(x, jax.Array) for x in tree.by_path(state).values())
  pure = tree.unboxed(state)
  assert jax.tree.structure(pure) == jax.tree.structure(nnx.as_pure(state))
  assert jax.tree.structure(tree.boxed(pure, state)) == jax.tree.structure(state)
  fitted = tree.fit(state, nnx.as_pure(state))
  assert jax.tree.structure(fitted) == jax.tree.structure(pure)
  assert jax.tree.leaves(jax.jit(tree.unboxed)(state))[0].shape == (3,)


def test_linen_boxes_are_no_part_of_a_name():
  init = nn.with_partitioning(nn.initializers.ones, (None, "model"))
  params = nn.Dense(3, kernel_init=init).init(jax.random.key(0), jnp.ones((1, 2)))
  assert tree.paths(params) == tree.paths(nn.unbox(params)) == ["params/bias", "params/kernel"]


def test_map_named_and_fit():
  a = {"x": jnp.ones(2), "y": (jnp.zeros(3),)}
  out = tree.map_named(lambda name, u, v: (name, float(u.sum() + v.sum())), a, a)
  assert out == {"x": ("x", 4.0), "y": (("y/0", 0.0),)}
  model = eqx.nn.MLP(2, 1, 2, 1, key=jax.random.key(0))
  arrays = eqx.filter(model, eqx.is_inexact_array)
  assert jax.tree.structure(tree.fit(model, arrays, extra=True)) == jax.tree.structure(arrays)
  with pytest.raises(UsageError, match="params: leaf 'activation' is unexpected"):
    tree.fit(model, arrays, "params")
  with pytest.raises(UsageError, match=r"leaf 'y/0' has shape \(2,\); expected \(3,\)"):
    tree.fit({"x": jnp.ones(2), "y": (jnp.zeros(2),)}, a)
  with pytest.raises(UsageError, match="leaf 'y/0' is missing"):
    tree.fit({"x": jnp.ones(2)}, a)
  with pytest.raises(UsageError, match="two leaves are called 'a/b'"):
    tree.by_path({"a": {"b": jnp.ones(1)}, "a/b": jnp.ones(1)})
  np.testing.assert_array_equal(tree.fit((jnp.ones(2),), {"0": jnp.zeros(2)})["0"], 1)
