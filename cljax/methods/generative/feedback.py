"""Generators whose encoder is the network that learns the task: codes from its features, a decoder that is gated, and a
prior with a mode for each class."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from cljax import losses
from cljax.core.tree import fold
from cljax.methods.generative.dgr import far
from cljax.models import heads
from cljax.objectives.rows import keys


class Feedback(NamedTuple):
  """What :func:`feedback` makes; ``parts`` are its parameters, ``kind [B]`` the rows of the gates' tables."""

  init: Callable  # (key) -> parts
  unlikely: Callable  # (key, gates, parts, features, x, y, kind) -> [B]
  make: Callable  # (key, gates, parts, y, kind) -> x [B, N]
  gates: Callable  # (key) -> the tables of both hidden layers


def gate(key, units: int, kinds: int, share):
  """``[kinds, units]`` float32 of 0 and 1: of each kind the same ``floor(share * units)`` units are shut, drawn once
  from the key."""
  rank = jnp.argsort(jnp.argsort(jax.random.uniform(key, (kinds, units)), axis=1), axis=1)
  return (rank >= jnp.floor(share * units)).astype(jnp.float32)


def decoded(layers, z, gates):
  """``[B, N]``: dense layers with ReLU between, whose hidden units are multiplied with ``gates``, ``[B, width]``
  each."""
  for i in range(len(layers)):
    z = (gates[i - 1] * jax.nn.relu(z) if i else z) @ layers[f"layer_{i}"]["kernel"] + layers[f"layer_{i}"]["bias"]
  return z


def of_one_draw(z, e, log_variance, mean, spread):
  """``[B]``: ``log q(z | x) - log p(z | y)`` at ``z = m + exp(log v / 2) e``; p of the ``mean`` and log variance
  ``spread`` of the row's class, all ``[B, D]``. Its expectation is the divergence."""
  log_q = -0.5 * jnp.sum(jnp.square(e) + log_variance, -1)
  return log_q + 0.5 * jnp.sum(jnp.square(z - mean) * jnp.exp(-spread) + spread, -1)


def feedback(
  features: int, classes: int, kinds: int, size: int, *, latent: int, width: int, likelihood: str, modes: bool, shut
) -> Feedback:
  """Codes of ``latent`` numbers from ``features``, and two hidden layers of ``width`` from codes to ``size`` numbers.

  ``unlikely`` is ``-log p(x | z) + log q(z | x) - log p(z | y)`` at one z that is drawn, of the modes of ``classes``;
  without ``modes`` the closed divergence from N(0, 1). ``make`` draws z from the prior. ``kinds`` of gates shut the
  share ``shut`` of the hidden units. ``likelihood`` as in :func:`cljax.methods.generative.dgr.far`.
  """

  def init(key):
    def dense(name, rows, columns):
      kernel = math.sqrt(2 / rows) * jax.random.normal(fold(key, name), (rows, columns))
      return {"kernel": kernel, "bias": jnp.zeros(columns)}

    widths = itertools.pairwise((latent, width, width, size))
    decoder = {f"layer_{i}": dense(f"layer_{i}", a, b) for i, (a, b) in enumerate(widths)}
    parts = {"code": dense("code", features, 2 * latent), "decoder": decoder}
    if modes:
      means = 0.05 * jax.random.normal(fold(key, "modes"), (classes, latent))
      parts["modes"] = {"mean": means, "spread": jnp.zeros((classes, latent))}
    return parts

  def draws(key, count: int):
    return jax.vmap(lambda k: jax.random.normal(k, (latent,)))(keys(key, jnp.arange(count)))

  def unlikely(key, gates, parts, features, x, y, kind):
    mean, log_variance = jnp.split(heads.linear(parts["code"], features), 2, -1)
    e = draws(key, x.shape[0])
    z = mean + jnp.exp(0.5 * log_variance) * e
    each = far(decoded(parts["decoder"], z, [g[kind] for g in gates]), x, likelihood)
    if not modes:
      return each + losses.gaussian_kl(mean, log_variance)
    return each + of_one_draw(z, e, log_variance, parts["modes"]["mean"][y], parts["modes"]["spread"][y])

  def make(key, gates, parts, y, kind):
    z = draws(key, y.shape[0])
    if modes:
      z = parts["modes"]["mean"][y] + jnp.exp(0.5 * parts["modes"]["spread"][y]) * z
    x = decoded(parts["decoder"], z, [g[kind] for g in gates])
    return jax.nn.sigmoid(x) if likelihood == "bernoulli" else x

  return Feedback(init, unlikely, make, lambda key: [gate(fold(key, f"{i}"), width, kinds, shut) for i in range(2)])
