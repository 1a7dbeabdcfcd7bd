"""Forgetting without the data: the past is kept as class statistics of features, and replayed from Gaussians."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from cljax import losses
from cljax.core import tree
from cljax.core.rows import RowsLike, as_rows
from cljax.core.types import ApplyFn, Array, Params, Rows, Scalar, UsageError
from cljax.estimators.per_sample import sum_over_batches
from cljax.unlearning._common import cross_entropy, drawn, key_of, mean_loss, minimize, outputs_of
from cljax.unlearning._strength import bounded

PARTS = ("all", "head")


class FeatureStatistics(NamedTuple):
  """Sufficient statistics of the features h of each class's rows, float32: ``count [C]``, ``sum h``, ``sum h h^T``."""

  count: Any
  total: Any
  outer: Any


def feature_statistics(
  apply_fn: ApplyFn, params: Params, rows: Rows, num_classes: int, *, batch: int = 64
) -> FeatureStatistics:
  """The statistics of ``rows`` under ``params``; ``apply_fn(params, batch)`` gives Outputs with ``features [B, D]``."""
  rows = as_rows("rows", rows)

  def features(some):
    found = outputs_of(apply_fn, params, some).features
    if found is None:
      raise UsageError("apply_fn: class statistics need the features of rows; return cljax.Outputs with features")
    return found.reshape(found.shape[0], -1)

  def part(some, start):
    del start
    of_class = jax.nn.one_hot(some.y, num_classes, dtype=jnp.float32) * some.weight[:, None]
    h = jnp.where((some.weight > 0)[:, None], features(some).astype(jnp.float32), 0.0)
    return FeatureStatistics(of_class.sum(0), of_class.T @ h, jnp.einsum("bc,bi,bj->cij", of_class, h, h))

  width = jax.eval_shape(lambda: features(rows.batch(0, 1))).shape[-1]
  return sum_over_batches(rows, batch, empty_statistics(num_classes, width), part)


def empty_statistics(num_classes: int, width: int) -> FeatureStatistics:
  shape = num_classes, width
  return FeatureStatistics(*(jnp.zeros(s, jnp.float32) for s in (num_classes, shape, (*shape, width))))


def without(statistics: FeatureStatistics, gone: FeatureStatistics) -> FeatureStatistics:
  """The statistics of what is left; a class of which less than half a row is left is cleared."""
  left = tree.axpy(-1.0, gone, statistics)
  stays = left.count > 0.5
  clear = lambda a: jnp.where(stays.reshape(-1, *(1,) * (a.ndim - 1)), a, 0.0)
  return FeatureStatistics(*map(clear, left))


def streaming(
  apply_fn: ApplyFn,
  head_fn: Callable[[Params, Array], Array],
  params: Params,
  *,
  forget: RowsLike,
  statistics: FeatureStatistics,
  key: Array | None = None,
  stay_weight: Scalar = 1.0,
  part: str = "all",
  bound: Scalar = 1.0,
  classes: ArrayLike | None = None,
  steps: int = 20,
  batch: int = 64,
  optimizer: optax.GradientTransformation | None = None,
) -> tuple[Params, FeatureStatistics]:
  """Streaming forgetting, a reconstruction: ``min -rho L_F + CE(head(h), c) + stay KL(head0(h) || head(h))``.

  Returns ``(params, statistics)``: those of the forget rows are taken out first, then ``(h, c)`` are drawn from the
  Gaussians of what is left and rho is the forget rows' share of what there was. ``head_fn(params, h [B, D]) -> logits``
  and ``apply_fn(params, batch)`` gives Outputs with those features. No retain row is touched; no rows, no change. The
  features of the rows that go are taken under ``params``: where these have moved since the statistics were, what is
  left is off by that drift. The default optimizer is SGD at 0.05. The paper's own text was not available, only
  its abstract: the update, its weights and rates are not the paper's.

  The Gaussians hold the head alone, while the ascent moves what is below it too: with ``part='head'`` the forget rows'
  features stand still, so that nothing but the head has a gradient, and the objective is divided by ``1 + E|h|^2``, to
  which the head's curvature is proportional. Given the ``classes [K]`` bool that go whole, the ascent of a row ends at
  ``bound ln K``, or ``bound ln 4/3`` where its class stays. A run has both, at rate 1 for 500 steps; ``part='all',
  bound=1e9, learning_rate=0.05, steps=20`` is what it was. Spec B7; arXiv 2507.15280. Raises UsageError for another
  ``part``.
  """
  if part not in PARTS:
    raise UsageError(f"part: got {part!r}; allowed: {', '.join(PARTS)}")
  forget, key = as_rows("forget", forget), key_of(key, "streaming")
  before = statistics.count.sum()
  gone = feature_statistics(apply_fn, params, forget, statistics.count.shape[0], batch=batch)
  statistics = without(statistics, gone)
  share = gone.count.sum() / jnp.maximum(before, 1.0)
  means, roots = gaussians(statistics)
  some = (statistics.count.sum() > 0).astype(jnp.float32)
  original = params
  size = (
    1.0 if part == "all" else 1.0 + jnp.einsum("cii->", statistics.outer) / jnp.maximum(statistics.count.sum(), 1.0)
  )

  def predicted(params, batch):
    if part == "all":
      return apply_fn(params, batch)
    h = outputs_of(apply_fn, original, batch).features
    return head_fn(params, jax.lax.stop_gradient(h.reshape(h.shape[0], -1)))

  loss_fn = bounded(cross_entropy(predicted), original, classes, bound)
  kind = jax.eval_shape(lambda: outputs_of(apply_fn, params, forget.batch(0, 1)).features).dtype

  def objective(key, params, step):
    del step
    (rows,) = drawn(key, batch, forget=forget)
    label = jax.random.categorical(tree.fold(key, "label"), jnp.log(statistics.count + 1e-30), shape=(batch,))
    noise = jax.random.normal(tree.fold(key, "feature"), (batch, means.shape[-1]), means.dtype)
    h = (means[label] + jnp.einsum("bij,bj->bi", roots[label], noise)).astype(kind)
    log_p = losses.masked_log_softmax(head_fn(params, h))
    old = losses.masked_log_softmax(head_fn(original, h))
    past = -jnp.take_along_axis(log_p, label[:, None], 1)[:, 0]
    stay = jnp.sum(jnp.exp(old) * (old - log_p), -1)
    total = -share * mean_loss(loss_fn, params, rows) + some * (past + stay_weight * stay).mean()
    return total / size

  taken = jnp.where(gone.count.sum() > 0, steps, 0)
  return minimize(key, objective, params, steps=taken, optimizer=optimizer or optax.sgd(0.05)), statistics


def gaussians(statistics: FeatureStatistics):
  """``(means [C, D], roots [C, D, D])`` with ``roots roots^T`` the covariances, negative eigenvalues cut to 0."""
  count = jnp.maximum(statistics.count, 1.0)
  means = statistics.total / count[:, None]
  covariance = statistics.outer / count[:, None, None] - means[:, :, None] * means[:, None]
  # One at a time: XLA's CPU backend hands a stack to one pool of threads, in which two devices wait for one another.
  values, vectors = jax.lax.map(jnp.linalg.eigh, covariance)
  return means, vectors * jnp.sqrt(jnp.maximum(values, 0.0))[:, None]
