"""Merging several networks that were tuned from one, and the path between two of them."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from cljax.core import tree
from cljax.core.checks import check_scalar, is_concrete
from cljax.core.types import Array, Params, UsageError
from cljax.edits.editing import lines


def _alike(owner: str, several: Sequence[Params], base: Params | None = None) -> None:
  if not several:
    raise UsageError(f"{owner}: tuned holds no parameters; expected at least one tree")
  like = several[0] if base is None else base
  for i, one in enumerate(several):
    if not tree.alike(one, like):
      raise UsageError(f"{owner}: tuned[{i}] has other leaves or shapes than {'tuned[0]' if base is None else 'base'}")


def _numbers(owner: str, name: str, values, count: int) -> Array:
  """``[count]`` of one number or one for each."""
  found = jnp.asarray(values, jnp.float32)
  if found.shape not in ((), (count,)):
    raise UsageError(f"{owner}: {name} has shape {found.shape}; expected one number, or {count}")
  return jnp.broadcast_to(found, (count,))


def soup(tuned: Sequence[Params], weights: float | Sequence[float] | Array = 1.0) -> Params:
  """``sum_i w_i theta_i / sum_i w_i``, leaf by leaf, in float32; leaves that are no floats are those of the first.

  Raises UsageError for no network, other shapes, or another number of weights. Wortsman et al. 2022.
  """
  _alike("soup", tuned)
  shares = _numbers("soup", "weights", weights, len(tuned))
  shares = shares / shares.sum()

  inexact = lambda a: jnp.issubdtype(a.dtype, jnp.inexact)
  whole = _weighted(shares, [jax.tree.map(lambda a: a.astype(jnp.float32) if inexact(a) else a, t) for t in tuned])
  return jax.tree.map(lambda first, mean: mean.astype(first.dtype) if inexact(first) else first, tuned[0], whole)


def task_vectors(base: Params, tuned: Sequence[Params]) -> list[Params]:
  """``tau_i = theta_i - base`` in float32; of leaves that are no floats zeros."""
  _alike("task_vectors", tuned, base)
  inexact = lambda a: jnp.issubdtype(a.dtype, jnp.inexact)
  way = lambda b, t: t.astype(jnp.float32) - b.astype(jnp.float32) if inexact(b) else jnp.zeros(b.shape, jnp.float32)
  return [jax.tree.map(way, base, one) for one in tuned]


def _weighted(scales, trees: Sequence[Params]) -> Params:
  """``sum_i scale_i tree_i``, leaf by leaf."""
  return jax.tree.map(lambda *leaves: sum(s * a for s, a in zip(scales, leaves, strict=True)), *trees)


def _added(base: Params, vector: Params) -> Params:
  add = lambda b, v: (b.astype(jnp.float32) + v).astype(b.dtype) if jnp.issubdtype(b.dtype, jnp.inexact) else b
  return jax.tree.map(add, base, vector)


def task_arithmetic(base: Params, tuned: Sequence[Params], scale: float | Sequence[float] | Array = 1.0) -> Params:
  """``base + sum_i scale_i (theta_i - base)``; a negative scale takes a task away.

  ``scale``: one number, or one for each. Raises UsageError as :func:`soup`. Ilharco et al. 2023.
  """
  vectors = task_vectors(base, tuned)
  scales = _numbers("task_arithmetic", "scale", scale, len(tuned))
  return _added(base, _weighted(scales, vectors))


def ties(base: Params, tuned: Sequence[Params], keep: float = 0.2, scale: float = 1.0) -> Params:
  """TIES: trim, elect signs, merge: ``base + scale * mean of the trimmed ways that agree with the elected sign``.

  Of each task vector the share ``keep`` of all its numbers, the largest in size, stays (ties of size stay too), the
  others become 0. The sign of a place is that of the sum over tasks; the mean there is over the ways of this sign
  that are not 0. ``keep = 1`` and one network: task arithmetic. Raises UsageError as :func:`soup`, and for ``keep``
  outside (0, 1]. Yadav et al. 2023 (defaults: keep 0.2, scale 1; UNVERIFIED).
  """
  check_scalar("ties", "keep", keep, 0, 1, above=True)
  vectors = task_vectors(base, tuned)

  def trimmed(vector):
    sizes = jnp.sort(jnp.concatenate([jnp.abs(leaf).ravel() for leaf in jax.tree.leaves(vector)]))
    count = jnp.clip(jnp.round(keep * sizes.size), 1, sizes.size).astype(jnp.int32)
    least = sizes[sizes.size - count]
    return jax.tree.map(lambda leaf: jnp.where(jnp.abs(leaf) >= least, leaf, 0.0), vector)

  def merged(*ways):
    stacked = jnp.stack(ways)
    agree = (jnp.sign(stacked) == jnp.sign(stacked.sum(0))) & (stacked != 0)
    return scale * jnp.where(agree, stacked, 0.0).sum(0) / jnp.maximum(agree.sum(0), 1)

  return _added(base, jax.tree.map(merged, *map(trimmed, vectors)))


def dare(key: Array, base: Params, tuned: Sequence[Params], drop: float = 0.9,
         scale: float | Sequence[float] | Array = 1.0) -> Params:  # fmt: skip
  """DARE before task arithmetic: each number of a task vector is dropped with probability ``drop``, the others are
  divided by ``1 - drop``, so that the mean over draws is task arithmetic.

  Each network, leaf and place draws for itself. ``drop = 0`` is :func:`task_arithmetic`. Raises UsageError as there,
  and for ``drop`` outside [0, 1). Yu et al. 2024.
  """
  check_scalar("dare", "drop", drop, 0, 1)
  if is_concrete(drop) and drop == 1:
    raise UsageError("dare: drop must be below 1; got 1")
  vectors = task_vectors(base, tuned)
  scales = _numbers("dare", "scale", scale, len(tuned))
  thinned = []
  for i, vector in enumerate(vectors):
    leaves, shape = jax.tree.flatten(vector)
    keys = [jax.random.fold_in(jax.random.fold_in(key, i), n) for n in range(len(leaves))]
    keep = [jax.random.bernoulli(k, 1 - drop, leaf.shape) for k, leaf in zip(keys, leaves, strict=True)]
    made = [jnp.where(m, leaf / (1 - drop), 0.0) for m, leaf in zip(keep, leaves, strict=True)]
    thinned.append(jax.tree.unflatten(shape, made))
  return _added(base, _weighted(scales, thinned))


def lines_of_several(base: Params, tuned: Sequence[Params], blocks: Sequence[str], alpha: float, beta: float) -> Params:
  """LiNeS of a sum: ``base + sum_i s_l (theta_i - base)`` with the scales of :func:`cljax.edits.lines` by depth.

  One network: ``lines`` itself. Errors are its. Wang et al. 2025.
  """
  _alike("lines_of_several", tuned, base)
  scaled = [lines(base, one, blocks, alpha, beta) for one in tuned]
  return task_arithmetic(base, scaled)


def interpolate(a: Params, b: Params, alpha: float | Array) -> Params:
  """``(1 - alpha) a + alpha b``: a point of the straight path; to the bit ``a`` at 0 and ``b`` at 1."""
  _alike("interpolate", [b], a)

  def mix(x, y):
    if not jnp.issubdtype(x.dtype, jnp.inexact):
      return x
    between = (1 - alpha) * x.astype(jnp.float32) + alpha * y.astype(jnp.float32)
    return jnp.where(alpha == 0, x, jnp.where(alpha == 1, y, between.astype(x.dtype)))

  return jax.tree.map(mix, a, b)
