"""Statistics of features by class."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from cljax.core.types import Array, Rows
from cljax.estimators.per_sample import check_batch_size, sum_over_batches


def class_means(
  features_fn: Callable[[Array], Array], rows: Rows, num_classes: int, *, batch_size: int = 256
) -> tuple[Array, Array]:
  """``(means [C, D], counts [C])``: the weighted mean of ``features_fn(x [B, ...]) -> [B, D]`` over each class's rows.

  In float32. ``counts`` are sums of weights; a class without rows has mean 0 and count 0. ``rows.count`` may be traced.
  """
  check_batch_size(batch_size)
  width = jax.eval_shape(lambda: features_fn(rows.batch(0, 1).x)).shape[-1]

  def sums(batch, i):
    del i
    weight = jax.nn.one_hot(batch.y, num_classes, dtype=jnp.float32) * batch.weight[:, None]
    features = jnp.where((batch.weight > 0)[:, None], features_fn(batch.x).astype(jnp.float32), 0.0)
    return weight.T @ features, weight.sum(0)

  like = tuple(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((num_classes, width), (num_classes,)))
  total, counts = sum_over_batches(rows, batch_size, like, sums)
  return total / jnp.where(counts > 0, counts, 1.0)[:, None], counts
