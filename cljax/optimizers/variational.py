"""Mean-field Gaussian weights, and CLAW's per-neuron adaptation of them."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cljax.optimizers._common import check_scalar, random_like


class MeanField(NamedTuple):
  """``N(mean, softplus(spread)^2)`` per weight: two trees like the parameters."""

  mean: Any
  spread: Any


def mean_field(params, deviation=1e-3) -> MeanField:
  """A posterior around ``params`` with one standard deviation everywhere. Raises UsageError where it is not above 0."""
  check_scalar("mean_field", "deviation", deviation, above=True)
  spread = jax.tree.map(lambda p: jnp.full_like(p, jnp.log(jnp.expm1(deviation))), params)
  return MeanField(jax.tree.map(lambda p: jnp.array(p, copy=True), params), spread)


def mean_field_sample(key, posterior: MeanField):
  """``mean + softplus(spread) * e`` with ``e ~ N(0, I)``: parameters by reparameterisation."""
  noise = random_like(key, posterior.mean)
  draw = lambda m, r, e: (m + jax.nn.softplus(r) * e).astype(m.dtype)
  return jax.tree.map(draw, posterior.mean, posterior.spread, noise)


def mean_field_kl(posterior: MeanField, prior: MeanField):
  """``KL(posterior || prior)`` in nats, a scalar: ``sum log(s_p / s_q) + (s_q^2 + (m_q - m_p)^2) / (2 s_p^2) -
  1/2``."""

  def one(m, r, m0, r0):
    s, s0 = jax.nn.softplus(r), jax.nn.softplus(r0)
    return jnp.sum(jnp.log(s0 / s) + (jnp.square(s) + jnp.square(m - m0)) / (2 * jnp.square(s0)) - 0.5)

  return sum(jax.tree.leaves(jax.tree.map(one, *posterior, *prior)))


def claw_adapt(key, kernel, amount, probability, limit, temperature=0.5):
  """CLAW: ``kernel * (1 + a b)`` per outgoing neuron, ``a`` Bernoulli(probability) and ``b = limit tanh(amount)``.

  kernel ``[..., n]``; amount, probability and limit ``[n]`` or scalars. ``a`` is a binary concrete variable of this
  temperature, so gradients reach ``probability``; the weight changes by at most the share ``limit``. A neuron of
  probability or limit 0 keeps its weights to the bit. The whole method is UNVERIFIED. Adel, Zhao and Turner 2020.
  """
  u = jax.random.logistic(key, kernel.shape[-1:])
  inner = jnp.clip(probability, 1e-6, 1 - 1e-6)
  a = jax.nn.sigmoid((jnp.log(inner) - jnp.log1p(-inner) + u) / temperature)
  a = jnp.where(jnp.asarray(probability) > 0, a, 0.0)
  return (kernel * (1 + a * limit * jnp.tanh(amount))).astype(kernel.dtype)
