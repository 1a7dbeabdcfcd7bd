"""UPGD: gradient and noise move most what the loss would miss least."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from cljax.core import tree
from cljax.core.dtypes import wide
from cljax.core.method import Method
from cljax.core.types import Access, Spec
from cljax.methods.registry import Entry, Option, register


class Utility(NamedTuple):
  """The running utility of each weight, a tree like the parameters in at least float32, and the steps it is of."""

  mean: Any
  steps: Any  # int32


def gates(utility):
  """``1 - sigmoid(u / max u)`` with the largest u of all weights; where none is above 0, of the largest ``|u|``.

  The scaled utility is then at most 1, 1 of the most useful weight, and at least -1 where all do harm: without that,
  dividing by a negative number would call the most harmful weight the most useful one.
  """
  largest = lambda f: functools.reduce(jnp.maximum, [f(u).max() for u in jax.tree.leaves(utility)])
  top = largest(lambda u: u)
  unit = jnp.where(top > 0, top, largest(jnp.abs))
  return jax.tree.map(lambda u: jax.nn.sigmoid(-u / jnp.where(unit > 0, unit, 1)), utility)


def upgd(model, spec: Spec, *, decay, noise, weight_decay, protect: bool = True) -> Method:
  """UPGD: ``theta <- (1 - rate weight_decay) theta - rate (g + xi) (1 - sigmoid(u / max u))``, ``xi ~ N(0, noise^2)``.

  ``u``, a weight's utility, is the running mean of ``-g theta``, to first order what the loss would gain without it,
  ``decay u + (1 - decay) (-g theta)``, over ``1 - decay^t`` after t steps; the maximum is over all weights of all
  layers, so the most useful one is held to 0.27 of a step and one without use to half of one. A ``transform`` in front
  of the run's optimizer: under SGD the step is UPGD's own, ``rate`` the run's. ``protect=False`` gates the noise alone;
  with ``noise=0`` and no decay that is the plain step. ``max u`` below 0: see :func:`gates`. Keeps a copy of the
  parameters, of gradients of all rows; none can be taken out of it. Elsayed and Mahmood 2024; spec G3.
  """
  del model, spec

  def init(params):
    zeros = jax.tree.map(lambda p: jnp.zeros(p.shape, wide(jnp.real(p).dtype)), params)
    return Utility(zeros, jnp.zeros((), jnp.int32))

  def update(updates, state, params=None, *, upgd_key, **extra):
    del extra
    steps = optax.safe_increment(state.steps)
    now = lambda u, g, p: decay * u - (1 - decay) * tree.product(g.astype(u.dtype), p.astype(u.dtype))
    mean = jax.tree.map(now, state.mean, updates, params)
    gate = gates(jax.tree.map(lambda u: u / -jnp.expm1(steps.astype(u.dtype) * jnp.log(decay).astype(u.dtype)), mean))

    def one(name, g, p, c):
      g, p = g.astype(c.dtype), p.astype(c.dtype)
      xi = noise * jax.random.normal(tree.fold(upgd_key, name), g.shape, c.dtype)
      return (g + xi) * c + weight_decay * p if protect else g + xi * c + weight_decay * p

    moved = tree.map_named(one, updates, params, gate)
    return jax.tree.map(lambda m, g: m.astype(g.dtype), moved, updates), Utility(mean, steps)

  def observe(key, learner, batch):
    del learner, batch
    return {"upgd_key": key}

  return Method(observe=observe, transform=optax.GradientTransformationExtraArgs(init, update))


register(
  "upgd",
  Entry(
    upgd,
    {
      "decay": Option(0.999, 0, 1, below=True),
      "noise": Option(0.001, 0),
      "weight_decay": Option(0.0, 0),
      "protect": Option(True),
    },
    Access(needs=()),
    "Elsayed and Mahmood 2024",
  ),
)
