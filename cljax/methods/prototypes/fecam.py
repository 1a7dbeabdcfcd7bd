"""FeCAM: the Mahalanobis distance to class means under each class's own covariance of frozen features."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from cljax.core.method import Method
from cljax.core.types import Spec
from cljax.estimators import class_moments
from cljax.methods.prototypes.frozen import ACCESS, OPTIONS, closed_form
from cljax.methods.prototypes.simplecil import normed
from cljax.methods.registry import Entry, Option, register


def shrunk(covariance, variance, correlation):
  """``S + g1 V1 I + g2 V2 (11^T - I)`` of each ``[..., D, D]``; V1 the mean of its diagonal, V2 that off it."""
  size = covariance.shape[-1]
  eye = jnp.eye(size, dtype=covariance.dtype)
  on = jnp.sum(covariance * eye[None], axis=(-2, -1))
  off = (jnp.sum(covariance, axis=(-2, -1)) - on) / max(size * (size - 1), 1)
  each = lambda v, matrix: v[:, None, None] * matrix[None]
  return covariance + each(variance * on / size, eye) + each(correlation * off, 1 - eye)


def correlations(covariance):
  """``S_ij / (s_i s_j)``; the identity where a class has no variance."""
  deviation = jnp.sqrt(jnp.diagonal(covariance, axis1=-2, axis2=-1))
  some = (deviation > 0).all(-1)
  deviation = jnp.where(some[:, None], deviation, 1)
  found = covariance / (deviation[:, :, None] * deviation[:, None, :])
  return jnp.where(some[:, None, None], found, jnp.eye(covariance.shape[-1], dtype=covariance.dtype)[None])


def fecam(
  model, spec: Spec, *, variance_shrinkage, correlation_shrinkage, first_task: str, requests: str, shrinks: int = 2,
  tukey: bool = True,
) -> Method:  # fmt: skip
  """FeCAM: ``argmin_c (z - m_c)^T S_c^+ (z - m_c)``, z and m_c the feature and the class mean, each of norm 1, S_c the
  class's covariance, shrunk ``shrinks`` times and normalised to correlations.

  ``tukey``: features are ``sqrt(f)`` before all of it, made for those that are not negative (``sign(f) sqrt|f|`` of
  others). A shrink is ``S + g1 V1 I + g2 V2 (11^T - I)``, g1 ``variance_shrinkage``, g2 ``correlation_shrinkage``; the
  released script for ResNets shrinks twice, that for transformers once and without ``tukey``. New classes change no
  old score. Keeps two matrices ``[C, D, D]``, scatter and inverse. Deviation: V2 is the mean of all entries off the
  diagonal, where the released code leaves zeros out. Requests, and ``first_task``, as in
  :func:`cljax.methods.prototypes.frozen.closed_form`. Raises UsageError for a model without features. Spec C2; Goswami
  et al., 2023.
  """

  def rooted(fixed, f, look):
    del fixed, look
    return jnp.sign(f) * jnp.sqrt(jnp.abs(f))

  def fit(moments, hint):
    del hint
    covariance = moments.scatter / jnp.maximum(moments.counts, 1)[:, None, None]
    for _ in range(shrinks):
      covariance = shrunk(covariance, variance_shrinkage, correlation_shrinkage)
    # One by one: a batch of them waits for XLA's own threads on CPUs, which wait for it where there are few.
    return jax.lax.map(lambda one: jnp.linalg.pinv(one, hermitian=True), correlations(covariance))

  def scores(state, h):
    d = normed(h)[:, None] - normed(state.statistics.means)[None]
    return -jnp.einsum("bcd,cde,bce->bc", d, state.rule, d, precision="highest")

  return closed_form(
    model, spec, class_moments("class"), first_task=first_task, requests=requests, fit=fit, scores=scores,
    embed=rooted if tukey else None,
  )  # fmt: skip


register(
  "fecam",
  Entry(
    fecam,
    {
      **OPTIONS,
      "variance_shrinkage": Option(1.0, 0),
      "correlation_shrinkage": Option(1.0, 0),
      "shrinks": Option(2, 0),
      "tukey": Option(True),
    },
    ACCESS,
    "Goswami et al. 2023",
    exactness="exact",
  ),
)
