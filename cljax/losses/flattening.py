"""Losses that forget an answer by flattening what the model says, or by preferring another answer."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from cljax.core.dtypes import wide
from cljax.core.types import Array, Scalar, UsageError
from cljax.losses.likelihoods import sequence_nll
from cljax.losses.supervised import cross_entropy


def pdu(logits: Array, y: Array, class_mask: Array | None = None) -> Array:
  """``(max_v z_v - mean_v z_v)^2`` of each label: how far the logits are from flat.

  logits ``[B, L, V]`` or ``[B, C]``, y ``[B, L]`` or ``[B]`` int, below 0 ignored: ``[B, L]`` or ``[B]``, to be
  averaged over all tokens (:func:`reduce`). 0 just where all logits are equal; the gradient sums to 0 over the
  vocabulary and is quadratic in scale, so that the loss to keep begins with a multiplier of 50 to 100
  (:func:`dual_step`). ``class_mask`` as for :func:`cross_entropy`. Spec language_unlearning W11, as the released code
  has it, but for its mask, which it does not shift: there the first token of an answer is never flattened, and what
  follows its end is.
  """
  z = logits.astype(wide(logits.dtype))
  mask = jnp.ones(z.shape, bool) if class_mask is None else jnp.broadcast_to(class_mask, z.shape)
  top = jnp.max(jnp.where(mask, z, -jnp.inf), -1)
  mean = jnp.sum(jnp.where(mask, z, 0.0), -1) / jnp.maximum(jnp.sum(mask, -1), 1).astype(z.dtype)
  return jnp.where((y >= 0) & mask.any(-1), jnp.square(jnp.where(mask.any(-1), top, 0.0) - mean), 0.0)


def dual_step(multiplier: Scalar, loss: Scalar, limit: Scalar, rate: Scalar) -> Array:
  """``max(0, multiplier + rate (loss - limit))``, a scalar: grows while the loss to keep is above its limit.

  The outer step of ``forget + multiplier (loss - limit)``; no gradient goes through it. Spec language_unlearning W11.
  The release takes it at each micro-batch and leaves it out of checkpoints: keep it in the state.
  """
  gap = jax.lax.stop_gradient(jnp.asarray(loss) - limit)
  return jnp.maximum(0.0, jnp.asarray(multiplier).astype(gap.dtype) + jnp.asarray(rate).astype(gap.dtype) * gap)


def mean_probability(logits: Array, y: Array, weight: Array | None = None, geometric: bool = False) -> Array:
  """``sum_l w_l p(y_l) / sum_l w_l`` per row, ``[B]``; 0 of a row without labels.

  Arguments as for :func:`sequence_nll`. ``geometric``: ``exp(-NLL / n)``, whose slope does not vanish with each
  token's own p. Raises UsageError where the shapes do not fit.
  """
  nll, count = sequence_nll(logits, y, weight)
  some = jnp.where(count > 0, count, 1.0)
  if geometric:
    return jnp.where(count > 0, jnp.exp(-nll / some), 0.0)
  inside = (y >= 0).astype(count.dtype) * (1.0 if weight is None else weight.astype(count.dtype))
  p = jnp.where(inside > 0, jnp.exp(-cross_entropy(logits, jnp.maximum(y, 0))), 0.0)
  return (p * inside).reshape(p.shape[0], -1).sum(-1) / some


def flat(preferred: Array, p: Array) -> Array:
  """``-tanh(P') / 2 + tanh(P) / 2`` per row, ``[B]``: the total variation of another answer and the one to forget.

  ``preferred [B]`` and ``p [B]`` are mean probabilities of a row's tokens (:func:`mean_probability`). 0 where both are
  alike; slopes ``-sech^2 / 2`` and ``sech^2 / 2``, at most 1/2. A refusal that the model never saw has a p near 0 for
  each token, and hardly a gradient: it can not be learned by this loss alone. Wang et al. 2024 (FLAT); spec unlearning
  C1 and language_unlearning W12. Deviation: probabilities are means over the answer, where the released code counts
  ignored places as 0. Raises UsageError where the shapes differ.
  """
  if jnp.shape(preferred) != jnp.shape(p):
    raise UsageError(f"preferred: has shape {jnp.shape(preferred)}; p has {jnp.shape(p)}")
  return (jnp.tanh(p) - jnp.tanh(preferred)) / 2
