"""The containers in which parameters come, and how a step is taken in each, as its users take it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from transforms.cases import LEAVES, SHAPES, Place

from cljax.core import tree


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Record:
  kernel: Any
  bias: Any
  out: Any


class Linen(nn.Module):
  @nn.compact
  def __call__(self, x):
    return nn.Dense(2, use_bias=False, name="second")(nn.tanh(nn.Dense(3, name="first")(x)))


class Nnx(nnx.Module):
  def __init__(self):
    self.first = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
    self.second = nnx.Linear(3, 2, use_bias=False, rngs=nnx.Rngs(0))


class Eqx(eqx.Module):
  first: eqx.nn.Linear
  activation: Callable
  second: eqx.nn.Linear

  def __init__(self, kernel, bias, out):
    self.first, self.second = (eqx.nn.Linear(*k.shape, use_bias=False, key=jax.random.key(0)) for k in (kernel, out))
    self.first = eqx.tree_at(lambda l: (l.weight, l.bias), self.first, (kernel.T, bias), is_leaf=lambda x: x is None)
    self.second = eqx.tree_at(lambda l: l.weight, self.second, out.T)
    self.activation = jnp.tanh


LINEN = jax.eval_shape(Linen().init, jax.random.key(0), jnp.ones((1, 2)))
NESTED = {"kernel": "first/kernel", "bias": "first/bias", "out": "second/kernel"}


def in_linen(v):
  like = {"params": {"first": {"kernel": v["kernel"], "bias": v["bias"]}, "second": {"kernel": v["out"]}}}
  assert jax.tree.structure(like) == jax.tree.structure(LINEN)
  return like


def out_of_linen(t):
  return {n: t["params"][p.split("/")[0]][p.split("/")[1]] for n, p in NESTED.items()}


def in_nnx(v):
  model = Nnx()
  for name, path in NESTED.items():
    module, leaf = path.split("/")
    getattr(getattr(model, module), leaf).value = v[name]
  return nnx.as_pure(nnx.state(model, nnx.Param))


def out_of_nnx(state):
  pure = nnx.as_pure(state)
  return {n: pure[p.split("/")[0]][p.split("/")[1]] for n, p in NESTED.items()}


def arrays(model):
  return eqx.filter(model, eqx.is_inexact_array)


def out_of_eqx(m):
  return {"kernel": m.first.weight.T, "bias": m.first.bias, "out": m.second.weight.T}


PLACES = {
  "dict": Place(dict, dict, {n: n for n in LEAVES}),
  "tuple": Place(
    lambda v: tuple(v[n] for n in LEAVES),
    lambda t: dict(zip(LEAVES, t, strict=True)),
    {n: str(i) for i, n in enumerate(LEAVES)},
  ),
  "dataclass": Place(lambda v: Record(**v), lambda r: {n: getattr(r, n) for n in LEAVES}, {n: n for n in LEAVES}),
  "Linen": Place(in_linen, out_of_linen, {n: "params/" + p for n, p in NESTED.items()}),
  "NNX": Place(in_nnx, out_of_nnx, NESTED),
  "Equinox": Place(
    lambda v: arrays(Eqx(**v)),
    out_of_eqx,
    {"kernel": "first/weight", "bias": "first/bias", "out": "second/weight"},
    "out_in",
  ),
}


def layer_of(name: str) -> Callable:
  """Leaves with one parent path are one layer."""
  return lambda n: PLACES[name].names[n].rpartition("/")[0]


class Loop(NamedTuple):
  """A user's loop in one container: ``end(edit)`` edits the optimizer state; ``step(grads, params)`` gives updates."""

  end: Callable
  step: Callable


def loop(name: str, tx, params, model_of_params=True) -> Loop:
  """NNX and Equinox take parameters from a model, where ``model_of_params`` are one's."""
  if name == "NNX" and model_of_params:
    model = Nnx()
    nnx.update(model, params)
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)

    def nnx_end(edit):
      optimizer.opt_state = edit(optimizer.opt_state, nnx.state(model, nnx.Param))

    def nnx_step(grads, params, **extra):
      nnx.update(model, params)
      before = jax.tree.map(np.asarray, nnx.as_pure(nnx.state(model, nnx.Param)))
      optimizer.update(model, tree.boxed(grads, nnx.state(model, nnx.Param)), **extra)  # as nnx.grad gives them
      return jax.tree.map(lambda a, b: np.asarray(a) - b, nnx.as_pure(nnx.state(model, nnx.Param)), before)

    return Loop(nnx_end, nnx_step)

  box = {"state": tx.init(params)}

  def end(edit):
    box["state"] = edit(box["state"], params)

  def step(grads, now, **extra):
    if name == "Equinox" and model_of_params:  # the whole model, functions and all, as Equinox's users pass it
      now = eqx.combine(now, Eqx(**{n: jnp.zeros(s) for n, s in SHAPES.items()}))
    updates, box["state"] = tx.update(grads, box["state"], now, **extra)
    return updates

  return Loop(end, step)
