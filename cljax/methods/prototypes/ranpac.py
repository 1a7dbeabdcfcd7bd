"""RanPAC: ridge regression on random projections of frozen features, its strength chosen on held-out rows of a task."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cljax.core.method import Method
from cljax.core.tree import fold
from cljax.core.types import Spec
from cljax.estimators import class_moments, second_moment
from cljax.methods.prototypes.frozen import ACCESS, OPTIONS, closed_form, over
from cljax.methods.registry import Entry, Option, register

RIDGES = 10.0 ** np.arange(-8, 9)


class Ridge(NamedTuple):
  value: Any  # the strength in use
  chosen: Any  # [T] what was chosen when each task ended; 0 before


def resolved(ridge, gram):
  """``max(ridge, eps tr G)``: a smaller one is lost in the rounding of G, whose solution would then be noise."""
  return jnp.maximum(ridge, jnp.finfo(gram.dtype).eps * jnp.trace(gram))


def ridge_weights(moments, ridge):
  """``[M, C]``: ``(G + r I)^-1 Q``, ``G = sum h h^T``, ``Q = sum h y^T`` with one-hot y, by Cholesky; r as resolved."""
  gram = second_moment(moments)
  added = resolved(jnp.asarray(ridge, gram.dtype), gram) * jnp.eye(gram.shape[0], dtype=gram.dtype)
  added = jnp.where(moments.counts.sum() > 0, added, jnp.eye(gram.shape[0], dtype=gram.dtype))
  return jax.scipy.linalg.cho_solve(jax.scipy.linalg.cho_factor(gram + added), cross_moment(moments))


def cross_moment(moments):
  return (moments.counts[:, None] * moments.means).T


def held_out_errors(key, num_classes: int, embedded, rows):
  """``(errors [17], ridges [17])``: squared error of each of RIDGES, fitted on 80 % of the rows, on the others; NaN
  where there are too few. The rows are drawn; the solutions for all ridges share the eigenvectors of these 80 %."""
  bits = jax.random.bits(key, (rows.capacity,), jnp.uint32)
  order = jnp.lexsort((bits, jnp.arange(rows.capacity) >= rows.count))
  place = jnp.zeros(rows.capacity, jnp.int32).at[order].set(jnp.arange(rows.capacity, dtype=jnp.int32))
  fitted = place < 4 * jnp.asarray(rows.count, jnp.int32) // 5
  placed = rows._replace(batch=lambda start, size: (rows.batch(start, size), start + jnp.arange(size, dtype=jnp.int32)))
  side = lambda at: fitted[jnp.minimum(at, rows.capacity - 1)].astype(jnp.float32)
  statistics = class_moments("shared")
  shape = jax.eval_shape(lambda: embedded(rows.batch(0, 1)))

  def count(moments, batch):
    batch, at = batch
    return statistics.add(moments, embedded(batch), batch.y, batch.weight * side(at))

  moments = over(placed, count, statistics.start(num_classes, shape.shape[-1], shape.dtype))
  gram = second_moment(moments)
  values, vectors = jnp.linalg.eigh(gram)
  ridges = resolved(jnp.asarray(RIDGES, gram.dtype), gram)
  cross = jnp.matmul(vectors.T, cross_moment(moments), precision="highest")

  def err(sums, batch):
    batch, at = batch
    weight = (batch.weight * (1 - side(at))).astype(gram.dtype)
    turned = jnp.matmul(embedded(batch), vectors, precision="highest")
    y = jax.nn.one_hot(batch.y, num_classes, dtype=gram.dtype)

    def of(ridge):
      said = jnp.matmul(turned / (jnp.maximum(values, 0) + ridge)[None], cross, precision="highest")
      return jnp.sum(weight[:, None] * jnp.square(said - y))

    return sums + jnp.append(jax.lax.map(of, ridges), weight.sum())

  sums = over(placed, err, jnp.zeros(len(RIDGES) + 1, gram.dtype))
  usable = (sums[-1] > 0) & (moments.counts.sum() > 0)
  return jnp.where(usable, sums[:-1], jnp.nan), ridges


def ranpac(model, spec: Spec, *, first_task: str, requests: str, width: int = 1000) -> Method:
  """RanPAC: ``argmax h W``, ``h = relu(f(x) P)``, P ``[D, width]`` of N(0, 1) drawn once, ``W = (G + r I)^-1 Q`` with
  ``G = sum h h^T`` and ``Q = sum h y^T`` over all rows so far.

  r is one of ``1e-8, 1e-7, ..., 1e8``: that with the least squared error on a fifth of the rows of the task that ends,
  drawn, after a fit on its others; W is then made of G and Q with it. r is of the current task alone and not the joint
  choice: ``method_state.hint.chosen`` keeps that of each task. ``width`` 0: no projection, ``h = f(x)``. Keeps
  ``[width, width]`` numbers (400 MB at the paper's 10,000) and P. In float32 r is at least ``eps tr G``, below which G
  is not known. Deviations: the default width is for small networks; the rows held out are drawn, where the released
  code takes the last; no tuning of few parameters (``first_task`` and ``cljax.models.adapters``). Requests as in
  :func:`cljax.methods.prototypes.frozen.closed_form`; W is then solved anew with the r in use, which was chosen with
  them: all that is left of them. Raises UsageError for a model without features. Spec F2; McDonnell et al., 2023.
  """

  def choose(key, state, embedded, task):
    errors, ridges = held_out_errors(fold(key, "held_out"), spec.num_classes, embedded, task.rows)
    value = jnp.where(jnp.isnan(errors).any(), state.hint.value, ridges[jnp.argmin(errors)].astype(jnp.float32))
    return Ridge(value, state.hint.chosen.at[task.id].set(value))

  def projection(key, learner, features):
    del learner
    return jax.random.normal(key, (features, width), jnp.float32)

  def projected(fixed, f, look):
    del look
    return jax.nn.relu(jnp.matmul(f, fixed.astype(f.dtype), precision="highest"))

  return closed_form(
    model, spec, class_moments("shared"), first_task=first_task, requests=requests, choose=choose,
    fit=lambda moments, hint: ridge_weights(moments, hint.value),
    scores=lambda state, h: jnp.matmul(h, state.rule, precision="highest"),
    hint=lambda features: Ridge(jnp.float32(1), jnp.zeros(spec.num_tasks, jnp.float32)),
    **({"fixed": projection, "embed": projected} if width else {}),
  )  # fmt: skip


register(
  "ranpac",
  Entry(ranpac, {**OPTIONS, "width": Option(1000, 0)}, ACCESS, "McDonnell et al. 2023", exactness="approximate"),
)
