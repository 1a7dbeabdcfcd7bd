"""Mean-field Gaussian weights, and CLAW's per-neuron adaptation of them."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from cljax.core import tree
from cljax.core.checks import check_scalar
from cljax.core.dtypes import wide
from cljax.core.tree import size
from cljax.core.types import Array, Params, Scalar, UsageError


class MeanField(NamedTuple):
  """``N(mean, softplus(spread)^2)`` per weight: two trees like the parameters."""

  mean: Any
  spread: Any


def mean_field(params: Params, deviation: Scalar = 1e-3) -> MeanField:
  """A posterior around ``params`` with one standard deviation everywhere. Raises UsageError where it is not above 0."""
  check_scalar("mean_field", "deviation", deviation, above=True)
  spread = jax.tree.map(lambda p: jnp.full_like(p, jnp.log(jnp.expm1(deviation))), params)
  return MeanField(jax.tree.map(lambda p: jnp.array(p, copy=True), params), spread)


def mean_field_sample(key: Array, posterior: MeanField) -> Params:
  """``mean + softplus(spread) * e`` with ``e ~ N(0, I)``: parameters by reparameterisation.

  One flat draw, cut into leaves: a draw for each leaf compiles for twice as long on CPU.
  """
  noise, at, draws = jax.random.normal(key, (size(posterior.mean),)), 0, []
  for m, r in zip(jax.tree.leaves(posterior.mean), jax.tree.leaves(posterior.spread), strict=True):
    e = noise[at : at + m.size].reshape(m.shape)
    draws.append((m + jax.nn.softplus(r) * e).astype(m.dtype))
    at += m.size
  return jax.tree.unflatten(jax.tree.structure(posterior.mean), draws)


def mean_field_kl(posterior: MeanField, prior: MeanField) -> Scalar:
  """``KL(posterior || prior)`` in nats, a scalar: ``sum log(s_p / s_q) + (s_q^2 + (m_q - m_p)^2) / (2 s_p^2) -
  1/2``."""

  def one(m, r, m0, r0):
    s, s0 = jax.nn.softplus(r), jax.nn.softplus(r0)
    return jnp.sum(jnp.log(s0 / s) + (jnp.square(s) + jnp.square(m - m0)) / (2 * jnp.square(s0)) - 0.5)

  return sum(jax.tree.leaves(jax.tree.map(one, *posterior, *prior)))


def natural_parameters(posterior: MeanField) -> tuple[Params, Params]:
  """``(mean / s^2, -1 / (2 s^2))`` per weight, the natural parameters of the Gaussian; two trees."""
  variance = jax.tree.map(lambda r: jnp.square(jax.nn.softplus(r)), posterior.spread)
  first = jax.tree.map(lambda m, v: m / v, posterior.mean, variance)
  return first, jax.tree.map(lambda v: -0.5 / v, variance)


def natural_gradient(scale: Scalar = 1.0) -> optax.GradientTransformationExtraArgs:
  """``scale * F^-1 g`` for gradients of a :class:`MeanField`, F the Fisher information of the Gaussian.

  ``F = 1 / s^2`` for a mean and ``2 (ds/dr)^2 / s^2`` for a spread r, ``s = softplus(r)``. For a loss that is a mean
  over N rows, ``scale = N`` makes a learning rate of 1 the step ``precision <- old precision + N h``, ``mean <- mean -
  variance * gradient of the sum``, to first order: the mixing of natural parameters at a rate in (0, 1]. Stands before
  SGD. Raises UsageError: scale not above 0; no ``params`` in update, or not a MeanField; complex ones. Khan and Lin
  2017; Tseran et al. 2018.
  """
  check_scalar("natural_gradient", "scale", scale, above=True)

  def init(params):
    tree.refuse_complex("natural_gradient", params)
    return optax.EmptyState()

  def update(updates, state, params=None, **extra):
    del extra
    for name, value in (("params", params), ("updates", updates)):
      if not isinstance(value, MeanField):
        raise UsageError(f"natural_gradient: {name} must be a MeanField; got {type(value).__name__}")
    spreads = tree.fit(params.spread, updates.spread, "params", extra=True)

    def one(g, r, is_mean):
      r = r.astype(wide(r.dtype))
      fisher_inverse = scale * jnp.square(jax.nn.softplus(r))
      if not is_mean:
        fisher_inverse = fisher_inverse / (2 * jnp.square(jax.nn.sigmoid(r)))
      return (g.astype(r.dtype) * fisher_inverse).astype(g.dtype)

    mean = jax.tree.map(lambda g, r: one(g, r, True), updates.mean, tree.fit(spreads, updates.mean, "params"))
    return MeanField(mean, jax.tree.map(lambda g, r: one(g, r, False), updates.spread, spreads)), state

  return optax.GradientTransformationExtraArgs(init, update)


def claw_adapt(
  key: Array, kernel: Array, amount: ArrayLike, probability: ArrayLike, limit: ArrayLike, temperature: Scalar = 0.5
) -> Array:
  """CLAW: ``kernel * (1 + a b)`` per outgoing neuron, ``a`` Bernoulli(probability) and ``b = limit tanh(amount)``.

  kernel ``[..., n]``; amount, probability and limit ``[n]`` or scalars. ``a`` is a binary concrete variable of this
  temperature, so gradients reach ``probability``; the weight changes by at most the share ``limit``. A neuron of
  probability or limit 0 keeps its weights to the bit. The paper's own text was not available: the whole method
  is a reconstruction (UNVERIFIED). Adel, Zhao and Turner 2020.
  """
  u = jax.random.logistic(key, kernel.shape[-1:])
  inner = jnp.clip(probability, 1e-6, 1 - 1e-6)
  a = jax.nn.sigmoid((jnp.log(inner) - jnp.log1p(-inner) + u) / temperature)
  a = jnp.where(jnp.asarray(probability) > 0, a, 0.0)
  return (kernel * jnp.broadcast_to(1 + a * limit * jnp.tanh(amount), kernel.shape)).astype(kernel.dtype)
