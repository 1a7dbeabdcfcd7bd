"""Targets that are there before their classes: a simplex, its match to class means, and a small part of a network."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from cljax.models import heads, masks

TAKEN = 2.0  # at least 1: of all cheapest assignments, none moves a class that has its target


class Part(NamedTuple):
  """State of the transform of :func:`later`."""

  free: Any  # bool, in the structure of the parameters: what later tasks may move


def simplex(classes: int, width: int):
  """``[K, W]`` float32, ``sqrt(K / (K - 1)) (I - 11^T / K)`` and zeros behind: K directions of norm 1 whose cosines are
  all ``-1 / (K - 1)``, the least there is. W is at least K; of one class, 0."""
  rows = jnp.eye(classes, width) - jnp.where(jnp.arange(width) < classes, 1 / classes, 0.0)[None]
  return rows * jnp.float32((classes / max(classes - 1, 1)) ** 0.5)


def matched(places, means, new, taken, targets):
  """``[C]`` int32: the target of each class after those of ``new [C]`` bool got, among the targets that no class of
  ``taken [C]`` has, the ones whose cosines to their ``means [C, W]`` have the largest sum (Hungarian method).

  ``places [C]`` int32 are the targets so far, each class's its own; classes that are taken keep theirs, the rest share
  what is left. A mean of 0, or one that is not finite, has no preference.
  """
  cosines = jnp.matmul(heads.unit(means), targets.T, precision="highest")
  wanted = jnp.where((new & ~taken)[:, None] & jnp.isfinite(cosines), -cosines, 0.0)
  own = places[:, None] == jnp.arange(targets.shape[0], dtype=places.dtype)[None]
  occupied = (own & taken[:, None]).any(0)
  cost = jnp.where(occupied[None], jnp.where(own, -TAKEN, TAKEN), wanted)
  rows, columns = optax.assignment.hungarian_algorithm(cost)
  return places.at[rows].set(columns.astype(places.dtype))


def matched_where(due, places, *rest):
  """:func:`matched` where ``due``, else ``places``; it costs nothing where it is not due, under vmap too."""
  body = lambda carry: (jnp.zeros_like(due), matched(carry[1], *rest))
  return jax.lax.while_loop(lambda carry: carry[0], body, (due, places))[1]


def part_of(params, share):
  """Bool, in the structure of ``params``: of each leaf of two axes or more the ``floor(share n)`` entries that are
  smallest in size, and of others none; all of all where ``share`` is 1."""

  def one(w):
    whole = jnp.full(w.shape, share >= 1)
    if w.ndim < 2:
      return whole
    count = jnp.floor(share * w.size).astype(jnp.int32)
    return whole | masks.smallest(jnp.abs(w), jnp.ones(w.shape, bool), count)

  return jax.tree.map(one, params)


def later(rate) -> optax.GradientTransformationExtraArgs:
  """``u <- rate u`` where the part is free and 0 elsewhere, in tasks behind the first one met; there ``u``."""

  def init(params):
    return Part(jax.tree.map(lambda w: jnp.ones(w.shape, bool), params))

  def update(updates, state, params=None, *, visit, **extra):
    del params, extra
    begun = visit.others > 0

    def one(u, free):
      slowed = jnp.where(free, jnp.asarray(rate).astype(u.dtype) * u, jnp.zeros_like(u))
      return jnp.where(begun, slowed, u)

    return jax.tree.map(one, updates, state.free), state

  return optax.GradientTransformationExtraArgs(init, update)
