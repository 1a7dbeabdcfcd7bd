"""Losses that forget what a model says: of a row's negative log-likelihood, or of each of its tokens, to go down."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from cljax.core.dtypes import wide
from cljax.core.types import Array, Scalar, UsageError
from cljax.losses.supervised import cross_entropy, masked_log_softmax
from cljax.losses.unlearning import kl_divergence


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


def dpo(
  preferred_nll: Array, nll: Array, reference_preferred_nll: Array, reference_nll: Array, beta: Scalar = 0.1
) -> Array:
  """``-(2 / beta) log sigmoid(beta [(NLL - NLL_0) - (NLL' - NLL'_0)])`` per row, ``[B]``: another answer is preferred.

  ``nll [B]`` is of the answer to forget, ``preferred_nll [B]`` of the one in its place (a refusal: IdkDPO; another
  plausible one: AltPO), sums over tokens; 0: of the model as it was, without gradient. At that model it is
  ``(2 / beta) ln 2``, with slope -1 in NLL and +1 in NLL'. Rafailov et al. 2023, with the factor 2 of the unlearning
  code; spec language_unlearning W5. Raises UsageError where the shapes differ.
  """
  _same(nll=nll, preferred_nll=preferred_nll, reference_nll=reference_nll,
        reference_preferred_nll=reference_preferred_nll)  # fmt: skip
  fixed = jax.lax.stop_gradient(reference_nll - reference_preferred_nll).astype(nll.dtype)
  return _soft(nll - preferred_nll - fixed, beta)


def _weighed(logits, y, class_mask, weight):
  """``-w log(1 / p)`` of each label, w without gradient; 0 at labels below 0 and at those outside their mask."""
  nll = cross_entropy(logits, jnp.maximum(y, 0), class_mask)
  known = jnp.isfinite(nll) & (y >= 0)
  nll = jnp.where(known, nll, 0.0)
  return jnp.where(known, -jax.lax.stop_gradient(weight(nll)) * nll, 0.0)


def wga(logits: Array, y: Array, beta: Scalar = 1.0, class_mask: Array | None = None) -> Array:
  """``p^beta log p`` of each label, the weight ``p^beta`` without gradient: weighted gradient ascent.

  logits ``[B, L, V]`` or ``[B, C]``, y ``[B, L]`` or ``[B]`` int, below 0 ignored: ``[B, L]`` or ``[B]``, to be
  averaged over all tokens (:func:`reduce`). With beta 0 gradient ascent; with beta 1 its gradient is that of p itself.
  Wang et al. 2025; spec language_unlearning W10, as the released code has it.
  """
  return _weighed(logits, y, class_mask, lambda nll: jnp.exp(-_like(beta, nll) * nll))


def satimp(
  logits: Array, y: Array, saturation: Scalar = 5.0, importance: Scalar = 1.0, class_mask: Array | None = None
) -> Array:
  """``p^b1 (1 - p)^b2 log p`` of each label, the weight without gradient; b1 is ``saturation``, b2 ``importance``.

  Shapes as for :func:`wga`, which it is where b2 is 0. At the defaults a weight is at most 0.067, at p = 5/6, and 0 at
  p = 1: what is known by heart to float32 gets no gradient. Yang et al. 2025; spec language_unlearning W10.
  """
  weight = lambda nll: jnp.exp(-_like(saturation, nll) * nll) * jnp.power(-jnp.expm1(-nll), _like(importance, nll))
  return _weighed(logits, y, class_mask, weight)


def undial(
  logits: Array, teacher_logits: Array, y: Array, strength: Scalar = 10.0, class_mask: Array | None = None
) -> Array:
  """``KL(q || p)`` of each label, ``q = softmax(teacher - strength 1[v = y])``: the teacher with the label demoted.

  Shapes as for :func:`wga`, teacher_logits as logits, without gradient. The gradient is ``p - q``; it rests where the
  label's odds are those of the teacher over ``e^strength``. strength 0: self-distillation, 0 at the teacher to the bit.
  Dong et al. 2024; spec language_unlearning W8. Deviations: less than the cross entropy by the constant entropy of q;
  nothing is demoted at ignored positions (the released code demotes token V - 100 there, and averages over them).
  """
  hot = jax.nn.one_hot(y, logits.shape[-1], dtype=wide(teacher_logits.dtype))  # of labels below 0: none
  teacher = teacher_logits.astype(hot.dtype) - _like(strength, hot) * hot
  return jnp.where(y >= 0, kl_divergence(logits, teacher, 1.0, class_mask), 0.0)


def ceu(logits: Array, y: Array, class_mask: Array | None = None) -> Array:
  """``-sum_v q_v log p_v`` of each label, q the model's own prediction among all but the label, without gradient.

  Shapes as for :func:`wga`. In logits the gradient is ``p_y`` at the label and ``-p_v p_y / (1 - p_y)`` elsewhere: at
  most 2 in all, and gone with ``p_y``. Spec language_unlearning W9. Deviation: no first token is left out.
  """
  mask = jnp.ones(logits.shape, bool) if class_mask is None else jnp.broadcast_to(class_mask, logits.shape)
  others = mask & ~jax.nn.one_hot(y, logits.shape[-1], dtype=bool)
  q = jnp.where(others, jnp.exp(masked_log_softmax(jax.lax.stop_gradient(logits), others)), 0.0)
  return jnp.where(y >= 0, -jnp.sum(q * masked_log_softmax(logits, class_mask), -1), 0.0)
