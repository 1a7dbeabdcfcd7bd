"""Averages of weights along a run: EMA, LCIA's automatic balance, Reptile."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from cljax.core.checks import check_scalar
from cljax.core.types import Array, Params, Scalar, Tree


def ema(average: Tree, params: Tree, decay: Scalar = 0.99) -> Tree:
  """``decay * average + (1 - decay) * params``, leaf by leaf; evaluate the average, train the parameters.

  Works on any tree, so BatchNorm's statistics go along; leaves that are not floats are taken from ``params``. decay may
  be traced: ``ema_decay`` gives the paper's two stages. Raises UsageError for decay outside [0, 1].
  Soutif-Cormerais et al. 2023.
  """
  check_scalar("ema", "decay", decay, 0, 1)

  def one(a, p):
    if not jnp.issubdtype(a.dtype, jnp.inexact):
      return p
    return (decay * a + (1 - decay) * p).astype(a.dtype)

  return jax.tree.map(one, average, params)


def ema_decay(step: int | Array, task_steps: int | Array, early: Scalar = 0.9, late: Scalar = 0.99) -> Array:
  """``early`` while ``step <= task_steps`` (one task's iterations), then ``late``."""
  return jnp.where(step <= task_steps, early, late)


def lcia(
  average: Tree, params: Params, last_params: Params, gradient: Tree, last_gradient: Tree, *, released: bool = False
) -> Tree:
  """``b * average + (1 - b) * params`` with a ``b`` per tensor from a Taylor argument; 0.99 where it leaves (0, 1).

  ``b = (L' + 1) / ((t - average) L'')`` in L1 norms, ``L'' = |g - g_last| / |t - t_last|``. ``released`` is the
  published code's: ``a = 2 (1 + |g|) / (|t - average| |g - g_last|)`` as the weight of the *new* parameters, 0.01
  where it leaves (0, 1) (it then disagrees with the formula above on which side is weighed, and lacks ``|t -
  t_last|``). L1 norms grow with the tensor, so large tensors mostly fall back. Qiao et al. 2025.
  """
  l1 = lambda x, y: jnp.sum(jnp.abs(x - y))

  def one(old, new, last, g, g_last):
    drift, curve, size = l1(new, old), l1(g, g_last), jnp.sum(jnp.abs(g))
    below = drift * curve
    scale = 2.0 if released else l1(new, last)
    weight = scale * (1 + size) / jnp.where(below > 0, below, 1)
    inside = (below > 0) & (weight > 0) & (weight < 1)
    of_old = jnp.where(inside, 1 - weight if released else weight, 0.99)
    return (of_old * old + (1 - of_old) * new).astype(old.dtype)

  return jax.tree.map(one, average, params, last_params, gradient, last_gradient)


def reptile(params: Params, snapshot: Params, epsilon: Scalar = 0.1) -> Params:
  """``snapshot + epsilon (params - snapshot)``: the outer step of Reptile; 1 keeps ``params`` to the bit, 0 goes back.

  The paper uses 0.1 every 500 steps; its code's default is 0.01. Raises UsageError for epsilon below 0.
  Abbes et al. 2025.
  """
  check_scalar("reptile", "epsilon", epsilon)
  step = lambda p, s: jnp.where(epsilon == 1, p, s + epsilon * (p - s)).astype(p.dtype)
  return jax.tree.map(step, params, snapshot)


def reptile_every(
  step: int | Array, params: Params, snapshot: Params, every: int | Array, epsilon: Scalar = 0.1
) -> tuple[Params, Params]:
  """``reptile`` where ``step`` is a positive multiple of ``every``; returns ``(params, snapshot)`` for the next step.

  The snapshot is taken anew after each interpolation. Step 0 makes none (the published code interpolates there).
  """
  check_scalar("reptile_every", "every", every, 1)
  now = (step % every == 0) & (step > 0)
  pick = lambda a, b: jax.tree.map(lambda x, y: jnp.where(now, x, y), a, b)
  params = pick(reptile(params, snapshot, epsilon), params)
  return params, pick(params, snapshot)
