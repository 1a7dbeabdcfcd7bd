"""Gradients from losses alone: ``(key, loss_fn, params) -> ((loss, aux), grads)``, with ``loss_fn(params) -> (loss,
aux)``.

Each returns a tree like the parameters, to be given to any optax chain; ZO-Adam is ``zo_sgd`` before ``optax.adam``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from cljax.core.checks import check_scalar
from cljax.core.dtypes import wide
from cljax.core.tree import axpy, dot, empty_like, fit
from cljax.core.types import Array, Params, Scalar, UsageError
from cljax.optimizers._common import random_like


def _direction(key, params, sparsity, sparsity_key):
  """``z ~ N(0, I)``, with a fixed random share of its coordinates zero."""
  z = random_like(key, params)
  if sparsity_key is None:
    return z
  kept = random_like(sparsity_key, params, jax.random.uniform)
  return jax.tree.map(lambda x, u: jnp.where(u >= sparsity, x, 0), z, kept)


def _check(owner, epsilon, queries, sparsity, sparsity_key):
  check_scalar(owner, "epsilon", epsilon, above=True)
  check_scalar(owner, "queries", queries, 1)
  check_scalar(owner, "sparsity", sparsity, 0, 1)
  if sparsity_key is None and (isinstance(sparsity, jax.core.Tracer) or sparsity != 0):
    raise UsageError(f"{owner}: sparsity needs sparsity_key, the key of the mask that stays fixed over steps")


def zo_sgd(
  key: Array, loss_fn: Callable[[Params], tuple[Array, Any]], params: Params, *, epsilon: Scalar = 1e-3,
  queries: int = 1, one_sided: bool = False, sparsity: Scalar = 0.0, sparsity_key: Array | None = None,
) -> tuple[tuple[Array, Any], Params]:  # fmt: skip
  """SPSA: ``mean_q (L(t + e z) - L(t - e z)) / (2 e) * z`` with ``z ~ N(0, I)``; unbiased as e goes to 0.

  The published code's form (MeZO); the paper prints z^-1. one_sided: ``(L(t + e z) - L(t)) / e``. queries: how many z
  are averaged (static). sparsity: the share of coordinates whose z is zero, drawn from ``sparsity_key`` (keep it
  fixed). The loss is the mean of those evaluated and aux that of the last query, at ``t - e z`` (``t`` if one_sided):
  no extra forward pass. Raises UsageError: epsilon not above 0, queries below 1, sparsity outside [0, 1] or without
  its key. Feng et al. 2025 (ZeroFlow).
  """
  _check("zo_sgd", epsilon, queries, sparsity, sparsity_key)
  at_theta: Any = loss_fn(params) if one_sided else None
  zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, wide(x.dtype)), params)
  empty = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(loss_fn, params))

  def query(q, carry):
    grads, total, _ = carry
    z = _direction(jax.random.fold_in(key, q), params, sparsity, sparsity_key)
    plus, _ = loss_fn(axpy(epsilon, z, params))
    minus, aux = at_theta if one_sided else loss_fn(axpy(-epsilon, z, params))
    slope = (plus - minus) / (epsilon if one_sided else 2 * epsilon)
    loss = minus if one_sided else (plus + minus) / 2
    return jax.tree.map(lambda g, x: g + slope.astype(g.dtype) * x, grads, z), total + loss, aux

  grads, total, aux = jax.lax.fori_loop(0, queries, query, (zeros, empty[0], empty[1]))
  return (total / queries, aux), jax.tree.map(lambda g, p: (g / queries).astype(p.dtype), grads, params)


def zo_sign(
  key: Array, loss_fn: Callable[[Params], tuple[Array, Any]], params: Params, *, scalar_sign: bool = False,
  epsilon: Scalar = 1e-3, sparsity: Scalar = 0.0, sparsity_key: Array | None = None, **options: Any,
) -> tuple[tuple[Array, Any], Params]:  # fmt: skip
  """``sign(g)`` elementwise of the ``zo_sgd`` estimate g, as the paper prints; options as there.

  ``scalar_sign`` is the published code's: the sign of the one difference quotient, times z (one query only).
  """
  if not scalar_sign:
    found, grads = zo_sgd(
      key, loss_fn, params, epsilon=epsilon, sparsity=sparsity, sparsity_key=sparsity_key, **options
    )
    return found, jax.tree.map(jnp.sign, grads)
  if options.get("queries", 1) != 1:
    raise UsageError(f"zo_sign: scalar_sign takes one query; got queries={options['queries']}")
  found, grads = zo_sgd(key, loss_fn, params, epsilon=epsilon, sparsity=sparsity, sparsity_key=sparsity_key, **options)
  z = _direction(jax.random.fold_in(key, 0), params, sparsity, sparsity_key)
  slope = jnp.sign(dot(grads, z))
  return found, jax.tree.map(lambda x, p: (slope * x).astype(p.dtype), z, params)


def zo_conserve(
  key: Array, loss_fn: Callable[[Params], tuple[Array, Any]], params: Params, learning_rate: Scalar, **options: Any
) -> tuple[tuple[Array, Any], Params]:
  """The one of ``{0, g, -g}`` whose SGD step of ``learning_rate`` has the lowest loss; g is ``zo_sgd``'s, options as
  there.

  Three more forward passes. Followed by ``optax.sgd(learning_rate)`` the batch loss never rises; behind Adam or
  momentum that does not hold. loss and aux are those at ``params``.
  """
  check_scalar("zo_conserve", "learning_rate", learning_rate)
  _, grads = zo_sgd(key, loss_fn, params, **options)
  here = loss_fn(params)
  tried = jnp.stack([here[0]] + [loss_fn(axpy(-s * learning_rate, grads, params))[0] for s in (1.0, -1.0)])
  sign = jnp.array([0.0, 1.0, -1.0])[jnp.argmin(jnp.where(jnp.isnan(tried), jnp.inf, tried))]
  return here, jax.tree.map(lambda g: (sign * g).astype(g.dtype), grads)


def forward_gradient(
  key: Array, loss_fn: Callable[[Params], tuple[Array, Any]], params: Params
) -> tuple[tuple[Array, Any], Params]:
  """``(grad L . v) v`` with ``v ~ N(0, I)``, by one Jacobian-vector product: unbiased, no backward pass.

  Baydin et al. 2022; a ZeroFlow baseline.
  """
  v = jax.tree.map(lambda x, p: x.astype(p.dtype), random_like(key, params), params)
  loss, slope, aux = jax.jvp(loss_fn, (params,), (v,), has_aux=True)
  return (loss, aux), jax.tree.map(lambda x: slope.astype(x.dtype) * x, v)


def hybrid(
  key: Array, loss_fn: Callable[[Params], tuple[Array, Any]], params: Params, step: int | Array,
  switch_step: int | Array, estimator: Callable[..., tuple[tuple[Array, Any], Params]] = zo_sgd,
) -> tuple[tuple[Array, Any], Params]:  # fmt: skip
  """First-order gradients before ``switch_step``, ``estimator``'s from it on (ZeroFlow's enhancement 1).

  step and switch_step may be traced; under ``vmap`` both sides are computed.
  """
  exact = lambda: jax.value_and_grad(loss_fn, has_aux=True)(params)
  return jax.lax.cond(step < switch_step, exact, lambda: estimator(key, loss_fn, params))


class HistoryState(NamedTuple):
  """The smoothed gradient h of :func:`history`, and whether one was seen yet (a bool)."""

  gradient: Any
  seen: Any


def history(alpha: Scalar = 0.2) -> optax.GradientTransformationExtraArgs:
  """``h <- (1 - alpha) g + alpha h``, starting at g: ZeroFlow's historical smoothing, as an optax transform.

  The paper smooths the old tasks' part of the gradient, with alpha about 0.2; the published code smooths z with
  ``h <- 0.9 h + 0.1 z`` and does not split: give ``alpha=0.9`` to come near it. h is kept in at least float32. Raises
  UsageError for alpha outside [0, 1]. Feng et al. 2025.
  """
  check_scalar("history", "alpha", alpha, 0, 1)

  def init(params):
    return HistoryState(jax.tree.map(lambda x: empty_like(x, wide(x.dtype)), params), jnp.zeros((), bool))

  def update(updates, state, params=None, **extra):
    del params, extra

    def mix(g, h):
      g = g.astype(h.dtype)
      return jnp.where(state.seen, (1 - alpha) * g + alpha * h, g)

    updates = fit(updates, state.gradient, "history: updates")
    kept = jax.tree.map(mix, updates, state.gradient)
    return jax.tree.map(lambda g, h: h.astype(g.dtype), updates, kept), HistoryState(kept, jnp.ones((), bool))

  return optax.GradientTransformationExtraArgs(init, update)


def evolution_strategy(
  key: Array, loss_fn: Callable[[Params], tuple[Array, Any]], params: Params, *, sigma: Scalar = 1e-3,
  population: int = 30, antithetic: bool = False,
) -> tuple[tuple[Array, Any], Params]:  # fmt: skip
  """``-(1/N) sum_i z_i e_i`` with ``e_i ~ N(0, I)``, ``R_i = -L(t + sigma e_i)`` and ``z = (R - mean R) / std R``.

  SGD of step alpha on it is ``t + (alpha / N) sum z_i e_i``, without a division by sigma (alpha = sigma / 2 in the
  published code). Members are evaluated one by one and their noise is drawn again for the sum, so memory does not grow
  with the population (static); antithetic pairs ``e`` with ``-e`` (even population). Equal rewards give zero. loss and
  aux are those at ``params``. Raises UsageError: sigma not above 0, population below 2, odd and antithetic.
  Qiu et al. 2025; Abdi et al. 2026.
  """
  check_scalar("evolution_strategy", "sigma", sigma, above=True)
  check_scalar("evolution_strategy", "population", population, 2)
  if antithetic and population % 2:
    raise UsageError(f"evolution_strategy: antithetic needs an even population; got {population}")

  def noise(i):
    if not antithetic:
      return random_like(jax.random.fold_in(key, i), params)
    sign = 1.0 - 2.0 * (i % 2)
    return jax.tree.map(lambda e: sign * e, random_like(jax.random.fold_in(key, i // 2), params))

  reward = jax.lax.map(lambda i: -loss_fn(axpy(sigma, noise(i), params))[0], jnp.arange(population))
  spread = jnp.std(reward)
  # Not spread == 0: the mean of equal rewards rounds, and the scores would then be of size one.
  differ = (jnp.max(reward) > jnp.min(reward)) & (spread > 0)
  score = jnp.where(differ, (reward - jnp.mean(reward)) / jnp.where(differ, spread, 1), 0)
  zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, wide(x.dtype)), params)
  add = lambda i, total: jax.tree.map(lambda t, e: t - score[i].astype(t.dtype) * e, total, noise(i))
  total = jax.lax.fori_loop(0, population, add, zeros)
  return loss_fn(params), jax.tree.map(lambda t, p: (t / population).astype(p.dtype), total, params)
