"""Linear regression in float64 on a few digits: where the theory of projection is exact."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cljax import data, projectors


def tasks(seed: int, count: int, rows: int):
  """``count`` disjoint sets ``(x [rows, 64] in [0, 1], y [rows])`` of digits, the label over 9 to be regressed."""
  split = data.load("digits").train
  chosen = np.random.default_rng(seed).permutation(len(split.y))[: count * rows].reshape(count, rows)
  x = split.x.reshape(len(split.y), -1).astype(np.float64) / 16
  return [(jnp.asarray(x[i]), jnp.asarray(split.y[i] / 9.0)) for i in chosen]


@functools.partial(jax.jit, static_argnames=("projector", "steps"))
def descend(projector, state, w, x, y, steps):
  """``w`` after gradient descent on ``|x w - y|^2 / 2``, each gradient through the projector."""
  rate = 1 / jnp.linalg.norm(x, 2) ** 2

  def step(_, w):
    gradient, _ = projector.update({"w": x.T @ (x @ w - y)}, state, {"w": w})
    return w - rate * gradient["w"]

  return jax.lax.fori_loop(0, steps, step, w)


NONE = optax.with_extra_args_support(optax.identity())


@functools.cache
def basis(capacity: int):
  """The OGD projector of that capacity, one for all seeds (the compiled descent is found by it)."""
  return projectors.ogd(capacity)
