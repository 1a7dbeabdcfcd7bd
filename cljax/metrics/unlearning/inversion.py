"""Rows found again from gradients: what a model's answer to a row still says of it.

An attacker who is given the gradient that a model makes on a row looks for the row. Where an edit has made the model
blind to a row, the gradient says little of it; but a gradient can be small and still say everything: **with a dense
first layer a single row is read off exactly** (:func:`dense_leak`), of any model, however well it forgot. So compare on
mean gradients, under noise of a fixed size, or with a convolution first, and always beside the same for rows that the
model never saw and for retrained models. A test that reads what an edit collapses is passed by collapsing it: look at
relearning too. Spec S7 of additions; the attack is Geiping et al.'s (2020): which one the paper of one-point
contraction used is not known to us.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from numpy.typing import ArrayLike

from cljax.core import tree
from cljax.core.types import Array, Params, Scalar, UsageError

CUTS = (3 / 8, 5 / 8, 7 / 8)  # behind these shares of the steps the rate is a tenth


class Inverted(NamedTuple):
  """What the attack found of a row."""

  x: Array  # like the row
  cost: Array  # 1 - cosine of the gradients, with the total variation
  size: Array  # of the gradient that was given: below the floor nothing can be said


def dense_leak(kernel: Array, bias: Array) -> Array:
  """``x = dL/dW_k / dL/db_k``, ``[d_in]``: the input of a dense layer from its gradients on one row, exactly.

  ``kernel [d_in, d_out]`` and ``bias [d_out]`` are gradients; k is the output of the largest one. 0 where that is 0.
  """
  if jnp.ndim(kernel) != 2 or jnp.shape(bias) != kernel.shape[1:]:
    raise UsageError(
      f"kernel: has shape {jnp.shape(kernel)}, bias {jnp.shape(bias)}; expected [d_in, d_out] and [d_out]"
    )
  k = jnp.argmax(jnp.abs(bias))
  return jnp.where(bias[k] != 0, kernel[:, k] / jnp.where(bias[k] != 0, bias[k], 1), 0)


def total_variation(x: Array) -> Array:
  """``mean |x_{i+1,j} - x_ij| + mean |x_{i,j+1} - x_ij|`` of a picture ``[H, W, ...]``; 0 of another input."""
  if jnp.ndim(x) < 2:
    return jnp.zeros((), x.dtype)
  return jnp.abs(jnp.diff(x, axis=0)).mean() + jnp.abs(jnp.diff(x, axis=1)).mean()


def gradient_inversion(
  loss_fn: Callable[[Params, Array], Array], params: Params, gradient: Params, like: Array, key: Array, *,
  steps: int = 500, restarts: int = 4, smooth: Scalar = 1e-3, rate: Scalar = 0.1, low: Scalar = 0.0, high: Scalar = 1.0,
) -> Inverted:  # fmt: skip
  """``argmin_x 1 - cos(grad L(theta, x), gradient) + smooth TV(x)`` over ``low <= x <= high``; the best of all starts.

  ``loss_fn(params, x) -> scalar`` of one row (its label known), ``gradient`` a tree like ``params``, ``like`` an array
  of the row's shape. Adam from N(0, 1), projected after each step; the rate is cut to a tenth at 3/8, 5/8 and 7/8. The
  cosine is of all leaves together, so the size of the gradient does not count: ``Inverted.size`` says it. Works under
  jit and vmap. Raises UsageError for steps or restarts below 1. Geiping et al., 2020.
  """
  for name, count in (("steps", steps), ("restarts", restarts)):
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
      raise UsageError(f"{name}: got {count!r}; expected an integer of at least 1")
  size = tree.norm(gradient)
  cut = {max(1, int(share * steps)): 0.1 for share in CUTS}
  optimizer = optax.adam(optax.piecewise_constant_schedule(rate, cut))

  def cost(x):
    own = jax.grad(loss_fn)(params, x)
    cosine = tree.dot(own, gradient) / jnp.maximum(tree.norm(own) * size, 1e-30)
    return 1 - cosine + smooth * total_variation(x)

  def one(key):
    x = jnp.clip(jax.random.normal(key, like.shape, jnp.float32), low, high)

    def step(carry, _):
      x, state = carry
      updates, state = optimizer.update(jax.grad(cost)(x), state)
      return (jnp.clip(optax.apply_updates(x, updates), low, high), state), None

    x = jax.lax.scan(step, (x, optimizer.init(x)), None, length=steps)[0][0]
    return x, cost(x)

  found, costs = jax.vmap(one)(jax.random.split(key, restarts))
  best = jnp.argmin(costs)
  return Inverted(found[best], costs[best], size)


class Recovered(NamedTuple):
  """How near rows that were found are to the true ones, ``[N]`` each."""

  cosine: np.ndarray
  psnr: np.ndarray  # decibels
  identified: np.ndarray  # bool: of the pool the true row is the nearest; by chance 1 / len(pool)


def recovered(found: ArrayLike, true: ArrayLike, pool: ArrayLike, span: float = 1.0) -> Recovered:
  """Cosine, ``10 log10(span^2 / MSE)``, and whether the nearest row of ``pool [P, ...]`` is the true one.

  ``found`` and ``true`` are ``[N, ...]``; ``span`` is that of the data; ``pool`` holds the true rows too, each once.
  Raises UsageError where shapes differ, and for a true row that is not in the pool.
  """
  found, true, pool = (np.asarray(a, np.float64) for a in (found, true, pool))
  if found.shape != true.shape or pool.shape[1:] != true.shape[1:] or found.ndim < 2:
    raise UsageError(
      f"found: has shape {found.shape}, true {true.shape}, pool {pool.shape}; expected [N, ...] and [P, ...]"
    )
  a, b, c = (v.reshape(len(v), -1) for v in (found, true, pool))
  place = np.argmin(((b[:, None] - c[None]) ** 2).sum(-1), 1)
  if not np.array_equal(c[place], b):
    raise UsageError("pool: lacks a true row")
  error = np.maximum(((a - b) ** 2).mean(1), 1e-30)
  size = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
  cosine = (a * b).sum(1) / np.where(size > 0, size, 1)
  nearest = np.argmin(((a[:, None] - c[None]) ** 2).sum(-1), 1)
  return Recovered(cosine, 10 * np.log10(span**2 / error), nearest == place)
