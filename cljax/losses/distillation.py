"""Losses towards another output: distillation, stored logits, class centres, Bregman divergences."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from cljax.core.dtypes import wide
from cljax.core.types import Array, Scalar, UsageError
from cljax.losses.supervised import masked_log_softmax


def distillation(
  logits: Array, teacher_logits: Array, temperature: Scalar = 2.0, class_mask: Array | None = None
) -> Array:
  """``T^2 * KL(softmax(teacher / T) || softmax(logits / T))`` per example, ``[B]``, over the classes of the mask.

  The gradient is that of LwF's cross-entropy form; the teacher's entropy is subtracted, so equal logits give 0. No
  gradient goes to the teacher. temperature > 0, may be traced; LwF uses 2. Li and Hoiem 2016; Hinton et al. 2015.
  Raises UsageError where the shapes differ.
  """
  _same_shape(logits, teacher_logits, "teacher_logits")
  logits, teacher_logits = _together(logits, jax.lax.stop_gradient(teacher_logits))
  temperature = jnp.asarray(temperature).astype(logits.dtype)
  log_q = masked_log_softmax(teacher_logits / temperature, class_mask)
  log_p = masked_log_softmax(logits / temperature, class_mask)
  return temperature**2 * jnp.sum(jnp.exp(log_q) * (log_q - log_p), axis=-1)  # at masked classes both logs are 0


def logit_mse(logits: Array, target: Array) -> Array:
  """``mean_k (logits_k - target_k)^2`` per example, ``[B]``: the mean over all K logits, as DER has it, not the sum."""
  _same_shape(logits, target, "target")
  logits, target = _together(logits, target)
  return jnp.mean(jnp.square(logits - target), axis=-1)


def center_loss(features: Array, y: Array, centers: Array) -> Array:
  """``1/2 ||f(x) - c_y||^2`` per example, ``[B]``; features ``[B, D]``, y ``[B]``, centers ``[C, D]``.

  Meaningful where the tasks share their labels (domain-incremental). No gradient goes to the centres: they move by
  ``update_centers`` in the first task and are fixed after. Olpadkar and Gavas 2021; Wen et al. 2016.
  """
  features, own = _together(features, jax.lax.stop_gradient(centers)[y])
  return 0.5 * jnp.sum(jnp.square(features - own), axis=-1)


def update_centers(centers: Array, features: Array, y: Array, weight: Array, rate: Scalar) -> Array:
  """``c_j += rate * sum_{y=j} (f - c_j) / (1 + n_j)``, n_j the weighted count of class j; centers ``[C, D]``.

  rate in [0, 1]. Keeps the dtype of the centres. The constants are UNVERIFIED. Wen et al. 2016.
  """
  old = centers.astype(wide(centers.dtype))
  member = jax.nn.one_hot(y, centers.shape[0], dtype=old.dtype) * weight.astype(old.dtype)[:, None]
  count = member.sum(0)[:, None]
  features = jnp.where(weight[:, None] != 0, features.astype(old.dtype), 0.0)
  rate = jnp.asarray(rate).astype(old.dtype)
  return (old + rate * (member.T @ features - count * old) / (1.0 + count)).astype(centers.dtype)


def bregman(phi: Callable[[Array], Array], p: Array, q: Array) -> Array:
  """``D_phi(p, q) = phi(p) - phi(q) - <grad phi(q), p - q>`` per example, ``[B]``; p and q ``[B, C]``.

  phi: a convex function of one vector ``[C]``, such as ``squared_norm`` or ``negative_entropy``. Not symmetric: mind
  the order. The unified objective of Wang et al. 2024 is built of these (ER, DER, LwF, CPR). Raises UsageError where
  the shapes differ.
  """
  _same_shape(p, q, "q")

  def one(u, v):
    value, slope = jax.jvp(phi, (v,), (u - v,))
    return phi(u) - value - slope

  return jax.vmap(one)(p, q)


def squared_norm(x: Array) -> Array:
  """``||x||^2``; its Bregman divergence is ``||p - q||^2`` (DER)."""
  return jnp.sum(jnp.square(x))


def negative_entropy(p: Array) -> Array:
  """``sum p log p`` with ``0 log 0 = 0``; its Bregman divergence between distributions is ``KL(p || q)`` (LwF, CPR)."""
  return jnp.sum(p * jnp.log(jnp.where(p > 0, p, 1.0)))


def _together(a, b):
  """Both in the wider of their dtypes, at least float32."""
  kind = max((wide(x.dtype) for x in (a, b)), key=lambda d: d.itemsize)
  return a.astype(kind), b.astype(kind)


def _same_shape(a, b, name: str):
  if jnp.shape(a) != jnp.shape(b):
    raise UsageError(f"{name}: has shape {jnp.shape(b)}; expected {jnp.shape(a)}")
