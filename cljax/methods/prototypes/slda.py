"""Deep streaming LDA: class means and one covariance of frozen features, one row at a time."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from cljax.core.dtypes import wide
from cljax.core.method import Method
from cljax.core.types import Spec
from cljax.estimators import Moments, Statistics, class_moments
from cljax.methods.prototypes.frozen import ACCESS, OPTIONS, closed_form
from cljax.methods.registry import Entry, Option, register


def released_moments() -> Statistics:
  """As the released code counts: ``S += t / (t + 1) d d^T``, ``d = f - mu_y`` with the mean before the row, t the rows
  of all classes before it, and mu 0 for a class that is new. The order of rows matters, and none can be taken out."""
  plain = class_moments("shared")

  def add(state: Moments, f, y, weight) -> Moments:
    def one(state, row):
      z, label, w = row
      w = w.astype(state.means.dtype)
      here = (w > 0) & (label >= 0) & (label < state.counts.shape[0])
      z = jnp.where(here, z.astype(state.means.dtype), state.means[label])
      t, count, d = state.counts.sum(), state.counts[label], z - state.means[label]
      more = jnp.where(here, t / (t + 1), 0)
      at = lambda a, v: a.at[label].add(jnp.where(here, v, jnp.zeros_like(v)))
      scatter = state.scatter + more * d[:, None] * d[None]
      return Moments(at(state.counts, w), at(state.means, d / (count + 1)), scatter), None

    return jax.lax.scan(one, state, (f, y, weight))[0]

  return Statistics(plain.start, add, None, plain.clear)


def discriminant(moments: Moments, shrinkage):
  """``(W [C, D], b [C])``: ``W = mu L``, ``b_c = -mu_c L mu_c / 2``, ``L = ((1 - e) S / n + e I)^+``, n rows in all.

  By eigenvalues, of which those that rounding made negative count as 0: in float32 a Cholesky factor of a covariance of
  large features fails where e is 1e-4.
  """
  dtype = wide(moments.means.dtype)
  n = jnp.maximum(moments.counts.sum(), 1)
  values, vectors = jnp.linalg.eigh(moments.scatter / n)
  values = (1 - shrinkage) * jnp.maximum(values, 0) + shrinkage
  inverse = jnp.where(values > 0, 1 / jnp.where(values > 0, values, 1), 0).astype(dtype)
  turned = jnp.matmul(moments.means, vectors, precision="highest")
  weights = jnp.matmul(turned * inverse[None], vectors.T, precision="highest")
  return weights, -0.5 * jnp.sum(weights * moments.means, axis=-1)


def slda(model, spec: Spec, *, shrinkage, first_task: str, requests: str, form: str = "exact") -> Method:
  """Streaming LDA: ``argmax_c w_c . f(x) + b_c`` with ``w_c = L mu_c``, ``b_c = -mu_c . w_c / 2``, L the inverse of the
  covariance within classes, shrunk by ``shrinkage`` to the identity.

  Rows count one by one, in the order of the task's rows. ``form`` 'exact': the covariance is the pooled one within
  classes, whatever the order; 'released': each row weighs by the count of all rows, not of its class, and the first of
  a class counts from a mean of 0, so that the order of rows matters; such a state answers no request by subtraction.
  With covariance I it is the nearest class mean. Keeps ``[D, D]`` and ``[C, D]``. Deviations: rows are counted when a
  task ends, un-augmented; no OAS estimate of a first batch. Requests, and ``first_task``, as in
  :func:`cljax.methods.prototypes.frozen.closed_form`. Raises UsageError for a model without features. Spec C1; Hayes
  and Kanan, 2020.
  """
  statistics = released_moments() if form == "released" else class_moments("shared")
  return closed_form(
    model, spec, statistics, first_task=first_task, requests=requests,
    fit=lambda moments, hint: discriminant(moments, shrinkage),
    scores=lambda state, h: h @ state.rule[0].T + state.rule[1][None],
  )  # fmt: skip


register(
  "slda",
  Entry(
    slda,
    {**OPTIONS, "shrinkage": Option(1e-4, 0, 1), "form": Option("exact", choices=("exact", "released"))},
    ACCESS,
    "Hayes and Kanan 2020",
    exactness="exact",
  ),
)
