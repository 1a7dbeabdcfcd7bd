"""Per-example losses on logits, and the one reducer that applies row weights."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from cljax.core.calls import since_0_2
from cljax.core.checks import check_count
from cljax.core.dtypes import wide
from cljax.core.types import Array, UsageError


def _wide(logits):
  return logits.astype(wide(logits.dtype))


def masked_log_softmax(logits: Array, class_mask: Array | None = None) -> Array:
  """``log softmax`` over the classes of ``class_mask`` (``[C]`` or ``[B, C]`` bool); 0 at the others, gradient too.

  A row without any class gives zeros. Computed in at least float32.
  """
  logits = _wide(logits)
  if class_mask is None:
    return jax.nn.log_softmax(logits, axis=-1)
  if class_mask.shape[-1] != logits.shape[-1]:
    raise UsageError(f"class_mask: has {class_mask.shape[-1]} classes; logits have {logits.shape[-1]}")
  mask = jnp.broadcast_to(class_mask, logits.shape)
  some = mask.any(-1, keepdims=True)
  top = jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True, where=mask, initial=-jnp.inf))
  shifted = jnp.where(mask, logits - top, 0.0)
  total = jnp.sum(jnp.exp(shifted), axis=-1, keepdims=True, where=mask)
  return jnp.where(mask, shifted - jnp.log(jnp.where(some, total, 1.0)), 0.0)


def cross_entropy(logits: Array, y: Array, class_mask: Array | None = None) -> Array:
  """``-log p(y|x)`` per example, ``[B]`` (``[B, L]`` for ``logits [B, L, C]``); masked classes take no part.

  logits ``[B, C]``, y ``[B]`` int, class_mask ``[C]`` or ``[B, C]`` bool. A label outside its own mask has
  probability 0: its loss is inf, its gradient 0. Raises UsageError where the shapes do not fit.
  """
  if jnp.shape(y) != logits.shape[:-1]:
    raise UsageError(f"y: has shape {jnp.shape(y)}; logits {logits.shape} need {logits.shape[:-1]}")
  log_p = jnp.take_along_axis(masked_log_softmax(logits, class_mask), y[..., None], axis=-1)[..., 0]
  if class_mask is None:
    return -log_p
  inside = jnp.take_along_axis(jnp.broadcast_to(class_mask, logits.shape), y[..., None], axis=-1)[..., 0]
  return jnp.where(inside, -log_p, jnp.inf)


def policy_gradient(key: Array, logits: Array, y: Array, samples: int = 8, class_mask: Array | None = None) -> Array:
  """``-mean_g A_g log p(a_g | x)`` per example, ``[B]``: ``samples`` answers ``a_g ~ p(. | x)`` of each row, rewarded
  ``r_g = 1[a_g = y]``, with advantages ``A_g = (r_g - mean r) / std r`` within the row, 0 where all answers fare alike.

  Group-relative policy optimisation at its sampling policy, where ratios are 1 and nothing is clipped, without a pull
  to a reference. logits ``[B, C]``, y ``[B]``, class_mask as for :func:`cross_entropy`; masked classes are never
  answers. No derivative goes through the draws or the advantages. Raises UsageError: fewer than 2 samples, shapes that
  do not fit. Shao et al. 2024; the other arm of Abdi et al. 2026.
  """
  check_count("policy_gradient: samples", samples, 2)
  if jnp.shape(y) != logits.shape[:-1]:
    raise UsageError(f"y: has shape {jnp.shape(y)}; logits {logits.shape} need {logits.shape[:-1]}")
  log_p = masked_log_softmax(logits, class_mask)
  open_ = log_p if class_mask is None else jnp.where(class_mask, log_p, -jnp.inf)
  answers = jax.random.categorical(key, jax.lax.stop_gradient(open_), shape=(samples, *y.shape))
  reward = (answers == y).astype(log_p.dtype)
  spread = jnp.std(reward, axis=0)
  advantage = (reward - jnp.mean(reward, axis=0)) / jnp.where(spread > 0, spread, 1)
  said = jnp.take_along_axis(jnp.broadcast_to(log_p, (samples, *log_p.shape)), answers[..., None], axis=-1)[..., 0]
  return -jnp.mean(advantage * said, axis=0)


def binary_cross_entropy(logits: Array, targets: Array, class_mask: Array | None = None) -> Array:
  """``-sum_c [t log sigmoid(z) + (1 - t) log sigmoid(-z)]`` per example, ``[B]``, over the classes of the mask.

  targets ``[B, C]`` in [0, 1]: one-hot labels, or a teacher's sigmoids (LwF.MC, iCaRL).
  """
  z = _wide(logits)
  each = jax.nn.softplus(z) - jnp.asarray(targets).astype(z.dtype) * z
  if class_mask is not None:
    each = jnp.where(jnp.broadcast_to(class_mask, each.shape), each, 0.0)
  return jnp.sum(each, axis=-1)


@since_0_2("rows that share a coefficient are a group: methods.replay.append(batch, more, scale=)")
def reduce(per_example: Array, weight: Array) -> Array:
  """``sum(w * l) / sum(w)``, 0 where ``sum(w)`` is 0.

  per_example and weight share one shape, ``[B]`` or ``[B, L]``. Rows of weight 0 are as if absent: even an
  inf or NaN there does not reach the value or the gradient. Summed in at least float32. Raises UsageError where the
  shapes differ.
  """
  if jnp.shape(weight) != jnp.shape(per_example):
    raise UsageError(f"weight: has shape {jnp.shape(weight)}; the losses have {jnp.shape(per_example)}")
  per_example = _wide(jnp.asarray(per_example))
  weight = jnp.asarray(weight).astype(per_example.dtype)
  total = jnp.sum(weight)
  value = jnp.sum(weight * jnp.where(weight != 0, per_example, 0.0))
  return value / jnp.where(total == 0, 1.0, total)
