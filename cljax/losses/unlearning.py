"""Losses of unlearning: towards or away from a teacher, towards uniform predictions, towards rows of other classes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import jax
import jax.numpy as jnp

from cljax.core.dtypes import wide
from cljax.core.types import Array, Scalar, Tree
from cljax.losses.distillation import distillation
from cljax.losses.supervised import masked_log_softmax


@jax.custom_jvp
def _divergence(logits, teacher_logits, class_mask):
  return distillation(logits, teacher_logits, 1.0, class_mask)


@_divergence.defjvp
def _divergence_jvp(primals, tangents):
  logits, teacher_logits, class_mask = primals
  p, q = (jnp.exp(masked_log_softmax(z, class_mask)) for z in (logits, teacher_logits))  # both 1 at masked classes
  value = _divergence(*primals)
  return value, jnp.sum((p - q).astype(value.dtype) * tangents[0].astype(value.dtype), axis=-1)


def kl_divergence(
  logits: Array, teacher_logits: Array, temperature: Scalar = 1.0, class_mask: Array | None = None
) -> Array:
  """``T^2 KL(softmax(teacher / T) || softmax(logits / T))`` per example, ``[B]``, with gradient ``T (p - q)``.

  :func:`distillation` up to rounding; here equal logits have gradient 0 to the bit, where rounding would leave 1e-8,
  which Adam turns into whole steps. No gradient goes to the teacher. Raises UsageError where the shapes differ.
  """
  teacher_logits = jax.lax.stop_gradient(teacher_logits).astype(wide(teacher_logits.dtype))
  logits = logits.astype(wide(logits.dtype))
  temperature = jnp.asarray(temperature).astype(logits.dtype)
  return temperature**2 * _divergence(logits / temperature, teacher_logits / temperature, class_mask)


def uniform_cross_entropy(logits: Array, class_mask: Array | None = None) -> Array:
  """``-1/K sum_k log p_k`` per example, ``[B]``, over the classes of the mask; its least value is ln K. Spec B8."""
  log_p = masked_log_softmax(logits, class_mask)
  if class_mask is None:
    return -jnp.mean(log_p, axis=-1)
  count = jnp.broadcast_to(class_mask, logits.shape).sum(-1)
  return -jnp.sum(log_p, axis=-1) / jnp.maximum(count, 1).astype(log_p.dtype)


def safe_norm(x: Array, axis: int | Sequence[int] | None = None) -> Array:
  """``||x||_2`` over ``axis`` (default: all), with gradient 0 where it is 0, not NaN; in at least float32."""
  square = jnp.sum(jnp.square(x.astype(wide(x.dtype))), axis=axis)
  some = square > 0
  return jnp.where(some, jnp.sqrt(jnp.where(some, square, 1.0)), 0.0)


def group_lasso(groups: Iterable[Tree]) -> Scalar:
  """``sum_g ||g||_2`` over a list of trees, each one group; the gradient of a group that is exactly 0 is 0."""
  return sum(safe_norm(jnp.stack([safe_norm(leaf) for leaf in jax.tree.leaves(g)])) for g in groups)


def contrast(
  anchors: Array, y: Array, others: Array, other_y: Array, weight: Array, other_weight: Array, temperature: Scalar = 1.0
) -> Array:
  """``-1/|P_i| sum_{p in P_i} log(e^{s_ip / T} / sum_{a in A_i} e^{s_ia / T})`` per anchor i, ``[B]``; s: cosine.

  Anchors ``[B, D]`` of labels ``y [B]`` are rows to forget, ``others [N, D]`` rows to keep. P_i: others of another
  class, which pull; A_i: P_i, others of the anchor's class, and the other anchors of its class, which push. No gradient
  goes to ``others``. Rows of weight 0 take no part; an anchor without P_i gives 0. After contrastive unlearning, arXiv
  2401.10458; its exact form is UNVERIFIED, and that anchors of one class push each other is ours: once a whole class is
  forgotten, no row that is kept shares it.
  """
  a, o = _unit(anchors), jax.lax.stop_gradient(_unit(others))
  kept = jnp.broadcast_to(other_weight > 0, (len(y), len(other_y)))
  pull = (y[:, None] != other_y[None]) & kept
  mates = (y[:, None] == y[None]) & ~jnp.eye(len(y), dtype=bool) & (weight > 0)[None]
  similarity = jnp.concatenate([a @ o.T, a @ a.T], 1) / temperature
  return _mean_negative_log(similarity, jnp.concatenate([kept, mates], 1), pull)


def contrast_within(anchors: Array, y: Array, weight: Array, temperature: Scalar = 1.0) -> Array:
  """As :func:`contrast`, but P_i is the anchors of other classes and A_i all anchors, i included, ``[B]``.

  As the UUEF code has it: identically 0 where all anchors are of one class. Spec B4.
  """
  a = _unit(anchors)
  there = jnp.broadcast_to(weight > 0, (len(y), len(y)))
  return _mean_negative_log(a @ a.T / temperature, there, (y[:, None] != y[None]) & there)


def _unit(x):
  x = x.reshape(len(x), -1)
  x = x.astype(wide(x.dtype))
  return x / jnp.maximum(safe_norm(x, -1), 1e-8)[:, None]


def _mean_negative_log(similarity, taken, pull):
  """Over the first columns, which ``pull`` names: the mean of ``-log softmax`` over the columns ``taken``."""
  log_p = masked_log_softmax(similarity, taken)[:, : pull.shape[1]]
  return -jnp.sum(jnp.where(pull, log_p, 0.0), 1) / jnp.maximum(pull.sum(1), 1).astype(log_p.dtype)
