"""Forgetting a core of the forget rows: outliers in feature space are left out first."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from cljax.core.rows import RowsLike, as_rows
from cljax.core.types import ApplyFn, Array, Params, Rows, Scalar, UsageError
from cljax.objectives.objective import Objective
from cljax.unlearning._common import cross_entropy, outputs_of
from cljax.unlearning.descent import graddiff

TREES, SUBSAMPLE = 100, 256  # of the isolation forest, as in the paper that introduced it


def path_lengths(features: Array, weight: Array, key: Array, trees: int = TREES, subsample: int = SUBSAMPLE) -> Array:
  """``[N]`` mean depth at which an isolation forest isolates each row of ``features [N, D]``: outliers are isolated
  early.

  Each tree splits ``subsample`` of the rows of positive weight, drawn without replacement, at a uniform place between
  the ends of a random feature that still varies, ``ceil(log2(subsample))`` levels deep; a leaf of n rows adds the
  mean depth ``c(n)`` of an unsuccessful search, ``2 (ln(n - 1) + 0.5772) - 2 (n - 1) / n``. Rows of weight 0 take no
  part. Liu, Ting and Zhou, 2008. In JAX, because a callback to the host inside a sharded program can block for ever.
  """
  rows = features.shape[0]
  there = weight > 0
  size = jnp.minimum(there.sum(dtype=jnp.int32), subsample)
  features = jnp.where(there[:, None], features, 0.0).astype(jnp.float32)
  most = jnp.inf

  def rest(count):
    n = jnp.maximum(count, 2.0)
    expected = 2.0 * (jnp.log(jnp.maximum(n - 1.0, 1e-6)) + jnp.euler_gamma) - 2.0 * (n - 1.0) / n
    return jnp.where(count > 2, expected, jnp.where(count == 2, 1.0, 0.0))

  most_levels = max(1, math.ceil(math.log2(max(min(subsample, rows), 2))))
  width = 2**most_levels
  levels = jnp.maximum(1, jnp.sum(2 ** jnp.arange(most_levels, dtype=jnp.int32) < size, dtype=jnp.int32))
  node_of = jnp.arange(width, dtype=jnp.int32)

  def tree(i):
    # One draw for all that is random in a tree: each further one costs as much to compile as the rest. A row's number
    # and a node's depend on their places alone, so that rows of weight 0 behind the others change nothing.
    drawn = jax.random.uniform(jax.random.fold_in(key, i), (max(rows, 2 * width), 3), jnp.float32)
    noise = jnp.where(there, drawn[:rows, 0], most)
    member = there & (noise <= jnp.sort(noise)[jnp.maximum(size - 1, 0)])

    def grow(level, carry):
      node, depth, growing = carry
      low = jax.ops.segment_min(jnp.where(member[:, None], features, most), node, width)
      high = jax.ops.segment_max(jnp.where(member[:, None], features, -most), node, width)
      nth, place = drawn[2**level + jnp.minimum(node_of, 2**level - 1), 1:].T
      order = jnp.cumsum(high > low, axis=1)  # which of the features that still vary
      below = jnp.floor(nth * order[:, -1].astype(jnp.float32)).astype(order.dtype)
      chosen = jnp.argmax(order > below[:, None], axis=1)
      ends = low[node_of, chosen], high[node_of, chosen]
      split = ends[0] + place * (ends[1] - ends[0])
      growing &= (order[:, -1] > 0)[node]
      right = features[jnp.arange(rows), chosen[node]] > split[node]
      # A row that stopped keeps its place: all on the leftmost way below it, so a leaf's rows are counted together.
      return (
        jnp.where(growing, 2 * node + right.astype(node.dtype), 2 * node),
        depth + growing.astype(depth.dtype),
        growing,
      )

    start = jnp.zeros(rows, jnp.int32), jnp.zeros(rows, jnp.float32), jnp.ones(rows, bool)
    node, depth, _ = jax.lax.fori_loop(0, levels, grow, start)
    count = jax.ops.segment_sum(member.astype(jnp.float32), node, width)
    return depth + rest(count[node])

  return jax.lax.map(tree, jnp.arange(trees)).mean(0)


def inliers(features: Array, weight: Array, contamination: Scalar = 0.1, random_state: int = 42) -> Array:
  """``[N]`` bool: rows of positive weight that an isolation forest on ``features [N, D]`` takes for inliers.

  All but the share ``contamination`` with the shortest :func:`path_lengths`; all of them where it is 0. The same
  features give the same core. Raises UsageError for a concrete share outside [0, 0.5].
  """
  if not isinstance(contamination, jax.Array) and not 0 <= contamination <= 0.5:
    raise UsageError(f"contamination: got {contamination:g}; expected a share from 0 to 0.5")
  features, weight = jnp.asarray(features), jnp.asarray(weight)
  there = weight > 0
  lengths = jnp.where(there, path_lengths(features, weight, jax.random.key(random_state)), jnp.inf)
  shorter = jnp.searchsorted(jnp.sort(lengths), lengths, side="left")
  return there & (shorter.astype(jnp.float32) >= contamination * (there.sum() - 1).astype(jnp.float32))


def core_rows(
  apply_fn: ApplyFn, params: Params, forget: RowsLike, *, contamination: Scalar = 0.1, random_state: int = 42,
  batch: int = 64,
) -> Rows:  # fmt: skip
  """The rows of ``forget`` with weight 0 for those outside the :func:`inliers` of the penultimate features.

  ``apply_fn(params, batch)`` gives Outputs with ``features``.
  """
  forget = as_rows("forget", forget)
  blocks = -(-forget.capacity // batch)

  def block(i):
    some = forget.batch(i * batch, batch)
    features = outputs_of(apply_fn, params, some).features
    if features is None:
      raise UsageError("apply_fn: upcore needs the features of its rows; return cljax.Outputs with features")
    return features.reshape(batch, -1), some.weight

  features, weight = jax.lax.map(block, jnp.arange(blocks))
  features, weight = features.reshape(blocks * batch, -1), weight.reshape(-1)
  kept = inliers(features, weight, contamination, random_state).astype(jnp.float32)

  def read(start, size):
    some = forget.batch(start, size)
    at = jnp.minimum(start + jnp.arange(size), kept.shape[0] - 1)
    return some._replace(weight=some.weight * kept[at])

  return Rows(forget.capacity, forget.count, read)


def upcore(
  apply_fn: ApplyFn,
  params: Params,
  *,
  forget: RowsLike,
  retain: RowsLike,
  key: Array | None = None,
  contamination: Scalar = 0.1,
  random_state: int = 42,
  forget_weight: Scalar = 0.05,
  retain_weight: Scalar = 0.95,
  bound: Scalar = 1.0,
  classes: ArrayLike | None = None,
  steps: int = 50,
  batch: int = 64,
  optimizer: optax.GradientTransformation | None = None,
  learned: Objective | None = None,
) -> Params:
  """UPCORE: :func:`cljax.unlearning.graddiff` on the core of the forget rows, outliers left out by isolation forest.

  ``apply_fn(params, batch)`` gives Outputs with ``features``; the paper prunes by the last token's penultimate hidden
  state. ``contamination = 0`` is GradDiff on all; ``retain_weight = 0`` is ascent. The rows that are left out were
  asked to be forgotten too: evaluate on them. ``bound`` and ``classes`` as of graddiff. ``learned``: an objective in
  the place of classification. Spec B14; arXiv 2502.15082.
  """
  kept = core_rows(apply_fn, params, forget, contamination=contamination, random_state=random_state, batch=batch)
  given = {"forget_weight": forget_weight, "retain_weight": retain_weight, "optimizer": optimizer}  # type: dict
  given |= {"bound": bound, "classes": classes}
  options = {"forget": kept, "retain": retain, "key": key, "steps": steps, "batch": batch}  # type: dict
  return graddiff(cross_entropy(apply_fn, learned), params, **options, **given)
