"""Losses that forget what a model says: of a row's negative log-likelihood, or of each of its tokens, to go down."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from cljax.core.types import Array, Scalar, UsageError
from cljax.losses.supervised import cross_entropy


def sequence_nll(
  logits: Array, y: Array, weight: Array | None = None, class_mask: Array | None = None
) -> tuple[Array, Array]:
  """``(sum_l w_l (-log p(y_l)), sum_l w_l)`` per row, each ``[B]``: of ``[B, L, V]`` over its tokens, of ``[B, C]`` of
  its label.

  logits ``[B, L, V]`` or ``[B, C]``, y ``[B, L]`` or ``[B]`` int; labels below 0 are ignored, whatever their weight
  (default: all 1). What has weight 0 reaches neither the value nor the gradient. ``class_mask`` as for
  :func:`cross_entropy`. Raises UsageError where the shapes do not fit.
  """
  inside = (y >= 0).astype(jnp.float32)
  if weight is not None:
    if jnp.shape(weight) != jnp.shape(y):
      raise UsageError(f"weight: has shape {jnp.shape(weight)}; the labels have {jnp.shape(y)}")
    inside = inside * weight.astype(jnp.float32)
  each = cross_entropy(logits, jnp.maximum(y, 0), class_mask)
  inside = inside.astype(each.dtype)
  some = jnp.where(inside > 0, each, 0.0) * inside
  rows = lambda a: a if a.ndim == 1 else a.reshape(a.shape[0], -1).sum(-1)
  return rows(some), rows(inside)


def _like(value: Scalar, a: Array) -> Array:
  return jnp.asarray(value).astype(a.dtype)


def _soft(margin, beta):
  """``-(2 / beta) log sigmoid(beta margin)``, with slope -1 at 0 and none far above."""
  beta = _like(beta, margin)
  return 2 / beta * jax.nn.softplus(-beta * margin)


def _same(**given):
  shapes = {name: jnp.shape(a) for name, a in given.items()}
  first, *others = shapes
  for name in others:
    if shapes[name] != shapes[first]:
      raise UsageError(f"{name}: has shape {shapes[name]}; {first} has {shapes[first]}")


def npo(nll: Array, reference_nll: Array, beta: Scalar = 0.1) -> Array:
  """``-(2 / beta) log sigmoid(beta (NLL - NLL_0))`` per row, ``[B]``: negative preference optimisation.

  nll ``[B]``: the sum over a row's tokens (:func:`sequence_nll`), nats; reference_nll ``[B]``: that of the model as it
  was, no gradient goes to it. Where both are equal it is ``(2 / beta) ln 2`` with slope -1 in NLL, that of gradient
  ascent on sums; in general the slope is ``-2 sigmoid(-beta (NLL - NLL_0))``: as beta goes to 0 ascent, and above
  ``1 / beta`` nats of rise none. Never below 0. Zhang et al. 2024, arXiv 2404.05868; spec unlearning A11. Deviation of
  others (MUSE's repository takes raw logits, two others a batch's mean) is not followed. Raises UsageError where the
  shapes differ.
  """
  _same(nll=nll, reference_nll=reference_nll)
  return _soft(nll - jax.lax.stop_gradient(reference_nll).astype(nll.dtype), beta)


def simnpo(nll: Array, count: Array, beta: Scalar = 4.5, delta: Scalar = 0.0) -> Array:
  """``-(2 / beta) log sigmoid(beta (NLL / n - delta))`` per row, ``[B]``, 0 where ``n = 0``: without a reference.

  nll, count ``[B]``: a row's sum over its tokens and their number n (:func:`sequence_nll`). The slope in ``NLL / n`` is
  ``-2 sigmoid(-beta (NLL / n - delta))``: at the defaults it is almost 0 from 1 nat a token on. Fan et al. 2024;
  spec language_unlearning W6, as the released code has it: the paper's margin stands outside beta, ``delta`` is that
  over beta. Raises UsageError where the shapes differ.
  """
  _same(nll=nll, count=count)
  some = count > 0
  mean = nll / jnp.where(some, count, 1).astype(nll.dtype)
  return jnp.where(some, _soft(mean - _like(delta, nll), beta), 0.0)
